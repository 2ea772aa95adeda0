"""Where the engine's thread hands requests' results to an event loop: one wake-up per step and loop.

A `Mailbox` is one request's, read on the loop; an `Outbox` is one loop's, written to by the engine with everything that
belongs to that loop. Knows nothing of what they carry.

Linux wakes a loop through an event counter of ours. `call_soon_threadsafe` does it through a socket, which took the
engine's thread 31-55 us on the caches that a step leaves behind, against 6-17 us, and every core waits meanwhile.
Native code rings without giving up the GIL, which the loop would take for all its work before the next step starts.
"""

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar


class Outbox:
    """The way into one loop. Made by `of`, on the loop; `post` may be called from any thread."""

    _by_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, "Outbox"]] = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weak, or no loop would ever leave `_by_loop`. Whoever posts holds mailboxes, and they hold the loop.
        self._loop = weakref.ref(loop)
        self._posted: deque[Iterable[tuple[Mailbox, Any]]] = deque()
        self._counter: int | None = None
        if hasattr(os, "eventfd"):
            self._counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            # Not at exit, when an engine nobody closed may still ring.
            weakref.finalize(loop, os.close, self._counter).atexit = False
            loop.add_reader(self._counter, self._read)
            self._ring = _find_ring()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Outbox":
        """The one outbox of a loop."""
        outbox = cls._by_loop.get(loop)
        if outbox is None:
            outbox = cls._by_loop[loop] = cls(loop)
        return outbox

    def post(self, parcels: Iterable[tuple["Mailbox", Any]]) -> bool:
        """Hand over (mailbox, item) pairs of this loop; false if it is closed, so that nobody will read them."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            return False
        self._posted.append(parcels)
        if self._counter is not None:
            self._ring(self._counter)
            return True
        try:
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # closed in this very moment
            return False
        return True

    def _read(self) -> None:
        assert self._counter is not None
        os.eventfd_read(self._counter)
        self._deliver()

    def _deliver(self) -> None:
        while self._posted:
            for mailbox, item in self._posted.popleft():
                mailbox.put(item)


def _find_ring() -> Callable[[int], None]:
    try:
        from headrace.kernels.native import signal_event  # noqa: PLC0415 - the engine's tests need no compiled module
    except ImportError:
        return partial(os.eventfd_write, value=1)
    return signal_event


class Mailbox:
    """One request's results, in order. Created and read on `loop`; what comes from elsewhere comes through `outbox`."""

    __slots__ = ("_items", "_waiter", "loop", "outbox")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.outbox = Outbox.of(loop)
        self._items: list[Any] = []
        self._waiter: asyncio.Future[None] | None = None

    async def take(self) -> list[Any]:
        """Everything that has arrived, waiting until there is something."""
        if not self._items:
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        return items

    def put(self, item: Any) -> None:
        """Add an item and wake the reader; on the loop only."""
        self._items.append(item)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
