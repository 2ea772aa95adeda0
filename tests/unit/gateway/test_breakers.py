"""The breaker: single rules in order, and any history against a naive twin that keeps every attempt in a list."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.gateway.breakers import REST_S, Breaker
from headrace.gateway.settings import BreakerSettings

SETTINGS = BreakerSettings(window=4, min_attempts=2, failure_share=0.5, open_s=5.0, max_open_s=15.0)


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(2):
        assert breaker.begin(at_s) is False
        breaker.fail(at_s, is_trial=False)
    assert breaker.is_open
    return breaker


def test_it_opens_once_enough_of_its_last_attempts_failed() -> None:
    breaker = Breaker(SETTINGS)
    breaker.fail(0.0, is_trial=False)
    assert not breaker.is_open  # one attempt is too few
    breaker.succeed(is_trial=False)
    breaker.succeed(is_trial=False)
    breaker.succeed(is_trial=False)
    breaker.succeed(is_trial=False)  # the failure has left the window
    breaker.fail(0.0, is_trial=False)
    assert not breaker.is_open
    breaker.fail(0.0, is_trial=False)
    assert breaker.is_open
    assert breaker.begin(4.9) is None
    assert breaker.wait_s(4.0) == 1.0


def test_one_attempt_tries_and_its_first_event_closes_it() -> None:
    breaker = opened()
    assert breaker.begin(5.0) is True
    assert breaker.begin(5.0) is None
    assert breaker.word(5.0) == "trying"
    breaker.answer(is_trial=True)
    assert not breaker.is_open
    assert breaker.begin(5.0) is False
    breaker.fail(5.0, is_trial=False)
    assert not breaker.is_open  # what failed before it opened is forgotten


def test_a_trial_that_fails_doubles_the_time_up_to_the_most() -> None:
    breaker, now_s = opened(), 0.0
    for open_s in (5.0, 10.0, 15.0, 15.0):
        assert breaker.begin(now_s + open_s - 0.1) is None
        now_s += open_s
        assert breaker.begin(now_s) is True
        breaker.fail(now_s, is_trial=True)


def test_a_trial_that_says_nothing_leaves_the_next_one_to_try() -> None:
    breaker = opened()
    assert breaker.begin(5.0) is True
    breaker.forget(is_trial=True)
    assert breaker.begin(5.0) is True


def test_what_began_before_it_opened_neither_closes_nor_prolongs_it() -> None:
    breaker = opened()
    breaker.succeed(is_trial=False)
    breaker.fail(3.0, is_trial=False)
    assert breaker.wait_s(0.0) == 5.0


def test_a_rest_is_no_failure_and_lasts_as_long_as_was_asked_within_reason() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(10):
        breaker.rest(0.0, 3.0, is_trial=False)
    assert not breaker.is_open
    assert (breaker.wait_s(1.0), breaker.word(1.0), breaker.num_failed) == (2.0, "resting", 0)
    breaker.rest(10.0, None, is_trial=False)
    assert breaker.wait_s(10.0) == REST_S
    breaker.rest(20.0, 86_400.0, is_trial=False)
    assert breaker.wait_s(20.0) == SETTINGS.max_open_s


@dataclass
class Twin:
    """Says the same from the whole history."""

    ended: list[bool] = field(default_factory=list)  # since it last closed
    open_from_s: float | None = None
    open_for_s: float = SETTINGS.open_s
    rest_until_s: float = 0.0
    trial: object = None

    def begin(self, now_s: float) -> bool | None:
        if now_s < self.rest_until_s:
            return None
        if self.open_from_s is None:
            return False
        if self.trial is not None or now_s < self.open_from_s + self.open_for_s:
            return None
        self.trial = object()
        return True

    def end(self, what: str, now_s: float, rest_s: float, *, is_trial: bool) -> None:
        if is_trial:
            self.trial = None
        if is_trial and what in {"succeed", "rest"}:
            self.ended, self.open_from_s, self.open_for_s = [], None, SETTINGS.open_s
        if is_trial and what == "fail":
            self.open_from_s, self.open_for_s = now_s, min(2 * self.open_for_s, SETTINGS.max_open_s)
            return
        if what == "rest":
            self.rest_until_s = max(self.rest_until_s, now_s + min(rest_s, SETTINGS.max_open_s))
        if self.open_from_s is not None or what not in {"succeed", "fail"}:
            return
        self.ended.append(what == "fail")
        last = self.ended[-SETTINGS.window :]
        if what == "fail" and len(last) >= SETTINGS.min_attempts and sum(last) >= SETTINGS.failure_share * len(last):
            self.open_from_s = now_s


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin"] * 6 + ["fail"] * 4 + ["wait"] * 2 + ["succeed", "succeed", "rest", "forget"]),
        st.integers(0, 6),
        st.sampled_from([0.5, 5.0, 100.0]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_any_history_is_judged_as_a_naive_twin_judges_it(history: list[tuple[str, int, float]]) -> None:
    breaker, twin = Breaker(SETTINGS), Twin()
    now_s, under_way = 0.0, []
    for what, pick, seconds in history:
        if what == "wait":
            now_s += seconds
        elif what == "begin":
            said = breaker.begin(now_s)
            assert said == twin.begin(now_s)
            if said is not None:
                under_way.append(said)
        elif under_way:
            is_trial = under_way.pop(pick % len(under_way))
            twin.end(what, now_s, seconds, is_trial=is_trial)
            if what == "rest":
                breaker.rest(now_s, seconds, is_trial=is_trial)
            elif what == "fail":
                breaker.fail(now_s, is_trial=is_trial)
            else:
                getattr(breaker, what)(is_trial=is_trial)
        assert breaker.is_open == (twin.open_from_s is not None)
