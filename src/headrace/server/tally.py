"""What is open, and how it ends: every exchange and every turn of a WebSocket, with one line of the log and one metric.

Knows no routes and no sockets; whoever opens something here fills in its record.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from prometheus_client import Counter

from headrace.core.clock import Clock
from headrace.core.errors import Overloaded
from headrace.core.gateway import EXCHANGE_ID
from headrace.core.tracing import TRACE, Place, Tracer
from headrace.core.watching import ORIGIN
from headrace.observe.logs import AccessRecord, log_access
from headrace.observe.metrics import Metrics
from headrace.observe.spans import server_span

# A message of a WebSocket that asks for an answer.
MESSAGE: Final = "MESSAGE"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", MESSAGE})


@dataclass(slots=True)
class Tally:
    """How much is open. A WebSocket does not count, its turns do. `on_end` are told of everything that ends;
    `tracer` gives everything a place in a trace, if there is one."""

    metrics: Metrics
    clock: Clock
    max_open: int
    num_open: int = 0
    tracer: Tracer | None = None
    _counters: dict[tuple[str, str, int], Counter] = field(default_factory=dict)
    _all_open: "dict[Open, None]" = field(default_factory=dict)
    on_end: "list[Callable[[Open], None]]" = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics.http_in_flight.set_function(lambda: self.num_open)

    def open(
        self, record: AccessRecord, started_s: float, *, counts: bool = True, place: Place | None = None
    ) -> "Open":
        """Something is open while the block runs. `place` is where in a trace it stands; without one, below what this
        context belongs to, if that has one."""
        return Open(self, record, started_s, counts=counts, place=place)

    def all_open(self) -> Iterable["Open"]:
        """Everything that is open now, the oldest first."""
        return self._all_open

    def enter(self, one: "Open") -> None:
        """Something begins; what is done from here on in its context, which is a task of its own, is done for it."""
        self.num_open += one.counts
        self._all_open[one] = None
        ORIGIN.set(one)
        EXCHANGE_ID.set(one.record.request_id)
        if self.tracer is not None:
            if one.place is None and (above := TRACE.get()) is not None:
                one.place = above.child()
            TRACE.set(one.place)
            one.record.trace_id = None if one.place is None else one.place.context.trace_id

    def leave(self, one: "Open") -> None:
        """It is over."""
        self.num_open -= one.counts
        del self._all_open[one]
        record = one.record
        record.duration_s = round(self.clock.monotonic_s() - one.started_s, 6)
        key = (record.route, record.method, record.status)
        counter = self._counters.get(key)
        if counter is None:
            method = record.method if record.method in _METHODS else "other"
            counter = self.metrics.http_requests.labels(record.route, method, str(record.status))
            if method == record.method:  # of names that clients make up nothing is kept
                self._counters[key] = counter
        counter.inc()
        log_access(record)
        if one.place is not None and one.place.is_sampled and (span := server_span(one.place, record, one.started_s)):
            one.place.tracer.add(span)
        for tell in self.on_end:
            tell(one)

    def check_load(self) -> None:
        """Raise Overloaded for one too many; it counts itself."""
        if self.num_open > self.max_open:
            raise Overloaded("the server has as many requests open as it takes.", retry_after_s=1.0)


class Open:
    """Around one exchange or turn. `started_s` is on the server's monotonic clock."""

    __slots__ = ("_tally", "counts", "place", "record", "started_s")

    def __init__(
        self, tally: Tally, record: AccessRecord, started_s: float, *, counts: bool, place: Place | None
    ) -> None:
        self._tally = tally
        self.record = record
        self.started_s = started_s
        self.counts = counts
        self.place = place

    def __enter__(self) -> Self:
        self._tally.enter(self)
        return self

    def __exit__(self, *_: Any) -> None:
        self._tally.leave(self)
