"""Answers on their way to the caller: bytes or events of a backend, each reader's end of which settles the passage.

Plain async generators would not do: closing one that was never read runs nothing of it. Knows no order of attempts.
"""

from asyncio import CancelledError, current_task
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Protocol, TypeVar

from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.core.events import Event, Finished, Usage
from headrace.gateway.contract import UpstreamStream
from headrace.gateway.oversight.chain import Chain
from headrace.gateway.passage import Attempt, Passage

T = TypeVar("T")


class Source(Protocol):
    """Where an answer comes from, as far as it is counted: an attempt, or a kept answer."""

    def hear(self, event: Event) -> None:
        """An event passes."""
        ...

    def end(self, usage: Usage | None, error: BaseException | None) -> None:
        """It is over."""
        ...


class Answer(AsyncGenerator[T, None]):
    """What all answers do: they end once, whichever way."""

    def __init__(self, passage: Passage, inner: AsyncGenerator[T, None]) -> None:
        self._passage = passage
        self._inner = inner
        self._is_over = False

    def finish(self, error: BaseException | None) -> None:
        """End the attempt and settle; once."""
        raise NotImplementedError

    async def _next(self) -> T:
        """The next of the backend's. Ends the answer however that fails, and within the request's time limit."""
        if self._is_over:
            raise StopAsyncIteration
        passage = self._passage
        try:
            passage.check_expired()
            passage.waiter = current_task()
            return await self._inner.__anext__()
        except StopAsyncIteration:
            self._is_over = True
            raise
        except CancelledError as error:
            ended = passage.end_of(error)
            await self._close(ended)
            raise ended from None
        except BaseException as error:
            await self._close(error)
            raise
        finally:
            passage.waiter = None

    async def _close(self, error: BaseException) -> None:
        self._is_over = True
        # Settled first: whatever happens while the backend's stream closes, the books are right.
        self.finish(error)
        await self._inner.aclose()

    async def asend(self, value: None) -> T:
        """The next one; nothing can be sent."""
        return await self.__anext__()

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> T:
        """Close it and raise."""
        await self.aclose()
        raise typ

    async def aclose(self) -> None:
        """The caller wants no more. An answer that was not whole is charged for what was heard of it."""
        if not self._is_over:
            await self._close(GeneratorExit())


class PieceAnswer(Answer[bytes]):
    """A stream of bytes in the caller's protocol."""

    def __init__(self, passage: Passage, attempt: Attempt, stream: UpstreamStream) -> None:
        super().__init__(passage, stream.pieces())
        self._attempt = attempt
        self._stream = stream

    async def __anext__(self) -> bytes:
        try:
            piece = await self._next()
        except StopAsyncIteration:
            self.finish(None)
            raise
        if (chain := self._passage.chain) is not None:
            try:
                chain.add(piece)
            except HeadraceError as error:
                await self._close(error)
                raise
        return piece

    def finish(self, error: BaseException | None) -> None:
        """Count what was told, and settle."""
        stream, attempt = self._stream, self._attempt
        attempt.heard.num_bytes = stream.num_output_bytes
        attempt.end(stream.usage, error)
        if error is None:
            self._passage.settle("ok")
        else:
            self._passage.fail(error)


class EventAnswer(Answer[Event]):
    """A stream of events; `first` was read ahead. What one who oversees it says of an event can be none or several."""

    def __init__(
        self, passage: Passage, source: Source, events: AsyncGenerator[Event, None], first: Event | None = None
    ) -> None:
        super().__init__(passage, events)
        self._source = source
        self._first = first
        self._has_finished = False
        self._told: deque[Event] = deque()

    async def __anext__(self) -> Event:
        while not self._told:
            event = self._first
            if event is not None:
                self._first = None
            elif self._has_finished:
                raise await self._end_quietly()
            else:
                try:
                    event = await self._next()
                except StopAsyncIteration:
                    if self._passage.is_settled:
                        raise
                    cut = UpstreamFault("the backend's answer ended before it was whole.")
                    self.finish(cut)
                    raise cut from None
                self._source.hear(event)
            passage = self._passage
            if passage.keeper is not None:
                passage.keeper.add(event)
            if type(event) is Finished:
                self._has_finished = True
                self._source.end(event.usage, None)
            if passage.chain is None:
                if self._has_finished:
                    passage.settle("ok")
                return event
            await self._judge(passage.chain, event)
        return self._told.popleft()

    async def _judge(self, chain: Chain, event: Event) -> None:
        """What goes on of an event. Who oversees the request may end its answer, also by its last event."""
        try:
            self._told.extend(chain.hear(event))
        except HeadraceError as error:
            await self._close(error)
            raise
        if self._has_finished:
            self._passage.settle("ok")
            try:
                await chain.keep()
            except HeadraceError as error:
                await self._close(error)
                raise

    async def _end_quietly(self) -> StopAsyncIteration:
        """After the last event: let the backend's stream come to its own end, which leaves its connection usable.
        What it says there is too late to matter."""
        try:
            await self._next()
        except (StopAsyncIteration, HeadraceError):
            return StopAsyncIteration()
        await self.aclose()
        return StopAsyncIteration()

    def finish(self, error: BaseException | None) -> None:
        """Count what was heard, and settle."""
        self._told.clear()
        self._source.end(None, error)
        if error is not None:
            self._passage.fail(error)
