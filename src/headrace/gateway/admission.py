"""Who may go on and who waits: a bound on all requests in flight, and a line before each backend that takes only so
many at once. A line is in order of priority, then of arrival; where there is no room for one more, its last is shed.

What a shed caller is told to wait is what the line needs at the pace at which places were seen to become free. Knows
no targets, no budgets and no answers.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import Overloaded
from headrace.gateway.settings import BackendSettings

MIN_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
NUM_PACED: Final = 32
"""Departures that the pace is measured over."""


@dataclass(slots=True, order=True)
class Ticket:
    """One who waits: the first in the order of tickets is served first, the last is shed first."""

    minus_priority: int
    number: int
    place: "asyncio.Future[None]" = field(compare=False)
    line: "Line" = field(compare=False)


class Pace:
    """How fast places become free."""

    __slots__ = ("_left_s",)

    def __init__(self) -> None:
        self._left_s: deque[float] = deque(maxlen=NUM_PACED)

    def leave(self, now_s: float) -> None:
        """One place became free."""
        self._left_s.append(now_s)

    def retry_after_s(self, now_s: float, num_ahead: int) -> float:
        """How long it takes until so many places have become free, as far as one can know."""
        if not self._left_s:
            return MIN_RETRY_S
        per_place_s = (now_s - self._left_s[0]) / len(self._left_s)
        return min(MAX_RETRY_S, max(MIN_RETRY_S, num_ahead * per_place_s))


class Line:
    """The places of one backend, and who waits for one. `limit` None: as many as come."""

    def __init__(self, name: str, limit: int | None, clock: Clock) -> None:
        self.name = name
        self.limit = limit
        self.num_running = 0
        self._clock = clock
        self._pace = Pace()
        self._waiting: list[Ticket] = []
        self._next_number = 0

    @property
    def num_waiting(self) -> int:
        """Who has no place yet."""
        return len(self._waiting)

    @property
    def last(self) -> Ticket | None:
        """Who would be shed first."""
        return self._waiting[-1] if self._waiting else None

    @property
    def has_room(self) -> bool:
        """Whether there is a place now. Nobody overtakes those who wait."""
        return self.limit is None or (self.num_running < self.limit and not self._waiting)

    def take(self) -> bool:
        """A place at once, if there is one."""
        if self.limit is not None and (self.num_running >= self.limit or self._waiting):
            return False
        self.num_running += 1
        return True

    async def wait(self, priority: int, max_waiting: int) -> None:
        """A place, now or when it is this request's turn.

        Raises Overloaded if the line is full of requests that do not stand behind this one, or once others that stand
        before it have filled it.
        """
        if self.take():
            return
        last = self.last
        if len(self._waiting) >= max_waiting:
            if last is None or -last.minus_priority >= priority:
                raise self._overload(len(self._waiting) + 1)
            self.shed(last)
        ticket = Ticket(-priority, self._next_number, asyncio.get_running_loop().create_future(), self)
        self._next_number += 1
        insort(self._waiting, ticket)
        try:
            await ticket.place
        except BaseException:
            if ticket.place.done() and not ticket.place.cancelled() and ticket.place.exception() is None:
                self.leave()  # the place came while the one who waited for it went
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            raise

    def shed(self, ticket: Ticket) -> None:
        """Send one away who waits."""
        self._waiting.remove(ticket)
        if not ticket.place.done():  # else it is going by itself
            ticket.place.set_exception(self._overload(len(self._waiting) + 2))

    def leave(self) -> None:
        """A place is free: who is first in line gets it."""
        self.num_running -= 1
        if self.limit is not None:
            self._pace.leave(self._clock.monotonic_s())
            self.fill()

    def fill(self) -> None:
        """Give free places to those who wait."""
        while self._waiting and (self.limit is None or self.num_running < self.limit):
            ticket = self._waiting.pop(0)
            if not ticket.place.done():
                self.num_running += 1
                ticket.place.set_result(None)

    def _overload(self, num_ahead: int) -> Overloaded:
        return Overloaded(
            f"the backend {self.name!r} works on {self.num_running} requests and {len(self._waiting)} wait for it, "
            "which is all it is set to take; try again later.",
            retry_after_s=self._pace.retry_after_s(self._clock.monotonic_s(), num_ahead),
        )


class Admission:
    """All requests in flight, and the lines before those backends that have a bound."""

    def __init__(self, max_in_flight: int, backends: Mapping[str, BackendSettings], clock: Clock) -> None:
        self._clock = clock
        self._pace = Pace()
        self.max_in_flight = max_in_flight
        self.num_in_flight = 0
        self._lines: dict[str, Line] = {}
        self.replace(max_in_flight, backends)

    def replace(self, max_in_flight: int, backends: Mapping[str, BackendSettings]) -> None:
        """Go on with other bounds; who runs or waits stays."""
        self.max_in_flight = max_in_flight
        for name, settings in backends.items():
            line = self.line(name)
            line.limit = settings.max_concurrency
            line.fill()
        for name in self._lines.keys() - backends.keys():
            line = self._lines[name]
            line.limit = None
            line.fill()
            if not line.num_running:
                del self._lines[name]

    def line(self, backend: str) -> Line:
        """The line before a backend."""
        line = self._lines.get(backend)
        if line is None:
            line = self._lines[backend] = Line(backend, None, self._clock)
        return line

    def enter(self, priority: int) -> None:
        """Count one more. Where there is no room, one that waits and has a lower priority makes room.

        Raises Overloaded.
        """
        if self.num_in_flight >= self.max_in_flight and not self._shed_below(priority):
            raise Overloaded(
                f"the gateway has {self.num_in_flight} requests in flight, which is all it is set to take "
                f"(max_in_flight {self.max_in_flight}); try again later.",
                retry_after_s=self._pace.retry_after_s(self._clock.monotonic_s(), 1),
            )
        self.num_in_flight += 1

    def leave(self) -> None:
        """One is over."""
        self.num_in_flight -= 1
        self._pace.leave(self._clock.monotonic_s())

    def _shed_below(self, priority: int) -> bool:
        lasts = [line.last for line in self._lines.values()]
        ticket = max((one for one in lasts if one is not None), default=None)
        if ticket is None or -ticket.minus_priority >= priority:
            return False
        ticket.line.shed(ticket)
        return True
