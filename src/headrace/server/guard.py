"""Watches over an answer that its own task sends: a client that left, one that reads nothing, an order to stop.

    connection lost, fail() ----.
    Sweep (one timer for all) --+--> the answer's task is cancelled, and learns why: ClientGone or a HeadraceError
                                '--> after a silence: a comment is sent beside it

Costs an answer neither a task nor a timer where the connection itself is at hand (`wire.py`); elsewhere one task waits
for its loss. For answers that come as bytes; those in events have `feed.py`, which also takes them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from headrace.core.errors import HeadraceError
from headrace.server.feed import ClientGone, Message, Pace, Receive, Send, TimerHandle, Timers
from headrace.server.lifecycle import Lifecycle
from headrace.server.sealing import Sealing
from headrace.server.wire import Wire


class Sweep:
    """Looks at every guarded answer once in `keep_alive_s`, while there are some."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._guards: set[Guard] = set()
        self._timer: TimerHandle | None = None

    def add(self, guard: "Guard") -> None:
        """Look at this one too."""
        self._guards.add(guard)
        if self._timer is None:
            self._start()

    def discard(self, guard: "Guard") -> None:
        """It is over."""
        self._guards.discard(guard)

    def _start(self) -> None:
        timers: Timers = asyncio.get_running_loop() if self.pace.timers is None else self.pace.timers
        self._timer = timers.call_later(self.pace.keep_alive_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_s = self.pace.clock.monotonic_s()
        for guard in list(self._guards):
            guard.look(now_s, self.pace.write_timeout_s)
        if self._guards:
            self._start()


class Guard:
    """Around the work of the running task. Leaving it, a cancellation that is ours becomes what it means."""

    def __init__(
        self,
        wire: Wire | None,
        receive: Receive,
        send: Send,
        lifecycle: Lifecycle,
        sweep: Sweep,
        sealing: Sealing | None = None,
    ) -> None:
        self._wire = wire
        self._sealing = None if wire is None else sealing  # `send` counts by itself
        self._receive = receive
        self._send = send
        self._lifecycle = lifecycle
        self._sweep = sweep
        self._order: HeadraceError | None = None
        self._is_over = self._is_interrupted = False
        self._watch: asyncio.Task[None] | None = None
        self._num_sends = self._num_seen = 0
        self._is_sending = False
        self._seen_s = 0.0
        self._comment: asyncio.Task[None] | None = None
        self.on_silence: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._wire is None:
            self._watch = asyncio.get_running_loop().create_task(self._wait_for_loss())
        else:
            self._wire.when_gone(self._interrupt)
        self._lifecycle.running.add(self)
        self._sweep.add(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        self._is_over = True
        self._lifecycle.running.discard(self)
        self._sweep.discard(self)
        is_ours = kind is asyncio.CancelledError and self._is_interrupted and self._task.uncancel() == 0
        if self._watch is not None or self._comment is not None:
            await _stop(self._watch, self._comment)
        if is_ours:
            raise ClientGone() if self._order is None else self._order

    async def respond(self, start: Message, body: bytes) -> None:
        """Send a whole response."""
        if self._wire is not None:
            self._wire.respond(start["status"], start["headers"], body)
            if self._sealing is not None:
                self._sealing.begin(start["headers"])
                self._sealing.add(body)
                self._sealing.end()
        else:
            await self._tell(start)
            await self._tell({"type": "http.response.body", "body": body, "more_body": False})

    async def begin(self, start: Message) -> None:
        """Send the head of a stream."""
        if self._wire is not None:
            if self._sealing is not None:
                self._sealing.begin(start["headers"])
            self._wire.begin(start["status"], start["headers"])
        else:
            await self._tell(start)

    async def write(self, data: bytes) -> None:
        """Send a piece of a stream, when there is room for it, and behind a comment that is on its way."""
        if self._comment is not None:
            await self._comment
        wire = self._wire
        if wire is None:
            await self._tell({"type": "http.response.body", "body": data, "more_body": True})
            return
        self._num_sends += 1
        if wire.is_full:
            self._is_sending = True
            await wire.drain()
            self._is_sending = False
        wire.write(data)
        if self._sealing is not None:
            self._sealing.add(data)

    async def end(self) -> None:
        """Send the end of a stream."""
        if self._comment is not None:
            await self._comment
        if self._wire is not None:
            self._wire.end()
            if self._sealing is not None:
                self._sealing.end()
        else:
            await self._tell({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, message: Message) -> None:
        self._num_sends += 1
        self._is_sending = True
        await self._send(message)
        self._is_sending = False

    def fail(self, error: HeadraceError) -> None:
        """End the answer with `error`, whatever it is doing."""
        self._order = error
        self._interrupt()

    def look(self, now_s: float, write_timeout_s: float) -> None:
        """What the sweep sees: nothing was sent since it last looked, or the same is being sent for too long."""
        if self._num_sends != self._num_seen or not self._seen_s:
            self._num_seen, self._seen_s = self._num_sends, now_s
        elif self._is_sending or self._comment is not None:
            if now_s - self._seen_s >= write_timeout_s:
                self._interrupt()
        elif self.on_silence is not None:
            self._num_sends += 1
            self._comment = asyncio.get_running_loop().create_task(self._break_silence(self.on_silence))

    async def _break_silence(self, say: Callable[[], Awaitable[None]]) -> None:
        try:
            await say()
        finally:
            self._comment = None

    async def _wait_for_loss(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._interrupt()

    def _interrupt(self) -> None:
        if not self._is_over and not self._is_interrupted:
            self._is_interrupted = True
            self._task.cancel()


async def _stop(*tasks: asyncio.Task[None] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.wait(running)
