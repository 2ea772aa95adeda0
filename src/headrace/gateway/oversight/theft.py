"""The overseer against theft of a model: holds requests to the surface, counts what steers, and narrows answers.

Requests that ask for no probabilities and shift none pass as they are, in bytes where they came in bytes; of those that
do, an answer is read only where it must be narrowed. Who has the scope `logprobs` is counted and never hindered. Judges
nothing itself: the rules are `trust/monitors/theft`'s, and windows of inputs are watched beside the loop
(`theft_watch.py`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from secrets import token_bytes, token_hex
from typing import Final

from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import Forbidden, HeadraceError, NotFound, Unavailable
from headrace.core.events import Event
from headrace.core.monitors import Flag
from headrace.core.provenance import Notary
from headrace.core.request import Request, Task
from headrace.core.trust import Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.oversight.theft_watch import TheftWatch
from headrace.gateway.settings import Target
from headrace.trust.monitors.theft.evidence import evidence_of
from headrace.trust.monitors.theft.monitor import NOTHING, Judgement, TheftMonitor
from headrace.trust.monitors.theft.settings import Mode
from headrace.trust.monitors.theft.steering import UNSTEERED, steering_of, steering_of_fields
from headrace.trust.monitors.theft.surface import (
    STEERS,
    Told,
    check_fields,
    check_request,
    check_states,
    is_free,
    widen,
)

_logger = logging.getLogger(__name__)
_CLOCK: Final = SystemClock()
_INSIDES: Final = frozenset({Task.EMBED, Task.SCORE})
"""Tasks whose answer is the inside of a model, if that is one that generates."""


class TheftOverseer:
    """Implements `gateway.contract.Overseer` and `core.monitors.Monitors`.

    `generates` says whether a model of the engine is one that generates, so that what it embeds are its hidden states;
    `notary` takes in evidence; `on_verdict` counts what was said; `watch` sees what is asked, beside the loop.
    """

    def __init__(
        self,
        monitor: TheftMonitor,
        *,
        generates: Callable[[Target], bool] = lambda _: False,
        notary: Notary | None = None,
        on_verdict: Callable[[Verdict], None] = lambda _: None,
        watch: TheftWatch | None = None,
        clock: Clock = _CLOCK,
    ) -> None:
        self.monitor = monitor
        self._generates = generates
        self._notary = notary
        self._on_verdict = on_verdict
        self._watch = watch
        self._clock = clock

    @property
    def _enforces(self) -> bool:
        return self.monitor.settings.mode is Mode.ENFORCE

    def watch_by(self, watch: TheftWatch | None) -> TheftWatch | None:
        """Let another see what is asked from now on; the one that did."""
        before, self._watch = self._watch, watch
        return before

    @property
    def reads_answers(self) -> bool:
        """Those with probabilities, where they are narrowed."""
        return self._enforces

    def begin(self, case: Case) -> "TheftOversight | None":
        """See `Overseer`. Raises Forbidden for what is beyond the surface, RateLimited for what was tried too often."""
        if self.monitor.settings.mode is Mode.OFF:  # a reload has switched it off
            return None
        shape = case.ask.shape
        if self._watch is not None:
            self._watch.offer(case)
            self._absorb(case.started_unix_s)
        self._obey(case, self.monitor.follow(shape.principal, case.started_unix_s))
        is_inside = shape.task in _INSIDES
        if not shape.probes and not is_inside:
            self._count(case)
            return None
        if is_free(shape.principal):
            self._count(case)
            return None
        told = self._hold(case)
        self._count(case)
        return TheftOversight(self, case, told) if told is not None or is_inside else None

    def _hold(self, case: Case) -> Told | None:
        """Hold a request to the surface; how its answer is narrowed, None if nothing of it is."""
        shape, limits = case.ask.shape, self.monitor.settings
        request = None
        try:
            check_fields(shape.probes)
            if shape.probes <= STEERS and shape.task not in _INSIDES:
                return None  # it is told nothing
            request = case.decode()  # what tells probabilities must be understood to be narrowed
            check_request(request, shape.probes, limits)
        except Forbidden as error:
            self.refuse(case, error)
        except HeadraceError:
            if self._enforces:
                raise
        if request is None or not self._enforces:
            return None
        return Told(request.logprobs or 0, limits.logprob_decimals)

    def refuse(self, case: Case, error: Forbidden) -> None:
        """Something is beyond the surface: say so, and raise it where that is enforced."""
        shape, reason = case.ask.shape, f"beyond the surface: {error.param}"
        self._obey(case, self.monitor.refuse(shape.principal, shape.id, reason, case.started_unix_s))
        if self._enforces:
            self._count(case)  # a probe is known by its tries, refused ones too
            raise error

    @property
    def mode(self) -> str:
        """See `Monitors`."""
        return self.monitor.settings.mode.value

    @property
    def num_unwatched(self) -> int:
        """See `Monitors`."""
        return 0 if self._watch is None else self._watch.num_dropped

    def flags(self) -> tuple[Flag, ...]:
        """See `Monitors`."""
        self._absorb(self._clock.unix_s())
        return self.monitor.flags()

    def clear(self, account: str, by: str) -> tuple[Flag, ...]:
        """See `Monitors`. Raises NotFound."""
        self._absorb(self._clock.unix_s())
        cleared = self.monitor.clear(account)
        if not cleared:
            raise NotFound(
                f"account: nothing is held against {account[:200]!r}; GET /v1/monitors lists those that are flagged.",
                param="account",
            )
        if self._watch is not None:
            self._watch.forget(account)
        _logger.warning("theft: %s was cleared by %s", account, by)
        for flag in cleared:
            self._log(replace(flag, action="note", reason=f"cleared by {by}", since_s=self._clock.unix_s()))
        return cleared

    def check_inside(self, case: Case, target: Target) -> None:
        """Raise Forbidden if a target's answer would be the inside of a model that generates."""
        if self._generates(target):
            try:
                check_states(case.ask.shape.task, target.model)
            except Forbidden as error:
                self.refuse(case, error)

    def _count(self, case: Case) -> None:
        ask = case.ask
        secret = self.monitor.secret
        if ask.raw is not None and not ask.shape.probes:
            steering = steering_of_fields(ask.raw.fields, secret)
        else:
            try:
                steering = steering_of(case.decode(), secret)
            except HeadraceError:
                if ask.raw is None:
                    return  # it is refused for what it is
                steering = steering_of_fields(ask.raw.fields, secret)
        if steering is not UNSTEERED:
            self._obey(case, self.monitor.judge(ask.shape.principal, steering, case.started_unix_s))

    def _obey(self, case: Case, judgement: Judgement) -> None:
        if judgement is NOTHING:
            return
        for verdict in judgement.verdicts:
            self._say(case, verdict)
        self.record(judgement.raised)
        if judgement.refusal is not None:
            raise judgement.refusal

    def _absorb(self, unix_s: float) -> None:
        """Take in what was found beside the loop."""
        while self._watch is not None and (found := self._watch.take()) is not None:
            self.record(self.monitor.absorb(found, unix_s))

    def _say(self, case: Case, verdict: Verdict) -> None:
        case.verdicts.append(verdict)
        self._on_verdict(verdict)

    def record(self, flags: Sequence[Flag]) -> None:
        """Tell operators of flags that were raised, and log them as evidence."""
        for flag in flags:
            _logger.warning("theft: %s is flagged by %s: %s", flag.account, flag.monitor, flag.reason)
            if (item_id := self._log(flag)) is not None:
                self.monitor.name_evidence(flag, item_id)

    def _log(self, flag: Flag) -> str | None:
        """Commit to what a flag says; under which id, None where there is no log or it takes nothing."""
        if self._notary is None:
            return None
        item = evidence_of(flag, f"ev_{token_hex(12)}", token_bytes(16))
        try:
            self._notary.submit(item)
        except Unavailable:
            _logger.exception("theft: evidence of %s could not be logged", flag.account)
            return None
        return item.id


class TheftOversight:
    """One request of somebody without the scope."""

    __slots__ = ("_case", "_overseer", "_told")

    def __init__(self, overseer: TheftOverseer, case: Case, told: Told | None) -> None:
        self._overseer = overseer
        self._case = case
        self._told = told

    @property
    def reads_answer(self) -> bool:
        """Where probabilities are told."""
        return self._told is not None

    def allows(self, target: Target) -> bool:
        """See `Oversight`. Raises Forbidden where an answer would be the inside of a model that generates."""
        self._overseer.check_inside(self._case, target)
        return True

    def prepare(self, request: Request, target: Target) -> Request:
        """With as many alternatives as decide whether a token is among the likeliest."""
        return request if self._told is None else widen(request, self._overseer.monitor.settings)

    def hear(self, event: Event) -> Sequence[Event]:
        """Narrowed."""
        return (event,) if self._told is None else (self._told.narrow(event),)

    def add(self, piece: bytes) -> None:
        """Bytes tell nothing where an answer is not read."""

    def end(self, record: UsageRecord) -> None:
        """Nothing is left to do."""
