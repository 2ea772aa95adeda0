"""Windows of inputs: that usual ones are seldom called unusual, a crawl is, a little of one among much else is not, and
nobody moves what is usual alone. `bench.trust` measures the same on many more accounts."""

from functools import cache
from random import Random

import numpy as np
import pytest
from bench.trust.traffic import CRAWLS, Draw, inputs, mixed, person

from headrace.trust.monitors.theft.settings import TheftSettings
from headrace.trust.monitors.theft.windows import (
    MIN_RESERVOIR,
    MIN_WINDOWS,
    PER_TENANT,
    PER_WINDOW,
    Seen,
    WindowWatch,
    tail_share,
)

SIZE = 50
"""A quarter of the default: tests should be quick; what is measured is measured at 200."""
SETTINGS = TheftSettings(window_size=SIZE, window_false_share=0.02)
FIRST = MIN_RESERVOIR // PER_WINDOW
"""Windows that only fill the reservoir."""


def fill(watch: WindowWatch, account: str, draw: Draw, seed: int, count: int = SIZE) -> Seen | None:
    seen = None
    for text in inputs(draw, Random(seed), count):
        seen = watch.add(account, account, "chat", text) or seen
    return seen


@cache
def taught() -> WindowWatch:
    watch = WindowWatch(SETTINGS, np.random.default_rng(0))
    for index in range(FIRST + MIN_WINDOWS + 40):
        fill(watch, f"usual {index}", person(index), index)
    return watch


def test_nothing_is_said_before_enough_is_known() -> None:
    watch = WindowWatch(SETTINGS, np.random.default_rng(0))
    crawled = fill(watch, "first", CRAWLS["code"], 1)
    assert crawled is not None
    assert crawled.share is None
    for index in range(FIRST + MIN_WINDOWS - 1):
        seen = fill(watch, f"usual {index}", person(index), index)
        assert seen is not None
        assert seen.share is None
        assert not seen.is_unusual


@pytest.mark.parametrize("name", [name for name in CRAWLS if not name.startswith("varied")])
def test_a_crawl_is_unusual_and_lasts_from_its_second_window_on(name: str) -> None:
    watch = taught()
    first, second = (fill(watch, f"crawl {name}", CRAWLS[name], seed) for seed in (1, 2))
    assert first is not None and second is not None
    assert (first.is_unusual, first.is_lasting) == (True, False)
    assert (second.is_unusual, second.is_lasting) == (True, True)


def test_people_seldom_are_and_one_unusual_window_has_no_consequence() -> None:
    watch = taught()
    seen = [fill(watch, f"new {index}", person(1000 + index), index) for index in range(60)]
    assert sum(one is not None and one.is_unusual for one in seen) <= 5
    assert not any(one is not None and one.is_lasting for one in seen)


def test_a_crawl_that_is_a_twentieth_of_what_somebody_asks_is_not_found() -> None:
    """Stated, so that nobody believes otherwise: budgets bound what is lost so."""
    draw = mixed(CRAWLS["translation"], person(3), 0.05)
    seen = [fill(taught(), f"drip {index}", draw, index) for index in range(10)]
    assert sum(one is not None and one.is_unusual for one in seen) <= 2


def test_one_account_counts_once_among_what_is_usual() -> None:
    watch = WindowWatch(SETTINGS, np.random.default_rng(0))
    for index in range(FIRST + MIN_WINDOWS + 5):
        fill(watch, f"usual {index}", person(index), index)
    usual = watch._usual["chat"]
    before, offered = len(usual.distances), usual.num_offered
    for seed in range(30):
        fill(watch, "loud", person(7), seed)
    assert len(usual.distances) == before + 1
    assert usual.num_offered == offered + PER_WINDOW
    for index in range(3 * PER_TENANT):
        for text in inputs(CRAWLS["code"], Random(index), SIZE):
            watch.add(f"sybil {index}", "one tenant", "chat", text)
    assert len(usual.distances) == before + 1 + PER_TENANT


def test_a_crawl_that_is_a_quarter_of_what_somebody_asks_shows_by_its_template() -> None:
    draw = mixed(CRAWLS["translation"], person(5), 0.25)
    seen = [fill(taught(), f"quarter {index}", draw, index, SIZE) for index in range(10)]
    assert sum(one is not None and one.is_unusual for one in seen) >= 3


def test_routes_are_apart_and_a_forgotten_account_begins_anew() -> None:
    watch = WindowWatch(SETTINGS, np.random.default_rng(0))
    for text in inputs(person(1), Random(1), SIZE - 1):
        watch.add("a", "t", "chat", text)
        watch.add("a", "t", "code", text)
    watch.forget("a")
    assert watch.add("a", "t", "chat", "one more") is None
    assert fill(watch, "a", person(1), 2, SIZE - 1) is not None


def test_of_values_that_fall_off_as_they_should_no_more_than_was_asked_for_lie_beyond_however_few_are_known() -> None:
    random = np.random.default_rng(3)
    for count in (MIN_WINDOWS, 300, 1000):
        beyond = []
        for _ in range(400):
            known = random.exponential(2.0, count).tolist()
            beyond += [tail_share(known, value) <= 0.005 for value in random.exponential(2.0, 100).tolist()]
        assert 0.001 < np.mean(beyond) <= 0.006


def test_a_tail_is_a_rank_in_the_bulk_falls_ever_further_out_and_a_tenth_of_crawls_hides_no_other() -> None:
    known = np.random.default_rng(3).exponential(2.0, 999).tolist()
    assert tail_share(known, float(np.median(known))) == pytest.approx(0.5, abs=0.002)
    shares = [tail_share(known, value) for value in np.linspace(0.0, 60.0, 50).tolist()]
    assert shares == sorted(shares, reverse=True)
    assert tail_share(known, 2.0 * np.log(10)) == pytest.approx(0.1, rel=0.3)
    poisoned = [*known[:900], *([100.0] * 99)]
    assert tail_share(poisoned, 100.0) < 0.0005
    assert tail_share([1.0] * 60, 1.0) == 1.0
    assert tail_share([1.0] * 60, 1.1) < 1e-6
    assert tail_share([1.0] * 60, 1.1, 1.0) > 0.05  # where values come in steps, one step more is little
