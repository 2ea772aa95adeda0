"""Spans of a trace as values, and where in a trace somebody stands: what requests carry along while they are traced.

`TRACE` holds the place of whoever works on a request now; None, for everybody and at no cost, where traces are off. A
place is handed down by making a child of it, and what happened there is told once, at its end, as a `Span`. Knows no
exporter and no HTTP: `observe/traces.py` and `api/trace_context.py`.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Protocol

Attribute = str | bool | int | float | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Who somebody is in a trace: 32 and 16 lower-case hexadecimal digits, not all zero. `state` is what other systems
    keep there (W3C `tracestate`), passed on as it came."""

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""


class SpanKind(StrEnum):
    """Whose work a span is."""

    INTERNAL = "internal"
    SERVER = "server"  # for a caller
    CLIENT = "client"  # of another, waited for


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened in a span, at a moment in Unix seconds."""

    name: str
    at_s: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What was done, from `start_s` to `end_s` in Unix seconds. `error` says by what it failed, empty: it did not."""

    context: TraceContext
    parent_id: str | None
    name: str
    kind: SpanKind
    start_s: float
    end_s: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[TraceContext, ...] = ()
    error: str = ""


class Tracer(Protocol):
    """Begins traces and takes in spans. `captures_content`: what is asked and answered may be in them."""

    @property
    def captures_content(self) -> bool:
        """See above; False unless an operator asked for it."""
        ...

    def new_span_id(self) -> str:
        """16 hexadecimal digits that no other span of the trace has."""
        ...

    def begin(self, caller: TraceContext | None) -> "Place":
        """The first place of this process in a trace: the caller's, or a new one."""
        ...

    def add(self, span: Span) -> None:
        """Take in a span that is over. Never waits and never fails; what there is no room for is counted and lost."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a trace somebody stands: the span that is theirs to tell. `offset_s` makes Unix time of monotonic."""

    context: TraceContext
    parent_id: str | None
    tracer: Tracer
    offset_s: float

    @property
    def is_sampled(self) -> bool:
        """Whether spans are told; if not, the context is still passed on."""
        return self.context.is_sampled

    @property
    def captures_content(self) -> bool:
        """Whether a span may hold what was asked and answered."""
        return self.context.is_sampled and self.tracer.captures_content

    def child(self) -> "Place":
        """A place below this one."""
        context = replace(self.context, span_id=self.tracer.new_span_id())
        return Place(context, self.context.span_id, self.tracer, self.offset_s)

    def unix(self, monotonic_s: float) -> float:
        """A moment of the monotonic clock in Unix seconds."""
        return monotonic_s + self.offset_s


TRACE: Final[ContextVar[Place | None]] = ContextVar("headrace.trace", default=None)
"""The place of whoever works on a request in this context."""
