"""A collector on a loopback port that takes OTLP over HTTP, as OpenTelemetry's own protocol buffers read it."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """A span as it came. `kind` is OTLP's number: 1 internal, 2 server, 3 client."""

    service: str
    schema_url: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    links: tuple[tuple[str, str], ...]
    error: str


@dataclass
class Collector:
    """What was received. `status` is what requests are answered with; `gate` holds answers back until it is set."""

    status: int = 200
    gate: threading.Event = field(default_factory=threading.Event)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""
    _spans: list[Received] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        with self._changed:
            self.headers.append(headers)
            self.bodies.append(body)
            if self.status == 200:
                self._spans += read_spans(body)
            self._changed.notify_all()

    def wait(self, enough: Callable[[list[Received]], bool], bound_s: float = 30.0) -> list[Received]:
        """All spans, once there are enough."""
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self._spans), bound_s), [one.name for one in self._spans]
            return list(self._spans)

    def wait_asked(self, num_requests: int, bound_s: float = 30.0) -> None:
        """Until it was asked so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.bodies) >= num_requests, bound_s)


def read_spans(body: bytes) -> Iterator[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    service,
                    scope.schema_url,
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.trace_state,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    tuple((event.name, _attributes(event.attributes)) for event in span.events),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    span.status.message if span.status.code == 2 else "",
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting(*, is_open: bool = True) -> Iterator[Collector]:
    """A running collector; one that is not open answers nobody before its gate is set."""
    collector = Collector()
    if is_open:
        collector.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(body, {name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
            collector.gate.wait(30)
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
