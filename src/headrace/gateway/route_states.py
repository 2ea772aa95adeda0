"""Routes for those who watch: what the settings say of each, and what the newest requests show of it. Decides nothing.

A share, an error rate or a time is one of the requests that are kept, so that it is of the last minutes where much goes
on, and of the last days where little does. Knows no requests but those that have ended.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from headrace.core.paths import Figures, RoutesSeen, RouteState, RouteTarget
from headrace.gateway.routing.policies import complete
from headrace.gateway.settings import GatewaySettings, RouteSettings, Target

if TYPE_CHECKING:
    from headrace.gateway.paths import Ended

RouteSources = Callable[[], GatewaySettings]
"""The settings in force."""

SHADOW: Final = "shadow"
"""Whose copies of requests are, and what their route's name begins with."""

_WELL: Final = ("ok", "cancelled")


@dataclass(slots=True)
class Seen:
    """What was seen of one thing so far."""

    num_requests: int = 0
    num_failed: int = 0
    cost_nanos: int = 0
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)

    def add(self, outcome: str, first_s: float | None, whole_s: float, cost_nanos: int) -> None:
        """One more. What failed says nothing of how long an answer takes."""
        self.num_requests += 1
        self.cost_nanos += cost_nanos
        if outcome not in _WELL:
            self.num_failed += 1
        elif outcome == "ok":
            self.whole_s.append(whole_s)
            if first_s is not None:
                self.first_s.append(first_s)

    def figures(self) -> Figures:
        """All of it."""
        first, whole = sorted(self.first_s), sorted(self.whole_s)
        return Figures(
            num_requests=self.num_requests,
            num_failed=self.num_failed,
            first_p50_s=quantile(first, 0.50),
            first_p95_s=quantile(first, 0.95),
            whole_p50_s=quantile(whole, 0.50),
            whole_p95_s=quantile(whole, 0.95),
            cost_nanos=self.cost_nanos,
        )


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that a share of them does not exceed, None of nothing."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def routes_seen(sources: RouteSources, kept: "Iterable[Ended]") -> RoutesSeen:
    """Routes of the settings in their order, then names that were asked for without one, the busiest first."""
    of_route: dict[str, Seen] = defaultdict(Seen)
    of_target: dict[tuple[str, Target], Seen] = defaultdict(Seen)
    since_s: float | None = None
    for one in kept:
        record = one.record
        since_s = record.started_s if since_s is None else min(since_s, record.started_s)
        of_route[record.route].add(record.outcome, record.ttft_s, record.duration_s, record.cost_nanos)
        for step in one.steps:
            if step.was_asked:
                first_s = None if step.first_s is None else step.first_s - step.began_s
                seen = of_target[record.route, step.candidate.target]
                seen.add(step.outcome, first_s, step.ended_s - step.began_s, step.charge.cost_nanos)
    figures = {name: seen.figures() for name, seen in of_route.items()}
    targets = {place: seen.figures() for place, seen in of_target.items()}
    settings = sources()
    named = [_named(route, figures, targets) for route in settings.routes.values()]
    others = [
        RouteState(
            name=name,
            is_named=False,
            targets=tuple(
                RouteTarget(target=str(target), role="candidate", figures=seen)
                for (route, target), seen in targets.items()
                if route == name
            ),
            figures=seen_of,
        )
        for name, seen_of in sorted(figures.items(), key=lambda item: -item[1].num_requests)
        if name and name not in settings.routes and not name.startswith(f"{SHADOW}:")
    ]
    return RoutesSeen(routes=(*named, *others), since_s=since_s)


def _named(route: RouteSettings, figures: dict[str, Figures], targets: dict[tuple[str, Target], Figures]) -> RouteState:
    def one(
        target: Target,
        role: Literal["candidate", "canary", "shadow"] = "candidate",
        weight: float = 1.0,
        tier: int = 0,
        share: float | None = None,
    ) -> RouteTarget:
        name = f"{SHADOW}:{route.name}" if role == "shadow" else route.name
        seen = targets.get((name, target), Figures())
        return RouteTarget(target=str(target), role=role, weight=weight, tier=tier, share=share, figures=seen)

    found = [one(each.target, weight=each.weight, tier=each.tier) for each in route.candidates]
    if route.canary is not None:
        found.append(one(route.canary, "canary", share=route.canary_share))
    if route.shadow is not None:
        found.append(one(route.shadow, "shadow", share=route.shadow_share))
    return RouteState(
        name=route.name,
        is_named=True,
        policies=tuple(complete(route.policies)) if len(route.candidates) > 1 else (),
        targets=tuple(found),
        fallbacks=route.fallbacks,
        verifiers=route.escalation.verifiers,
        max_attempts=route.retry.max_attempts,
        hedge_after_s=route.hedge_after_s,
        figures=figures.get(route.name, Figures()),
    )
