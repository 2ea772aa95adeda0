"""The planner: who is asked for a request, what each can cost, and the error if nobody can be."""

from dataclasses import replace

import pytest
from tests.doubles_routing import PRICES, Hand, backend, card, route, rules, settings, shape, target

from headrace.core.errors import ContextTooLong, InvalidRequest, NotCleared, Unavailable
from headrace.core.ledger import PriceList, Prices
from headrace.core.request import Principal, Task
from headrace.core.shape import Need
from headrace.gateway.settings import (
    BackendSettings,
    BudgetSettings,
    CandidateSettings,
    ModelSettings,
    Policy,
    RetrySettings,
    Subject,
    TenantRule,
    Window,
)

ORDERED = (Policy.ORDERED,)
BUDGET = BudgetSettings(name="b", subject=Subject("all"), window=Window.DAY, money=1.0)


def hand(*backends: BackendSettings | str) -> Hand:
    """A route `r` over backends in this order."""
    given = [backend(one) if isinstance(one, str) else one for one in backends]
    return Hand(settings(given, [route("r", *(f"{one.name}/m" for one in given), policies=ORDERED)]))


def test_ordered_asks_as_the_file_says() -> None:
    assert hand("c", "a", "b").names() == ["c/m", "a/m", "b/m"]


def test_a_backend_without_clearance_is_not_asked_and_the_plan_says_why() -> None:
    it = hand(backend("a"), backend("b", clearance=frozenset({"restricted"})))
    plan = it.plan(labels=frozenset({"restricted"}))
    assert [str(one.target) for one in plan.candidates] == ["b/m"]
    assert plan.refused == {target("a/m"): "not cleared for restricted"}


def test_labels_of_a_tenants_rule_count_as_if_the_request_had_them() -> None:
    made = settings([backend("a"), backend("b", clearance=frozenset({"restricted"}))], [route("r", "a/m", "b/m")])
    it = Hand(replace(made, tenants=rules(TenantRule(tenant="anna", labels=frozenset({"restricted"})))))
    assert it.names(principal=Principal(tenant="anna")) == ["b/m"]
    assert len(it.names()) == 2


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (TenantRule(tenant="anna", regions=frozenset({"eu"})), ["a/m"]),
        (TenantRule(tenant="anna", retentions=frozenset({"none"})), ["b/m"]),
    ],
)
def test_a_tenants_rule_may_ask_for_region_and_retention(rule: TenantRule, left: list[str]) -> None:
    made = settings(
        [backend("a", region="eu"), backend("b", region="us", retention="none")], [route("r", "a/m", "b/m")]
    )
    assert Hand(replace(made, tenants=rules(rule))).names(principal=Principal(tenant="anna")) == left


def test_the_engine_may_see_everything() -> None:
    rule = TenantRule(tenant="anna", labels=frozenset({"secret"}), regions=frozenset({"eu"}))
    made = settings([backend("a")], [route("r", "a/m", "local/smol")], tenants=rules(rule))
    it = Hand(made, cards=[card("smol")])
    assert it.names(principal=Principal(tenant="anna")) == ["local/smol"]


def test_no_cleared_backend_is_a_refusal_that_names_the_labels() -> None:
    with pytest.raises(NotCleared, match="restricted"):
        hand("a", "b").plan(labels=frozenset({"restricted"}))


def test_what_a_model_cannot_do_is_not_asked_of_it() -> None:
    able = ModelSettings(can=frozenset({Need.VISION, Need.TOOLS}))
    it = hand(backend("a"), backend("b", "m", entry=able))
    plan = it.plan(needs=frozenset({Need.VISION}))
    assert [str(one.target) for one in plan.candidates] == ["b/m"]
    assert plan.refused == {target("a/m"): "has no vision"}


def test_if_no_model_can_the_error_names_the_need_and_the_field() -> None:
    with pytest.raises(InvalidRequest, match="vision") as told:
        hand("a").plan(needs=frozenset({Need.VISION}))
    assert told.value.param == "messages"
    with pytest.raises(InvalidRequest, match="embed"):
        hand("a").plan(task=Task.EMBED)


def test_a_prompt_that_may_not_fit_goes_to_the_longest_context_and_to_tight_ones_last() -> None:
    short, middle, long = (ModelSettings(context_length=size) for size in (1000, 2000, 100_000))
    it = hand(backend("a", "m", entry=short), backend("b", "m", entry=middle), backend("c", "m", entry=long))
    assert it.names(num_bytes=12_000) == ["c/m", "b/m", "a/m"]
    assert it.names(num_bytes=1_000) == ["a/m", "b/m", "c/m"]


def test_a_prompt_that_can_surely_not_fit_is_refused() -> None:
    with pytest.raises(ContextTooLong, match="1000"):
        hand(backend("a", "m", entry=ModelSettings(context_length=1000))).plan(num_bytes=64_000)


def test_the_order_of_errors_is_of_what_came_nearest() -> None:
    it = hand(backend("a"), backend("b", clearance=frozenset({"x"})))
    it.out["b"] = "its breaker is open"
    with pytest.raises(Unavailable, match="its breaker is open"):
        it.plan(labels=frozenset({"x"}))
    it.out["a"] = "it failed its health checks"
    with pytest.raises(Unavailable) as told:
        it.plan()
    assert told.value.retry_after_s == 7.0


def test_a_backend_that_is_full_comes_last_until_a_stream_ends() -> None:
    it = hand(backend("a", max_concurrency=1), backend("b"))
    number = it.sightings.begin(target("a/m"), shape())
    assert [(str(one.target), one.reason) for one in it.plan().candidates] == [("b/m", ""), ("a/m", "busy")]
    it.sightings.end(number, None, None, is_cancelled=True)
    assert it.names() == ["a/m", "b/m"]


def test_fallbacks_follow_with_the_same_filters_and_a_cycle_ends() -> None:
    made = settings(
        [backend("a"), backend("b", clearance=frozenset({"x"})), backend("c")],
        [route("r", "a/m", fallbacks=("s", "c/m")), route("s", "b/m", "a/m", policies=ORDERED, fallbacks=("r", "s"))],
    )
    it = Hand(made)
    assert it.names() == ["a/m", "b/m", "c/m"]
    plan = it.plan(labels=frozenset({"x"}))
    assert [(str(one.target), one.reason, one.is_fallback) for one in plan.candidates] == [("b/m", "fallback s", True)]
    assert set(plan.refused) == {target("a/m"), target("c/m")}


def test_a_plan_has_as_many_candidates_as_attempts_can_use_and_always_the_cheapest() -> None:
    cheap = ModelSettings(prices=Prices(input=0.1, output=0.1))
    dear = ModelSettings(prices=PRICES)
    backends = [backend(f"b{place}", "m", entry=dear) for place in range(20)] + [backend("z", "m", entry=cheap)]
    names = [f"{one.name}/m" for one in backends]
    it = Hand(settings(backends, [route("r", *names, policies=ORDERED, retry=RetrySettings(max_attempts=2))]))
    assert it.names() == ["b0/m", "b1/m", "b2/m", "b3/m", "z/m"]


def test_a_bound_is_the_whole_prompt_at_the_dearest_input_price_and_the_longest_answer() -> None:
    it = Hand(settings([backend("a", "m", entry=ModelSettings(prices=PRICES))], [route("r", "a/m")]))
    bound = it.plan(num_bytes=1000, num_messages=2, max_tokens=100, num_choices=3).candidates[0].bound
    prompt = 1000 + 64
    assert bound.tokens == prompt + 300
    dearest = 2 * PRICES.input  # written to the cache for an hour
    assert bound.nanos == pytest.approx((prompt * dearest + 300 * PRICES.output) * 1000, abs=2)


def test_prices_of_the_list_hold_where_the_entry_has_none() -> None:
    it = Hand(settings([backend("a")], [route("r", "a/m")]), prices=PriceList({"m": PRICES}))
    assert it.plan(max_tokens=1).candidates[0].bound.nanos > 0


def test_an_answer_is_cut_to_what_its_model_says_and_with_budgets_always() -> None:
    entry = ModelSettings(max_output_tokens=500)
    made = settings([backend("a", "m", entry=entry), backend("b")], [route("r", "a/m", "b/m", policies=ORDERED)])
    cuts = [one.max_tokens for one in Hand(made).plan().candidates]
    assert cuts == [500, None]
    assert [one.max_tokens for one in Hand(made).plan(max_tokens=800).candidates] == [500, None]
    assert [one.max_tokens for one in Hand(made).plan(max_tokens=200).candidates] == [None, None]
    governed = Hand(replace(made, budgets=(BUDGET,), default_max_tokens=99))
    plan = governed.plan()
    assert [one.max_tokens for one in plan.candidates] == [500, 99]
    assert plan.candidates[1].bound.tokens == 400 + 32 + 99


def test_counting_costs_nothing_and_embedding_its_input_alone() -> None:
    entry = ModelSettings(prices=PRICES, tasks=frozenset(Task))
    it = Hand(settings([backend("a", "m", entry=entry)], [route("r", "a/m")]))
    assert it.plan(task=Task.COUNT).candidates[0].bound.tokens == 0
    assert it.plan(task=Task.EMBED, num_inputs=2).candidates[0].bound.tokens == 400 + 32 * 3


def test_tiers_of_candidates_are_told() -> None:
    made = route("r", CandidateSettings(target=target("a/m"), tier=2))
    assert Hand(settings([backend("a")], [made])).plan().candidates[0].tier == 2


def test_the_cheapest_is_not_added_where_the_prompt_cannot_fit() -> None:
    dear = ModelSettings(prices=PRICES)
    cheap = ModelSettings(prices=Prices(input=0.1, output=0.1), context_length=100)
    it = hand(backend("a", "m", entry=dear), backend("b", "m", entry=cheap))
    plan = it.plan(num_bytes=9000)
    assert [str(one.target) for one in plan.candidates] == ["a/m"]
    assert set(plan.refused) == {target("b/m")}


@pytest.mark.parametrize("max_tokens", [None, 10, 900])
@pytest.mark.parametrize("num_bytes", [10, 3000])
@pytest.mark.parametrize("is_governed", [False, True])
@pytest.mark.parametrize("cap", [None, 500])
def test_the_short_way_to_one_target_plans_what_the_long_way_does(
    max_tokens: int | None, num_bytes: int, is_governed: bool, cap: int | None
) -> None:
    entry = ModelSettings(prices=PRICES, max_output_tokens=cap, context_length=1000)
    routes = [route("short", "a/m"), route("long", "a/m", fallbacks=("long",))]
    it = Hand(settings([backend("a", "m", entry=entry)], routes, budgets=(BUDGET,) if is_governed else ()))
    short, long = (it.plan(name, num_bytes=num_bytes, max_tokens=max_tokens) for name in ("short", "long"))
    assert short.candidates == long.candidates
    assert (short.refused, short.reason) == (long.refused, long.reason)
