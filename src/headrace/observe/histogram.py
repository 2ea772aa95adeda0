"""A histogram that takes a value many times at once, which Prometheus's own client cannot: what is counted a step, and
what more than one thread tells. Knows no names; whoever exports it gives one.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate


class Histogram:
    """Counts by bucket, and their sum; told and read from any thread. `buckets` are upper bounds, rising, without
    infinity."""

    __slots__ = ("_counts", "_lock", "_total", "buckets")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._total = 0.0
        self._lock = threading.Lock()

    def add(self, value: float, count: int = 1) -> None:
        """Count a value so often."""
        self.add_all(((value, count),))

    def add_all(self, pairs: Iterable[tuple[float, int]]) -> None:
        """Count values, each so often."""
        with self._lock:
            for value, count in pairs:
                self._counts[bisect_left(self.buckets, value)] += count
                self._total += value * count

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """What `HistogramMetricFamily.add_metric` takes: (upper bound, how many are not above it), and the sum."""
        with self._lock:
            counts, total = list(self._counts), self._total
        bounds = [*map(str, self.buckets), "+Inf"]
        return list(zip(bounds, accumulate(map(float, counts)), strict=True)), total
