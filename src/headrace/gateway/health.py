"""What active checks of a backend add up to, and who has to warm up: values in, values out.

`checks.py` asks, `standing.py` says what follows. Time is passed in.
"""

from typing import Final

from headrace.gateway.settings import Health

COLD_SHARE: Final = 0.1
"""Of its usual requests, what a backend that comes back begins with."""


class HealthState:
    """One backend's. It is well until checks say otherwise."""

    __slots__ = ("_num_in_row", "_settings", "_warm_since_s", "is_well", "last_error")

    def __init__(self, settings: Health) -> None:
        self._settings = settings
        self._num_in_row = 0  # checks in a row that contradict `is_well`
        self._warm_since_s: float | None = None
        self.is_well = True
        self.last_error = ""

    def note(self, now_s: float, error: Exception | None) -> bool:
        """A check ended; whether that changed anything."""
        if error is not None:
            self.last_error = str(error)
        if (error is None) == self.is_well:
            self._num_in_row = 0
            return False
        self._num_in_row += 1
        if self._num_in_row < (self._settings.fall if self.is_well else self._settings.rise):
            return False
        self._num_in_row = 0
        self.is_well = not self.is_well
        if self.is_well:
            self.last_error = ""
            self.come_back(now_s)
        return True

    def come_back(self, now_s: float) -> None:
        """The backend was away and is there again: it warms up from now."""
        self._warm_since_s = now_s if self._settings.warm_up_s > 0 else None

    def share(self, now_s: float) -> float:
        """What part of its usual requests it may get."""
        if not self.is_well:
            return 0.0
        if self._warm_since_s is None:
            return 1.0
        warmed = (now_s - self._warm_since_s) / self._settings.warm_up_s
        if warmed >= 1.0:
            self._warm_since_s = None
            return 1.0
        return COLD_SHARE + (1.0 - COLD_SHARE) * max(0.0, warmed)
