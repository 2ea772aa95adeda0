"""Who is sampled, what becomes of spans, and that a collector that fails costs spans and nothing else."""

import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from prometheus_client import CollectorRegistry
from tests.doubles import ManualClock
from tests.otlp_receiver import collecting

from headrace.core.tracing import Place, Span, SpanEvent, SpanKind, TraceContext
from headrace.observe.trace_export import ExportConfig, Exporter
from headrace.observe.traces import Tracing

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", is_sampled=True, state="a=b")


def tracing(spans: list[Span], ratio: float = 1.0) -> Tracing:
    draw = random.Random(5).getrandbits
    return Tracing(spans.append, sample_ratio=ratio, captures_content=False, clock=ManualClock(), draw=draw)


def span(place: Place, name: str = "work") -> Span:
    return Span(
        context=place.context,
        parent_id=place.parent_id,
        name=name,
        kind=SpanKind.INTERNAL,
        start_s=1000.5,
        end_s=1001.0,
        attributes={"a": 1, "b": ("x", "y")},
        events=(SpanEvent("happened", 1000.75, {"c": True}),),
        links=(CALLER,),
        error="overloaded",
    )


@given(st.floats(0, 1), st.integers(1, 2**128 - 1))
def test_a_trace_without_a_caller_is_sampled_as_opentelemetrys_own_sampler_does(ratio: float, number: int) -> None:
    made = Tracing(
        [].append, sample_ratio=ratio, captures_content=False, clock=ManualClock(), draw=lambda bits: number % 2**bits
    )
    place = made.begin(None)
    other = ParentBased(TraceIdRatioBased(ratio)).should_sample(None, int(place.context.trace_id, 16), "name")
    assert place.is_sampled is other.decision.is_sampled()
    assert place.parent_id is None


@pytest.mark.parametrize("is_sampled", [True, False])
def test_a_caller_decides_whether_and_never_who(is_sampled: bool) -> None:
    spans: list[Span] = []
    made = tracing(spans, ratio=0.0 if is_sampled else 1.0)
    place = made.begin(replace(CALLER, is_sampled=is_sampled))
    assert (place.context.trace_id, place.parent_id, place.is_sampled) == (CALLER.trace_id, CALLER.span_id, is_sampled)
    assert place.context.state == "a=b"
    below = place.child()
    assert below.parent_id == place.context.span_id
    assert len({CALLER.span_id, place.context.span_id, below.context.span_id}) == 3
    made.add(span(below))
    assert len(spans) == is_sampled


def outcomes(registry: CollectorRegistry) -> dict[str, float | None]:
    names = ("exported", "failed", "dropped")
    return {one: registry.get_sample_value("headrace:trace_spans_total", {"outcome": one}) for one in names}


def test_a_collector_gets_spans_as_they_are() -> None:
    spans: list[Span] = []
    place = tracing(spans).begin(CALLER)
    registry = CollectorRegistry()
    with collecting() as collector:
        config = ExportConfig(
            endpoint=collector.url + "/v1/traces",
            headers={"x-key": "secret"},
            resource={"service.name": "here"},
            delay_s=0.01,
        )
        exporter = Exporter(config)
        exporter.register(registry)
        exporter.start()
        exporter.add(span(place))
        (received,) = collector.wait(lambda found: len(found) == 1)
        exporter.close()
    assert collector.headers[0]["x-key"] == "secret"
    assert collector.headers[0]["path"] == "/v1/traces"
    assert "secret" not in repr(config)
    assert (received.service, received.name, received.kind) == ("here", "work", 1)
    assert (received.trace_id, received.span_id) == (CALLER.trace_id, place.context.span_id)
    assert (received.parent_id, received.state, received.error) == (CALLER.span_id, "a=b", "overloaded")
    assert (received.start_ns, received.end_ns) == (1_000_500_000_000, 1_001_000_000_000)
    assert received.attributes == {"a": 1, "b": ["x", "y"]}
    assert received.events == (("happened", {"c": True}),)
    assert received.links == ((CALLER.trace_id, CALLER.span_id),)
    assert outcomes(registry) == {"exported": 1, "failed": 0, "dropped": 0}


class Stuck(SpanExporter):
    """Says when it is asked and answers when it is let, as it is told to."""

    def __init__(self, *answers: SpanExportResult | Exception) -> None:
        self.asked, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.answers = list(answers)
        self.sizes: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sizes.append(len(spans))
        self.asked.release()
        assert self.go.acquire(timeout=30)
        answer = self.answers.pop(0) if self.answers else SpanExportResult.SUCCESS
        if isinstance(answer, Exception):
            raise answer
        return answer


def stuck(*answers: SpanExportResult | Exception, max_queue: int = 4) -> tuple[Exporter, Stuck, CollectorRegistry]:
    inner, registry = Stuck(*answers), CollectorRegistry()
    config = ExportConfig(endpoint="http://nowhere", delay_s=0.001, max_queue=max_queue, max_batch=2)
    exporter = Exporter(config, inner)
    exporter.register(registry)
    exporter.start()
    return exporter, inner, registry


def test_a_collector_that_hangs_costs_spans_that_are_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    exporter, inner, registry = stuck()
    place = tracing([]).begin(None)
    exporter.add(span(place))
    assert inner.asked.acquire(timeout=30)
    for _ in range(10):  # nobody waits: the collector has not answered
        exporter.add(span(place))
    assert outcomes(registry) == {"exported": 0, "failed": 0, "dropped": 6}
    assert registry.get_sample_value("headrace:trace_spans_waiting") == 4
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    for _ in range(5):
        inner.go.release()
    exporter.close(30)
    assert outcomes(registry) == {"exported": 5, "failed": 0, "dropped": 6}
    assert inner.sizes == [1, 2, 2]


def test_a_collector_that_refuses_is_told_once_and_once_more_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    failures = SpanExportResult.FAILURE, ConnectionError("gone"), SpanExportResult.FAILURE
    exporter, inner, registry = stuck(*failures)
    place = tracing([]).begin(None)
    for _ in range(4):
        exporter.add(span(place))
        inner.go.release()
        assert inner.asked.acquire(timeout=30)
    exporter.close(30)
    assert outcomes(registry) == {"exported": 1, "failed": 3, "dropped": 0}
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 2
    assert "does not take spans" in told[0] and "takes spans again" in told[1]


def test_nobody_at_the_address_is_no_defect() -> None:
    with collecting() as collector:
        url = collector.url
    registry = CollectorRegistry()
    exporter = Exporter(ExportConfig(endpoint=url, delay_s=0.001, timeout_s=0.2))
    exporter.register(registry)
    exporter.start()
    exporter.add(span(tracing([]).begin(None)))
    exporter.close(30)
    assert outcomes(registry) == {"exported": 0, "failed": 1, "dropped": 0}


def test_an_exporter_that_was_never_started_closes() -> None:
    exporter = Exporter(ExportConfig(endpoint="http://nowhere"), Stuck())
    exporter.close()
    exporter.add(span(tracing([]).begin(None)))
