"""A circuit breaker: whether a target that fails is asked again. Values in, values out: time is passed in.

    closed --(enough of the last attempts failed)--> open --(its time passed)--> one trial --+-- answers --> closed
                                                      ^------------- fails, twice the time --+

What a fault is, is the caller's to say: a caller's own mistake and a cancelled request say nothing of the target. A
target that asks for a rest (429) gets one, which is no failure. Knows no targets by name.
"""

from typing import Final, Literal

from headrace.gateway.settings import BreakerSettings

REST_S: Final = 1.0
"""How long a target rests that asked for it and did not say how long."""


class Breaker:
    """One target's. Times are monotonic seconds."""

    __slots__ = ("_failed", "_num_seen", "_open_s", "_rest_until_s", "_settings", "has_trial", "open_until_s")

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._failed = 0  # the last attempts as bits, the newest lowest, 1 for a failure
        self._num_seen = 0
        self._open_s = settings.open_s
        self._rest_until_s = 0.0
        self.open_until_s: float | None = None  # None: closed
        self.has_trial = False

    @property
    def is_open(self) -> bool:
        """Whether it opened and no trial has closed it."""
        return self.open_until_s is not None

    @property
    def num_failed(self) -> int:
        """Failures among the attempts that it remembers."""
        return self._failed.bit_count()

    def word(self, now_s: float) -> Literal["closed", "open", "trying", "resting"]:
        """How it stands, for people: closed, open, trying or resting."""
        if self.open_until_s is not None:
            return "trying" if self.has_trial else "open"
        return "resting" if self._rest_until_s > now_s else "closed"

    def wait_s(self, now_s: float) -> float:
        """Seconds until the target may be asked; 0 if it may be now."""
        until_s = self._rest_until_s
        if self.open_until_s is not None:
            # While a trial is out nobody knows; the trial's own end says more.
            until_s = max(until_s, now_s + self._open_s if self.has_trial else self.open_until_s)
        return max(0.0, until_s - now_s)

    def is_quiet(self, now_s: float) -> bool:
        """Whether nothing keeps the target from being asked and no trial is due."""
        return self.open_until_s is None and self._rest_until_s <= now_s

    def begin(self, now_s: float) -> bool | None:
        """An attempt goes out: None if it may not, else whether it is the trial. Each one that may is followed by one
        call of `succeed`, `fail`, `rest` or `forget` with what this said."""
        if self.wait_s(now_s) > 0.0:
            return None
        if self.open_until_s is None:
            return False
        self.has_trial = True
        return True

    def answer(self, *, is_trial: bool) -> None:
        """The first of an answer is here: a trial has shown enough."""
        if is_trial and self.has_trial:
            self._close()

    def succeed(self, *, is_trial: bool) -> None:
        """An attempt ended well."""
        self.answer(is_trial=is_trial)
        self._count(0)

    def fail(self, now_s: float, *, is_trial: bool) -> None:
        """An attempt ended by a fault of the target's."""
        settings = self._settings
        if self.open_until_s is not None:
            if is_trial and self.has_trial:
                self.has_trial = False
                self._open_s = min(2 * self._open_s, settings.max_open_s)
                self.open_until_s = now_s + self._open_s
            return  # what began before it opened says nothing new
        self._count(1)
        if self._num_seen >= settings.min_attempts and self.num_failed >= settings.failure_share * self._num_seen:
            self.open_until_s = now_s + self._open_s

    def rest(self, now_s: float, retry_after_s: float | None, *, is_trial: bool) -> None:
        """The target asked to be left alone for so long. It answers, so that a trial closes the breaker."""
        self.answer(is_trial=is_trial)
        rest_s = REST_S if retry_after_s is None else retry_after_s
        self._rest_until_s = max(self._rest_until_s, now_s + min(rest_s, self._settings.max_open_s))

    def forget(self, *, is_trial: bool) -> None:
        """An attempt ended in a way that says nothing of the target."""
        if is_trial:
            self.has_trial = False

    def _close(self) -> None:
        self.has_trial = False
        self.open_until_s = None
        self._open_s = self._settings.open_s
        self._failed = self._num_seen = 0

    def _count(self, failed: int) -> None:
        if self.open_until_s is None:
            window = self._settings.window
            self._failed = (self._failed << 1 | failed) & ((1 << window) - 1)
            self._num_seen = min(self._num_seen + 1, window)
