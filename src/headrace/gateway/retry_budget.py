"""How many retries a route may make: a share of its recent requests, and a floor, so that a backend in trouble is not
asked several times as often as one that is well. Values in, values out: time is passed in.
"""

from typing import Final

from headrace.gateway.settings import RetrySettings

WINDOW_S: Final = 10


class RetryBudget:
    """One route's, over the last WINDOW_S seconds, counted by the second."""

    __slots__ = ("_floor", "_num_requests", "_num_retries", "_second", "_settings")

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._floor = settings.budget_floor * WINDOW_S
        self._num_requests = [0] * WINDOW_S
        self._num_retries = [0] * WINDOW_S
        self._second = 0

    def add_request(self, now_s: float) -> None:
        """A request came."""
        second = int(now_s)
        if second != self._second:
            self._turn(second)
        self._num_requests[second % WINDOW_S] += 1

    def take(self, now_s: float) -> bool:
        """Whether one more retry may be made; if so it is counted."""
        second = int(now_s)
        if second != self._second:
            self._turn(second)
        allowed = self._floor + self._settings.budget_share * sum(self._num_requests)
        if sum(self._num_retries) + 1 > allowed:
            return False
        self._num_retries[second % WINDOW_S] += 1
        return True

    def _turn(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + WINDOW_S) + 1):
            self._num_requests[passed % WINDOW_S] = self._num_retries[passed % WINDOW_S] = 0
        self._second = max(second, self._second)
