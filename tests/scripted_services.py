"""Every service of a server around a scripted backend: the real ones with a memory of their own in a folder, and simple
ones where the real ones need an engine. Joined as `cli/services.py` joins them for an engine.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.scripted import Scripted, prompt_words

from headrace.core.backend import ModelCard
from headrace.core.clock import SystemClock
from headrace.core.errors import NotFound
from headrace.core.request import Request
from headrace.core.service import Residence, Tokenized
from headrace.gateway.conversation import Responses
from headrace.gateway.conversation_items import Conversations
from headrace.memory.completions import CompletionStore
from headrace.memory.store import Store
from headrace.server.services import Services


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


@asynccontextmanager
async def scripted_services(backend: Scripted, folder: Path) -> AsyncIterator[Services]:
    """All services, open until the block ends; what they remember lies in the folder."""
    async with AsyncExitStack() as stack:
        store = Store(folder / "state.sqlite3")
        await store.open()
        stack.push_async_callback(store.close)
        clock = SystemClock()
        responses = Responses(backend, store, clock)
        await responses.open()
        stack.push_async_callback(responses.close)
        clock, quota = SystemClock(), 2**30
        responses = Responses(backend, store, clock, days=1, quota=quota)
        await responses.open(lambda process: False)
        stack.push_async_callback(responses.close)
        yield Services(
            adapters=ScriptedAdapters(backend),
            residents=ScriptedResidents(backend),
            responses=responses,
            conversations=Conversations(store, clock, quota=quota),
            tokens=ScriptedTokens(backend),
            completions=CompletionStore(store, 2**20),
        )
