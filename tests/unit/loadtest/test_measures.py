"""Percentiles against NumPy, intervals against their own definition, goodput, throughput and cost by hand."""

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.loadtest.measures import (
    cost_usd,
    interval_ranks,
    is_good,
    per_token_s,
    quantile,
    spread,
    stage_result,
    window_of,
)
from headrace.loadtest.plan import Bounds, Goals, Plan, Prices, Stage
from headrace.loadtest.reading import Point
from headrace.loadtest.run import Tally
from headrace.loadtest.watch import Effort

POINT = Point(
    index=0,
    turn=0,
    is_warm=False,
    due_s=0.0,
    sent_s=0.0,
    first_s=0.5,
    end_s=1.0,
    num_pieces=6,
    gaps_s=array("f", [0.0625] * 4 + [0.25]),
    output_tokens=11,
    is_counted=True,
    prompt_tokens=100,
    cached_tokens=40,
    cost=None,
    status=200,
    outcome="ok",
)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_percentiles_are_numpys(values: list[float], share: float) -> None:
    assert quantile(sorted(values), share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [5, 20, 100, 299, 1000, 5000])
def test_intervals_cover_the_percentile_as_often_as_they_say(n: int, share: float) -> None:
    ranks = interval_ranks(n, share)
    chance = np.random.default_rng(n)
    below = chance.binomial(n, share, 200_000)  # values that are below the true percentile
    if ranks is None:
        assert (below == n).mean() + (below == 0).mean() > 0.02  # even the greatest value may be too small
        return
    low, high = ranks
    covered = ((below > low) & (below <= high)).mean()
    assert 0.945 <= covered <= 0.999
    assert 0 <= low < high < n


def test_an_interval_is_not_told_where_there_are_too_few_values() -> None:
    assert interval_ranks(100, 0.99) is None and interval_ranks(1, 0.5) is None and interval_ranks(0, 0.5) is None
    told = spread([1.0, 2.0, 3.0])
    assert told is not None and told.quantiles[2].low is None and told.at(0.5) == 2.0
    assert spread([]) is None


def test_values_that_are_not_independent_get_no_interval() -> None:
    told = spread(map(float, range(1000)), are_independent=False)
    assert told is not None and all(one.low is None for one in told.quantiles)


def test_an_answer_is_good_if_it_keeps_every_goal() -> None:
    assert is_good(POINT, Goals())
    assert is_good(POINT, Goals(ttft_s=0.5, e2e_s=1.0, tpot_s=0.05))
    assert not is_good(POINT, Goals(ttft_s=0.4))
    assert not is_good(POINT, Goals(e2e_s=0.9))
    assert not is_good(POINT, Goals(itl_s=0.2))  # one gap in a hundred may be longer, one in five may not
    assert not is_good(POINT, Goals(tpot_s=0.04))
    assert not is_good(replace(POINT, outcome="cut"), Goals())


def test_a_late_request_counts_from_when_it_was_due() -> None:
    assert not is_good(replace(POINT, due_s=-1.0, sent_s=0.0), Goals(ttft_s=1.0))


def test_time_per_token_is_by_the_servers_count() -> None:
    assert per_token_s(POINT) == pytest.approx(0.05)
    assert per_token_s(replace(POINT, output_tokens=1)) is None


def test_cost_is_by_the_prices_given_else_by_what_the_server_said() -> None:
    assert cost_usd(replace(POINT, cost=0.5), Prices()) == 0.5
    assert cost_usd(POINT, Prices()) is None
    assert cost_usd(replace(POINT, cost=0.5), Prices(input=10, output=100)) == pytest.approx(
        (100 * 10 + 11 * 100) / 1e6
    )
    assert cost_usd(POINT, Prices(input=10, output=0, cached=1)) == pytest.approx((60 * 10 + 40 * 1) / 1e6)


def tally(*points: Point, **more: Any) -> Tally:
    made = Tally(Stage(concurrency=2), 0.0, counts_from_s=0.0, sent_until_s=10.0, ended_s=12.0, num_begun=len(points))
    made.effort = Effort(cpu_share=0.1, lag_p99_s=0.001, lag_max_s=0.002)
    for point in points:
        made.add(point)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_throughput_counts_tokens_of_the_window_and_no_others() -> None:
    late = replace(POINT, due_s=9.0, first_s=9.8, gaps_s=array("f", [0.15, 1.0, 0.1, 0.1, 0.1]), end_s=11.5)
    plan = Plan(stages=(Stage(concurrency=2),), bounds=Bounds(duration_s=10.0))
    told = stage_result(tally(POINT, late), plan)
    # All 11 of the first, and of the other the two pieces of six that came before the end: 9.8 and 9.95.
    assert told["output_tokens_per_s"] == pytest.approx((11 + 11 * 2 / 6) / 10.0)
    assert told["mean_under_way"] == pytest.approx((1.0 + 1.0) / 10.0)


def test_the_window_reaches_the_last_end_where_the_number_was_the_bound() -> None:
    by_count = Bounds(duration_s=None, max_requests=1)
    assert window_of(tally(POINT), by_count).to_s == 12.0
    assert window_of(tally(POINT, is_stopped=True), by_count).to_s == 10.0
    assert window_of(tally(POINT), Bounds(duration_s=10.0)).to_s == 10.0


def test_what_failed_counts_in_shares_and_not_in_latencies() -> None:
    failed = replace(POINT, outcome="http-429", detail="slow down", first_s=None, end_s=9.0, output_tokens=0)
    warm = replace(POINT, is_warm=True, first_s=5.0)
    told = stage_result(tally(POINT, failed, failed, warm), Plan(stages=(Stage(concurrency=2),)))
    assert (told["num_requests"], told["num_ok"], told["num_warm"]) == (3, 1, 1)
    assert told["errors"] == {"http-429": 2} and told["error_examples"] == {"http-429": "slow down"}
    assert told["good_share"] == pytest.approx(1 / 3)
    assert told["spreads"]["ttft"]["n"] == 1 and told["spreads"]["ttft"]["mean"] == 0.5


def test_both_clocks_are_told_when_sending_was_late() -> None:
    told = stage_result(tally(replace(POINT, due_s=-2.0)), Plan(stages=(Stage(concurrency=2),)))
    assert told["spreads"]["ttft"]["mean"] == pytest.approx(2.5)
    assert told["spreads"]["ttft_from_sent"]["mean"] == pytest.approx(0.5)
    assert told["spreads"]["send_delay"]["mean"] == pytest.approx(2.0)
    assert any("after they were due" in warning for warning in told["warnings"])


def test_the_client_warns_when_it_was_the_bottleneck_and_when_nobody_counted() -> None:
    busy = Effort(cpu_share=0.95, lag_p99_s=0.2, lag_max_s=0.3)
    told = stage_result(tally(replace(POINT, is_counted=False), effort=busy), Plan(stages=(Stage(concurrency=2),)))
    text = " ".join(told["warnings"])
    assert "95% of one core" in text and "200 ms late" in text and "each piece counts as one token" in text
    assert not any(
        "core" in one for one in stage_result(tally(POINT), Plan(stages=(Stage(concurrency=1),)))["warnings"]
    )


def test_the_course_holds_every_request_once() -> None:
    points = [replace(POINT, index=index, due_s=index * 0.1, first_s=index * 0.1 + 0.5) for index in range(100)]
    series = stage_result(tally(*points), Plan(stages=(Stage(concurrency=2),)))["series"]
    assert sum(series["begun"]) == 100 and sum(series["ended"]) == 100 and sum(series["failed"]) == 0
    assert sum(series["output_tokens_per_s"]) * series["bin_s"] == pytest.approx(1100)
    assert len(series["begun"]) <= 60


def test_a_stage_of_which_nothing_came_is_told_all_the_same() -> None:
    told = stage_result(tally(), Plan(stages=(Stage(rate=1.0),)))
    assert told["num_requests"] == 0 and told["spreads"]["ttft"] is None and told["cost"] is None
