"""What a gateway tells of requests in a trace: one span for each passage, and one below it for each attempt.

A passage that nobody traces has none of this. The context goes on to backends whether or not spans are told: `TRACE`
holds an attempt's place while its backend is asked. Knows no exporter; what is in a span is `observe/spans.py`'s.
"""

from asyncio import CancelledError
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.events import Event, Usage
from headrace.core.gateway import Ask
from headrace.core.request import Request
from headrace.core.tracing import TRACE, Place, Span, SpanKind, TraceContext, Tracer
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Candidate, Case
from headrace.gateway.settings import ENGINE, BackendSettings
from headrace.gateway.upstreams.address import read_url
from headrace.observe.spans import Asked, PassageFacts, attempt_span, operation_of, passage_span
from headrace.observe.telling import Telling

MAX_ORIGINS: Final = 1000
"""Batches whose orders are remembered."""

# Kinds of backends whose names in the conventions are others.
_PROVIDERS: Final = {
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
}


@dataclass(frozen=True, slots=True)
class PassageTrace:
    """Where one passage stands. `backends` are the settings of those that it may meet."""

    place: Place
    backends: Mapping[str, BackendSettings]

    @classmethod
    def begin(cls, backends: Mapping[str, BackendSettings]) -> "PassageTrace | None":
        """Of a request that has come; None: nobody traces it."""
        place = TRACE.get()
        return None if place is None else cls(place.child(), backends)

    @property
    def captures_content(self) -> bool:
        """Whether answers are to be seen, so that no bytes pass unread."""
        return self.place.captures_content

    def attempt(self, ask: Ask, candidate: Candidate, started_s: float, request: Request | None) -> "AttemptTrace":
        """A target is about to be asked; `request` is given where content is captured."""
        return AttemptTrace(self, ask, candidate, started_s, request)

    def end(self, record: UsageRecord, started_s: float, reason: str, case: Case | None) -> None:
        """The passage is settled; the times of its record are told."""
        if not self.place.is_sampled:
            return
        receipt = None if case is None else case.taken.receipt
        facts = PassageFacts(
            started_s=started_s,
            ended_s=started_s + record.duration_s,
            reason=reason,
            record_id="" if receipt is None else receipt.id,
            decisions=() if case is None else tuple(case.decisions),
            verdicts=() if case is None else tuple(case.verdicts),
            tools=() if case is None else tuple(case.tools),
        )
        self.place.tracer.add(passage_span(self.place, record, facts))


class AttemptTrace:
    """Where one attempt stands, and what was told of its answer."""

    __slots__ = ("_ask", "_backend", "_candidate", "_first_s", "_started_s", "_telling", "place")

    def __init__(
        self, passage: PassageTrace, ask: Ask, candidate: Candidate, started_s: float, request: Request | None
    ) -> None:
        self.place = passage.place.child()
        self._ask = ask
        self._candidate = candidate
        self._backend = passage.backends.get(candidate.target.backend)
        self._started_s = started_s
        self._first_s: float | None = None
        # The engine tells its own content.
        self._telling = Telling(None if candidate.target.backend == ENGINE else request)

    def first(self, now_s: float) -> None:
        """The first of its answer is here."""
        self._first_s = now_s

    def hear(self, event: Event) -> None:
        """An event of its answer."""
        self._telling.hear(event)

    def end(self, usage: Usage | None, error: BaseException | None, now_s: float) -> None:
        """It is over."""
        if not self.place.is_sampled:
            return
        shape, telling, candidate = self._ask.shape, self._telling, self._candidate
        raw = self._ask.raw
        asked = Asked(
            operation=operation_of(shape.task, is_chat=raw is None or raw.dialect != "completions"),
            provider=_provider(self._backend),
            model=candidate.target.model,
            started_s=self._started_s,
            ended_s=now_s,
            first_s=self._first_s,
            is_stream=shape.is_stream,
            response_model=telling.response_model,
            usage=usage or telling.usage,
            finish_reasons=tuple(telling.finish_reasons),
            error=_code(error),
            content=telling.content(),
        )
        backend = candidate.target.backend
        host, port = ("", None) if self._backend is None else _address(self._backend.url)
        span = attempt_span(self.place, asked, backend=backend, address=host, port=port, tier=candidate.tier)
        self.place.tracer.add(span)


class LineTrace:
    """A line of a batch, which is a trace of its own: who ordered it has long been answered when it runs. It is linked
    to the request that did, where this process still knows it."""

    __slots__ = ("_clock", "_names", "_origin", "_place", "_started_s")

    def __init__(self, tracer: Tracer, origin: TraceContext | None, clock: Clock, names: tuple[str, int]) -> None:
        self._place = tracer.begin(None)
        self._origin = origin
        self._clock = clock
        self._names = names
        self._started_s = clock.monotonic_s()
        TRACE.set(self._place)  # in the line's own task

    def end(self, *, is_failed: bool) -> None:
        """It is over, and written down; what it failed by, the spans below it tell."""
        place, (batch_id, number) = self._place, self._names
        place.tracer.add(
            Span(
                context=place.context,
                parent_id=None,
                name="batch line",
                kind=SpanKind.INTERNAL,
                start_s=place.unix(self._started_s),
                end_s=place.unix(self._clock.monotonic_s()),
                attributes={"headrace.batch.id": batch_id, "headrace.batch.line": number},
                links=() if self._origin is None else (self._origin,),
                error="failed" if is_failed else "",
            )
        )


class Origins:
    """Which request ordered which batch, of those that were ordered lately and traced."""

    def __init__(self) -> None:
        self._known: dict[str, TraceContext] = {}

    def note(self, batch_id: str) -> None:
        """The request of this context has ordered it."""
        if (place := TRACE.get()) is not None:
            self._known[batch_id] = place.context
            if len(self._known) > MAX_ORIGINS:
                del self._known[next(iter(self._known))]

    def find(self, batch_id: str) -> TraceContext | None:
        """Who ordered it, if that is known."""
        return self._known.get(batch_id)


def _provider(backend: BackendSettings | None) -> str:
    kind = "" if backend is None else backend.kind
    return _PROVIDERS.get(kind, kind)


def _code(error: BaseException | None) -> str:
    if error is None:
        return ""
    if isinstance(error, (CancelledError, GeneratorExit)):
        return "cancelled"
    return error.code if isinstance(error, HeadraceError) else "internal_error"


@lru_cache(maxsize=256)
def _address(url: str) -> tuple[str, int | None]:
    if not url:
        return "", None
    address = read_url(url)
    return address.host, address.port
