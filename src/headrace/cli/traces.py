"""Opens traces: the table `[traces]` and OpenTelemetry's own variables together -> a tracer and its exporter, or none.

What the file says goes before the variables, of which these are read: OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER_ARG, and of OTEL_EXPORTER_OTLP_ (and
OTEL_EXPORTER_OTLP_TRACES_, which goes before it) ENDPOINT, HEADERS, TIMEOUT and PROTOCOL. Without an endpoint there are
no traces, and nothing of OpenTelemetry is imported. Source: https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from headrace.cli.secret_text import SecretText
from headrace.cli.trace_table import TraceTable
from headrace.core.clock import Clock
from headrace.core.errors import InvalidRequest
from headrace.gateway.settings import Secret

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from headrace.core.tracing import Tracer

TRACES_PATH: Final = "/v1/traces"
_OTLP: Final = "OTEL_EXPORTER_OTLP_"

_logger = logging.getLogger("headrace.traces")


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePlan:
    """What is to be opened. `endpoint` is the whole URL; `headers` may hold a credential."""

    endpoint: str
    headers: Mapping[str, str] = field(repr=False)
    resource: Mapping[str, str]
    sample_ratio: float
    captures_content: bool
    max_queue: int
    delay_s: float
    timeout_s: float


def plan_traces(
    table: TraceTable, environ: Mapping[str, str], secrets_by_place: Mapping[Secret, SecretText], version: str
) -> TracePlan | None:
    """What the file and the variables ask for; None: no traces. Raises InvalidRequest, which names the variable."""
    if not table.is_on or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    endpoint = _endpoint(table, environ)
    if endpoint is None:
        return None
    headers = {**_pairs(_otlp("HEADERS", environ), "OTEL_EXPORTER_OTLP_HEADERS"), **table.headers}
    if table.secret is not None:
        name, _, scheme = table.secret_header.partition(": ")
        headers[name] = f"{scheme} {secrets_by_place[table.secret].reveal()}".strip()
    resource = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""), "OTEL_RESOURCE_ATTRIBUTES", lowers=False)
    name = table.service or environ.get("OTEL_SERVICE_NAME", "").strip() or resource.get("service.name", "headrace")
    return TracePlan(
        endpoint=endpoint,
        headers=headers,
        resource={"service.version": version, **resource, "service.name": name},
        sample_ratio=table.sample_ratio if table.sample_ratio is not None else _ratio(environ),
        captures_content=table.captures_content,
        max_queue=table.max_queue,
        delay_s=table.delay_s,
        timeout_s=table.timeout_s or _timeout_s(environ),
    )


@contextmanager
def open_traces(plan: TracePlan | None, registry: "CollectorRegistry", clock: Clock) -> "Iterator[Tracer | None]":
    """What begins traces, while the block runs; what waits is sent at its end, for a few seconds at most."""
    if plan is None:
        yield None
        return
    from headrace.observe.trace_export import ExportConfig, Exporter
    from headrace.observe.traces import Tracing

    exporter = Exporter(
        ExportConfig(
            endpoint=plan.endpoint,
            headers=plan.headers,
            resource={**plan.resource, "service.instance.id": secrets.token_hex(8)},
            version=plan.resource["service.version"],
            timeout_s=plan.timeout_s,
            delay_s=plan.delay_s,
            max_queue=plan.max_queue,
        )
    )
    exporter.register(registry)
    exporter.start()
    try:
        yield Tracing(
            exporter.add,
            sample_ratio=plan.sample_ratio,
            captures_content=plan.captures_content,
            clock=clock,
            draw=secrets.randbits,
        )
    finally:
        exporter.close()


def _endpoint(table: TraceTable, environ: Mapping[str, str]) -> str | None:
    if table.endpoint:
        has_path = urlsplit(table.endpoint).path.strip("/")
        return table.endpoint if has_path else table.endpoint.rstrip("/") + TRACES_PATH
    given = environ.get(_OTLP + "TRACES_ENDPOINT", "").strip()
    general = environ.get(_OTLP + "ENDPOINT", "").strip().rstrip("/")
    endpoint = given or (general + TRACES_PATH if general else "")
    if not endpoint or environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none":
        return None
    if (protocol := _otlp("PROTOCOL", environ)) and protocol != "http/protobuf":
        _logger.warning(
            "there are no traces: OTEL_EXPORTER_OTLP_PROTOCOL is %r, and only http/protobuf is spoken here", protocol
        )
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidRequest(
            f"{_OTLP}ENDPOINT: {(given or general)[:100]!r} is no URL; give http://127.0.0.1:4318, say, or unset it."
        )
    return endpoint


def _otlp(name: str, environ: Mapping[str, str]) -> str:
    return environ.get(f"{_OTLP}TRACES_{name}", "").strip() or environ.get(_OTLP + name, "").strip()


def _pairs(text: str, variable: str, *, lowers: bool = True) -> dict[str, str]:
    """`a=1,b=2`, percent-encoded, as baggage is. What is wrong is not repeated: it may be a credential."""
    found = {}
    for member in filter(str.strip, text.split(",")):
        name, mark, value = member.partition("=")
        name, value = unquote(name.strip()), unquote(value.strip())
        if not mark or not name or not (name + value).isprintable():
            raise InvalidRequest(f"{variable}: has a member that is not NAME=VALUE; correct it, or unset it.")
        found[name.lower() if lowers else name] = value
    return found


def _ratio(environ: Mapping[str, str]) -> float:
    if not environ.get("OTEL_TRACES_SAMPLER", "").endswith("traceidratio"):
        return 1.0
    return _number("OTEL_TRACES_SAMPLER_ARG", environ.get("OTEL_TRACES_SAMPLER_ARG", "") or "1", 0.0, 1.0)


def _timeout_s(environ: Mapping[str, str]) -> float:
    """The specification says milliseconds."""
    return _number(_OTLP + "TIMEOUT", _otlp("TIMEOUT", environ) or "10000", 1.0, 600_000.0) / 1000


def _number(variable: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        raise InvalidRequest(f"{variable}: {text[:40]!r} is no number in [{low:g}, {high:g}]; correct it, or unset it.")
    return value
