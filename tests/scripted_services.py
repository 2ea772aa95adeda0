"""Every service of a server around a scripted backend: the real ones with a memory of their own in a folder, and simple
ones where the real ones need an engine. Joined as `cli/services.py` joins them for an engine.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_bytes, token_hex

from tests.doubles_delegation import KEYS, pem
from tests.doubles_policy import desk_of, judge
from tests.doubles_sessions import SealInMemory
from tests.scripted import Scripted, prompt_words

from headrace.api.batch_dialects import DIALECTS
from headrace.api.batch_lines import LINE_CODECS
from headrace.cli.keys import KeyRights as NewRights
from headrace.cli.keys import add_key
from headrace.core.accounts import IssuedKey, KeyRights
from headrace.core.backend import ModelCard
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest, NotFound, UpstreamFault
from headrace.core.explanation import Explanation, Question, Verdict
from headrace.core.model_library import ModelDetails, PullStep
from headrace.core.monitors import Flag
from headrace.core.request import Principal, Request
from headrace.core.service import AdapterState, BackendState, ModelState, Reloaded, Residence, Tokenized
from headrace.core.usage import UsageRecord
from headrace.core.watching import LiveEngine, LiveModel, LivePages, LiveTree, TenantHits, TreeRun
from headrace.gateway.accounts.accounts import Accounts
from headrace.gateway.accounts.accounts import Surroundings as AccountsGround
from headrace.gateway.accounts.service import AccountService
from headrace.gateway.actions import ActionKeeper
from headrace.gateway.actions import Surroundings as ActionGround
from headrace.gateway.batch_responses import ENDPOINT as RESPONSES
from headrace.gateway.batch_responses import ResponseLines
from headrace.gateway.batch_runner import BatchRunner, Surroundings, Turn
from headrace.gateway.batches import BatchService
from headrace.gateway.caches import CacheService
from headrace.gateway.charging import NOTHING
from headrace.gateway.contract import Bound, Candidate, Plan
from headrace.gateway.conversation import Responses
from headrace.gateway.conversation_items import Conversations
from headrace.gateway.foreground import Foreground
from headrace.gateway.notary.public import LogShelf
from headrace.gateway.oversight.delegating import DelegationKeeper
from headrace.gateway.oversight.endorsing import EndorsementKeeper
from headrace.gateway.paths import Asked, Ended, PathBook
from headrace.gateway.room import Room
from headrace.gateway.settings import GatewaySettings, Target
from headrace.memory import delegations, endorsements
from headrace.memory.boot import boot_id
from headrace.memory.completions import CompletionStore
from headrace.memory.files import FileStore
from headrace.memory.log_files import LogFiles, LogFolder
from headrace.memory.store import Store
from headrace.server.services import Services
from headrace.trust.delegation.desk import DelegationDesk
from headrace.trust.delegation.desk import Rules as DelegationRules
from headrace.trust.delegation.token import make_token
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.log_keys import make_log_keys, parse_log_keys
from headrace.trust.log.tree import Tree
from headrace.trust.records.bundle import Bundle, Exhibit
from headrace.trust.records.settings import ActionSettings

QUOTA_BYTES = 2**20


class ScriptedKeys:
    """Keys that nobody has to show, held to the rules of the keys file; one is written beside them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keys: dict[str, IssuedKey] = {}

    async def list_keys(self) -> tuple[IssuedKey, ...]:
        """All of them."""
        return tuple(self._keys.values())

    async def add_key(self, name: str, rights: KeyRights) -> tuple[IssuedKey, str]:
        """A key whose text says its name."""
        expires = None if rights.expires_s is None else datetime.fromtimestamp(rights.expires_s, UTC)
        given = asdict(rights) | {"scopes": tuple(sorted(rights.scopes)), "expires": expires}
        del given["expires_s"]
        self._file.unlink(missing_ok=True)
        add_key(self._file, name, NewRights(**given), datetime.now(UTC))
        if name in self._keys:
            raise InvalidRequest(f"name: there is a key {name!r} already; choose another name.", param="name")
        self._keys[name] = IssuedKey(name=name, rights=rights, created_s=1.0)
        return self._keys[name], f"hr_{name}"

    async def set_disabled(self, name: str, *, is_disabled: bool) -> IssuedKey:
        """As it says."""
        self._keys[name] = replace(self._find(name), is_disabled=is_disabled)
        return self._keys[name]

    async def remove_key(self, name: str) -> None:
        """As it says."""
        self._find(name)
        del self._keys[name]

    def _find(self, name: str) -> IssuedKey:
        if name not in self._keys:
            raise NotFound(f"name: there is no key {name[:100]!r}.", param="name")
        return self._keys[name]


class ScriptedAdapters:
    """The adapters `NAME:formal` of every model of a backend."""

    def __init__(self, backend: Scripted) -> None:
        self._cards = {f"{card.id}:formal": card for card in backend.models()}
        self._loaded: set[str] = set()

    async def load_adapter(self, name: str) -> ModelCard:
        """Its card."""
        if name not in self._cards:
            raise NotFound(f"lora_name: there is no adapter {name[:100]!r}.", param="lora_name")
        self._loaded.add(name)
        parent = self._cards[name]
        return replace(parent, id=name, aliases=(), parent=parent.id)

    async def unload_adapter(self, name: str) -> None:
        """Nothing is held for it."""
        if name not in self._loaded:
            raise NotFound(f"lora_name: {name[:100]!r} is not loaded.", param="lora_name")
        self._loaded.discard(name)

    def adapters(self) -> tuple[AdapterState, ...]:
        """All of them."""
        return tuple(
            AdapterState(name=name, model=card.id, is_loaded=name in self._loaded) for name, card in self._cards.items()
        )


class ScriptedResidents:
    """The models of a backend, which weigh nothing."""

    memory_bytes: int | None = None

    def __init__(self, backend: Scripted) -> None:
        self._states = {card.id: "ready" for card in backend.models()}

    async def load_model(self, name: str) -> Residence:
        """It is there."""
        return self._change(name, "ready")

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        """It is gone."""
        return self._change(name, "absent")

    def residences(self) -> tuple[Residence, ...]:
        """Every model."""
        return tuple(Residence(name=name, state=state) for name, state in self._states.items())

    def _change(self, name: str, state: str) -> Residence:
        if name not in self._states:
            raise NotFound(f"model: {name[:100]!r} is not served here.", param="model")
        self._states[name] = state
        return Residence(name=name, state=state)


class ScriptedTokens:
    """The words of an input, numbered by when they come first."""

    def __init__(self, backend: Scripted) -> None:
        self._backend = backend
        self.requests: list[Request] = []

    async def tokenize(self, request: Request, *, adds_special: bool, opens_answer: bool) -> Tokenized:
        """A token for every word."""
        card = self._card(request)
        words = prompt_words(request)
        seen = {word: number for number, word in enumerate(dict.fromkeys(words))}
        return Tokenized(tuple(seen[word] for word in words), tuple(map(str.encode, words)), card.context_length)

    async def detokenize(self, request: Request) -> str:
        """The numbers."""
        self._card(request)
        return "".join(prompt_words(request))

    def _card(self, request: Request) -> ModelCard:
        request.check()
        self.requests.append(request)
        for card in self._backend.models():
            if request.model in (card.id, *card.aliases):
                return card
        raise NotFound(f"model: {request.model[:100]!r} is not served here.", param="model")


class ScriptedLibrary:
    """Says the same of every model of a backend, and fetches `smollm2`."""

    def __init__(self, backend: Scripted) -> None:
        self._names = {card.id for card in backend.models()}

    async def describe(self, model: str) -> ModelDetails:
        """A small model."""
        if model not in self._names:
            raise NotFound(f"model: {model[:100]!r} has no files.", param="model")
        return ModelDetails(
            num_bytes=1000,
            modified_s=1_700_000_000.0,
            format="gguf",
            family="llama",
            num_parameters=2000,
            quantization="Q4_0",
        )

    async def pull(self, name: str) -> AsyncGenerator[PullStep, None]:
        """In one step."""
        if name != "smollm2":
            raise InvalidRequest(f"model: {name[:100]!r} is not in the catalog.", param="model")
        yield PullStep("downloading", 10, 10)


class ScriptedReloading:
    """Settings that never change."""

    async def reload(self) -> Reloaded:
        return Reloaded()


class ScriptedOperations:
    """One backend, which can be drained."""

    def __init__(self) -> None:
        self._state = BackendState(
            name="up",
            kind="vllm",
            is_draining=False,
            health="well",
            share=1.0,
            models=(ModelState(name="m", seconds_per_token=0.0123456789),),
        )

    def backends(self) -> tuple[BackendState, ...]:
        """The one."""
        return (self._state,)

    def drain(self, backend: str) -> BackendState:
        """Drain it."""
        return self._change(backend, is_draining=True)

    def resume(self, backend: str) -> BackendState:
        """Bring it back."""
        return self._change(backend, is_draining=False)

    def _change(self, backend: str, *, is_draining: bool) -> BackendState:
        if backend != self._state.name:
            raise NotFound(f"There is no backend {backend[:200]}.", param="name")
        self._state = replace(self._state, is_draining=is_draining)
        return self._state


class ScriptedRecords:
    """One record, `rec_1`, of everybody."""

    trusted = b"quorum none\n"

    async def bundle(self, record_id: str, principal: Principal, wait_s: float = 0.0) -> bytes:
        """It, in the form of any other."""
        self._check(record_id)
        return Bundle(
            record_id=record_id, log_origin="log.test", record=Exhibit(b"{}", b"{}"), delegation=Exhibit(b"{}", b"{}")
        ).encode()

    async def erase(self, record_id: str, principal: Principal) -> None:
        """Nothing is erased."""
        self._check(record_id)

    def _check(self, record_id: str) -> None:
        if record_id != "rec_1":
            raise NotFound(f"there is no record {record_id[:100]!r} of yours.", param="record_id")


class ScriptedMonitors:
    """One account is flagged until somebody clears it."""

    mode = "shadow"
    num_unwatched = 0

    def __init__(self) -> None:
        self._flags: tuple[Flag, ...] = (
            Flag(
                account="acme/key:k",
                tenant="acme",
                monitor="theft.bias",
                score=1.0,
                action="throttle",
                since_s=1_700_000_000.5,
                last_s=1_700_000_100.5,
                count=2,
                reason="distinct biases of one principal on a day",
                is_shadow=True,
            ),
        )

    def flags(self) -> tuple[Flag, ...]:
        """Those that are left."""
        return self._flags

    def clear(self, account: str, by: str) -> tuple[Flag, ...]:
        """Take them back."""
        cleared = tuple(one for one in self._flags if one.account == account)
        if not cleared:
            raise NotFound(f"account: nothing is held against {account[:200]!r}.", param="account")
        self._flags = ()
        return cleared


class ScriptedWatching:
    """An engine at rest, with a little in its tree."""

    async def look(self, *, is_whole: bool = True) -> LiveEngine:
        """The same each time."""
        tree = LiveTree((TreeRun(-1, "local", 32, 1, 2, 9.0, is_pinned=True),), 64)
        pages = LivePages(page_tokens=32, total=8, used=1, cached=1, pinned=1)
        hits = (TenantHits("local", 40, 32),)
        return LiveEngine((LiveModel(name="scripted", taken_s=10.0, pages=pages, tree=tree, tenants=hits),))


class ScriptedExplaining:
    """One route to one target, whatever is asked."""

    def explain(self, question: Question) -> Explanation:
        told = Verdict(target="local/m", route=question.model, place=1, reason="", scores=(("least_loaded", 0.0),))
        policies = ("least_loaded",)
        return Explanation(
            model=question.model, route=question.model, policies=policies, reason="only candidate", verdicts=(told,)
        )


def scripted_paths() -> PathBook:
    """One request, `req_1`, which failed at its only target."""
    target = Target("up", "m")
    candidate = Candidate(target=target, bound=Bound(100, 1000), scores=(("least_loaded", 0.0),))
    asked = Asked(candidate, 5.0, None, is_trial=False, is_hedge=False)
    asked.end(5.5, UpstreamFault("it failed"), NOTHING)
    book = PathBook(10, 10.0, GatewaySettings)
    record = UsageRecord(request_id="req_1", started_s=1.7e9, tenant="acme", outcome="upstream_fault", route="smart")
    plan = Plan(route="smart", candidates=(candidate,), refused={Target("up", "other"): "not cleared"})
    book.add(Ended(book.next_number(), record, plan, [asked], 5.0, "", "it failed", None, "", None, (), (), (), False))
    return book


async def scripted_log(folder: Path) -> LogShelf:
    """A log of three entries, which has ended."""
    files, tree = LogFiles.take(folder), Tree()
    files.write([(tile.path, data) for tile, data in tree.append([b"one", b"two", b"three"])])
    note = parse_log_keys(make_log_keys("example.com/log", token_bytes)).sign(
        Checkpoint("example.com/log", tree.size, tree.root()).encode(), 1_700_000_000
    )
    files.write([("checkpoint", note), ("checkpoint.witnessed", note)])
    files.close()
    return LogShelf(LogFolder(folder))


async def open_keeper(stack: AsyncExitStack, folder: Path, clock: SystemClock) -> DelegationKeeper:
    """Delegations with a root key that everybody knows."""
    store = Store(folder / "delegations.sqlite3", delegations.MIGRATIONS)
    await store.open()
    stack.push_async_callback(store.close)
    keeper = DelegationKeeper(store, clock, partial(make_token, pem()))
    budgets, revoked = await keeper.open()
    keeper.attach(DelegationDesk(DelegationRules(KEYS, 86_400.0, revoked), lambda _: None, budgets))
    stack.push_async_callback(keeper.close)
    return keeper


async def open_endorsements(stack: AsyncExitStack, folder: Path, clock: SystemClock) -> EndorsementKeeper:
    """Endorsements that nobody logs."""
    store = Store(folder / "endorsements.sqlite3", endorsements.MIGRATIONS)
    await store.open()
    stack.push_async_callback(store.close)
    keeper = EndorsementKeeper(store, clock, partial(token_hex, 12))
    await keeper.open()
    stack.push_async_callback(keeper.close)
    return keeper


@asynccontextmanager
async def scripted_services(backend: Scripted, folder: Path) -> AsyncIterator[Services]:
    """All services, open until the block ends; what they remember lies in the folder."""
    async with AsyncExitStack() as stack:
        store = Store(folder / "state.sqlite3")
        await store.open()
        stack.push_async_callback(store.close)
        clock, new_id = SystemClock(), partial(token_hex, 12)
        room = Room(store, clock, QUOTA_BYTES)
        responses = Responses(backend, store, clock, days=1, room=room)
        await responses.open()
        stack.push_async_callback(responses.close)
        files = FileStore(store, folder / "files", clock, new_id)
        await files.open()
        stack.push_async_callback(files.close)
        batches = BatchService(store, files, clock, new_id)
        around = Surroundings(
            backend=backend,
            foreground=Foreground(backend),
            clock=clock,
            new_id=new_id,
            dialects=DIALECTS,
            codecs=LINE_CODECS,
            services={RESPONSES: ResponseLines(Responses(backend, store, clock))},
        )
        runner = BatchRunner(batches, store, files, around, Turn(folder / "batches.lock"))
        runner.start()
        stack.push_async_callback(runner.close)
        around_accounts = AccountsGround(store, folder / "accounts", clock, boot_id(), os.write)
        accounts = Accounts(around_accounts)
        await accounts.open()
        stack.push_async_callback(accounts.close)
        book = ActionKeeper(store, ActionSettings(), ActionGround(clock=clock, new_id=new_id, random=token_bytes))
        book.open()
        stack.push_async_callback(book.close)
        yield Services(
            actions=book,
            adapters=ScriptedAdapters(backend),
            residents=ScriptedResidents(backend),
            responses=responses,
            conversations=Conversations(store, clock, room=room),
            tokens=ScriptedTokens(backend),
            completions=CompletionStore(store, QUOTA_BYTES),
            files=files,
            batches=batches,
            caches=CacheService(store, backend, ScriptedTokens(backend), clock, new_id),
            model_library=ScriptedLibrary(backend),
            reloading=ScriptedReloading(),
            operations=ScriptedOperations(),
            explaining=ScriptedExplaining(),
            paths=scripted_paths(),
            accounts=AccountService(accounts, store, clock),
            key_book=ScriptedKeys(folder / "keys.toml"),
            monitors=ScriptedMonitors(),
            watching=ScriptedWatching(),
            deciding=desk_of(judge("", "default", "agents")),
            session_seal=SealInMemory(),
            delegating=await open_keeper(stack, folder, clock),
            endorsing=await open_endorsements(stack, folder, clock),
            records=ScriptedRecords(),
            public_log=await scripted_log(folder / "log"),
        )
