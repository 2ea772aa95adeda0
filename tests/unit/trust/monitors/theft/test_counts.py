"""Distinct things a day, held against a naive twin; and that memory stays bounded."""

import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from headrace.trust.monitors.theft.counts import DAY_S, Ages, DistinctCounts

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 3)), max_size=60)


@given(STEPS)
def test_the_place_of_a_thing_is_how_many_came_before_it_that_day(steps: list[tuple[str, int, int]]) -> None:
    counts = DistinctCounts(max_subjects=10, max_distinct=100)
    naive: dict[tuple[str, int], list[int]] = defaultdict(list)
    for subject, thing, day in sorted(steps, key=lambda step: step[2]):
        seen = naive[subject, day]
        if thing not in seen:
            seen.append(thing)
        assert counts.add(subject, bytes([thing]), day * DAY_S + 5.0) == seen.index(thing) + 1
        assert counts.count(subject, day * DAY_S) == len(seen)


@given(STEPS)
def test_a_snapshot_goes_on_as_it_was(steps: list[tuple[str, int, int]]) -> None:
    first = DistinctCounts(max_subjects=10, max_distinct=100)
    for subject, thing, _ in steps:
        first.add(subject, bytes([thing]), 0.0)
    second = DistinctCounts(max_subjects=10, max_distinct=100)
    second.restore(json.loads(json.dumps(first.snapshot())))
    for subject in "abc":
        for thing in range(13):
            assert second.add(subject, bytes([thing]), 1.0) == first.add(subject, bytes([thing]), 1.0)


def test_neither_subjects_nor_things_grow_without_a_bound() -> None:
    counts = DistinctCounts(max_subjects=3, max_distinct=4)
    for subject in range(100):
        for thing in range(50):
            assert counts.add(str(subject), thing.to_bytes(2), 0.0) == min(thing + 1, 5)
    assert len(counts) == 3
    assert counts.count("99", 0.0) == 4
    assert counts.count("0", 0.0) == 0


def test_who_was_there_on_the_first_day_is_not_new() -> None:
    ages = Ages(max_subjects=10)
    assert ages.days("old", 1000.0) == float("inf")
    assert ages.days("late", 1000.0 + 2 * DAY_S) == 0.0
    assert ages.days("late", 1000.0 + 5 * DAY_S) == 3.0
    again = Ages(max_subjects=10)
    again.restore(json.loads(json.dumps(ages.snapshot())))
    assert again.days("late", 1000.0 + 5 * DAY_S) == 3.0
    assert again.days("old", 1000.0 + 9 * DAY_S) == float("inf")
