"""Whose turn it is after a failure. Values in, values out: jitter is drawn from the random numbers that are passed in.

    the route's own candidates, each once -> the same again, after a backoff -> fallbacks, each once -> those again

`RetrySettings.max_attempts` counts all of it, and one attempt at least is kept for a fallback. Knows no errors but
their `retry_after_s`.
"""

from collections.abc import Iterable
from random import Random
from typing import Final

from headrace.core.errors import HeadraceError
from headrace.gateway.contract import Candidate
from headrace.gateway.settings import RetrySettings

SLACK_S: Final = 0.01
"""Timers may be early by less: a target that is asked before its rest is over could not be asked at all."""


class Turns:
    """Those of one request."""

    def __init__(self, candidates: Iterable[Candidate], retry: RetrySettings, random: Random) -> None:
        self._own = [one for one in candidates if not one.is_fallback]
        self._fallbacks = [one for one in candidates if one.is_fallback]
        self._retry = retry
        self._random = random
        self._num_asked: dict[int, int] = {}  # by identity: a target may stand in a plan twice
        self._rest_s: dict[int, float] = {}
        self._num_left = retry.max_attempts

    def pass_over(self, candidate: Candidate) -> None:
        """It could not be asked, which costs no attempt; it is not tried again."""
        (self._fallbacks if candidate.is_fallback else self._own).remove(candidate)

    def fail(self, candidate: Candidate, error: HeadraceError) -> None:
        """It was asked and failed."""
        key = id(candidate)
        self._num_left -= 1
        self._num_asked[key] = self._num_asked.get(key, 0) + 1
        rest_s = error.retry_after_s or 0.0
        if rest_s > self._retry.max_backoff_s:
            self.pass_over(candidate)
        elif rest_s > 0.0:
            self._rest_s[key] = rest_s + SLACK_S

    def next(self) -> tuple[Candidate, float] | None:
        """Who is asked next, and after how many seconds; None if nobody is."""
        if self._num_left <= 0:
            return None
        asked = self._num_asked
        new_own = [one for one in self._own if id(one) not in asked]
        new_fallbacks = [one for one in self._fallbacks if id(one) not in asked]
        if new_own and (self._num_left > 1 or not new_fallbacks):
            return new_own[0], 0.0
        if self._own and self._num_left > len(new_fallbacks):
            return self._again(self._own)
        if new_fallbacks:
            return new_fallbacks[0], 0.0
        return self._again(self._fallbacks) if self._fallbacks else None

    def _again(self, candidates: list[Candidate]) -> tuple[Candidate, float]:
        candidate = min(candidates, key=lambda one: self._num_asked.get(id(one), 0))
        num_asked = self._num_asked.get(id(candidate), 0)
        if not num_asked:
            return candidate, 0.0
        backoff_s = min(self._retry.max_backoff_s, self._retry.backoff_s * 2.0 ** (num_asked - 1))
        backoff_s *= 0.5 + 0.5 * self._random.random()
        return candidate, max(backoff_s, self._rest_s.get(id(candidate), 0.0))
