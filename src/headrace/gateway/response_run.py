"""One response while it is made: what it is asked with, the backend's stream, and the events that come of it.

Decides when a response begins, ends and how; saves nothing. Whoever makes a `Run` closes it.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.api.responses_events import ResponseWriter
from headrace.api.responses_items import CALLS, RESULTS, complete, is_read
from headrace.api.responses_service import CreateCall, Halt, Item, ResponseEvent, reword
from headrace.core.backend import Backend
from headrace.core.clock import Clock
from headrace.core.errors import ContextTooLong, EngineFault, HeadraceError
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.core.trust import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A call whose references are resolved: everything that was said before it, and the chain that it goes on.

    `asked` are the call's own items; `request` has the messages of all. `worth` is what items were labelled with where
    they were kept, by id, and `label` that of everything together; None: nobody labels.
    """

    call: CreateCall
    request: Request
    thread: str
    past: tuple[Item, ...]
    asked: tuple[Item, ...]
    worth: Mapping[str, Label] = field(default_factory=dict)
    label: Label | None = None

    @property
    def tenant(self) -> str:
        """Whose response it is."""
        return self.request.principal.tenant

    def since(self, cut: int) -> Request:
        """The request without what stands before an item, except what the system and the developer say, and the last
        thing that the user asked."""
        items = (*self.past, *self.asked)
        asked = max((index for index, item in enumerate(items) if _says(item, "user")), default=cut)
        kept = [item for index, item in enumerate(items[:cut]) if _says(item, "system", "developer") or index == asked]
        call = self.call
        # What was written with the beginning in sight is worth no more without it.
        worth = {**self.worth, **self.flows(items[cut:])}
        return complete(self.request, call.instructions, [*kept, *items[cut:]], call.cache, worth)

    def flows(self, items: Iterable[Item]) -> Mapping[str, Label]:
        """What items are worth that were written, or read, in sight of everything."""
        return {} if self.label is None else {item["id"]: self.label for item in items if is_read(item)}


def cuts(items: Sequence[Item]) -> list[int]:
    """Where a conversation may begin instead of at its first item: at a message of the user, and behind the last one
    wherever no result stands without its call."""
    users = [index for index, item in enumerate(items) if _says(item, "user")]
    found = users[1:]
    open_calls: set[str] = set()
    for index in range(users[-1] + 1 if users else 0, len(items)):
        item = items[index]
        is_result = item["type"] in RESULTS
        if index > 0 and not open_calls and not is_result and (not users or index > users[-1] + 1):
            found.append(index)
        if item["type"] in CALLS:
            open_calls.add(item["call_id"])
        elif is_result:
            open_calls.discard(item["call_id"])
    return found


def _says(item: Item, *roles: str) -> bool:
    return item["type"] == "message" and item["role"] in roles


async def shortened(
    backend: Backend, prepared: Prepared, asks: Callable[[Request], Request] = lambda request: request
) -> Request:
    """The request with as little of its beginning left out as makes it fit; with as much as can be if nothing does.

    What has to fit is what `asks` makes of it. It is tried a few times only: the more is left out, the better it fits.
    """
    places = cuts((*prepared.past, *prepared.asked))
    if not places:
        return prepared.request
    low, high = 0, len(places) - 1
    while low < high:
        middle = (low + high) // 2
        if (await backend.probe(asks(prepared.since(places[middle])))).fits:
            high = middle
        else:
            low = middle + 1
    return prepared.since(places[low])


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
