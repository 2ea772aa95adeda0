"""How requests spread: one test for each lesson that routers learned the hard way, over thousands of plans.

Seeds are fixed; shares are held to what they should be by chi-square at one in a thousand.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from tests.doubles_routing import Hand, backend, route, settings, shape, target

from headrace.core.events import Usage
from headrace.core.ledger import Prices
from headrace.core.request import Message, Principal, Request, Role, TextPart
from headrace.core.shape import Need, Shape
from headrace.gateway.routing.averages import HALF_LIFE_S
from headrace.gateway.routing.difficulty import difficulty
from headrace.gateway.settings import CandidateSettings, Escalation, ModelSettings, Policy

CHI_SQUARE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 7: 24.32}
"""By degrees of freedom: exceeded once in a thousand times."""

FOUR = ("a", "b", "c", "d")
SPREADING = [one for one in Policy if one is not Policy.ORDERED]


def pool(*names: str, policies: Iterable[Policy], entry: ModelSettings | None = None, **fields: object) -> Hand:
    """A route `r` over replicas."""
    replicas = [backend(name, "m", entry=entry) for name in names]
    made = route("r", *(f"{name}/m" for name in names), policies=tuple(policies), **fields)
    return Hand(settings(replicas, [made]))


def chi_square(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    num, whole = sum(counts.values()), sum(shares.values())
    wanted = {name: num * share / whole for name, share in shares.items()}
    return sum((counts.get(name, 0) - want) ** 2 / want for name, want in wanted.items())


def firsts(it: Hand, num: int, **fields: object) -> Counter[str]:
    return Counter(it.first(**fields) for _ in range(num))


def load(it: Hand, **loads: int) -> None:
    for name, count in loads.items():
        for _ in range(count):
            it.sightings.begin(target(f"{name}/m"), shape())


def stream(it: Hand, **loads: int) -> None:
    """Requests whose answers are on their way."""
    for name, count in loads.items():
        for _ in range(count):
            it.sightings.first_event(it.sightings.begin(target(f"{name}/m"), shape()))


@pytest.mark.parametrize("policy", SPREADING)
def test_what_is_equal_is_spread_evenly_and_never_goes_to_the_first_of_the_file(policy: Policy) -> None:
    it = pool(*FOUR, policies=[policy])
    counts = firsts(it, 4000, prefix=lambda: (1, 2, 3))
    assert chi_square(counts, dict.fromkeys(FOUR, 1.0)) < CHI_SQUARE[3]


def test_weights_are_shares() -> None:
    shares = {"a": 5.0, "b": 3.0, "c": 1.5, "d": 0.5, "e": 0.0}
    made = [CandidateSettings(target=target(f"{name}/m"), weight=weight) for name, weight in shares.items()]
    it = Hand(settings([backend(name) for name in shares], [route("r", *made, policies=(Policy.WEIGHTED,))]))
    counts = firsts(it, 8000)
    assert counts["e"] == 0
    del shares["e"]
    assert chi_square(counts, shares) < CHI_SQUARE[3]


def test_weights_are_shares_among_those_that_can_be_asked() -> None:
    shares = {"a": 5.0, "b": 3.0, "c": 2.0}
    made = [CandidateSettings(target=target(f"{name}/m"), weight=weight) for name, weight in shares.items()]
    it = Hand(settings([backend(name) for name in shares], [route("r", *made, policies=(Policy.WEIGHTED,))]))
    it.out["a"] = "draining"
    assert chi_square(firsts(it, 4000), {"b": 3.0, "c": 2.0}) < CHI_SQUARE[1]


@pytest.mark.parametrize("policy", [Policy.WEIGHTED, Policy.LEAST_LOADED])
def test_a_backend_that_has_just_come_back_gets_a_part_of_its_share(policy: Policy) -> None:
    it = pool("a", "b", policies=[policy])
    it.shares["a"] = 0.1
    if policy is Policy.WEIGHTED:
        assert chi_square(firsts(it, 4000), {"a": 0.1, "b": 1.0}) < CHI_SQUARE[1]
        return
    for _ in range(110):
        it.sightings.begin(it.plan().candidates[0].target, shape())
    assert it.sightings.backend("a").in_flight == pytest.approx(10, abs=2)


def test_the_less_loaded_of_two_gets_it_and_the_most_loaded_never() -> None:
    it = pool(*FOUR, policies=[Policy.LEAST_LOADED])
    load(it, a=5, b=2, c=3, d=0)
    # Of the six pairs three have d, two more b, the last one c.
    counts = firsts(it, 6000)
    assert counts["a"] == 0
    assert chi_square(counts, {"d": 3, "b": 2, "c": 1}) < CHI_SQUARE[2]


def test_load_counts_for_a_weight() -> None:
    made = [CandidateSettings(target=target("a/m"), weight=3), CandidateSettings(target=target("b/m"), weight=1)]
    it = Hand(settings([backend("a"), backend("b")], [route("r", *made)]))
    for _ in range(400):
        it.sightings.begin(it.plan().candidates[0].target, shape())
    assert it.sightings.backend("a").in_flight == pytest.approx(300, abs=2)


def test_of_two_that_are_idle_the_heavier_is_first() -> None:
    made = [CandidateSettings(target=target("a/m"), weight=1), CandidateSettings(target=target("b/m"), weight=3)]
    assert firsts(Hand(settings([backend("a"), backend("b")], [route("r", *made)])), 50) == {"b": 50}


def test_what_the_last_policy_leaves_equal_is_drawn() -> None:
    it = pool(*FOUR, policies=[Policy.LEAST_LOADED, Policy.LOWEST_COST])
    assert chi_square(firsts(it, 4000), dict.fromkeys(FOUR, 1.0)) < CHI_SQUARE[3]


def test_many_who_decide_at_once_do_not_all_decide_alike() -> None:
    names = [f"b{place}" for place in range(8)]
    it = pool(*names, policies=[Policy.LEAST_LOADED])
    load(it, **dict.fromkeys(names[1:], 3))
    # 800 plans before any of them is begun: all see b0 idle.
    counts = firsts(it, 800)
    assert counts["b0"] / 800 == pytest.approx(2 / 8, abs=0.05)
    assert min(counts[name] for name in names[1:]) > 50


def test_load_that_ends_is_free_again_on_every_way_out() -> None:
    it = pool(*FOUR, policies=[Policy.LEAST_LOADED])
    ways = [(Usage(1, 1), None, False), (None, RuntimeError("died"), False), (None, None, True)]
    for place in range(3000):
        number = it.sightings.begin(it.plan().candidates[0].target, shape())
        usage, error, is_cancelled = ways[place % 3]
        if place % 2:
            it.sightings.first_event(number)
        it.sightings.end(number, usage, error, is_cancelled=is_cancelled)
    assert [it.sightings.backend(name).in_flight for name in FOUR] == [0, 0, 0, 0]
    assert all(not any(it.sightings.state(target(f"{name}/m")).explorers) for name in FOUR)


def test_a_warm_beginning_goes_where_it_was_read() -> None:
    it = pool(*FOUR, policies=[Policy.CACHE_AFFINITY])
    number = it.sightings.begin(target("c/m"), shape(prefix=lambda: (1, 2, 3)))
    it.sightings.end(number, None, None)
    plan = it.plan(prefix=lambda: (1, 2, 3, 4))
    assert plan.candidates[0].target == target("c/m")
    assert plan.candidates[0].reason == "warm 0.75"
    assert firsts(it, 50, prefix=lambda: (1, 2, 3, 4)) == {"c": 50}


def test_of_several_that_are_warm_the_longest_beginning_counts() -> None:
    it = pool(*FOUR, policies=[Policy.CACHE_AFFINITY])
    for name, known in (("a", (1,)), ("b", (1, 2, 3)), ("c", (1, 2))):
        it.sightings.end(it.sightings.begin(target(f"{name}/m"), shape(prefix=lambda known=known: known)), None, None)
    assert it.names(prefix=lambda: (1, 2, 3, 4))[:3] == ["b/m", "c/m", "a/m"]


def test_a_miss_goes_to_the_less_loaded_and_never_to_the_emptiest_index() -> None:
    it = pool(*FOUR, policies=[Policy.CACHE_AFFINITY])
    load(it, a=5, b=2, c=3, d=0)
    counts = firsts(it, 6000, prefix=lambda: (99,))
    assert counts["a"] == 0
    assert chi_square(counts, {"d": 3, "b": 2, "c": 1}) < CHI_SQUARE[2]


@pytest.mark.parametrize("cap", [1.0, 1.5, 3.0])
def test_one_hot_prompt_does_not_melt_one_replica(cap: float) -> None:
    it = pool(*FOUR, policies=[Policy.CACHE_AFFINITY], affinity_load_cap=cap)
    hot = shape(prefix=lambda: (1, 2, 3))
    for _ in range(400):
        it.sightings.begin(it.planner.plan(hot).candidates[0].target, hot)
        loads = [it.sightings.backend(name).in_flight for name in FOUR]
        # One was added to a load that was within the cap.
        assert max(loads) <= cap * sum(loads) / 4 + 2
    assert cap > 1 or min(loads) > 0


def test_a_warm_replica_that_has_much_to_read_yet_is_no_better_than_a_cold_one_that_is_idle() -> None:
    it = pool("a", "b", policies=[Policy.CACHE_AFFINITY], affinity_load_cap=9.0)
    it.sightings.begin(target("a/m"), shape(num_bytes=100_000, prefix=lambda: (1, 2)))
    assert it.first(num_bytes=1000, prefix=lambda: (1, 2)) == "b"
    assert it.first(num_bytes=200_000, prefix=lambda: (1, 2)) == "a"


def test_what_is_over_the_cap_leaves_the_next_longest_beginning_its_turn() -> None:
    it = pool(*FOUR, policies=[Policy.CACHE_AFFINITY])
    for name, known in (("a", (1, 2, 3)), ("b", (1, 2))):
        it.sightings.end(it.sightings.begin(target(f"{name}/m"), shape(prefix=lambda known=known: known)), None, None)
    stream(it, a=6)
    # Reading it anew takes far longer than six streams slow it down.
    assert it.names(num_bytes=400_000, prefix=lambda: (1, 2, 3))[0::3] == ["b/m", "a/m"]


def test_a_replica_with_many_streams_is_worth_a_little_less_warmth() -> None:
    it = pool("a", "b", policies=[Policy.CACHE_AFFINITY], affinity_load_cap=9.0)
    whole = tuple(range(100))
    for name, known in (("a", whole), ("b", whole[:99])):
        it.sightings.end(it.sightings.begin(target(f"{name}/m"), shape(prefix=lambda known=known: known)), None, None)
    asked = {"num_bytes": 4000, "prefix": lambda: whole}
    assert it.first(**asked) == "a"
    stream(it, a=1)
    assert it.first(**asked) == "b"


def test_only_routes_that_ask_for_it_pay_for_an_index() -> None:
    it = pool(*FOUR, policies=[Policy.LEAST_LOADED])
    it.sightings.begin(target("a/m"), shape(prefix=lambda: (1, 2, 3)))
    assert len(it.sightings.index) == 0


def answer(it: Hand, name: str, ttft_s: float, tokens: int = 11, tpot_s: float = 0.0, **fields: object) -> None:
    """One answer as it was seen."""
    number = it.sightings.begin(target(f"{name}/m"), shape(**fields))
    it.clock.now += ttft_s
    it.sightings.first_event(number)
    it.clock.now += tpot_s * (tokens - 1)
    it.sightings.end(number, Usage(100, tokens), None)


def test_the_fastest_is_first_by_first_token_and_by_tokens_after_it() -> None:
    it = pool("a", "b", "c", policies=[Policy.LOWEST_LATENCY])
    answer(it, "a", 1.0, tpot_s=0.01)
    answer(it, "b", 0.1, tpot_s=0.5)
    answer(it, "c", 5.0, tpot_s=0.01)
    assert it.names() == ["a/m", "c/m", "b/m"]
    assert it.names(max_tokens=1)[0] == "b/m"


def test_times_of_short_inputs_say_nothing_of_long_ones() -> None:
    it = pool("a", "b", policies=[Policy.LOWEST_LATENCY])
    answer(it, "a", 0.1)
    answer(it, "b", 1.0)
    answer(it, "a", 9.0, num_bytes=50_000)
    answer(it, "b", 2.0, num_bytes=50_000)
    assert it.first() == "a"
    assert it.first(num_bytes=50_000) == "b"


def test_nearly_equal_times_are_spread() -> None:
    it = pool("a", "b", policies=[Policy.LOWEST_LATENCY])
    answer(it, "a", 1.00)
    answer(it, "b", 1.02)
    assert chi_square(firsts(it, 2000), {"a": 1, "b": 1}) < CHI_SQUARE[1]


def test_nobody_knows_a_target_until_one_request_has_tried_it_and_only_one_at_once() -> None:
    it = pool("a", "b", policies=[Policy.LOWEST_LATENCY])
    answer(it, "a", 0.5)
    assert it.first() == "b"
    trial = it.sightings.begin(target("b/m"), shape())
    counts = firsts(it, 400)
    assert counts["a"] > 100  # b is guessed to be as the others are, no longer pushed first
    it.clock.now += 5.0
    it.sightings.first_event(trial)
    assert firsts(it, 50) == {"a": 50}


def test_a_target_that_was_slow_is_tried_again_after_a_while() -> None:
    it = pool("a", "b", policies=[Policy.LOWEST_LATENCY])
    answer(it, "a", 0.5)
    answer(it, "b", 5.0)
    assert it.first() == "a"
    for _ in range(10):
        it.clock.now += HALF_LIFE_S / 4
        answer(it, "a", 0.5)
    assert it.first() == "b"


def priced(**prices: Prices) -> Hand:
    entries = [backend(name, "m", entry=ModelSettings(prices=price)) for name, price in prices.items()]
    return Hand(settings(entries, [route("r", *(f"{name}/m" for name in prices), policies=(Policy.LOWEST_COST,))]))


def test_the_cheapest_is_first_by_input_and_expected_output() -> None:
    it = priced(a=Prices(input=1, output=10), b=Prices(input=3, output=3))
    assert it.first(num_bytes=400) == "b"
    assert it.first(num_bytes=40_000) == "a"
    assert it.first(num_bytes=400, max_tokens=5) == "a"


def test_what_a_target_has_read_is_cheaper_there() -> None:
    it = priced(a=Prices(input=1.0, output=1), b=Prices(input=1.5, output=1, cache_read=0.1))
    long = {"num_bytes": 40_000, "prefix": lambda: (1, 2, 3, 4)}
    assert it.first(**long) == "a"
    it.sightings.end(it.sightings.begin(target("b/m"), shape(**long)), None, None)
    assert it.first(**long) == "b"


def test_one_that_talks_much_is_dearer_than_its_price() -> None:
    it = priced(a=Prices(input=1, output=5), b=Prices(input=1, output=4))
    assert it.first() == "b"
    answer(it, "b", 0.1, tokens=4000)
    answer(it, "a", 0.1, tokens=100)
    assert it.first() == "a"


def test_policies_order_what_the_ones_before_left_equal() -> None:
    cheap, dear = (ModelSettings(prices=Prices(input=price, output=price)) for price in (1, 9))
    it = Hand(
        settings(
            [backend("a", "m", entry=dear), backend("b", "m", entry=cheap), backend("c", "m", entry=cheap)],
            [route("r", "a/m", "b/m", "c/m", policies=(Policy.LOWEST_COST, Policy.LEAST_LOADED))],
        )
    )
    load(it, b=3)
    assert it.names() == ["c/m", "b/m", "a/m"]
    it = pool("a", "b", "c", policies=[Policy.LEAST_LOADED, Policy.ORDERED])
    counts = firsts(it, 3000)
    assert chi_square(counts, {"a": 2, "b": 1}) < CHI_SQUARE[1]  # equal loads: the file decides between two


def tiered(*limits: float) -> Hand:
    made = [CandidateSettings(target=target(f"t{tier}/m"), tier=tier) for tier in range(len(limits) + 1)]
    policies, escalation = (Policy.COMPLEXITY,), Escalation(max_difficulty=limits)
    return Hand(
        settings(
            [backend(f"t{tier}") for tier in range(len(made))],
            [route("r", *made, policies=policies, escalation=escalation)],
        )
    )


def says(text: str) -> Request:
    return Request(id="1", model="r", messages=(Message(Role.USER, (TextPart(text),)),))


HARD = {"num_bytes": 200_000, "num_messages": 40, "needs": frozenset({Need.TOOLS, Need.REASONING})}


def test_easy_requests_begin_at_the_lowest_tier_and_hard_ones_higher() -> None:
    it = tiered(0.3, 0.7)
    assert it.names() == ["t0/m", "t1/m", "t2/m"]
    assert it.names(num_bytes=20_000, needs=frozenset({Need.TOOLS})) == ["t1/m", "t2/m", "t0/m"]
    assert it.names(**HARD) == ["t2/m", "t1/m", "t0/m"]


def test_a_plan_has_every_tier_however_many_candidates_the_first_has() -> None:
    made = [CandidateSettings(target=target(f"b{place}/m"), tier=place // 9) for place in range(10)]
    it = Hand(
        settings([backend(f"b{place}") for place in range(10)], [route("r", *made, policies=(Policy.COMPLEXITY,))])
    )
    assert [one.tier for one in it.plan().candidates] == [0] * 9 + [1]


def test_marks_in_the_text_count_if_it_may_be_read() -> None:
    it = tiered(0.3)
    code = says("Prove step by step that this works:\n```python\ndef f(x): return x ** 2\n```")
    assert it.plan().candidates[0].tier == 0
    assert it.plan(decode=lambda: code).candidates[0].tier == 1
    assert it.plan(decode=lambda: says("Hello there!")).candidates[0].tier == 0


def test_difficulty_stays_between_0_and_1() -> None:
    asked: list[Shape] = [shape(num_bytes=0, num_messages=0), shape(**HARD, max_tokens=9999)]
    assert [difficulty(one) for one in asked] == [0.0, 1.0]


def trial(**fields: object) -> Hand:
    made = route("r", "a/m", canary=target("new/m"), **fields)
    return Hand(settings([backend("a"), backend("new")], [made]))


def test_a_canary_gets_its_share_of_users_and_each_user_stays_on_his_side() -> None:
    it = trial(canary_share=0.2)
    sides = {}
    for place in range(2000):
        who = Principal(user=f"u{place}")
        first = it.first(principal=who)
        sides[who] = first
        assert it.first(principal=who) == first
    assert chi_square(Counter(sides.values()), {"new": 0.2, "a": 0.8}) < CHI_SQUARE[1]
    other = trial(canary_share=0.2)
    other.seed = 99
    assert all(other.first(principal=who) == side for who, side in list(sides.items())[:200])


def test_a_growing_share_keeps_those_who_were_on_the_canary() -> None:
    small, large = trial(canary_share=0.1), trial(canary_share=0.3)
    for place in range(500):
        if small.first(session=f"s{place}") == "new":
            assert large.first(session=f"s{place}") == "new"


def test_requests_of_nobody_in_particular_are_drawn_one_by_one() -> None:
    it = trial(canary_share=0.2)
    assert chi_square(firsts(it, 4000), {"new": 0.2, "a": 0.8}) < CHI_SQUARE[1]


def test_a_canary_that_is_out_or_not_cleared_leaves_the_route_as_it_was() -> None:
    it = trial(canary_share=1.0)
    assert it.names() == ["new/m", "a/m"]
    it.out["new"] = "its breaker is open"
    assert it.names() == ["a/m"]
    assert it.plan().refused == {target("new/m"): "its breaker is open"}


def test_a_shadow_gets_a_copy_of_its_share_and_none_of_what_it_may_not_see() -> None:
    backends = [backend("a", clearance=frozenset({"x"})), backend("s")]
    it = Hand(settings(backends, [route("r", "a/m", shadow=target("s/m"), shadow_share=0.3)]))
    plans = [it.plan() for _ in range(2000)]
    count = sum(plan.shadow is not None for plan in plans)
    assert chi_square({"yes": count, "no": 2000 - count}, {"yes": 0.3, "no": 0.7}) < CHI_SQUARE[1]
    assert it.names() == ["a/m"]
    assert all(it.plan(labels=frozenset({"x"})).shadow is None for _ in range(100))
