"""The recorder: the last overseer, which writes down what every other said and what was answered.

    begin --> prepare (each attempt) --> hear or add --> end: the facts are known --> seal: signed and handed in

While an answer passes it only collects; everything dear is done once, when it is over. A record that cannot be made,
by a defect of its own too, is counted and logged with its request; where records are only monitored the request goes on
as if nobody recorded it, and where they are enforced it ends. Knows the statement's facts and not its form
(`trust/records`), and hands it to a notary without knowing a log.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import msgspec

from headrace.core.clock import Clock
from headrace.core.errors import EngineFault, HeadraceError, Unavailable
from headrace.core.events import Event
from headrace.core.provenance import Log, LogItem
from headrace.core.request import Request, Role, Task
from headrace.core.trust import Delegation, Effect, ToolUse
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case, Oversight
from headrace.gateway.oversight.body_parameters import body_parameters
from headrace.gateway.oversight.record_keys import RecordKeys
from headrace.gateway.oversight.trail import Trace, Trail
from headrace.gateway.settings import ENGINE, Target
from headrace.trust.flow.tools import manifest_digest
from headrace.trust.records import request_form
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.commitment import NONCE_BYTES, entry_of, pseudonym
from headrace.trust.records.settings import RecordMode, RecordsSettings
from headrace.trust.records.statement import Facts, Maker, Outcome, Source, Way, Who, encode_statement

MAX_RESULTS: Final = 64
"""Tool results of one request that its record commits to one by one; all are in the request's own commitment."""
_SEED_BYTES: Final = 6  # a JSON number can tell every one of them exactly
MAX_WAIT_S: Final = 10.0
"""How long an answer is held for its record: a disk that says nothing for so long will not soon."""
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class RecordCounts:
    """What happened to records so far; `num_lost` were signed or due, and nobody took them, a defect
    ended them, or their answers waited for them in vain."""

    num_sealed: int = 0
    num_lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the recorder works with. `secret` makes pseudonyms; `random(n)` gives n random bytes, `new_id` unguessable
    ids; `timed` is told how long each record took to build, sign and hand in, in seconds. `max_wait_s`: how long an
    answer that waits for its record does."""

    settings: RecordsSettings
    notary: Log
    keys: RecordKeys
    maker: Maker
    secret: bytes
    clock: Clock
    random: Callable[[int], bytes]
    new_id: Callable[[], str]
    timed: Callable[[float], None] = lambda _: None
    max_wait_s: float = MAX_WAIT_S


class Recorder:
    """Implements `gateway.contract.Overseer`."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.counts = RecordCounts()
        self.trail = Trail()
        self._sequence = 0
        self._names: dict[tuple[str, str], str] = {}

    @property
    def reads_answers(self) -> bool:
        """Bytes that pass are recorded as bytes."""
        return False

    def begin(self, case: Case) -> Oversight | None:
        """Give the request a receipt. Raises Unavailable where it must be recorded and could not be."""
        if case.ask.shape.task is Task.COUNT:
            return None  # nothing is answered but a number
        try:
            if self.enforces:
                self.means.keys.check(self.means.clock.unix_s())
                self.means.notary.check()
            recording = Recording(self, case, f"rec_{self.means.new_id()}")
        except Exception as error:
            if self.enforces:
                _end_by(error, case)  # nothing has run, so nothing is lost
            self.next_sequence()
            self.lose("", case, error)
            return None
        case.taken.receipt = recording
        return recording

    @property
    def enforces(self) -> bool:
        """Whether nothing may be answered that is not recorded."""
        return self.means.settings.mode is RecordMode.ENFORCE

    def lose(self, record_id: str, case: Case, error: Exception) -> None:
        """A request has no record, and will have none."""
        self.counts.num_lost += 1
        request_id = case.ask.shape.id
        if isinstance(error, HeadraceError):
            _logger.warning("the record %s of request %s is lost: %s", record_id, request_id, error)
        else:
            _logger.error("the record %s of request %s is lost by a defect", record_id, request_id, exc_info=error)

    def next_sequence(self) -> int:
        """The number of the next record of this process: a gap is a record that was lost or withheld."""
        self._sequence += 1
        return self._sequence

    def name(self, tenant: str, name: str | None) -> str:
        """Somebody's name in records."""
        if not name or self.means.settings.keeps_names:
            return name or ""
        known = self._names.get((tenant, name))
        if known is None:
            if len(self._names) >= 4096:
                self._names.clear()
            known = self._names[tenant, name] = pseudonym(self.means.secret, tenant, name)
        return known


class Recording:
    """One request's record while it comes to be: its oversight and its receipt in one."""

    __slots__ = (
        "_answer",
        "_asked",
        "_asked_of",
        "_bytes",
        "_case",
        "_digest",
        "_fault",
        "_id",
        "_is_lost",
        "_is_sealed",
        "_owner",
        "_record",
        "_seed",
        "_sequence",
        "_wants_seal",
    )  # fmt: skip

    def __init__(self, owner: Recorder, case: Case, record_id: str) -> None:
        self._owner = owner
        self._case = case
        self._id = record_id
        self._asked: Request | None = None  # as the last target was asked; at the end, as the one that answered was
        self._asked_of: dict[Target, Request] = {}
        self._answer = AnswerForm()
        self._bytes: Any = None  # a running SHA-256
        self._record: UsageRecord | None = None
        self._digest: bytes | None = None
        self._seed: int | None = None
        self._sequence: int | None = None
        self._wants_seal = False
        self._is_sealed = False
        self._is_lost = False
        self._fault: Exception | None = None  # why it is lost

    @property
    def id(self) -> str:
        """Under which the record is found."""
        return self._id

    @property
    def reads_answer(self) -> bool:
        """Never: see `Recorder`."""
        return False

    def allows(self, target: Target) -> bool:
        """Everybody may be asked."""
        return True

    def prepare(self, request: Request, target: Target) -> Request:
        """Note how the request is asked. One that our own engine draws for gets a seed, so that it can be replayed."""
        try:
            if target.backend == ENGINE and request.sampling.seed is None and request.task is Task.GENERATE:
                if self._seed is None:
                    self._seed = int.from_bytes(self._owner.means.random(_SEED_BYTES), "big")
                request = replace(request, sampling=replace(request.sampling, seed=self._seed))
            self._asked = self._asked_of[target] = request
        except Exception as error:
            self._lose(error)
        return request

    def hear(self, event: Event) -> Sequence[Event]:
        """Collect it."""
        try:
            self._answer.hear(event)
        except Exception as error:
            self._lose(error)
        return (event,)

    def add(self, piece: bytes) -> None:
        """Count it into the digest of what was sent."""
        try:
            if self._bytes is None:
                self._bytes = hashlib.sha256()
            self._bytes.update(piece)
        except Exception as error:
            self._lose(error)

    def end(self, record: UsageRecord) -> None:
        """The facts are known."""
        try:
            self._record = record
            if (target := self._case.target) is not None:
                self._asked = self._asked_of.get(target)  # a hedge, or one that failed, was asked in its own way
        except Exception as error:
            self._lose(error)
        if self._wants_seal:
            self._seal()

    def seal(self, digest: bytes | None) -> bytes | None:
        """Sign and hand in. Before the end is known, that is put off until it is. Raises HeadraceError where records
        are enforced and this one is lost."""
        if self._is_sealed or self._wants_seal:
            return None
        self._digest = digest
        if self._record is None:
            self._wants_seal = True
            return None
        return self._seal()

    @property
    def waits(self) -> bool:
        """Whether the settings ask for it."""
        return self._owner.means.settings.waits

    async def kept(self) -> None:
        """As `Receipt`. What is not there in time is counted as lost, though the log may still take it."""
        means, case = self._owner.means, self._case
        if self._fault is not None:
            _end_by(self._fault, case)
        try:
            async with asyncio.timeout(means.max_wait_s):
                await means.notary.merged(self._id, hurries=True)
        except (HeadraceError, TimeoutError) as error:
            fault = error if isinstance(error, HeadraceError) else _too_late(means.max_wait_s)
            self._owner.lose(self._id, case, fault)
            raise fault from None

    def _seal(self) -> bytes | None:
        if self._is_lost:
            return None  # it would tell less than what was said
        self._is_sealed = True
        means = self._owner.means
        started_s = means.clock.monotonic_s()
        try:
            envelope = self._hand_in()
        except Exception as error:
            self._lose(error)
            return None
        means.timed(means.clock.monotonic_s() - started_s)
        return envelope

    def _lose(self, error: Exception) -> None:
        """It will never be made; told once. Raises what ends the request where records are enforced."""
        if not self._is_lost:
            self._is_lost, self._fault = True, error
            self._number()  # so that an auditor sees a gap
            self._owner.lose(self._id, self._case, error)
        if self._owner.enforces:
            _end_by(error, self._case)

    def _number(self) -> int:
        if self._sequence is None:
            self._sequence = self._owner.next_sequence()
        return self._sequence

    def _hand_in(self) -> bytes:
        means, case = self._owner.means, self._case
        now_s = means.clock.unix_s()
        nonce = means.random(NONCE_BYTES)
        facts = self._facts(nonce, now_s)
        envelope = means.keys.sign(encode_statement(facts), now_s)
        entry = entry_of("record", envelope, now_s)
        tenant = case.ask.shape.principal.tenant
        content = self._content(facts) if means.settings.keeps_content else b""
        means.notary.submit(
            LogItem(
                id=self._id,
                kind="record",
                tenant=tenant,
                entry=entry.encode(),
                envelope=envelope,
                secrets=means.keys.secrets(nonce),
                content=content,
            )
        )
        self._owner.counts.num_sealed += 1
        self._owner.trail.add(tenant, case.ask.shape.id, Trace(self._id, entry.digest))
        return envelope

    def _facts(self, nonce: bytes, now_s: float) -> Facts:
        case, answer, record = self._case, self._answer, self._record
        assert record is not None
        shape, taken = case.ask.shape, case.taken
        asked = self._asked
        form, request = self._request()
        heard = answer.started is not None or asked is not None
        is_cut = (answer.has_said and not answer.has_finished) or (self._bytes is not None and record.outcome != "ok")
        return Facts(
            record_id=self._id,
            response_id=shape.id.partition(".")[0],  # a service numbers what it asks for one response
            sequence=self._number(),
            started_s=case.started_unix_s,
            ended_s=now_s,
            nonce=nonce,
            task=shape.task.value,
            asked_model=shape.model,
            request=request,
            request_form=form,
            answer=answer.encode() if heard else None,
            reasoning=answer.encode_reasoning(),
            body_digest=self._digest or (None if self._bytes is None else self._bytes.digest()),
            who=self._who(),
            way=Way(
                route=taken.route,
                reason=taken.reason,
                backend=taken.backend,
                model=taken.model,
                num_attempts=taken.num_attempts,
                cache=taken.cache,
                told_model="" if answer.started is None else answer.started.model,
            ),
            outcome=Outcome(
                state="whole" if record.outcome == "ok" else "cancelled" if record.outcome == "cancelled" else "failed",
                error="" if record.outcome in ("ok", "cancelled") else record.outcome,
                is_truncated=is_cut,
                prompt_tokens=record.prompt_tokens,
                cached_tokens=record.cached_tokens,
                completion_tokens=record.completion_tokens,
            ),
            maker=self._owner.means.maker,
            parameters=body_parameters(case.ask.raw) if asked is None else request_form.parameters(asked),
            grammar=None if asked is None else request_form.grammar(asked),
            digests={} if answer.started is None else answer.started.digests,
            system="" if asked is None else request_form.system_text(asked),
            results=_results(asked),
            sources=self._sources(),
            session=self._owner.name(shape.principal.tenant, shape.session),
            label=case.label,
            decisions=tuple(case.decisions),
            verdicts=tuple(case.verdicts),
            tools=tuple(case.tools) or self._undecided_tools(),
        )

    def _request(self) -> tuple[str, bytes | None]:
        """What was asked, as the caller did: in neutral form where somebody read it so, else as the body's values."""
        raw = self._case.ask.raw
        if self._asked is None and raw is not None:
            return "body", request_form.encode_body(raw.dialect, raw.fields)
        try:
            return "neutral", request_form.encode(self._case.decode())
        except HeadraceError:
            return "none", None

    def _who(self) -> Who:
        principal, name = self._case.ask.shape.principal, self._owner.name
        tenant = principal.tenant
        delegation = principal.delegation
        if delegation is not None:
            chain = tuple(one if one.startswith("spiffe://") else name(tenant, one) for one in delegation.chain)
            delegation = Delegation(chain=chain, revocation_ids=delegation.revocation_ids)
        subject = principal.subject
        return Who(
            tenant=name("", tenant),
            subject=subject if subject.startswith("spiffe://") else name(tenant, subject),
            user=name(tenant, principal.user),
            key=name(tenant, principal.key),
            agent=principal.agent or "",
            workload=principal.workload or "",
            delegation=delegation,
        )

    def _sources(self) -> tuple[Source, ...]:
        tenant = self._case.ask.shape.principal.tenant
        found = []
        for relation, request_id in self._named():
            trace = self._owner.trail.find(tenant, request_id)
            if trace is None:
                found.append(Source(relation=relation, record_id=f"of:{request_id}"))
            elif trace.record_id != self._id:
                found.append(Source(relation=relation, record_id=trace.record_id, digest=trace.digest))
        return tuple(found)

    def _named(self) -> list[tuple[str, str]]:
        """Requests that this one comes from, by how."""
        asked, taken = self._asked, self._case.taken
        found = [("cache", taken.source)] if taken.source else []
        if asked is not None and asked.parent:
            found.append(("parent", asked.parent))
        return found

    def _undecided_tools(self) -> tuple[ToolUse, ...]:
        """Tool calls where nobody decides about tools: what they can do is not known, so it is the most."""
        declared = {tool.name: tool for tool in self._asked.tools} if self._asked is not None else {}
        return tuple(
            ToolUse(
                call_id=f"{index}",
                name=call_name,
                manifest=manifest_digest(declared[call_name]) if call_name in declared else "",
                arguments=arguments,
                effect=Effect.EGRESS,
            )
            for index, (call_name, arguments) in enumerate(self._answer.calls())
        )

    def _content(self, facts: Facts) -> bytes:
        """What was asked and answered, for whoever may open the record."""
        content: dict[str, Any] = {"request_form": facts.request_form}
        for name, form in (("request", facts.request), ("answer", facts.answer), ("reasoning", facts.reasoning)):
            if form is not None:
                content[name] = msgspec.Raw(form)
        if self._asked is not None:
            content["asked"] = msgspec.Raw(request_form.encode(self._asked))
        if (tokens := self._answer.tokens()) is not None:
            content["tokens"] = tokens
        return msgspec.json.encode(content)


def _end_by(error: Exception, case: Case) -> NoReturn:
    """End a request that must be recorded and is not."""
    if isinstance(error, HeadraceError):
        raise error
    raise EngineFault(
        f"a defect in what records answers ended the request {case.ask.shape.id}, since records are enforced here "
        '(records.mode = "enforce"); it is logged. Send the request again, and tell whoever runs this server if it '
        "stays."
    ) from error


def _too_late(max_wait_s: float) -> Unavailable:
    return Unavailable(
        f"the record of this answer was not in the log within {max_wait_s:g} s, and no answer goes out before its "
        "record is there (records.waits); send the request again.",
        code="log_unavailable",
    )


def _results(request: Request | None) -> tuple[tuple[str, str], ...]:
    if request is None or request.messages is None:
        return ()
    names = {call.id: call.name for one in request.messages for call in one.tool_calls}
    found = [
        (names.get(one.tool_call_id or "", one.name or ""), one.text)
        for one in request.messages
        if one.role is Role.TOOL
    ]
    return tuple(found[-MAX_RESULTS:])
