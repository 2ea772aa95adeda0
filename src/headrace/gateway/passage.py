"""One governed request from its reservation to its settlement, and each attempt in it.

    reserved --> attempt ended (n times) --> settled, exactly once: by the answer's end, an error, or its reader going

Every way out leads through `Passage.settle`, and every attempt through `Attempt.end`; both may be called again and do
nothing then. Knows no order of attempts: `attempts.py`.
"""

import asyncio
from asyncio import CancelledError, current_task
from collections.abc import Callable
from typing import Any, Final

from headrace.core.clock import Clock
from headrace.core.errors import DeadlineExceeded, HeadraceError
from headrace.core.events import (
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.gateway import EXCHANGE_ID, Ask, RawBody, Taken
from headrace.core.request import Request, Task
from headrace.core.usage import UsageRecord
from headrace.gateway.admission import Line
from headrace.gateway.charging import NOTHING, Charge, Heard, estimated, told
from headrace.gateway.contract import Candidate, Case, Keeper, Plan, Reservation
from headrace.gateway.oversight.chain import Chain
from headrace.gateway.parts import Parts
from headrace.gateway.paths import CANCELLED, Asked, Ended, outcome_of, said_of, words_of
from headrace.gateway.tracing import AttemptTrace, PassageTrace

NO_PLAN: Final = Plan(route="", candidates=())
_EXPIRED: Final = "the request's time limit passed before its answer was whole; allow it more."


class Passage:
    """One request under way. `candidates` are those of the plan that the reservation covers."""

    __slots__ = (
        "_decoded",
        "adds_logprobs",
        "ask",
        "candidates",
        "chain",
        "charge",
        "clock",
        "escalates",
        "first_s",
        "hedges",
        "is_expired",
        "is_settled",
        "keeper",
        "on_ok",
        "parts",
        "plan",
        "reservation",
        "started_s",
        "started_unix_s",
        "steps",
        "taken",
        "trace",
        "undecodable",
        "wait_s",
        "waiter",
    )  # fmt: skip

    def __init__(self, parts: Parts, ask: Ask, started_s: float, started_unix_s: float) -> None:
        self.parts = parts
        self.clock: Clock = parts.clock
        self.ask = ask
        self.plan = NO_PLAN
        self.candidates: tuple[Candidate, ...] = ()
        self.reservation: Reservation | None = None
        self.taken = Taken()
        self.trace = PassageTrace.begin(parts.settings.backends)  # None: nobody traces it
        self.charge = NOTHING
        self.started_s = started_s
        self.started_unix_s = started_unix_s
        self.first_s: float | None = None
        self.wait_s = 0.0  # for backends, before anything of an answer was there
        self.hedges = False
        self.escalates = False
        self.adds_logprobs = False  # a policy asks for them, not the caller
        self.is_expired = False
        self.is_settled = False
        self.keeper: Keeper | None = None
        self.chain: Chain | None = None  # None: nobody oversees it
        self.on_ok: Callable[[Passage], None] | None = None
        self.undecodable: HeadraceError | None = None
        self.waiter: asyncio.Task[Any] | None = None  # who waits for the backend now: a deadline ends the wait
        self.steps: list[Asked] | None = None if parts.paths is None else []  # None: nobody remembers its way
        self._decoded: Request | None = None

    def enter(self) -> None:
        """Take a place in the gateway. Raises Overloaded, and then it has ended."""
        try:
            self.parts.admission.enter(self.ask.shape.principal.priority)
        except HeadraceError as error:
            self.is_settled = self.taken.is_settled = True
            if self.steps is not None:
                self._keep(self._record(error.code), words_of(error))
            raise

    def oversee(self) -> None:
        """Let everybody who oversees requests begin. Raises what one of them refuses it by."""
        self.chain = Chain(Case(ask=self.ask, decode=self.decode, taken=self.taken, started_unix_s=self.started_unix_s))
        self.chain.begin(self.parts.overseers)

    def follow(self, plan: Plan) -> None:
        """Go by a plan from now on, as far as those who oversee the request allow it. Raises Forbidden if they allow
        nothing of it, and what the caller's protocol refuses where an answer must be read."""
        if self.chain is not None:
            plan = self.chain.clear(plan)
            if self.chain.reads_answer:
                self.decode()
        self.plan = plan
        self.candidates = plan.candidates
        self.taken.route = plan.route
        self.taken.reason = plan.reason

    def can_ask(self, candidate: Candidate) -> bool:
        """Whether the request can be put to a target at all, as bytes or in neutral form."""
        return self.undecodable is None or self.raw_for(candidate) is not None

    def raw_for(self, candidate: Candidate) -> RawBody | None:
        """The body, if a target takes it as it is and no policy reads the answer."""
        raw = self.ask.raw
        if raw is None or self.escalates or self.keeper is not None:
            return None
        if self.chain is not None and self.chain.reads_answer:
            return None
        if self.trace is not None and self.trace.captures_content and self.can_decode():
            return None
        return raw if raw.dialect in self.parts.upstreams[candidate.target.backend].dialects else None

    def decode(self) -> Request:
        """The request in neutral form, decoded once. Raises what the caller's protocol refuses."""
        if self._decoded is None:
            if self.undecodable is not None:
                raise self.undecodable
            try:
                self._decoded = self.ask.decode()
            except HeadraceError as error:
                self.undecodable = error
                raise
        return self._decoded

    def can_decode(self) -> bool:
        """Whether the request has a neutral form."""
        try:
            self.decode()
        except HeadraceError:
            return False
        return True

    def expire(self) -> None:
        """The request's deadline has passed: whoever waits for a backend stops waiting."""
        self.is_expired = True
        if self.waiter is not None:
            self.waiter.cancel()

    def end_of(self, cancelled: CancelledError) -> BaseException:
        """What a cancelled wait ends by: a passed deadline is an error, and no cancellation of the task."""
        if self.is_expired and (task := current_task()) is not None and task.uncancel() == 0:
            return DeadlineExceeded(_EXPIRED)
        return cancelled

    def check_expired(self) -> None:
        """Raise DeadlineExceeded if the deadline passed while nobody waited."""
        if self.is_expired:
            raise DeadlineExceeded(_EXPIRED)

    def begin(
        self, candidate: Candidate, line: Line, *, is_trial: bool, is_whole: bool, is_hedge: bool = False
    ) -> "Attempt":
        """An attempt goes out; its place in the line is taken."""
        taken, target = self.taken, candidate.target
        taken.num_attempts += 1
        taken.backend = target.backend
        taken.model = target.model
        attempt = Attempt(self, candidate, line, is_trial=is_trial, is_whole=is_whole)
        if self.steps is not None:
            asked = Asked(candidate, self.clock.monotonic_s(), attempt.heard, is_trial=is_trial, is_hedge=is_hedge)
            attempt.asked = asked
            self.steps.append(asked)
        return attempt

    def pass_over(self, candidate: Candidate, error: HeadraceError, *, is_hedge: bool = False) -> None:
        """A target could not be asked."""
        if self.steps is not None:
            asked = Asked(candidate, self.clock.monotonic_s(), None, is_trial=False, is_hedge=is_hedge)
            asked.refuse(error)
            self.steps.append(asked)

    def hand_over(self, attempt: "Attempt") -> None:
        """An attempt has answered: what headers tell of it is known."""
        taken, target = self.taken, attempt.candidate.target
        taken.backend = target.backend
        taken.model = target.model
        if self.chain is not None:
            self.chain.case.target = target
        self.note(attempt.candidate.reason)
        self.note_overhead()
        if self.keeper is not None:
            self.keeper.begin(target)

    def note(self, why: str) -> None:
        """One more reason for the way that it goes; one that was told is not told again."""
        taken = self.taken
        if not taken.reason:
            taken.reason = why
        elif why and why not in taken.reason.split("; "):
            taken.reason = f"{taken.reason}; {why}"

    def note_overhead(self) -> None:
        """An answer is about to be handed over: what of the time so far was nobody else's."""
        spent_s = self.clock.monotonic_s() - self.started_s
        self.taken.overhead_s = max(0.0, spent_s - self.wait_s - self.taken.queue_s)

    def settle(self, outcome: str, error: BaseException | None = None) -> None:
        """Charge what the attempts used, free what was set aside, keep the record. `error` is what ended it."""
        if self.is_settled:
            return
        taken, charge = self.taken, self.charge
        self.is_settled = taken.is_settled = True
        taken.cost_nanos = charge.cost_nanos
        taken.saved_nanos = charge.saved_nanos
        taken.prompt_tokens, taken.cached_tokens = charge.prompt_tokens, charge.cached_tokens
        taken.completion_tokens = charge.completion_tokens
        record = self._record(outcome)
        self._trace(record)
        try:
            self._close_books(record)
        finally:
            if self.chain is not None:
                self.chain.end(record)
                if not taken.is_claimed:
                    self.chain.seal()
            if self.steps is not None:
                self._keep(record, words_of(error))

    def _keep(self, record: UsageRecord, refusal: str) -> None:
        """Have its way remembered."""
        paths, taken = self.parts.paths, self.taken
        assert paths is not None
        assert self.steps is not None
        case = None if self.chain is None else self.chain.case
        held = self.reservation
        paths.add(
            Ended(
                paths.next_number(),
                record,
                self.plan,
                self.steps,
                self.started_s,
                taken.reason,
                refusal,
                None if taken.receipt is None else taken.receipt.id,
                taken.source,
                None if held is None else held.bound,
                () if held is None else held.marks,
                () if case is None else said_of(case.decisions),
                () if case is None else said_of(case.verdicts),
                record.duration_s >= paths.slow_s,
                EXCHANGE_ID.get(),
                None if self.trace is None else self.trace.place.context.trace_id,
            )
        )

    def _close_books(self, record: UsageRecord) -> None:
        try:
            if self.reservation is not None:
                self.reservation.settle(record)
        finally:
            self.parts.admission.leave()
            self.parts.deadlines.remove(self)
        if self.parts.on_record is not None:
            self.parts.on_record(record)
        if self.on_ok is not None and record.outcome == "ok":
            self.on_ok(self)

    def fail(self, error: BaseException) -> None:
        """Settle by what ended it."""
        self.settle(self._outcome(error), error)

    def refuse(self, error: BaseException) -> None:
        """Settle a request of which nothing is handed over, so that nobody else seals what is recorded of it."""
        self.fail(error)
        if self.chain is not None:
            self.chain.seal()

    def abandon(self, error: BaseException) -> None:
        """It ends before it was planned: nothing was set aside, and only who oversees it is told."""
        self.is_settled = self.taken.is_settled = True
        self.parts.admission.leave()
        if self.chain is None and self.steps is None and self.trace is None:
            return
        record = self._record(self._outcome(error))
        self._trace(record)
        try:
            if self.chain is not None:
                self.chain.end(record)
                self.chain.seal()
        finally:
            if self.steps is not None:
                self._keep(record, words_of(error, is_of_plan=error is not self.undecodable))

    def _trace(self, record: UsageRecord) -> None:
        if self.trace is not None:
            case = None if self.chain is None else self.chain.case
            self.trace.end(record, self.started_s, self.taken.reason, case)

    def _outcome(self, error: BaseException) -> str:
        outcome = outcome_of(error)
        return "deadline_exceeded" if outcome == CANCELLED and self.is_expired else outcome

    def _record(self, outcome: str) -> UsageRecord:
        shape, taken, charge = self.ask.shape, self.taken, self.charge
        principal, first_s = shape.principal, self.first_s
        return UsageRecord(
            request_id=shape.id,
            started_s=self.started_unix_s,
            tenant=principal.tenant,
            key=principal.key,
            user=principal.user,
            tags=shape.tags,
            task=shape.task.value,
            asked_model=shape.model,
            route=taken.route,
            backend=taken.backend,
            model=taken.model,
            num_attempts=taken.num_attempts,
            outcome=outcome,
            cache=taken.cache,
            prompt_tokens=charge.prompt_tokens,
            cached_tokens=charge.cached_tokens,
            written_tokens=charge.written_tokens,
            completion_tokens=charge.completion_tokens,
            reasoning_tokens=charge.reasoning_tokens,
            cost_nanos=charge.cost_nanos,
            saved_nanos=charge.saved_nanos,
            is_estimated=charge.is_estimated,
            queue_s=taken.queue_s,
            overhead_s=taken.overhead_s,
            ttft_s=None if first_s is None else first_s - self.started_s,
            duration_s=self.clock.monotonic_s() - self.started_s,
        )


def hear(heard: Heard, event: Event) -> bool:
    """Count an event; whether it is something of the answer itself."""
    if isinstance(event, (TextDelta, ReasoningDelta)):
        text = event.text
        heard.num_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        heard.num_tokens += event.num_tokens
    elif isinstance(event, ToolCallDelta):
        heard.num_bytes += len(event.arguments.encode("utf-8", "surrogatepass")) + len(event.name or "")
        heard.num_tokens += event.num_tokens
    elif isinstance(event, Started):
        heard.has_begun = True
        heard.prompt_tokens = event.prompt_tokens
        heard.cached_tokens = event.cached_tokens
        return False
    return not isinstance(event, Finished)


class Attempt:
    """One target asked once. It counts as load, and holds its place in the line, until its `end`."""

    __slots__ = (
        "_has_answered",
        "_line",
        "_number",
        "_passage",
        "asked",
        "candidate",
        "heard",
        "is_over",
        "is_trial",
        "is_whole",
        "trace",
    )

    def __init__(self, passage: Passage, candidate: Candidate, line: Line, *, is_trial: bool, is_whole: bool) -> None:
        self.candidate = candidate
        self.heard = Heard()
        self.is_trial = is_trial
        self.is_whole = is_whole
        self.is_over = False
        self._has_answered = False
        self._line = line
        self._passage = passage
        self.asked: Asked | None = None
        self.trace: AttemptTrace | None = None
        if passage.trace is not None:
            request = passage.decode() if passage.trace.captures_content and passage.can_decode() else None
            self.trace = passage.trace.attempt(passage.ask, candidate, passage.clock.monotonic_s(), request)
        self._number = passage.parts.sightings.begin(candidate.target, passage.ask.shape)

    def answer(self) -> None:
        """The first of its answer is here."""
        if not self._has_answered:
            self._has_answered = True
            self.heard.has_begun = True
            passage = self._passage
            passage.parts.sightings.first_event(self._number)
            passage.parts.standings.answer(self.candidate.target, is_trial=self.is_trial)
            asked, trace = self.asked, self.trace
            if passage.first_s is None or asked is not None or trace is not None:
                now_s = passage.clock.monotonic_s()
                if passage.first_s is None:
                    passage.first_s = now_s
                if asked is not None:
                    asked.first_s = now_s
                if trace is not None:
                    trace.first(now_s)

    def hear(self, event: Event) -> None:
        """An event of its answer passes."""
        if self.trace is not None:
            self.trace.hear(event)
        if hear(self.heard, event) and not self._has_answered:
            self.answer()

    def end(self, usage: Usage | None, error: BaseException | None) -> None:
        """It is over, well (None) or by `error`; what it used is added to its passage's charge."""
        if self.is_over:
            return
        self.is_over = True
        passage, target = self._passage, self.candidate.target
        is_cancelled = isinstance(error, (CancelledError, GeneratorExit))
        fault = error if isinstance(error, Exception) and not is_cancelled else None
        if self.trace is not None:
            self.trace.end(usage, error, passage.clock.monotonic_s())
        try:
            passage.parts.sightings.end(self._number, usage, fault, is_cancelled=is_cancelled)
            passage.parts.standings.end(target, error, is_trial=self.is_trial)
            charge = self._charge(usage, error)
            passage.charge = charge if passage.charge is NOTHING else passage.charge.plus(charge)
            if self.asked is not None:
                self.asked.end(passage.clock.monotonic_s(), error, charge)
                if fault is not None:
                    self.asked.standing = passage.parts.standings.standing(target).reason
        finally:
            self._line.leave()

    def _charge(self, usage: Usage | None, error: BaseException | None) -> Charge:
        passage = self._passage
        if passage.ask.shape.task is Task.COUNT:
            return NOTHING  # who counts uses nothing
        model = passage.parts.tariffs.model(self.candidate.target)
        if usage is not None and (charge := told(usage, model.prices)) is not None:
            return charge
        if isinstance(error, Exception) and not self.heard.has_begun and not isinstance(error, CancelledError):
            return NOTHING  # what failed before anything came is not charged
        is_unknown = self.is_whole and error is not None
        return estimated(passage.ask.shape, self.candidate, model, self.heard, is_whole=is_unknown)
