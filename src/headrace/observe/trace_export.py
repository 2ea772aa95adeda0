"""Sends spans to a collector: OTLP over HTTP, from a thread of its own, which nobody ever waits for.

Spans lie in a queue of bounded length until the thread takes some; what finds it full is counted and lost. A collector
that is slow, dead or refuses costs spans and nothing else: the log says so once, and again when it takes them again.
OpenTelemetry's libraries are imported here and nowhere else, so that a server without traces has none of them. Its own
log is off: it would say the same of every batch.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import SpanKind as OtelKind
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace.core.tracing import Span, SpanKind, TraceContext

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions that names of attributes are of."""

_KINDS: Final = {
    SpanKind.INTERNAL: OtelKind.INTERNAL,
    SpanKind.SERVER: OtelKind.SERVER,
    SpanKind.CLIENT: OtelKind.CLIENT,
}
_BILLION: Final = 1_000_000_000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Where spans go. `endpoint` is the whole URL. `headers` may hold a credential. A batch is sent after `delay_s`, or
    as soon as it has `max_batch` spans, and given up after `timeout_s`; `max_queue` spans may wait."""

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    resource: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    timeout_s: float = 10.0
    delay_s: float = 1.0
    max_queue: int = 4096
    max_batch: int = 512


class Exporter(Collector):
    """The queue and its thread. `start` it, `add` spans from any thread, `close` it at the end."""

    def __init__(self, config: ExportConfig, inner: SpanExporter | None = None) -> None:
        self._config = config
        self._inner = inner or open_exporter(config)
        self._resource = Resource(config.resource, SCHEMA_URL)
        self._scope = InstrumentationScope("headrace", config.version, SCHEMA_URL)
        self._queue: deque[Span] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_failing = self._has_dropped = False
        self._num_exported = self._num_failed = self._num_dropped = 0
        self._thread = threading.Thread(target=self._run, name="headrace-traces", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def register(self, registry: CollectorRegistry) -> None:
        """Tell of it in the metrics."""
        registry.register(self)

    def add(self, span: Span) -> None:
        """Queue a span; never waits for the collector."""
        with self._changed:
            if len(self._queue) < self._config.max_queue and not self._is_closing:
                self._queue.append(span)
                if len(self._queue) >= self._config.max_batch:
                    self._changed.notify()
                return
            self._num_dropped += 1
            is_first, self._has_dropped = not self._has_dropped, True
        if is_first:
            _logger.warning(
                "spans are lost: %d wait for the collector already; see headrace:trace_spans_total", len(self._queue)
            )

    def close(self, timeout_s: float = 3.0) -> None:
        """Send what waits, for so long at most, and stop."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        # A request that is still under way ends with its own time limit; the thread does not keep the process.
        self._inner.shutdown()

    def collect(self) -> Iterator[Metric]:
        """What became of spans, in Prometheus's shapes."""
        spans = CounterMetricFamily(
            "headrace:trace_spans",
            "Spans, by what became of them: exported, failed (the collector did not take them) or dropped (too many "
            "waited).",
            labels=("outcome",),
        )
        for outcome in ("exported", "failed", "dropped"):
            spans.add_metric((outcome,), getattr(self, f"_num_{outcome}"))
        yield spans
        yield GaugeMetricFamily("headrace:trace_spans_waiting", "Spans that wait to be sent.", len(self._queue))

    def _run(self) -> None:
        while batch := self._take():
            try:
                is_taken = self._inner.export(batch) is SpanExportResult.SUCCESS
            except Exception as error:
                # Whatever a collector and the way to it can do: a batch is lost, and the thread goes on.
                is_taken = False
                _logger.debug("spans could not be sent", exc_info=error)
            if is_taken:
                self._num_exported += len(batch)
            else:
                self._num_failed += len(batch)
            if is_taken is self._is_failing:
                self._is_failing = not is_taken
                said = "takes spans again" if is_taken else "does not take spans; requests go on without"
                _logger.warning("the collector at %s %s", self._config.endpoint, said)

    def _take(self) -> list[ReadableSpan]:
        """The next batch; empty: it is time to stop."""
        config, queue = self._config, self._queue
        with self._changed:
            while not queue and not self._is_closing:
                self._changed.wait(config.delay_s)
            if len(queue) < config.max_batch and not self._is_closing:
                self._changed.wait(config.delay_s)
            spans = [queue.popleft() for _ in range(min(len(queue), config.max_batch))]
            self._has_dropped = self._has_dropped and bool(queue)
        return [self._made(span) for span in spans]

    def _made(self, span: Span) -> ReadableSpan:
        context = _context(span.context, is_remote=False)
        parent = None
        if span.parent_id is not None:
            parent = _context(TraceContext(span.context.trace_id, span.parent_id, is_sampled=True), is_remote=False)
        status = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET)
        return ReadableSpan(
            name=span.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[Event(one.name, dict(one.attributes), _nanos(one.at_s)) for one in span.events],
            links=[Link(_context(one, is_remote=True)) for one in span.links],
            kind=_KINDS[span.kind],
            status=status,
            start_time=_nanos(span.start_s),
            end_time=_nanos(span.end_s),
            instrumentation_scope=self._scope,
        )


def open_exporter(config: ExportConfig) -> SpanExporter:
    """OTLP over HTTP, protobuf. All that it could read from the environment is given to it."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False  # neither proxies nor credentials from files that nobody named
    return OTLPSpanExporter(
        endpoint=config.endpoint,
        headers={**config.headers},
        timeout=config.timeout_s,
        compression=Compression.Gzip,
        session=session,
    )


def _context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    state = TraceState.from_header([context.state]) if context.state else None
    return SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote, TraceFlags(int(context.is_sampled)), state
    )


def _nanos(unix_s: float) -> int:
    return int(unix_s * _BILLION)
