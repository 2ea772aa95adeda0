"""Limits beside a naive bucket that is filled second by second, and what a refusal promises."""

import random

import pytest
from tests.doubles_accounts import limit

from headrace.core.errors import RateLimited
from headrace.gateway.accounts.limits import Limits

KEY = ("key", "laptop")


def test_requests_come_as_a_bucket_would_let_them() -> None:
    dice = random.Random(7)
    limits = Limits([limit("few", "key:*", requests_per_minute=30)])
    gates = limits.gates([KEY])
    level, at_s = 30.0, 0.0
    for _ in range(2000):
        waited_s = dice.choice([0.0, 0.25, 1.0, 2.0, 5.0])
        at_s, level = at_s + waited_s, min(30.0, level + waited_s * 0.5)
        try:
            limits.check(gates, 0, at_s)
        except RateLimited as error:
            assert level < 1
            assert error.retry_after_s == pytest.approx((1 - level) / 0.5)
        else:
            assert level >= 1
            limits.enter(gates, 0, at_s)
            limits.leave(gates, 0)
            level -= 1


def test_who_comes_again_when_told_gets_in() -> None:
    limits = Limits([limit("t", "tenant:a", tokens_per_minute=600, requests_per_minute=60)])
    gates = limits.gates([("tenant", "a")])
    now_s = 50.0
    for _ in range(40):
        try:
            limits.check(gates, 170, now_s)
        except RateLimited as error:
            assert error.retry_after_s is not None
            with pytest.raises(RateLimited):
                limits.check(gates, 170, now_s + error.retry_after_s * 0.98)
            now_s += error.retry_after_s + 1e-6
            limits.check(gates, 170, now_s)
        limits.enter(gates, 170, now_s)
        limits.leave(gates, 0)


def test_tokens_that_were_not_used_are_given_back_and_those_above_are_counted() -> None:
    limits = Limits([limit("t", "key:*", tokens_per_minute=1000)])
    gates = limits.gates([KEY])
    limits.check(gates, 900, 0.0)
    limits.enter(gates, 900, 0.0)
    with pytest.raises(RateLimited, match="1000 tokens a minute"):
        limits.check(gates, 900, 0.0)
    limits.leave(gates, 850)
    limits.check(gates, 900, 0.0)
    limits.enter(gates, 900, 0.0)
    limits.leave(gates, -100)  # took 1000
    with pytest.raises(RateLimited):
        limits.check(gates, 1, 0.0)
    limits.check(gates, 1, 3.1)


def test_a_request_that_can_never_fit_is_told_so() -> None:
    limits = Limits([limit("t", "key:*", tokens_per_minute=1000)])
    with pytest.raises(RateLimited, match="the request alone could use 1001") as refused:
        limits.check(limits.gates([KEY]), 1001, 0.0)
    assert (refused.value.retryable, refused.value.retry_after_s) == (False, None)


def test_requests_at_once_are_counted_until_they_end() -> None:
    limits = Limits([limit("two", "key:*", concurrency=2)])
    gates = limits.gates([KEY])
    for _ in range(2):
        limits.check(gates, 0, 0.0)
        limits.enter(gates, 0, 0.0)
    with pytest.raises(RateLimited, match="'two' of key:laptop: 2 requests at once"):
        limits.check(gates, 0, 0.0)
    limits.check(limits.gates([("key", "other")]), 0, 0.0)
    limits.leave(gates, 0)
    limits.check(gates, 0, 0.0)


def test_other_limits_hold_at_once_and_know_what_runs() -> None:
    limits = Limits()
    assert limits.gates([KEY]) == ()
    limits.configure([limit("one", "key:laptop", concurrency=1)])
    gates = limits.gates([KEY])
    limits.enter(gates, 0, 0.0)
    limits.configure([limit("one", "key:laptop", concurrency=2)])
    limits.check(gates, 0, 0.0)
    limits.enter(gates, 0, 0.0)
    with pytest.raises(RateLimited):
        limits.check(gates, 0, 0.0)


def test_gates_like_new_are_let_go_of() -> None:
    limits = Limits([limit("each", "user:*", requests_per_minute=60, concurrency=5)], max_gates=10)
    for index in range(20):
        gates = limits.gates([("user", f"a/{index}")])
        limits.enter(gates, 0, float(index))
        if index != 4:
            limits.leave(gates, 0)
    assert limits.forget(10.5) > 0
    assert 4 in [gate.num_running + 3 for gate in limits.gates([("user", "a/4")])]
    limits.forget(100.0)
    assert len(limits) == 1
