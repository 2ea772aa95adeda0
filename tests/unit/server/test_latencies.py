"""Latencies between two looks: each first token and each gap once, and nothing of what was before the first look."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.api.live import LatencyAnswer
from headrace.server.latencies import Latencies, Progress


def counted(told: LatencyAnswer) -> dict[float, int]:
    """By the bound that a count lies under."""
    bounds = [*told.bounds_ms, float("inf")]
    return {bound: count for bound, count in zip(bounds, told.counts, strict=True) if count}


def test_a_first_token_and_the_gaps_behind_it_are_counted_once() -> None:
    latencies = Latencies(10.0)
    latencies.note("a", 10.0, Progress(10.3, 5), 11.0)
    told = latencies.take(11.0)
    assert counted(told.first_token) == {500: 1}
    assert counted(told.between_tokens) == {200: 4}  # 0.7 s for four gaps
    latencies.note("a", 10.0, Progress(10.3, 15), 12.0)
    told = latencies.take(12.0)
    assert counted(told.first_token) == {}
    assert counted(told.between_tokens) == {200: 10}
    latencies.note("a", 10.0, Progress(10.3, 20), 12.2, is_over=True)
    assert counted(latencies.take(13.0).between_tokens) == {50: 5}


def test_what_was_before_the_first_look_is_not_told() -> None:
    latencies = Latencies(10.0)
    latencies.note("a", 1.0, Progress(2.0, 50), 11.0)
    told = latencies.take(11.0)
    assert counted(told.first_token) == counted(told.between_tokens) == {}
    latencies.note("a", 1.0, Progress(2.0, 60), 12.0)
    assert counted(latencies.take(12.0).between_tokens) == {200: 10}


def test_tokens_that_are_known_at_the_end_alone_are_spread_over_the_whole_answer() -> None:
    latencies = Latencies(10.0)
    for second in (11.0, 12.0):
        latencies.note("a", 10.0, Progress(10.5, 0), second)
        latencies.take(second)
    latencies.note("a", 10.0, Progress(10.5, 31), 12.5, is_over=True)
    assert counted(latencies.take(13.0).between_tokens) == {100: 30}  # 2 s for thirty gaps


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(0, 9)), min_size=1, max_size=20), st.integers(0, 3))
def test_however_often_somebody_looks_each_token_is_counted_once(
    seconds: list[tuple[float, int]], looks_before: int
) -> None:
    latencies, now, tokens, first_s = Latencies(0.0), 0.0, 0, None
    firsts = gaps = 0
    for place, (passed, more) in enumerate(seconds):
        now += passed
        tokens += more
        if tokens and first_s is None:
            first_s = now
        if place >= looks_before:
            latencies.note("a", 0.0, Progress(first_s, tokens), now, is_over=place == len(seconds) - 1)
            told = latencies.take(now)
            firsts += sum(told.first_token.counts)
            gaps += sum(told.between_tokens.counts)
    if looks_before == 0:
        assert firsts == (tokens > 0)
        assert gaps == max(0, tokens - 1)
    else:
        assert gaps <= max(0, tokens - 1)
