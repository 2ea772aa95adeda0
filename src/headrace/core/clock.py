"""Time as a value that is passed in, so that nothing that decides reads a real clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time: one for differences, one for people."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start, never going back."""
        ...

    def unix_s(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start, never going back."""
        return time.monotonic()

    def unix_s(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()
