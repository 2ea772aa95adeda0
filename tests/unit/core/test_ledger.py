"""The ledger: one set of counts from which every dialect's sums follow, and what they cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import EngineFault
from headrace.core.events import Usage
from headrace.core.ledger import Ledger, PriceList, Prices

USAGE = Usage(
    prompt_tokens=1000,
    completion_tokens=50,
    cached_tokens=512,
    disk_tokens=64,
    cache_writes=((3600.0, 200), (300.0, 100), (1800.0, 50)),
    reasoning_tokens=20,
)
COUNTS = st.integers(0, 10**9)
WRITES = st.lists(st.tuples(st.sampled_from([60.0, 300.0, 1800.0, 3600.0, 86_400.0]), COUNTS), max_size=4)


def test_a_ledger_splits_the_prompt_as_each_dialect_needs_it() -> None:
    ledger = Ledger.of(USAGE)
    assert (ledger.prompt_tokens, ledger.cached_tokens, ledger.disk_tokens) == (1000, 512, 64)
    assert (ledger.written_tokens, ledger.written_for(300), ledger.written_for(3600)) == (350, 100, 200)
    assert (ledger.uncached_tokens, ledger.missed_tokens, ledger.total_tokens) == (138, 488, 1050)
    assert (ledger.completion_tokens, ledger.reasoning_tokens) == (50, 20)


@given(uncached=COUNTS, cached=COUNTS, writes=WRITES, completion=COUNTS)
def test_the_parts_of_a_prompt_always_add_up(
    uncached: int, cached: int, writes: list[tuple[float, int]], completion: int
) -> None:
    prompt = uncached + cached + sum(tokens for _, tokens in writes)
    ledger = Ledger.of(Usage(prompt, completion, cached, 0, tuple(writes)))
    assert ledger.uncached_tokens == uncached
    assert ledger.uncached_tokens + ledger.cached_tokens + ledger.written_tokens == prompt
    assert ledger.cached_tokens + ledger.missed_tokens == prompt


@pytest.mark.parametrize(
    "usage",
    [
        Usage(10, 0, cached_tokens=11),
        Usage(10, 0, cached_tokens=4, cache_writes=((300.0, 7),)),
        Usage(10, 0, cached_tokens=4, disk_tokens=5),
        Usage(10, 3, reasoning_tokens=4),
        Usage(10, 3, cached_tokens=-1),
        Usage(10, 3, cache_writes=((300.0, -1),)),
    ],
)
def test_counts_that_contradict_each_other_are_a_defect_of_the_backend(usage: Usage) -> None:
    with pytest.raises(EngineFault, match="contradict"):
        Ledger.of(usage)


def test_a_cost_is_the_sum_of_each_part_at_its_price() -> None:
    prices = Prices(input=1, output=2, cache_read=0.25, cache_write_5m=3, cache_write_1h=5, cache_write=7)
    wanted = 138 * 1 + 512 * 0.25 + 100 * 3 + 200 * 5 + 50 * 7 + 50 * 2
    assert prices.cost(Ledger.of(USAGE)) == pytest.approx(wanted / 1e6)


def test_prices_that_are_not_set_follow_from_that_of_input() -> None:
    wanted = 4 * (138 + 512 * 0.1 + 100 * 1.25 + 200 * 2 + 50 * 1.25) + 50 * 10
    assert Prices(input=4, output=10).cost(Ledger.of(USAGE)) == pytest.approx(wanted / 1e6)
    free = Prices(input=4, output=10, cache_read=0, cache_write_5m=0, cache_write_1h=0, cache_write=0)
    assert free.cost(Ledger.of(USAGE)) == pytest.approx((4 * 138 + 50 * 10) / 1e6)


@pytest.mark.parametrize("price", [-0.1, math.nan, math.inf])
def test_a_price_that_is_none_is_refused(price: float) -> None:
    with pytest.raises(ValueError, match="cache_read"):
        Prices(input=1, output=1, cache_read=price)


def test_an_adapter_costs_what_its_model_does_unless_it_has_a_price_of_its_own() -> None:
    prices = PriceList({"m": Prices(input=1, output=0), "m:dear": Prices(input=2, output=0)})
    ledger = Ledger.of(Usage(1_000_000, 0))
    costs = {name: prices.cost(name, ledger) for name in ("m", "m:cheap", "m:dear", "other")}
    assert costs == {"m": 1.0, "m:cheap": 1.0, "m:dear": 2.0, "other": None}
