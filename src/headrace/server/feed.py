"""One place to wait for everything that can happen to an answer: events, silence, a client that left, an order to stop.

    backend.run ---- pump task ----.
    receive() ------ watch task ---+--> Feed.take() -> the answer's own task, which encodes and sends
    timer, fail() -----------------'

The pump takes every event that is ready without giving the loop back, so that events that come together are taken,
encoded and sent together. Leaving the `async with` cancels the pump and waits until the backend's stream is closed:
nothing of an answer outlives its task. A client that reads slowly stops the pump (`MAX_PENDING`), one that reads
nothing is dropped.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from headrace.core.clock import Clock
from headrace.core.errors import EngineFault, HeadraceError
from headrace.core.events import Finished
from headrace.server.lifecycle import Lifecycle

Told = TypeVar("Told")
Made = TypeVar("Made")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Events taken from the backend and not yet sent; above it the pump waits for the client.
MAX_PENDING: Final = 256

_logger = logging.getLogger("headrace.server")


class ClientGone(Exception):
    """The client closed the connection or stopped reading: there is nobody left to answer."""


class TimerHandle(Protocol):
    """A timer that can be called off."""

    def cancel(self) -> None:
        """Never fire."""
        ...


class Timers(Protocol):
    """Makes timers; the running event loop is one, and a test's own is another."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> TimerHandle:
        """Call `callback` once, `delay` seconds from now."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """Time as a feed sees it: when a silence is broken, and when a client that takes nothing is given up."""

    clock: Clock
    keep_alive_s: float
    write_timeout_s: float
    timers: Timers | None = None  # None: the running loop

    async def pause(self, seconds: float) -> None:
        """Wait so long."""
        timers: Timers = asyncio.get_running_loop() if self.timers is None else self.timers
        due = asyncio.Event()
        timer = timers.call_later(seconds, due.set)
        try:
            await due.wait()
        finally:
            timer.cancel()


class Feed(Generic[Told]):
    """Events of one answer, as long as somebody wants them."""

    def __init__(
        self,
        events: AsyncGenerator[Told, None],
        receive: Receive,
        send: Send,
        lifecycle: Lifecycle,
        pace: Pace,
    ) -> None:
        self._events = events
        self._receive = receive
        self._send = send
        self._lifecycle = lifecycle
        self._pace = pace
        self._pending: list[Told] = []
        self._waiter: asyncio.Future[None] | None = None
        self._space: asyncio.Future[None] | None = None
        self._order: HeadraceError | None = None  # from outside: at once
        self._failure: HeadraceError | None = None  # from the backend: after what came before it
        self._is_gone = False
        self._is_ended = False
        self._is_silent = False
        self._was_active = False
        self._sending_since_s: float | None = None
        self._is_stalled = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._tasks = (self._loop.create_task(self._pump()), self._loop.create_task(self._watch()))
        self._timers: Timers = self._loop if self._pace.timers is None else self._pace.timers
        self._timer = self._timers.call_later(self._pace.keep_alive_s, self._beat)
        self._lifecycle.running.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._lifecycle.running.discard(self)
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                _logger.error("an answer's stream could not be closed", exc_info=error)

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its connection."""
        return self._is_gone

    async def take(self) -> list[Told]:
        """Every event at hand, waiting for the first; empty after a silence. Raises ClientGone or HeadraceError."""
        while True:
            if self._is_gone:
                raise ClientGone
            if self._order is not None:
                raise self._order
            if self._pending:
                batch, self._pending = self._pending, []
                space, self._space = self._space, None
                if space is not None and not space.done():
                    space.set_result(None)
                return batch
            if self._failure is not None:
                raise self._failure
            if self._is_ended:
                raise EngineFault("the backend ended the answer without saying that it was finished; send it again.")
            if self._is_silent:
                self._is_silent = False
                return []
            self._waiter = self._loop.create_future()
            await self._waiter

    async def during(self, work: Coroutine[Any, Any, Made]) -> Made:
        """What comes of `work`, unless its client leaves or the answer is ended meanwhile. Raises ClientGone or
        HeadraceError, and then `work` was cancelled."""
        task = self._loop.create_task(work)
        task.add_done_callback(lambda _: self._wake())
        try:
            while not task.done():
                if self._is_gone:
                    raise ClientGone
                if self._order is not None:
                    raise self._order
                self._waiter = self._loop.create_future()
                await self._waiter
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def send(self, message: Message) -> None:
        """Send to the client, for no longer than it takes bytes. Raises ClientGone."""
        self._was_active = True
        self._sending_since_s = self._pace.clock.monotonic_s()
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if self._is_stalled and self._task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            self._sending_since_s = None

    def fail(self, error: HeadraceError) -> None:
        """End the answer with `error`, whatever the backend is doing."""
        self._order = error
        self._wake()

    async def _pump(self) -> None:
        try:
            async for event in self._events:
                self._pending.append(event)
                self._wake()
                if type(event) is Finished:
                    break
                if len(self._pending) >= MAX_PENDING:
                    self._space = self._loop.create_future()
                    await self._space
        except HeadraceError as error:
            self._failure = error
        except Exception:
            # The request boundary: one answer's defect must not take the server down.
            _logger.exception("the backend raised something that is no HeadraceError")
            self._failure = EngineFault("an unexpected defect ended this answer; it is logged. Send the request again.")
        finally:
            await self._events.aclose()
            self._is_ended = True
            self._wake()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._wake()

    def _beat(self) -> None:
        self._timer = self._timers.call_later(self._pace.keep_alive_s, self._beat)
        since = self._sending_since_s
        if since is not None:
            if self._pace.clock.monotonic_s() - since >= self._pace.write_timeout_s and not self._is_stalled:
                self._is_stalled = True
                self._task.cancel()
        elif not self._was_active:
            self._is_silent = True
            self._wake()
        self._was_active = False

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
