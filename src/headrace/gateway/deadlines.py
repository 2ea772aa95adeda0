"""The time limits of all requests under way, kept by one timer: a request that ends in time costs two dictionary
operations. A limit is kept to within TICK_S. Knows of a request only that it can expire.
"""

import asyncio
from typing import Final, Protocol

TICK_S: Final = 0.05


class Expiring(Protocol):
    """What has a time limit."""

    def expire(self) -> None:
        """It has passed."""
        ...


class Deadlines:
    """Times are those of the running event loop."""

    def __init__(self) -> None:
        self._due: dict[int, dict[Expiring, None]] = {}
        self._ticks: dict[Expiring, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0

    def __len__(self) -> int:
        """How many have a limit now."""
        return len(self._ticks)

    def add(self, one: Expiring, after_s: float) -> None:
        """Expire it after so many seconds, unless it is removed before."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        tick = int((now + max(0.0, after_s)) / TICK_S) + 1
        self._ticks[one] = tick
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = {}
        due[one] = None
        if self._timer is None:
            self._last = int(now / TICK_S)
            self._timer = loop.call_later(TICK_S, self._sweep)

    def remove(self, one: Expiring) -> None:
        """It is over; one that is not there is no error."""
        tick = self._ticks.pop(one, None)
        if tick is not None and (due := self._due.get(tick)) is not None:
            due.pop(one, None)
            if not due:
                del self._due[tick]

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = int(loop.time() / TICK_S)
        for tick in range(self._last + 1, now + 1) if now - self._last < len(self._due) else sorted(self._due):
            if tick > now:
                break
            for one in self._due.pop(tick, {}):
                self._ticks.pop(one, None)
                one.expire()
        self._last = now
        self._timer = loop.call_later(TICK_S, self._sweep) if self._ticks else None
