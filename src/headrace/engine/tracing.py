"""What the model of this process tells of a request in a trace: one span of its work, and one for each phase.

Begun where a request arrives, told when its events have ended, whichever way. Knows no exporter.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, Protocol

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.core.tracing import TRACE, Attribute, Place
from headrace.observe.spans import Asked, EngineTimes, model_spans, operation_of
from headrace.observe.telling import Telling

PROVIDER: Final = "headrace"


class Timed(Protocol):
    """An answer that knows when the engine came to it."""

    @property
    def times(self) -> EngineTimes | None:
        """As far as it is known."""
        ...


class WorkTrace:
    """One request's."""

    __slots__ = ("_answer", "_clock", "_place", "_request", "_started_s", "_telling")

    def __init__(self, place: Place, request: Request, clock: Clock) -> None:
        self._place = place
        self._request = request
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._answer: Timed | None = None
        self._telling = Telling(request if place.captures_content else None)

    @classmethod
    def begin(cls, request: Request, clock: Clock) -> "WorkTrace | None":
        """Of a request that has arrived; None: nobody wants to know."""
        place = TRACE.get()
        return None if place is None or not place.is_sampled else cls(place.child(), request, clock)

    def follow(self, answer: Timed) -> None:
        """This is its answer."""
        self._answer = answer

    async def around(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The same events; when they have ended, the spans are told."""
        error = "cancelled"
        try:
            async with aclosing(events):
                async for event in events:
                    self._telling.hear(event)
                    yield event
            error = ""
        except HeadraceError as failure:
            error = failure.code
            raise
        finally:
            self._end(error)

    def _end(self, error: str) -> None:
        request, telling, answer = self._request, self._telling, self._answer
        usage = telling.usage
        times = None if answer is None else answer.times
        asked = Asked(
            operation=operation_of(request.task, is_chat=request.messages is not None),
            provider=PROVIDER,
            model=request.model,
            started_s=self._started_s,
            ended_s=self._clock.monotonic_s(),
            first_s=None if times is None else times.first_s,
            response_model=telling.response_model,
            usage=usage,
            finish_reasons=tuple(telling.finish_reasons),
            error=error,
            content=telling.content(),
        )
        facts: dict[str, Attribute] = {}
        if usage is not None and usage.disk_tokens:
            facts["headrace.usage.disk_tokens"] = usage.disk_tokens
        for span in model_spans(self._place, asked, times, facts):
            self._place.tracer.add(span)
