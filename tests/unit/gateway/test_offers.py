"""What is reserved for a request, from the most that it may do to the least."""

from tests.doubles_gateway import candidate

from headrace.gateway.contract import Bound, Candidate, Plan
from headrace.gateway.offers import offers, tiers_of
from headrace.gateway.settings import Escalation, Policy, RouteSettings

PLAIN = RouteSettings(name="smart", candidates=())
TIERED = RouteSettings(
    name="smart", candidates=(), policies=(Policy.COMPLEXITY,), escalation=Escalation(verifiers=("json",))
)


def of(name: str, tokens: int, nanos: int, **about: object) -> Candidate:
    return candidate(name, **({"bound": Bound(tokens, nanos)} | about))  # type: ignore[arg-type]


def plan(*candidates: Candidate, hedge_after_s: float | None = None) -> Plan:
    return Plan(route="smart", candidates=candidates, hedge_after_s=hedge_after_s)


def bounds(of_plan: Plan, route: RouteSettings = PLAIN) -> list[tuple[int, int]]:
    return [(offer.bound.tokens, offer.bound.nanos) for offer in offers(of_plan, route)]


def test_the_dearest_is_reserved_for_then_those_without_it() -> None:
    found = list(offers(plan(of("a", 10, 9), of("b", 30, 5), of("c", 20, 5)), PLAIN))
    assert [(offer.bound, "".join(one.target.backend for one in offer.candidates)) for offer in found] == [
        (Bound(30, 9), "abc"),
        (Bound(30, 5), "bc"),
        (Bound(20, 5), "c"),
    ]
    assert [offer.note for offer in found] == [
        "",
        "without a/m, which the budget has no room for",
        "without b/m, which the budget has no room for",
    ]


def test_a_hedge_reserves_for_two_of_the_routes_own_and_else_for_one() -> None:
    with_fallback = plan(
        of("a", 10, 5), of("b", 10, 4), of("c", 10, 3), of("f", 10, 20, is_fallback=True), hedge_after_s=1
    )
    assert bounds(with_fallback)[:2] == [(20, 20), (10, 20)]
    assert bounds(plan(of("a", 10, 5), of("b", 10, 4), hedge_after_s=1)) == [(20, 9), (10, 5), (10, 4)]
    assert bounds(plan(of("a", 10, 5), hedge_after_s=1)) == [(10, 5)]


def test_tiers_reserve_for_one_answer_each_and_else_for_one() -> None:
    tiers = plan(of("a", 10, 1), of("b", 10, 2), of("c", 10, 9, tier=1), of("f", 10, 20, is_fallback=True))
    assert bounds(tiers, TIERED)[:2] == [(20, 22), (10, 20)]
    assert bounds(plan(of("a", 10, 1), of("b", 10, 2)), TIERED) == [(10, 2), (10, 1)]


def test_tiers_go_up_from_that_of_the_first_with_fallbacks_behind_the_last() -> None:
    candidates = [of("b", 1, 1, tier=1), of("c", 1, 1, tier=2), of("a", 1, 1), of("f", 1, 1, is_fallback=True)]
    assert [[one.target.backend for one in tier] for tier in tiers_of(candidates)] == [["b"], ["c", "f"]]
    assert [[one.target.backend for one in tier] for tier in tiers_of(candidates[3:])] == [["f"]]


def test_a_note_names_a_few_and_counts_the_others() -> None:
    found = list(offers(plan(*(of(name, 10, 9) for name in "abcde"), of("f", 10, 5)), PLAIN))
    assert found[1].note == "without a/m, b/m, c/m and 2 more, which the budget has no room for"
