"""Explanations: every target with its verdict, in the order that a plan has, and what a client would be told."""

import pytest
from tests.doubles_routing import Hand, backend, route, rules, settings, shape, target

from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.explanation import Question
from headrace.core.ledger import Prices
from headrace.gateway.settings import ModelSettings, Policy, TenantRule

PRICED = ModelSettings(prices=Prices(input=1.0, output=2.0))
BACKENDS = [
    backend("a", "m", entry=PRICED),
    backend("b", clearance=frozenset({"x"})),
    backend("c", "m", clearance=frozenset({"x"}), entry=PRICED),
]


def world() -> Hand:
    ordered = (Policy.ORDERED,)
    return Hand(
        settings(
            BACKENDS,
            [route("r", "a/m", "b/m", fallbacks=("s",), policies=ordered), route("s", "c/m")],
            tenants=rules(TenantRule(tenant="anna", routes=frozenset({"s"}))),
        )
    )


def test_every_target_is_there_in_the_order_of_a_plan_with_its_reason() -> None:
    it = world()
    it.out["b"] = "its breaker is open"
    told = it.planner.explain(Question(model="r", prompt_tokens=100, max_tokens=10))
    assert [(one.target, one.place, one.reason) for one in told.verdicts] == [
        ("a/m", 1, ""),
        ("c/m", 2, "fallback s"),
        ("b/m", None, "its breaker is open"),
    ]
    assert (told.route, told.policies, told.reason, told.refusal) == ("r", ("ordered",), "ordered of 2", None)
    assert told.verdicts[0].cost_nanos == it.plan(num_bytes=400, max_tokens=10).candidates[0].bound.nanos
    assert [str(one.target) for one in it.plan().candidates] == ["a/m", "c/m"]


def test_what_a_client_would_be_told_if_nobody_is_asked() -> None:
    told = world().planner.explain(Question(model="r", labels=frozenset({"y"})))
    assert told.refusal is not None
    assert told.refusal.startswith("403 not_cleared: ")
    assert {one.reason for one in told.verdicts} == {"not cleared for y"}
    with pytest.raises(NotFound):
        world().planner.explain(Question(model="nothing"))
    with pytest.raises(NotFound):
        world().planner.explain(Question(model="r", tenant="anna"))
    with pytest.raises(InvalidRequest, match="flying"):
        world().planner.explain(Question(model="r", needs=frozenset({"flying"})))


@pytest.mark.parametrize("policy", list(Policy))
def test_each_policy_tells_what_it_measured(policy: Policy) -> None:
    it = Hand(settings(BACKENDS, [route("r", "a/m", "c/m", policies=(policy,))]))
    it.sightings.begin(target("a/m"), shape())
    told = it.planner.explain(Question(model="r", max_tokens=50))
    scores = {one.target: dict(one.scores)[policy] for one in told.verdicts}
    expected = {
        Policy.WEIGHTED: 1.0,
        Policy.LEAST_LOADED: 1.0,
        Policy.LOWEST_LATENCY: None,
        Policy.LOWEST_COST: pytest.approx((100 * 1.0 + 50 * 2.0) / 1e6),
        Policy.CACHE_AFFINITY: 0.0,
        Policy.COMPLEXITY: 0.0,
        Policy.ORDERED: 0.0,
    }
    assert scores["a/m"] == expected[policy]


def test_an_explanation_changes_nothing() -> None:
    it = Hand(settings(BACKENDS, [route("r", "a/m", "c/m", policies=(Policy.CACHE_AFFINITY,))]))
    it.planner.explain(Question(model="r", session="s"))
    assert it.sightings.num_in_flight == 0
    assert len(it.sightings.index) == 0
