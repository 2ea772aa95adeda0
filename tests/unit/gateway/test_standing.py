"""Who can be asked at all: which errors open a breaker, what checks and drains add up to, what a reload keeps."""

import pytest
from tests.doubles_gateway import HandClock, backend

from headrace.core.errors import (
    DeadlineExceeded,
    EngineFault,
    HeadraceError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    UpstreamDenied,
    UpstreamFault,
    UpstreamTimeout,
)
from headrace.gateway.contract import Standing
from headrace.gateway.health import COLD_SHARE
from headrace.gateway.settings import BreakerSettings, Health, Target
from headrace.gateway.standing import MAX_BREAKERS, StandingBook

A, B = Target("a", "m"), Target("b", "m")
BREAKER = BreakerSettings(window=4, min_attempts=2, open_s=5.0)


def book(**about: object) -> tuple[StandingBook, HandClock]:
    clock = HandClock()
    return StandingBook({name: backend(name, breaker=BREAKER, **about) for name in "ab"}, clock), clock


def fail(of: StandingBook, error: BaseException, times: int = 2) -> None:
    for _ in range(times):
        is_trial = of.begin(A)
        if is_trial is not None:
            of.end(A, error, is_trial=is_trial)


@pytest.mark.parametrize("error", [UpstreamFault("x"), UpstreamTimeout("x"), EngineFault("x")])
def test_faults_of_a_backend_open_the_breaker_of_their_target_alone(error: HeadraceError) -> None:
    of, clock = book()
    assert of.is_clear
    fail(of, error)
    assert not of.is_clear
    assert of.standing(A) == Standing(0.0, "its breaker is open", 5.0)
    assert of.standing(B).share == 1.0
    assert of.begin(A) is None
    clock.now_s += 5.0
    assert of.standing(A).share == 1.0
    assert of.begin(A) is True
    assert of.standing(A).share == 0.0
    of.answer(A, is_trial=True)
    of.end(A, None, is_trial=True)
    assert of.standing(A).share == 1.0
    assert of.is_clear


@pytest.mark.parametrize("error", [InvalidRequest("x"), DeadlineExceeded("x"), UpstreamDenied("x"), GeneratorExit()])
def test_a_callers_mistake_and_a_callers_leave_say_nothing_of_a_backend(error: BaseException) -> None:
    of, _ = book()
    fail(of, error, 10)
    assert of.is_clear


@pytest.mark.parametrize("error", [RateLimited("x", retry_after_s=3.0), Overloaded("x", retry_after_s=3.0)])
def test_a_backend_that_asks_for_a_rest_gets_it_and_is_no_failure(error: HeadraceError) -> None:
    of, clock = book()
    fail(of, error, 1)
    assert of.standing(A) == Standing(0.0, "asked for a rest", 3.0)
    assert not of.breakers("a")["m"].is_open
    clock.now_s += 3.0
    assert of.standing(A).share == 1.0
    assert of.is_clear


def test_a_backend_that_fails_its_checks_is_out_until_enough_succeed_and_warms_up_then() -> None:
    of, clock = book(health=Health(path="/health", fall=2, rise=2, warm_up_s=10.0))
    assert not of.note_check("a", UpstreamFault("down"))
    assert of.standing(A).share == 1.0
    assert of.note_check("a", UpstreamFault("down"))
    assert of.standing(A) == Standing(0.0, "failed its health checks: down")
    assert of.begin(A) is None
    assert not of.note_check("a", None)
    assert of.note_check("a", None)
    assert of.standing(A) == Standing(COLD_SHARE, "warming up")
    clock.now_s += 5.0
    assert of.standing(A).share == pytest.approx((1 + COLD_SHARE) / 2)
    assert of.begin(A) is False
    clock.now_s += 5.0
    assert of.standing(A).share == 1.0
    assert of.is_clear


def test_a_drained_backend_gets_nothing_and_comes_back_when_told() -> None:
    of, _ = book(health=Health(warm_up_s=10.0))
    of.drain("a")
    assert of.standing(A) == Standing(0.0, "draining")
    assert of.begin(A) is None
    of.resume("a")
    assert of.standing(A).share == COLD_SHARE
    of.resume("b")  # was never drained
    assert of.standing(B).share == 1.0


def test_a_reload_keeps_what_was_learned_of_backends_that_stay_what_they_were() -> None:
    of, _ = book()
    fail(of, UpstreamFault("x"))
    same = {name: backend(name, breaker=BREAKER) for name in "ab"}
    of.replace(same)
    assert of.standing(A).share == 0.0
    of.replace(same | {"a": backend("a", breaker=BREAKER, url="http://elsewhere/v1")})
    assert of.standing(A).share == 1.0
    assert of.is_clear


def test_a_reload_leaves_drained_what_was_drained_the_engine_too_until_it_is_gone() -> None:
    of, _ = book()
    for name in ("a", "b", "local"):
        of.drain(name)
    of.replace({"a": backend("a", url="http://elsewhere/v1")})
    assert [of.is_draining(name) for name in ("a", "b", "local")] == [True, False, True]


def test_targets_that_clients_name_are_remembered_up_to_a_bound() -> None:
    of, _ = book()
    fail(of, UpstreamFault("x"))
    for number in range(MAX_BREAKERS + 10):
        of.end(Target("b", f"m{number}"), None, is_trial=False)
    assert len(of.breakers("a")) + len(of.breakers("b")) == MAX_BREAKERS
    assert of.standing(A).share == 0.0


def test_an_operator_reads_in_the_log_who_goes_out_and_who_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headrace.gateway")
    of, clock = book(health=Health(path="/health", fall=1, rise=1))
    fail(of, UpstreamFault("it broke"), 3)
    clock.now_s += 5.0
    of.begin(A)
    of.answer(A, is_trial=True)
    of.note_check("b", UpstreamFault("it is away"))
    of.note_check("b", None)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the breaker of a/m opens for 5 s: it broke"),
        ("INFO", "the breaker of a/m closes: it answers again"),
        ("WARNING", "backend b is out: it failed its health checks: it is away"),
        ("INFO", "backend b is back: it passes its health checks"),
    ]


def test_what_a_backend_said_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    error = UpstreamFault("the backend failed with status 500: no answer to 'my secret prompt'")
    error.quotes = True
    of, _ = book()
    fail(of, error, 3)
    assert [record.getMessage() for record in caplog.records] == ["the breaker of a/m opens for 5 s: upstream_fault"]


def test_the_engine_of_this_process_that_is_full_can_be_asked_again_at_once() -> None:
    of, _ = book()
    target = Target("local", "m")
    for _ in range(10):
        assert of.begin(target) is False
        of.end(target, Overloaded("full", retry_after_s=1.0), is_trial=False)
    assert of.is_clear
