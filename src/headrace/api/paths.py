"""Which way requests went, and routes: `GET /v1/gateway/requests`, `/v1/gateway/requests/{id}`, `/v1/gateway/routes`.

Ours, in the shape of OpenAI's lists. Money is a number in the price list's unit, times are seconds, `started` and
`since` Unix time. Knows no gateway.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.paths import (
    Choice,
    Figures,
    PathBrief,
    PathPage,
    PathQuery,
    RequestPath,
    RoutesSeen,
    RouteState,
    RouteTarget,
    Step,
    StepKind,
)
from headrace.core.trust import Decision, Verdict
from headrace.core.usage import NANOS

MAX_PATHS: Final = 500
_DIGITS: Final = 6
_TEXTS: Final = ("id", "tenant", "key", "user", "model", "route", "backend", "outcome")

PATH_FILTERS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(_TEXTS, str),
    "slow": bool,
    "limit": Annotated[int, msgspec.Meta(ge=1, le=MAX_PATHS)],
    "after": Annotated[int, msgspec.Meta(ge=1)],
}
"""What a list of requests may be asked for, for the OpenAPI document."""


class BriefAnswer(msgspec.Struct):
    """One request in a line."""

    id: str
    object: Literal["gateway.request"]
    exchange_id: str | None
    number: int
    started: float
    tenant: str
    key: str | None
    user: str | None
    tags: tuple[str, ...]
    task: str
    asked_model: str
    route: str
    backend: str
    model: str
    num_attempts: int
    outcome: str
    cache: str
    is_slow: bool
    reason: str
    refusal: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost: float
    saved: float
    is_estimated: bool
    queue_s: float
    overhead_s: float
    first_s: float | None
    whole_s: float
    record_id: str | None
    trace_id: str | None


class PathPageAnswer(msgspec.Struct):
    """A page of requests, newest first; `last` is what the next page comes `after`."""

    object: Literal["list"]
    data: list[BriefAnswer]
    has_more: bool
    last: int | None
    num_kept: int
    max_kept: int
    slow_s: float


class ChoiceAnswer(msgspec.Struct):
    """A target of the plan; `place` is null for one that was ruled out."""

    target: str
    place: int | None
    reason: str
    scores: dict[str, float | None]
    max_prompt_and_answer_tokens: int
    max_cost: float
    max_tokens: int | None
    tier: int
    is_fallback: bool


class StepAnswer(msgspec.Struct):
    """One target that was tried, in seconds from the request's start."""

    backend: str
    model: str
    kind: StepKind
    began_s: float
    first_s: float | None
    ended_s: float
    outcome: str
    reason: str
    was_asked: bool
    is_trial: bool
    standing: str
    num_bytes: int
    num_tokens: int
    cost: float


class DecisionAnswer(msgspec.Struct):
    """What a policy said."""

    action: str
    resource: str
    is_allowed: bool
    is_enforced: bool
    policies: tuple[str, ...]
    reason: str


class VerdictAnswer(msgspec.Struct):
    """What a monitor said."""

    monitor: str
    score: float
    action: str
    reason: str
    is_shadow: bool


class ReservedBudget(msgspec.Struct):
    """A budget in which something was set aside."""

    subject: str
    window: str


class ReservedAnswer(msgspec.Struct):
    """What was set aside."""

    tokens: int
    cost: float
    budgets: list[ReservedBudget]


class PathAnswer(msgspec.Struct):
    """One request and the way that it took."""

    object: Literal["gateway.path"]
    request: BriefAnswer
    choices: list[ChoiceAnswer]
    steps: list[StepAnswer]
    decisions: list[DecisionAnswer]
    verdicts: list[VerdictAnswer]
    reserved: ReservedAnswer | None
    shadow: str | None
    hedge_after_s: float | None
    source: str


class FiguresAnswer(msgspec.Struct):
    """What the newest requests show; seconds, null where nothing was seen."""

    num_requests: int
    num_failed: int
    first_p50_s: float | None
    first_p95_s: float | None
    whole_p50_s: float | None
    whole_p95_s: float | None
    cost: float


class RouteTargetAnswer(msgspec.Struct):
    """A target of a route; `figures` count attempts."""

    target: str
    role: Literal["candidate", "canary", "shadow"]
    weight: float
    tier: int
    share: float | None
    figures: FiguresAnswer


class RouteAnswer(msgspec.Struct):
    """A name that requests ask for, and where it leads."""

    id: str
    object: Literal["gateway.route"]
    is_named: bool
    policies: tuple[str, ...]
    targets: list[RouteTargetAnswer]
    fallbacks: tuple[str, ...]
    verifiers: tuple[str, ...]
    max_attempts: int
    hedge_after_s: float | None
    figures: FiguresAnswer


class RoutesAnswer(msgspec.Struct):
    """All routes; figures are of requests since `since`."""

    object: Literal["list"]
    data: list[RouteAnswer]
    since: float | None


def read_query(given: Mapping[str, Sequence[str]]) -> PathQuery:
    """What a query string asks for. Raises InvalidRequest naming the field."""
    known = (*_TEXTS, "slow", "limit", "after")
    for name, values in given.items():
        if name not in known:
            raise UnsupportedField(
                f"{name[:100]}: is not known here; possible are {', '.join(known)}.", param=name[:100]
            )
        if len(values) > 1:
            raise InvalidRequest(f"{name}: is given {len(values)} times; give it once.", param=name)
    query = {name: values[0] for name, values in given.items()}
    is_slow = query.get("slow")
    if is_slow not in (None, "true", "false"):
        raise InvalidRequest(f"slow: {is_slow[:100]!r} is neither true nor false.", param="slow")
    texts: dict[str, Any] = {name: query.get(name) for name in _TEXTS}
    return PathQuery(
        **texts,
        is_slow=None if is_slow is None else is_slow == "true",
        limit=_whole(query, "limit", MAX_PATHS) or 100,
        after=_whole(query, "after", 2**63 - 1),
    )


def _whole(query: Mapping[str, str], name: str, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise InvalidRequest(f"{name}: {text[:100]!r} is not a whole number in [1, {most}].", param=name)
    return int(text)


def encode_page(page: PathPage) -> bytes:
    """A page of requests."""
    return msgspec.json.encode(
        PathPageAnswer(
            object="list",
            data=[_brief(one) for one in page.briefs],
            has_more=page.has_more,
            last=page.briefs[-1].number if page.briefs else None,
            num_kept=page.num_kept,
            max_kept=page.max_kept,
            slow_s=page.slow_s,
        )
    )


def encode_path(path: RequestPath) -> bytes:
    """One request with its way."""
    held = path.reserved
    reserved = None
    if held is not None:
        budgets = [ReservedBudget(subject, window) for subject, window in held.budgets]
        reserved = ReservedAnswer(held.tokens, held.nanos / NANOS, budgets)
    return msgspec.json.encode(
        PathAnswer(
            object="gateway.path",
            request=_brief(path.brief),
            choices=[_choice(one) for one in path.choices],
            steps=[_step(one) for one in path.steps],
            decisions=[_decision(one) for one in path.decisions],
            verdicts=[_verdict(one) for one in path.verdicts],
            reserved=reserved,
            shadow=path.shadow,
            hedge_after_s=path.hedge_after_s,
            source=path.source,
        )
    )


def encode_routes(seen: RoutesSeen) -> bytes:
    """All routes."""
    return msgspec.json.encode(RoutesAnswer("list", [_route(one) for one in seen.routes], seen.since_s))


def _brief(one: PathBrief) -> BriefAnswer:
    record = one.record
    return BriefAnswer(
        id=record.request_id,
        object="gateway.request",
        exchange_id=one.exchange_id or None,
        number=one.number,
        started=record.started_s,
        tenant=record.tenant,
        key=record.key,
        user=record.user,
        tags=record.tags,
        task=record.task,
        asked_model=record.asked_model,
        route=record.route,
        backend=record.backend,
        model=record.model,
        num_attempts=record.num_attempts,
        outcome=record.outcome,
        cache=record.cache,
        is_slow=one.is_slow,
        reason=one.reason,
        refusal=one.refusal,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
        cost=record.cost_nanos / NANOS,
        saved=record.saved_nanos / NANOS,
        is_estimated=record.is_estimated,
        queue_s=round(record.queue_s, _DIGITS),
        overhead_s=round(record.overhead_s, _DIGITS),
        first_s=_rounded(record.ttft_s),
        whole_s=round(record.duration_s, _DIGITS),
        record_id=one.record_id,
        trace_id=one.trace_id,
    )


def _choice(one: Choice) -> ChoiceAnswer:
    return ChoiceAnswer(
        target=one.target,
        place=one.place,
        reason=one.reason,
        scores=dict(one.scores),
        max_prompt_and_answer_tokens=one.num_tokens,
        max_cost=one.cost_nanos / NANOS,
        max_tokens=one.max_tokens,
        tier=one.tier,
        is_fallback=one.is_fallback,
    )


def _step(one: Step) -> StepAnswer:
    return StepAnswer(
        backend=one.backend,
        model=one.model,
        kind=one.kind,
        began_s=round(one.began_s, _DIGITS),
        first_s=_rounded(one.first_s),
        ended_s=round(one.ended_s, _DIGITS),
        outcome=one.outcome,
        reason=one.reason,
        was_asked=one.was_asked,
        is_trial=one.is_trial,
        standing=one.standing,
        num_bytes=one.num_bytes,
        num_tokens=one.num_tokens,
        cost=one.cost_nanos / NANOS,
    )


def _decision(one: Decision) -> DecisionAnswer:
    return DecisionAnswer(one.action, one.resource, one.is_allowed, one.is_enforced, one.policies, one.reason)


def _verdict(one: Verdict) -> VerdictAnswer:
    return VerdictAnswer(one.monitor, one.score, one.action, one.reason, one.is_shadow)


def _route(one: RouteState) -> RouteAnswer:
    return RouteAnswer(
        id=one.name,
        object="gateway.route",
        is_named=one.is_named,
        policies=one.policies,
        targets=[_target(target) for target in one.targets],
        fallbacks=one.fallbacks,
        verifiers=one.verifiers,
        max_attempts=one.max_attempts,
        hedge_after_s=one.hedge_after_s,
        figures=_figures(one.figures),
    )


def _target(one: RouteTarget) -> RouteTargetAnswer:
    return RouteTargetAnswer(one.target, one.role, one.weight, one.tier, one.share, _figures(one.figures))


def _figures(one: Figures) -> FiguresAnswer:
    return FiguresAnswer(
        num_requests=one.num_requests,
        num_failed=one.num_failed,
        first_p50_s=_rounded(one.first_p50_s),
        first_p95_s=_rounded(one.first_p95_s),
        whole_p50_s=_rounded(one.whole_p50_s),
        whole_p95_s=_rounded(one.whole_p95_s),
        cost=one.cost_nanos / NANOS,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
