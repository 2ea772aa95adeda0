"""Where the engine's thread hands a request's results to the event loop: one call per step and loop, one wake-up each.

The engine calls `deliver` once a step with everything that belongs to one loop; the reader takes what has gathered.
Knows nothing of what it carries.
"""

import asyncio
from collections.abc import Iterable
from typing import Any


class Mailbox:
    """One request's results, in order. Created and read on `loop`; only `deliver` may be called from elsewhere."""

    __slots__ = ("_items", "_waiter", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
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


def deliver(loop: asyncio.AbstractEventLoop, parcels: list[tuple[Mailbox, Any]]) -> bool:
    """Hand over (mailbox, item) pairs of one loop; false if the loop is closed, so that nobody will read them."""
    try:
        loop.call_soon_threadsafe(_put_all, parcels)
    except RuntimeError:
        return False
    return True


def _put_all(parcels: Iterable[tuple[Mailbox, Any]]) -> None:
    for mailbox, item in parcels:
        mailbox.put(item)
