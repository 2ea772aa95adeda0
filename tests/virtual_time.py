"""An event loop whose time passes only when nothing is left to do: hours of a schedule in milliseconds, exactly.

For code that waits by the loop's timers and reads `VirtualClock`. Nothing real may be waited for.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Made = TypeVar("Made")


class _Selector(selectors.SelectSelector):
    """Waits for nothing, and says how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for something that will never come"
        self.passed_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._virtual.passed_s


class VirtualClock:
    """`core.clock.Clock` of the loop that runs."""

    def monotonic_s(self) -> float:
        """Seconds since the loop was made."""
        return asyncio.get_running_loop().time()

    def unix_s(self) -> float:
        """The same."""
        return self.monotonic_s()


def run_virtually(work: Coroutine[Any, Any, Made]) -> Made:
    """Run it to its end, however long that takes."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
