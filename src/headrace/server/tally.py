"""Counts what is open, and ends every exchange and every turn of a WebSocket with one line of the log and one metric.

Knows no routes and no sockets; whoever opens something here fills in its record.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import Overloaded
from headrace.observe.logs import AccessRecord, log_access
from headrace.observe.metrics import Metrics

# A message of a WebSocket that asks for an answer.
MESSAGE: Final = "MESSAGE"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", MESSAGE})


@dataclass(slots=True)
class Tally:
    """How much is open. A WebSocket does not count, its turns do."""

    metrics: Metrics
    clock: Clock
    max_open: int
    num_open: int = 0

    @contextmanager
    def open(self, record: AccessRecord, started_s: float, *, counts: bool = True) -> Iterator[None]:
        """Something is open while the block runs."""
        if counts:
            self.num_open += 1
            self.metrics.http_in_flight.inc()
        try:
            yield
        finally:
            if counts:
                self.num_open -= 1
                self.metrics.http_in_flight.dec()
            record.duration_s = round(self.clock.monotonic_s() - started_s, 6)
            method = record.method if record.method in _METHODS else "other"
            self.metrics.http_requests.labels(record.route, method, str(record.status)).inc()
            log_access(record)

    def check_load(self) -> None:
        """Raise Overloaded for one too many; it counts itself."""
        if self.num_open > self.max_open:
            raise Overloaded("the server has as many requests open as it takes.", retry_after_s=1.0)
