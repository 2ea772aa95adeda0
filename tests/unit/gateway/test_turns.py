"""Whose turn it is, how long a backoff is, how many retries a route has."""

from random import Random

import pytest
from tests.doubles_gateway import candidate

from headrace.core.errors import RateLimited, UpstreamFault
from headrace.gateway.retry_budget import RetryBudget
from headrace.gateway.settings import RetrySettings
from headrace.gateway.turns import SLACK_S, Turns

FAULT = UpstreamFault("it failed")


def order(own: str, fallbacks: str, max_attempts: int) -> str:
    """Who is asked, when everybody fails."""
    candidates = [candidate(name) for name in own] + [candidate(name, is_fallback=True) for name in fallbacks]
    turns = Turns(candidates, RetrySettings(max_attempts=max_attempts), Random(1))
    asked, following = candidates[0], None
    names = asked.target.backend
    while True:
        turns.fail(asked, FAULT)
        following = turns.next()
        if following is None:
            return names
        asked = following[0]
        names += asked.target.backend


@pytest.mark.parametrize(
    ("own", "fallbacks", "max_attempts", "asked"),
    [
        ("a", "", 3, "aaa"),
        ("ab", "", 3, "aba"),
        ("abcd", "", 3, "abc"),
        ("a", "x", 3, "aax"),
        ("a", "xy", 3, "axy"),
        ("ab", "xy", 3, "abx"),
        ("abc", "x", 3, "abx"),
        ("ab", "x", 5, "ababx"),
        ("a", "x", 1, "a"),
        ("", "xy", 3, "xyx"),
    ],
)
def test_own_candidates_come_first_and_one_attempt_is_kept_for_a_fallback(
    own: str, fallbacks: str, max_attempts: int, asked: str
) -> None:
    assert order(own, fallbacks, max_attempts) == asked


def test_only_who_was_asked_before_is_asked_after_a_backoff_which_doubles_up_to_the_most() -> None:
    one, other = candidate("a"), candidate("b")
    retry = RetrySettings(max_attempts=9, backoff_s=1.0, max_backoff_s=3.0)
    turns = Turns([one, other], retry, Random(1))
    turns.fail(one, FAULT)
    assert turns.next() == (other, 0.0)
    turns.fail(other, FAULT)
    for most in (1.0, 1.0, 2.0, 2.0, 3.0):
        following = turns.next()
        assert following is not None
        assert most / 2 <= following[1] <= most
        turns.fail(following[0], FAULT)


def test_a_short_wait_that_a_backend_asks_for_is_kept_and_a_long_one_passes_it_over() -> None:
    one = candidate("a")
    turns = Turns([one], RetrySettings(backoff_s=0.01, max_backoff_s=2.0), Random(1))
    turns.fail(one, RateLimited("slower", retry_after_s=1.5))
    assert turns.next() == (one, 1.5 + SLACK_S)
    turns.fail(one, RateLimited("slower", retry_after_s=2.5))
    assert turns.next() is None


def test_who_could_not_be_asked_costs_no_attempt() -> None:
    candidates = [candidate(name) for name in "abc"]
    turns = Turns(candidates, RetrySettings(max_attempts=1), Random(1))
    turns.pass_over(candidates[0])
    assert turns.next() == (candidates[1], 0.0)


def test_retries_are_a_share_of_recent_requests_and_a_floor() -> None:
    budget = RetryBudget(RetrySettings(budget_share=0.2, budget_floor=0.1))
    for second in range(5):
        for _ in range(10):
            budget.add_request(100.0 + second)
    # A fifth of 50, and 0.1 a second over ten.
    assert [budget.take(105.0) for _ in range(12)] == [True] * 11 + [False]
    # The requests of the first two seconds are too old; the retries are not.
    assert not budget.take(111.5)
    # All are too old: the floor is left.
    assert [budget.take(130.0) for _ in range(2)] == [True, False]
