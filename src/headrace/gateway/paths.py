"""The last requests and the way that each took: gathered by reference while it happens, told when somebody asks.

    Passage --> Asked (each target that is tried) --> Ended (when it is settled) --> PathBook --> RequestPath

The newest are kept, evenly for all tenants, and the failed and slow ones of those that had to go in as much room
again. What is kept holds nothing of what was said: no body, no request, no answer. Knows no routes of a server.
"""

import heapq
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from headrace.core.errors import HeadraceError, InvalidRequest, NotFound
from headrace.core.paths import (
    Choice,
    PathBrief,
    PathPage,
    PathQuery,
    RequestPath,
    Reserved,
    RoutesSeen,
    Step,
    StepKind,
)
from headrace.core.trust import Decision, Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.charging import NOTHING, Charge, Heard
from headrace.gateway.contract import Bound, Candidate, Plan
from headrace.gateway.fair_ring import FairRing
from headrace.gateway.route_states import SHADOW, RouteSources, routes_seen

MAX_WORDS: Final = 400
"""Characters of a reason that are kept."""

MAX_SAID: Final = 64
"""Decisions, and verdicts, of one request that are kept: a policy is asked about each call of a tool."""

CANCELLED: Final = "cancelled"


class Asked:
    """One target that was tried, as it happens. Times are monotonic seconds."""

    __slots__ = (
        "began_s",
        "candidate",
        "charge",
        "ended_s",
        "first_s",
        "heard",
        "is_hedge",
        "is_trial",
        "outcome",
        "reason",
        "standing",
        "was_asked",
    )  # fmt: skip

    def __init__(
        self, candidate: Candidate, began_s: float, heard: Heard | None, *, is_trial: bool, is_hedge: bool
    ) -> None:
        self.candidate = candidate
        self.began_s = began_s
        self.heard = heard
        self.is_trial = is_trial
        self.is_hedge = is_hedge
        self.first_s: float | None = None
        self.ended_s = began_s
        self.outcome = "ok"
        self.reason = ""
        self.standing = ""
        self.was_asked = True
        self.charge = NOTHING

    def end(self, now_s: float, error: BaseException | None, charge: Charge) -> None:
        """It is over."""
        self.ended_s = now_s
        self.charge = charge
        if error is not None:
            self.outcome, self.reason = outcome_of(error), words_of(error)

    def refuse(self, error: HeadraceError) -> None:
        """It could not be asked."""
        self.was_asked = False
        self.outcome, self.reason = error.code, words_of(error)


class Ended(NamedTuple):
    """One request that ended, as it is kept. `started_s` is monotonic, and the steps' times are. `bound` was set aside,
    in the budgets of `marks` (subject, window and when it began)."""

    number: int
    record: UsageRecord
    plan: Plan
    steps: Sequence[Asked]
    started_s: float
    reason: str
    refusal: str
    record_id: str | None
    source: str
    bound: Bound | None
    marks: Sequence[tuple[str, str, int]]
    decisions: Sequence[Decision]
    verdicts: Sequence[Verdict]
    is_slow: bool
    exchange_id: str = ""
    trace_id: str | None = None


def outcome_of(error: BaseException) -> str:
    """How an attempt or a request ended, in a word."""
    if isinstance(error, HeadraceError):
        return error.code
    return CANCELLED if isinstance(error, (CancelledError, GeneratorExit)) else "internal_error"


def words_of(error: BaseException | None, *, is_of_plan: bool = False) -> str:
    """Our own words for an error. Nothing of what a backend said, nor of what is wrong with a body: both may repeat
    it. `is_of_plan`: the body was not looked at."""
    if not isinstance(error, HeadraceError) or error.quotes:
        return ""
    if isinstance(error, InvalidRequest) and not is_of_plan:
        return "" if error.param is None else f"{error.param[:MAX_WORDS]}: refused"
    return error.message[:MAX_WORDS]


Said = TypeVar("Said", Decision, Verdict)


def said_of(said: Sequence[Said]) -> tuple[Said, ...]:
    """Decisions or verdicts as they are kept: a model makes up names of tools and of their arguments, as long as it
    likes."""
    return tuple(map(_cut, said[:MAX_SAID])) if said else ()


def _cut(one: Said) -> Said:
    if isinstance(one, Decision) and len(one.resource) > MAX_WORDS:
        one = replace(one, resource=one.resource[:MAX_WORDS])
    return replace(one, reason=one.reason[:MAX_WORDS]) if len(one.reason) > MAX_WORDS else one


class PathBook:
    """Implements `core.paths.RequestPaths`. `num_kept` 0: nothing is."""

    def __init__(self, num_kept: int, slow_s: float, sources: RouteSources) -> None:
        self._newest: FairRing[Ended] = FairRing(num_kept)
        self._notable: FairRing[Ended] = FairRing(num_kept)
        self._by_id: dict[str, Ended] = {}
        self._by_exchange: dict[str, Ended] = {}
        self._sources = sources
        self._number = 0
        self.slow_s = slow_s

    @property
    def is_on(self) -> bool:
        """Whether requests are kept."""
        return self._newest.max_len > 0

    def configure(self, num_kept: int, slow_s: float) -> None:
        """Keep more or fewer from now on."""
        self.slow_s = slow_s
        self._notable.max_len = num_kept
        for one in self._newest.resize(num_kept):
            self._retire(one)
        for one in self._notable.resize(num_kept):
            self._forget(one)

    def next_number(self) -> int:
        """That of the next request to end."""
        self._number += 1
        return self._number

    def add(self, kept: Ended) -> None:
        """A request has ended."""
        self._by_id[kept.record.request_id] = kept
        if kept.exchange_id:
            self._by_exchange[kept.exchange_id] = kept
        gone = self._newest.push(kept.record.tenant, kept)
        if gone is not None:
            self._retire(gone)

    def page(self, query: PathQuery) -> PathPage:
        """See `core.paths.RequestPaths`."""
        given = [(holds, value) for name, holds in _FILTERS.items() if (value := getattr(query, name)) is not None]
        found = (one for one in self._all() if all(holds(one, value) for holds, value in given))
        newest = heapq.nlargest(query.limit + 1, found, key=lambda one: one.number)
        return PathPage(
            briefs=tuple(map(brief_of, newest[: query.limit])),
            has_more=len(newest) > query.limit,
            num_kept=len(self._newest) + len(self._notable),
            max_kept=self._newest.max_len,
            slow_s=self.slow_s,
        )

    def find(self, request_id: str) -> RequestPath:
        """See `core.paths.RequestPaths`. One that only asked through others is known by the newest of them."""
        kept = self._by_id.get(request_id) or self._by_exchange.get(request_id)
        if kept is None:
            behalf = f"{request_id}."
            ones = (one for one in self._all() if one.record.request_id.startswith(behalf))
            kept = max(ones, key=lambda one: one.number, default=None)
        if kept is None:
            raise NotFound(
                f"id: no request {request_id[:100]!r} is kept here; the {self._newest.max_len} newest are, and failed "
                "and slow ones a while longer (kept_requests).",
                param="id",
            )
        return path_of(kept)

    def routes(self) -> RoutesSeen:
        """See `core.paths.RequestPaths`."""
        return routes_seen(self._sources, list(self._newest))

    def _all(self) -> Iterator[Ended]:
        yield from self._newest
        yield from self._notable

    def _retire(self, kept: Ended) -> None:
        """One is not among the newest any more."""
        if kept.is_slow or is_failed(kept):
            gone = self._notable.push(kept.record.tenant, kept)
            if gone is not None:
                self._forget(gone)
        else:
            self._forget(kept)

    def _forget(self, kept: Ended) -> None:
        if self._by_id.get(kept.record.request_id) is kept:
            del self._by_id[kept.record.request_id]
        if self._by_exchange.get(kept.exchange_id) is kept:
            del self._by_exchange[kept.exchange_id]


Filter = Callable[[Ended, Any], bool]

_FILTERS: Final[Mapping[str, Filter]] = MappingProxyType(
    {
        "after": lambda kept, number: kept.number < number,
        "tenant": lambda kept, name: kept.record.tenant == name,
        "key": lambda kept, name: kept.record.key == name,
        "user": lambda kept, name: kept.record.user == name,
        "route": lambda kept, name: kept.record.route == name,
        "is_slow": lambda kept, is_slow: kept.is_slow == is_slow,
        "id": lambda kept, name: name == kept.exchange_id or f"{kept.record.request_id}.".startswith(f"{name}."),
        "model": lambda kept, name: name in (kept.record.asked_model, kept.record.model),
        "outcome": lambda kept, name: name == kept.record.outcome or (name == "failed" and is_failed(kept)),
        "backend": lambda kept, name: (
            name == kept.record.backend or any(one.candidate.target.backend == name for one in kept.steps)
        ),
    }
)


def is_failed(kept: Ended) -> bool:
    """Whether it ended by an error, which its reader's leaving is not."""
    return kept.record.outcome not in ("ok", CANCELLED)


def brief_of(kept: Ended) -> PathBrief:
    """A request in a line."""
    return PathBrief(
        number=kept.number,
        record=kept.record,
        reason=kept.reason,
        refusal=kept.refusal,
        exchange_id=kept.exchange_id,
        record_id=kept.record_id,
        trace_id=kept.trace_id,
        is_slow=kept.is_slow,
    )


def path_of(kept: Ended) -> RequestPath:
    """All that is known of it."""
    plan, bound = kept.plan, kept.bound
    reserved = None
    if bound is not None:
        budgets = tuple(dict.fromkeys((subject, window) for subject, window, _ in kept.marks))
        reserved = Reserved(tokens=bound.tokens, nanos=bound.nanos, budgets=budgets)
    return RequestPath(
        brief=brief_of(kept),
        choices=(*_chosen(plan), *_ruled_out(plan)),
        steps=tuple(_steps(kept)),
        decisions=tuple(kept.decisions),
        verdicts=tuple(kept.verdicts),
        reserved=reserved,
        shadow=None if plan.shadow is None else str(plan.shadow.target),
        hedge_after_s=plan.hedge_after_s,
        source=kept.source,
    )


def _chosen(plan: Plan) -> Iterator[Choice]:
    for place, one in enumerate(plan.candidates, 1):
        yield Choice(
            target=str(one.target),
            place=place,
            reason=one.reason,
            scores=one.scores,
            num_tokens=one.bound.tokens,
            cost_nanos=one.bound.nanos,
            max_tokens=one.max_tokens,
            tier=one.tier,
            is_fallback=one.is_fallback,
        )


def _ruled_out(plan: Plan) -> Iterator[Choice]:
    for target, why in plan.refused.items():
        yield Choice(target=str(target), place=None, reason=why)


def _steps(kept: Ended) -> Iterator[Step]:
    """Steps with why it was each one's turn, which their order tells."""
    is_copy = kept.plan.route.startswith(f"{SHADOW}:")
    seen: set[int] = set()
    for place, one in enumerate(kept.steps):
        target, heard = one.candidate.target, one.heard
        before = None if place == 0 else kept.steps[place - 1]
        yield Step(
            backend=target.backend,
            model=target.model,
            kind=_kind(one, before, seen, is_copy=is_copy),
            began_s=one.began_s - kept.started_s,
            first_s=None if one.first_s is None else one.first_s - kept.started_s,
            ended_s=one.ended_s - kept.started_s,
            outcome=one.outcome,
            reason=one.reason,
            was_asked=one.was_asked,
            is_trial=one.is_trial,
            standing=one.standing,
            num_bytes=0 if heard is None else heard.num_bytes,
            num_tokens=one.charge.completion_tokens or (0 if heard is None else heard.num_tokens),
            cost_nanos=one.charge.cost_nanos,
        )
        seen.add(id(one.candidate))


def _kind(one: Asked, before: Asked | None, seen: set[int], *, is_copy: bool) -> StepKind:
    if is_copy:
        return "copy"
    if one.is_hedge:
        return "hedge"
    if before is None:
        return "first"
    if id(one.candidate) in seen:
        return "retry"
    if one.candidate.is_fallback:
        return "fallback"
    return "tier" if one.candidate.tier > before.candidate.tier else "next"
