"""One response while it is made: what it is asked with, the backend's stream, and the events that come of it.

Decides when a response begins, ends and how; saves nothing. Whoever makes a `Run` closes it.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from headrace.api.responses_events import ResponseWriter
from headrace.api.responses_items import complete
from headrace.api.responses_service import CreateCall, Halt, Item, ResponseEvent, reword
from headrace.core.backend import Backend
from headrace.core.clock import Clock
from headrace.core.errors import ContextTooLong, EngineFault, HeadraceError
from headrace.core.events import Event
from headrace.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A call whose references are resolved: everything that was said before it, and the chain that it goes on.

    `asked` are the call's own items; `request` has the messages of all.
    """

    call: CreateCall
    request: Request
    thread: str
    past: tuple[Item, ...]
    asked: tuple[Item, ...]

    @property
    def tenant(self) -> str:
        """Whose response it is."""
        return self.request.principal.tenant

    def without(self, num_dropped: int) -> Request:
        """The request without the oldest turns: what stands before the `num_dropped`-th user's message, except what
        the system and the developer say."""
        items = (*self.past, *self.asked)
        starts = turn_starts(items)
        cut = starts[num_dropped]
        kept = [item for item in items[:cut] if item["type"] == "message" and item["role"] in ("system", "developer")]
        call = self.call
        return complete(self.request, call.instructions, [*kept, *items[cut:]], call.cache)


def turn_starts(items: tuple[Item, ...]) -> list[int]:
    """Where turns begin: at each message of the user."""
    return [index for index, item in enumerate(items) if item["type"] == "message" and item["role"] == "user"]


async def shortened(backend: Backend, prepared: Prepared) -> Request:
    """The request with as few of the oldest turns left out as make it fit; with the last turn alone if none does.

    Whether a request fits is asked a few times only: the more is left out, the better it fits.
    """
    low, high = 1, len(turn_starts((*prepared.past, *prepared.asked))) - 1
    if high < 1:
        return prepared.request
    while low < high:
        middle = (low + high) // 2
        if (await backend.probe(prepared.without(middle))).fits:
            high = middle
        else:
            low = middle + 1
    return prepared.without(low)


class Run:
    """A response that is being made."""

    def __init__(self, backend: Backend, clock: Clock, prepared: Prepared) -> None:
        self.prepared = prepared
        self.created = int(clock.unix_s())
        self.writer = ResponseWriter(prepared.call, self.created)
        self._backend = backend
        self._clock = clock
        self._events: AsyncGenerator[Event, None] | None = None

    async def open(self, *, is_queued: bool = False) -> list[ResponseEvent]:
        """Begin; the first events. Raises HeadraceError, in the caller's words, for what the backend does not admit."""
        try:
            started = await self._start()
        except HeadraceError as error:
            raise reword(error) from None
        first = self.writer.begin(is_queued=is_queued)
        return first + self.writer.take(started, self._now())

    async def _start(self) -> Event:
        try:
            return await self._ask(self.prepared.request)
        except ContextTooLong:
            if not self.prepared.call.truncates:
                raise
        return await self._ask(await shortened(self._backend, self.prepared))

    async def _ask(self, request: Request) -> Event:
        await self.close()
        self._events = self._backend.run(request)
        return await self._next()

    async def _next(self) -> Event:
        assert self._events is not None
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            raise EngineFault(
                "the backend ended the answer without saying that it was finished; send it again."
            ) from None

    async def advance(self, halt: Halt | None = None) -> list[ResponseEvent]:
        """What there is to say next, which may be nothing. Never raises HeadraceError: the response then fails."""
        try:
            event = await self._next()
            if halt is not None and halt.reason is not None:
                return self.writer.halt(halt.reason)
            return self.writer.take(event, self._now())
        except HeadraceError as error:
            return self.writer.fail(reword(error))

    async def close(self) -> None:
        """Let go of the backend's stream, if it is open."""
        events, self._events = self._events, None
        if events is not None:
            await events.aclose()

    def _now(self) -> int:
        return int(self._clock.unix_s())
