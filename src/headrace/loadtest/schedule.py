"""When requests are due: a Poisson process, the same for the same seed.

Independent arrivals are what many users make together, and what a server that is asked at even gaps is never tested
with. The moments are drawn before anything is sent and do not move when the server is slow. Knows no clock.
"""

import random
from collections.abc import Iterator

from headrace.loadtest.plan import Bounds


def arrivals(rate: float, seed: str) -> Iterator[float]:
    """Seconds from the start at which one request each is due, `rate` a second on average, without end."""
    chance = random.Random(seed)  # noqa: S311
    due_s = 0.0
    while True:
        due_s += chance.expovariate(rate)
        yield due_s


def bounded(moments: Iterator[float], bounds: Bounds) -> Iterator[tuple[int, float]]:
    """Those within the bounds of a stage, with their numbers. Time counts from the start, or from the first
    that is counted where some are not."""
    counts_from_s = 0.0
    for index, due_s in enumerate(moments):
        if index >= bounds.most:
            return
        if index == bounds.num_warm > 0:
            counts_from_s = due_s
        if index >= bounds.num_warm and due_s - counts_from_s > bounds.longest_s:
            return
        yield index, due_s
