"""What one WebSocket is still to send: a bounded queue, the task that empties it, an end for clients that do not read.

Whoever has much to say waits for `room`; `put` itself never waits, so that a number given to a frame is also its place.
A client that takes nothing for `write_timeout_s` is dropped. Leaving the `async with` ends the task. Knows no frames.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from headrace.server.feed import ClientGone, Message, Pace, Send, Timers

# Bytes in the queue, beside what the transport holds, above which nobody adds to it.
MAX_WAITING_BYTES: Final = 256 * 1024


class Outbox:
    """Frames on their way to one client. `abort` ends its connection; `on_beat` is called now and then.

    It `is_closed` once a close is among them, and `is_gone` when nobody takes them any more.
    """

    def __init__(self, send: Send, pace: Pace, abort: Callable[[], None], on_beat: Callable[[], None]) -> None:
        self._send = send
        self._pace = pace
        self._abort = abort
        self._on_beat = on_beat
        self._waiting: deque[Message] = deque()
        self._num_bytes = 0
        self._changed: asyncio.Future[None] | None = None
        self._rooms: list[asyncio.Future[None]] = []
        self._sending_since_s: float | None = None
        self.is_closed = False
        self.is_gone = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._timers: Timers = self._loop if self._pace.timers is None else self._pace.timers
        self._timer = self._timers.call_later(self._pace.keep_alive_s, self._beat)
        self._task = self._loop.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.is_closed or self.is_gone:  # else the last frames are on their way
            self._task.cancel()
        await asyncio.wait([self._task])
        self._timer.cancel()

    def put(self, data: bytes) -> None:
        """Send a frame after those before it. After the close nothing is sent."""
        if not self.is_closed and not self.is_gone:
            self._num_bytes += len(data)
            self._add({"type": "websocket.send", "text": data.decode()})

    def close(self, code: int, reason: str) -> None:
        """Close the connection when everything before is sent."""
        if not self.is_closed and not self.is_gone:
            self.is_closed = True
            self._add({"type": "websocket.close", "code": code, "reason": reason})

    async def room(self) -> None:
        """Wait until there is room for more. Raises ClientGone."""
        while not self.is_gone and self._num_bytes > MAX_WAITING_BYTES:
            room = self._loop.create_future()
            self._rooms.append(room)
            await room
        if self.is_gone:
            raise ClientGone

    def leave(self) -> None:
        """The client is gone: nobody waits for it any more."""
        self.is_gone = True
        self._wake_rooms()
        self._task.cancel()

    def _add(self, message: Message) -> None:
        self._waiting.append(message)
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._changed = self._loop.create_future()
                await self._changed
            message = self._waiting.popleft()
            self._sending_since_s = self._pace.clock.monotonic_s()
            try:
                await self._send(message)
            except OSError:  # ASGI: the client is gone
                self.is_gone = True
                self._wake_rooms()
                return
            finally:
                self._sending_since_s = None
            if message["type"] == "websocket.close":
                return
            self._num_bytes -= len(message["text"].encode())
            if self._num_bytes <= MAX_WAITING_BYTES:
                self._wake_rooms()

    def _wake_rooms(self) -> None:
        rooms, self._rooms = self._rooms, []
        for room in rooms:
            if not room.done():
                room.set_result(None)

    def _beat(self) -> None:
        self._timer = self._timers.call_later(self._pace.keep_alive_s, self._beat)
        since = self._sending_since_s
        if since is not None and self._pace.clock.monotonic_s() - since >= self._pace.write_timeout_s:
            self._abort()
            self.leave()
        else:
            self._on_beat()
