"""Many time limits on one timer, in a loop whose time is a test's."""

import asyncio
from collections.abc import Callable

from headrace.gateway.deadlines import TICK_S, Deadlines


class HandLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 500.0
        self.num_timers = 0

    def time(self) -> float:
        return self.now_s

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, **named: object
    ) -> asyncio.TimerHandle:
        self.num_timers += 1
        return super().call_at(when, callback, *args, **named)  # type: ignore[arg-type]

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class Limited:
    """Notes when it expired."""

    def __init__(self) -> None:
        self.at_s: float | None = None

    def expire(self) -> None:
        assert self.at_s is None
        self.at_s = asyncio.get_running_loop().time()


def run(test: Callable[[HandLoop], object]) -> None:
    loop = HandLoop()
    try:
        loop.run_until_complete(test(loop))  # type: ignore[arg-type]
    finally:
        loop.close()


def test_each_expires_within_a_tick_of_its_time_and_what_was_removed_does_not() -> None:
    async def body(loop: HandLoop) -> None:
        deadlines = Deadlines()
        ones = {after_s: Limited() for after_s in (-1.0, 0.0, 0.01, 0.05, 0.3, 5.0, 5.01, 600.0)}
        for after_s, one in ones.items():
            deadlines.add(one, after_s)
        removed = Limited()
        deadlines.add(removed, 0.3)
        deadlines.remove(removed)
        deadlines.remove(removed)
        await asyncio.sleep(601)
        for after_s, one in ones.items():
            assert one.at_s is not None
            assert 0 <= one.at_s - 500.0 - max(0.0, after_s) <= 2 * TICK_S + 1e-6, after_s
        assert removed.at_s is None
        num_timers = loop.num_timers
        await asyncio.sleep(10)
        assert loop.num_timers == num_timers + 1  # nothing ticks while nobody has a limit

    run(body)


def test_a_thousand_limits_have_one_timer() -> None:
    async def body(loop: HandLoop) -> None:
        deadlines = Deadlines()
        ones = [Limited() for _ in range(1000)]
        for one in ones:
            deadlines.add(one, 60.0)
        assert loop.num_timers == 1
        for one in ones:
            deadlines.remove(one)

    run(body)
