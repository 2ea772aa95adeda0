"""Whether the load generator itself was the bottleneck: its own processor time and how late its loop wakes.

A client that is slow makes every server look slow, and says so nowhere unless it is asked. The clocks are given in.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.core.clock import Clock

EVERY_S: Final = 0.02
MAX_CPU_SHARE: Final = 0.7
"""Of one core: above, requests and pieces begin to wait for the client."""
MAX_LAG_S: Final = 0.02
"""That 99 of 100 wake-ups of the loop stay within, else times of single pieces mean little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What the client took: processor time as a share of one core, and how many seconds late its loop woke, as the 99th
    of a hundred wake-ups and the latest."""

    cpu_share: float
    lag_p99_s: float
    lag_max_s: float


class Watch:
    """Looks at the loop it runs on until it is told to stop. `cpu_s` reads this process's processor time."""

    def __init__(self, clock: Clock, cpu_s: Callable[[], float]) -> None:
        self._clock = clock
        self._cpu_s = cpu_s
        self._lags: list[float] = []
        self._began_s = clock.monotonic_s()
        self._began_cpu_s = cpu_s()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due_s = self._clock.monotonic_s() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._lags.append(max(0.0, self._clock.monotonic_s() - due_s))

    def effort(self) -> Effort:
        """What it has seen so far."""
        wall_s = self._clock.monotonic_s() - self._began_s
        lags = sorted(self._lags)
        return Effort(
            cpu_share=(self._cpu_s() - self._began_cpu_s) / wall_s if wall_s > 0 else 0.0,
            lag_p99_s=lags[int(0.99 * (len(lags) - 1))] if lags else 0.0,
            lag_max_s=lags[-1] if lags else 0.0,
        )


def effort_warnings(effort: Effort) -> list[str]:
    """What to say of it, nothing if the client kept up."""
    told = []
    if effort.cpu_share > MAX_CPU_SHARE:
        told.append(
            f"the load generator used {effort.cpu_share:.0%} of one core and may have been the bottleneck; run it on "
            "another machine, or ask for less."
        )
    if effort.lag_p99_s > MAX_LAG_S:
        told.append(
            f"the load generator's loop woke up to {effort.lag_p99_s * 1000:.0f} ms late (99 of 100 wake-ups), and so "
            "did its clocks; give it a core of its own."
        )
    return told
