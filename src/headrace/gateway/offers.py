"""What is reserved for a request, from the most that it may do to the least: the first that its budgets have room for
is what it gets. Values in, values out.

    with a hedge or a second tier --> one attempt's worth, at the dearest candidate --> without the dearest --> ...

A failed attempt is charged nothing, so that retries need no more than one; a hedge or a tier up can be charged beside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.gateway.contract import Bound, Candidate, Plan
from headrace.gateway.settings import Policy, RouteSettings

MAX_NAMED: Final = 3
"""Targets that a note names: it goes into a header."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A bound, who may be asked within it and in which ways. `note` says what was left out."""

    bound: Bound
    candidates: tuple[Candidate, ...]
    hedges: bool = False
    escalates: bool = False
    note: str = ""


def offers(plan: Plan, route: RouteSettings) -> Iterator[Offer]:
    """From the most to the least."""
    candidates = plan.candidates
    if len(candidates) == 1:
        yield Offer(candidates[0].bound, candidates)
        return
    note = ""
    if route.escalation.verifiers and Policy.COMPLEXITY in route.policies:
        tiers = tiers_of(candidates)
        if len(tiers) > 1:
            yield Offer(_sum(_dearest(tier) for tier in tiers), candidates, escalates=True)
            note = "no tier up, which the budget has no room for"
    elif plan.hedge_after_s is not None:
        own = [one for one in candidates if not one.is_fallback]
        if len(own) > 1:
            yield Offer(_two_dearest(own, candidates), candidates, hedges=True)
            note = "no hedge, which the budget has no room for"
    yield from _fewer(candidates, note)


def tiers_of(candidates: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
    """Candidates by tier, from that of the first upwards; fallbacks stand behind the last tier."""
    own = [one for one in candidates if not one.is_fallback]
    fallbacks = tuple(one for one in candidates if one.is_fallback)
    if not own:
        return [fallbacks]
    numbers = sorted({one.tier for one in own if one.tier >= own[0].tier})
    tiers = [tuple(one for one in own if one.tier == number) for number in numbers]
    tiers[-1] += fallbacks
    return tiers


def _fewer(candidates: tuple[Candidate, ...], note: str) -> Iterator[Offer]:
    while candidates:
        bound = _dearest(candidates)
        yield Offer(bound, candidates, note=note)
        left = tuple(one for one in candidates if one.bound.nanos < bound.nanos)
        left = left or tuple(one for one in candidates if one.bound.tokens < bound.tokens)
        dropped = sorted({str(one.target) for one in candidates} - {str(one.target) for one in left})
        candidates, note = left, f"without {_named(dropped)}, which the budget has no room for"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _dearest(candidates: Sequence[Candidate]) -> Bound:
    if len(candidates) == 1:
        return candidates[0].bound
    return Bound(max(one.bound.tokens for one in candidates), max(one.bound.nanos for one in candidates))


def _two_dearest(own: Sequence[Candidate], candidates: Sequence[Candidate]) -> Bound:
    """Two of the route's own at once, or one of all."""
    one = _dearest(candidates)
    tokens = sorted((each.bound.tokens for each in own), reverse=True)
    nanos = sorted((each.bound.nanos for each in own), reverse=True)
    return Bound(max(one.tokens, sum(tokens[:2])), max(one.nanos, sum(nanos[:2])))


def _sum(bounds: Iterator[Bound]) -> Bound:
    each = list(bounds)
    return Bound(sum(one.tokens for one in each), sum(one.nanos for one in each))
