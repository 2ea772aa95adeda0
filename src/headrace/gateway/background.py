"""A response that is made in the background: a task of its own, and everything that it has said so far.

Those who follow it read the same list of events, each at its own pace, and nothing is lost when one leaves. Saves
through the function that it is given; knows no database.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from headrace.api.responses_service import LocalState, ResponseEvent, reword
from headrace.core.errors import EngineFault, HeadraceError
from headrace.gateway.response_run import Run

Settle = Callable[[Run, list[ResponseEvent], LocalState | None, bytes | None], Awaitable[list[ResponseEvent]]]

_logger = logging.getLogger("headrace.gateway")


class Job:
    """One background response; `start` it once. `leave` is called when it has ended and is saved."""

    def __init__(self, run: Run, events: list[ResponseEvent], settle: Settle, leave: Callable[[], object]) -> None:
        self._run = run
        self._settle = settle
        self._leave = leave
        self._events = list(events)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._why: HeadraceError | None = None

    def start(self) -> None:
        """Begin the work."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    def stop(self, why: HeadraceError | None) -> None:
        """End it: as failed for a reason, or as cancelled (None). Nothing happens to one that has ended."""
        if self._task is not None and not self._run.writer.is_done:
            self._why = why
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has ended and is saved."""
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def is_streamed(self) -> bool:
        """Whether it was begun as a stream, which others may follow."""
        return self._run.prepared.call.stream

    @property
    def response(self) -> Mapping[str, Any]:
        """The response object as it was told last."""
        return next(event.response for event in reversed(self._events) if event.response is not None)

    async def follow(self, first: int) -> AsyncGenerator[ResponseEvent, None]:
        """Events from a sequence number on, as they come."""
        at = first
        while True:
            while at < len(self._events):
                event = self._events[at]
                at += 1
                yield event
                if event.is_last:
                    return
            if self._events[-1].is_last:
                return
            changed = self._changed
            await changed.wait()

    async def _work(self) -> None:
        try:
            await self._tell(await self._begin())
            while not self._run.writer.is_done:
                await self._tell(await self._run.advance())
        except asyncio.CancelledError:
            if not self._events[-1].is_last:
                writer = self._run.writer
                await self._tell(writer.cancel() if self._why is None else writer.fail(self._why))
        except Exception:
            # The boundary of a background response: a defect in one must not leave it at work for ever.
            _logger.exception("background response %s met a defect", self._run.prepared.call.request.id)
            error = EngineFault("an unexpected defect ended this response; it is logged. Send the request again.")
            if not self._events[-1].is_last:
                await self._tell(self._run.writer.fail(error))
        finally:
            await self._run.close()
            self._leave()

    async def _begin(self) -> list[ResponseEvent]:
        try:
            return await self._run.open(is_queued=True)
        except HeadraceError as error:
            return self._run.writer.fail(reword(error))

    async def _tell(self, events: list[ResponseEvent]) -> None:
        kept = None
        if self.is_streamed and events and events[-1].is_last:
            kept = b"".join(event.data + b"\n" for event in (*self._events, *events[:-1]))
        self._events += await self._settle(self._run, events, None, kept)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
