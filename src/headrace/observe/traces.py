"""Begins traces: who is sampled, and under which ids. Spans go on to whoever exports them.

A caller's own decision is kept, and where there is none a share of traces is taken by their ids, so that every process
that sees an id decides alike (OpenTelemetry's sampler "parentbased_traceidratio"). A caller decides of nothing else.
Knows no HTTP, no requests and no exporter but its `take`.
"""

from collections.abc import Callable

from headrace.core.clock import Clock
from headrace.core.tracing import Place, Span, TraceContext

_RANDOM_BITS = 64  # of a trace's id: those that the share is taken by


class Tracing:
    """Implements `core.tracing.Tracer`. `draw` gives so many random bits; `take` gets every span that is told."""

    def __init__(
        self,
        take: Callable[[Span], None],
        *,
        sample_ratio: float,
        captures_content: bool,
        clock: Clock,
        draw: Callable[[int], int],
    ) -> None:
        self._take = take
        self._bound = round(sample_ratio * 2**_RANDOM_BITS)
        self._captures_content = captures_content
        self._clock = clock
        self._draw = draw

    @property
    def captures_content(self) -> bool:
        """Whether spans may hold what was asked and answered."""
        return self._captures_content

    def new_span_id(self) -> str:
        """16 hexadecimal digits."""
        return f"{self._draw(64) or 1:016x}"

    def begin(self, caller: TraceContext | None) -> Place:
        """The first place of this process in a trace: below the caller's, or at the root of a new one."""
        offset_s = self._clock.unix_s() - self._clock.monotonic_s()
        if caller is not None:
            context = TraceContext(caller.trace_id, self.new_span_id(), caller.is_sampled, caller.state)
            return Place(context, caller.span_id, self, offset_s)
        number = self._draw(128) or 1
        is_sampled = number & (2**_RANDOM_BITS - 1) < self._bound
        return Place(TraceContext(f"{number:032x}", self.new_span_id(), is_sampled), None, self, offset_s)

    def add(self, span: Span) -> None:
        """Take in a span that is over."""
        if span.context.is_sampled:
            self._take(span)
