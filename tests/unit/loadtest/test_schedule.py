"""When requests are due: by a seed, at a rate, within bounds."""

from itertools import islice, pairwise

import numpy as np
import pytest

from headrace.loadtest.plan import Bounds
from headrace.loadtest.schedule import arrivals, bounded


def test_the_same_seed_gives_the_same_moments_and_another_seed_gives_others() -> None:
    first = list(islice(arrivals(4.0, "7/rate 4"), 100))
    assert first == list(islice(arrivals(4.0, "7/rate 4"), 100))
    assert first != list(islice(arrivals(4.0, "8/rate 4"), 100))


def test_gaps_are_those_of_a_poisson_process() -> None:
    moments = list(islice(arrivals(5.0, "0"), 20_000))
    gaps = np.array([later - earlier for earlier, later in pairwise(moments)])
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.std() == pytest.approx(0.2, rel=0.03)  # exponential: as wide as its mean
    for share in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(gaps, share) == pytest.approx(-np.log(1 - share) / 5.0, rel=0.06)


def test_a_stage_ends_at_its_duration_counted_from_the_first_request_that_counts() -> None:
    moments = [float(second) for second in range(100)]
    bounds = Bounds(duration_s=10.0, num_warm=3)
    taken = list(bounded(iter(moments), bounds))
    assert [due_s for _, due_s in taken] == [float(second) for second in range(14)]
    assert [number for number, _ in taken] == list(range(14))


def test_a_stage_ends_at_its_number_and_warm_requests_come_on_top() -> None:
    taken = list(bounded(arrivals(100.0, "0"), Bounds(duration_s=None, max_requests=5, num_warm=2)))
    assert len(taken) == 7
