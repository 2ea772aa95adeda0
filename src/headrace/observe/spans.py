"""Which spans a request has and what is in them: pure functions of what server, gateway and engine know when it ends.

    HTTP request (server)                                            server_span
      └ one passage through the gateway: route, decisions, cost      passage_span
          └ one attempt at a backend (client)                        attempt_span
              └ the model's own work: queue, prefill, decode         model_spans

Names are OpenTelemetry's where it has some (HTTP, and the conventions for generative AI, which are still in
development), and `headrace.` is before all others. Nothing that was asked or answered is in them but where `content`
is given. Callers choose names of models: those are cut. Knows no clock and no exporter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.events import Usage
from headrace.core.request import Task
from headrace.core.tracing import Attribute, Place, Span, SpanEvent, SpanKind
from headrace.core.trust import Decision, ToolUse, Verdict
from headrace.core.usage import NANOS, UsageRecord
from headrace.observe.logs import AccessRecord

MAX_CHARS: Final = 200
"""Of a name that somebody else chose."""
MAX_EVENTS: Final = 32
"""Of each kind, of one passage."""

_FINE: Final = frozenset({"ok", "cancelled"})
# Asked every few seconds by machines, or open for as long as somebody watches; told only where the caller traces it.
_QUIET: Final = frozenset({"/health", "/ready", "/metrics", "/v1/live"})
_OPERATIONS: Final = {Task.EMBED: "embeddings", Task.SCORE: "score", Task.COUNT: "count_tokens"}
_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


def operation_of(task: Task, *, is_chat: bool) -> str:
    """`gen_ai.operation.name`; the conventions have no names for scores and counts."""
    return _OPERATIONS.get(task) or ("chat" if is_chat else "text_completion")


@dataclass(frozen=True, slots=True)
class Content:
    """What was asked and answered, as JSON after the conventions' schema; empty: nothing."""

    input: str = ""
    output: str = ""


def server_span(place: Place, record: AccessRecord, started_s: float, scheme: str = "") -> Span | None:
    """Of one HTTP exchange or one turn of a WebSocket, which began at `started_s` (monotonic); None where nobody would
    look at it."""
    if record.route in _QUIET and place.parent_id is None:
        return None
    method = record.method if record.method in _METHODS else "_OTHER"
    found: dict[str, Attribute | None] = {
        "http.request.method": method,
        "http.route": record.route,
        "http.response.status_code": record.status or None,
        "url.scheme": scheme or None,
        "client.address": record.client,
        "headrace.request.id": record.request_id,
        "headrace.outcome": record.outcome,
        "headrace.tenant": record.tenant,
        "headrace.key": record.key,
    }
    error = "" if record.outcome in _FINE or 400 <= record.status < 500 else record.outcome
    if record.outcome not in _FINE:
        found["error.type"] = record.outcome
    is_turn = method == "_OTHER" and record.method.isupper()
    return Span(
        context=place.context,
        parent_id=place.parent_id,
        name=f"{record.method if is_turn else method.replace('_OTHER', 'HTTP')} {record.route}",
        kind=SpanKind.SERVER,
        start_s=place.unix(started_s),
        end_s=place.unix(started_s + record.duration_s),
        attributes=_given(found),
        error=error,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageFacts:
    """What a gateway knows of a passage beside its usage record. `started_s` and `ended_s` are monotonic."""

    started_s: float
    ended_s: float
    reason: str = ""
    record_id: str = ""
    decisions: Sequence[Decision] = ()
    verdicts: Sequence[Verdict] = ()
    tools: Sequence[ToolUse] = ()


def passage_span(place: Place, record: UsageRecord, facts: PassageFacts) -> Span:
    """Of one request's way through a gateway; what was decided on it are its events."""
    found: dict[str, Attribute | None] = {
        "headrace.answer.id": record.request_id,
        "headrace.route": record.route,
        "headrace.backend": record.backend,
        "headrace.reason": facts.reason,
        "headrace.outcome": record.outcome,
        "headrace.attempts": record.num_attempts,
        "headrace.cache": record.cache,
        "headrace.cost": record.cost_nanos / NANOS,
        "headrace.saved": record.saved_nanos / NANOS or None,
        "headrace.queue_s": record.queue_s,
        "headrace.overhead_s": record.overhead_s,
        "headrace.record.id": facts.record_id,
        "error.type": None if record.outcome in _FINE else record.outcome,
    }
    at_s = place.unix(facts.ended_s)
    events = [
        *(_decided(one, at_s) for one in facts.decisions[:MAX_EVENTS]),
        *(_judged(one, at_s) for one in facts.verdicts[:MAX_EVENTS]),
        *(_called(one, at_s) for one in facts.tools[:MAX_EVENTS]),
    ]
    return Span(
        context=place.context,
        parent_id=place.parent_id,
        name=f"gateway {record.route[:MAX_CHARS]}".rstrip(),
        kind=SpanKind.INTERNAL,
        start_s=place.unix(facts.started_s),
        end_s=at_s,
        attributes=_given(found),
        events=tuple(events),
        error="" if record.outcome in _FINE else record.outcome,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who was asked for what, and what came of it. `first_s` is when the first of the answer came; times are monotonic.
    `error` is the code of what it failed by, empty: it did not."""

    operation: str
    provider: str
    model: str
    started_s: float
    ended_s: float
    first_s: float | None = None
    is_stream: bool | None = None
    response_model: str = ""
    usage: Usage | None = None
    finish_reasons: tuple[str, ...] = ()
    error: str = ""
    content: Content = Content()


def attempt_span(
    place: Place, asked: Asked, *, backend: str, address: str = "", port: int | None = None, tier: int = 0
) -> Span:
    """Of one backend asked once. One without an `address` is of this process, and its model tells of itself."""
    more: dict[str, Attribute | None] = {
        "headrace.backend": backend,
        "headrace.tier": tier or None,
        "server.address": address,
        "server.port": port,
    }
    if not address:
        more |= {"headrace.model": asked.model, "error.type": asked.error}
        return _asked_span(place, asked, f"attempt {backend}", SpanKind.INTERNAL, _given(more))
    name = f"{asked.operation} {asked.model[:MAX_CHARS]}"
    return _asked_span(place, asked, name, SpanKind.CLIENT, _given({**_gen_ai(asked), **more}))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTimes:
    """When the engine came to a request (monotonic, None: it did not), in how many steps of its model."""

    arrived_s: float
    scheduled_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    num_prompt_steps: int = 0
    num_decode_steps: int = 0
    num_drawn: int = 0
    num_preempted: int = 0
    max_gap_s: float = 0.0


def model_spans(
    place: Place, asked: Asked, times: EngineTimes | None, facts: Mapping[str, Attribute]
) -> tuple[Span, ...]:
    """Of the model of this process: its work as a whole, and its phases as far as it came."""
    name = f"{asked.operation} {asked.model[:MAX_CHARS]}"
    whole = _asked_span(place, asked, name, SpanKind.INTERNAL, _given({**_gen_ai(asked), **facts}))
    if times is None:
        return (whole,)
    return (whole, *_phases(place, times, asked.ended_s, asked.error))


def _phases(place: Place, times: EngineTimes, ended_s: float, error: str) -> Iterable[Span]:
    marks = (times.arrived_s, times.scheduled_s, times.first_s, times.last_s)
    told: tuple[tuple[str, dict[str, Attribute | None]], ...] = (
        ("engine queue", {}),
        (
            "engine prefill",
            {"headrace.engine.steps": times.num_prompt_steps, "headrace.engine.preempted": times.num_preempted},
        ),
        (
            "engine decode",
            {
                "headrace.engine.steps": times.num_decode_steps,
                "headrace.engine.tokens": times.num_drawn,
                "headrace.engine.longest_gap_s": times.max_gap_s,
            },
        ),
    )
    for (name, attributes), start_s, end_s in zip(told, marks, marks[1:], strict=False):
        if start_s is None:
            return
        at = place.child()
        yield Span(
            context=at.context,
            parent_id=at.parent_id,
            name=name,
            kind=SpanKind.INTERNAL,
            start_s=at.unix(start_s),
            end_s=at.unix(ended_s if end_s is None else end_s),
            attributes=_given(attributes),
            error=error if end_s is None else "",
        )


def _asked_span(place: Place, asked: Asked, name: str, kind: SpanKind, attributes: Mapping[str, Attribute]) -> Span:
    return Span(
        context=place.context,
        parent_id=place.parent_id,
        name=name,
        kind=kind,
        start_s=place.unix(asked.started_s),
        end_s=place.unix(asked.ended_s),
        attributes=attributes,
        error="" if asked.error in _FINE else asked.error,
    )


def _gen_ai(asked: Asked) -> dict[str, Attribute | None]:
    usage = asked.usage
    first_s = asked.first_s
    found: dict[str, Attribute | None] = {
        "gen_ai.operation.name": asked.operation,
        "gen_ai.provider.name": asked.provider,
        "gen_ai.request.model": asked.model,
        "gen_ai.request.stream": asked.is_stream or None,
        "gen_ai.response.model": asked.response_model,
        "gen_ai.response.finish_reasons": asked.finish_reasons or None,
        "gen_ai.response.time_to_first_chunk": None if first_s is None else first_s - asked.started_s,
        "gen_ai.input.messages": asked.content.input,
        "gen_ai.output.messages": asked.content.output,
        "error.type": asked.error,
    }
    if usage is not None and not usage.is_estimated:
        found |= {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
        }
    return found


def _decided(decision: Decision, at_s: float) -> SpanEvent:
    outcome = "allowed" if decision.is_allowed else "denied" if decision.is_enforced else "would_be_denied"
    found: dict[str, Attribute | None] = {
        "headrace.policy.action": decision.action,
        "headrace.policy.outcome": outcome,
        "headrace.policy.ids": tuple(one[:MAX_CHARS] for one in decision.policies[:MAX_EVENTS]) or None,
    }
    return SpanEvent("headrace.policy.decision", at_s, _given(found))


def _judged(verdict: Verdict, at_s: float) -> SpanEvent:
    found: dict[str, Attribute | None] = {
        "headrace.monitor.name": verdict.monitor,
        "headrace.monitor.action": verdict.action,
        "headrace.monitor.score": verdict.score,
        "headrace.monitor.is_shadow": verdict.is_shadow,
    }
    return SpanEvent("headrace.monitor.verdict", at_s, _given(found))


def _called(tool: ToolUse, at_s: float) -> SpanEvent:
    found: dict[str, Attribute | None] = {
        "gen_ai.tool.name": tool.name,
        "gen_ai.tool.call.id": tool.call_id,
        "headrace.tool.effect": tool.effect.name.lower(),
        "headrace.tool.is_allowed": None if tool.decision is None else tool.decision.is_allowed,
    }
    return SpanEvent("headrace.tool.call", at_s, _given(found))


def _given(found: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    """What there is of them, names cut; content has a bound of its own."""
    return {
        name: value[:MAX_CHARS] if isinstance(value, str) and not name.endswith(".messages") else value
        for name, value in found.items()
        if value is not None and value != ""
    }
