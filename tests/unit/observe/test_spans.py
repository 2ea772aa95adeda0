"""What spans say: by the conventions' names, as OpenTelemetry's own library has them; content only where asked for."""

import json
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import (
    client_attributes,
    gen_ai_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.semconv.schemas import Schemas
from tests.doubles import ManualClock

from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import Input, Message, Request, Role, Task, TextPart, ToolCall
from headrace.core.tracing import Place, Span, TraceContext
from headrace.core.trust import Decision, Effect, ToolUse, Verdict
from headrace.core.usage import UsageRecord
from headrace.observe.logs import AccessRecord
from headrace.observe.spans import (
    MAX_CHARS,
    MAX_EVENTS,
    Asked,
    Content,
    EngineTimes,
    PassageFacts,
    attempt_span,
    model_spans,
    operation_of,
    passage_span,
    server_span,
)
from headrace.observe.telling import MAX_CONTENT_CHARS, Telling
from headrace.observe.trace_export import SCHEMA_URL
from headrace.observe.traces import Tracing

KNOWN = {
    value
    for module in (
        client_attributes, gen_ai_attributes, server_attributes, url_attributes, error_attributes, http_attributes
    )
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}  # fmt: skip
CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", is_sampled=True)
RECORD = UsageRecord(request_id="r", started_s=0.0, tenant="t", route="chat", backend="east", model="m")
ASKED = Asked(
    operation="chat",
    provider="openai",
    model="m",
    started_s=1000.0,
    ended_s=1003.0,
    first_s=1001.0,
    is_stream=True,
    response_model="m-1",
    usage=Usage(10, 5, cached_tokens=4, reasoning_tokens=2),
    finish_reasons=("stop",),
    content=Content("in", "out"),
)


def place(caller: TraceContext | None = CALLER) -> Place:
    numbers = iter(range(1, 1000))
    made = Tracing(
        [].append, sample_ratio=1.0, captures_content=False, clock=ManualClock(), draw=lambda _: next(numbers)
    )
    return made.begin(caller)


def every_span() -> list[Span]:
    access = AccessRecord(
        "req_1", "POST", route="/v1/x", status=500, outcome="engine_fault", tenant="t", key="k", client="10.0.0.1"
    )
    server = server_span(place(), access, 1000.0, "https")
    assert server is not None
    facts = PassageFacts(
        started_s=1000.0,
        ended_s=1001.0,
        reason="cheapest",
        record_id="rec_1",
        decisions=(Decision(action="request", resource="m", is_allowed=False, policies=("p",)),),
        verdicts=(Verdict(monitor="theft", version="1", score=0.5),),
        tools=(ToolUse(call_id="c", name="send", manifest="", arguments='{"secret": 1}', effect=Effect.WRITE),),
    )
    passage = passage_span(place(), replace(RECORD, outcome="policy_denied", cost_nanos=5, saved_nanos=2), facts)
    times = EngineTimes(arrived_s=1000.0, scheduled_s=1000.5, first_s=1001.0, last_s=1003.0, num_decode_steps=4)
    attempt = attempt_span(place(), ASKED, backend="east", address="h", port=443, tier=1)
    return [server, passage, attempt, *model_spans(place(), ASKED, times, {"headrace.usage.disk_tokens": 3})]


def test_every_attribute_is_one_of_the_conventions_or_ours() -> None:
    assert SCHEMA_URL in {schema.value for schema in Schemas}
    spans = every_span()
    names = {name for span in spans for name in span.attributes}
    names |= {name for span in spans for event in span.events for name in event.attributes}
    theirs = {name for name in names if not name.startswith("headrace.")}
    assert len(theirs) > 15
    assert theirs <= KNOWN
    assert ASKED.operation in {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    assert operation_of(Task.EMBED, is_chat=False) in {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    assert operation_of(Task.GENERATE, is_chat=False) == "text_completion"


def test_times_are_unix_times_and_phases_follow_each_other() -> None:
    *_, whole, queue, prefill, decode = every_span()
    assert (whole.start_s, whole.end_s) == (1000.0, 1003.0)
    assert [(one.start_s, one.end_s) for one in (queue, prefill, decode)] == [
        (1000.0, 1000.5),
        (1000.5, 1001.0),
        (1001.0, 1003.0),
    ]
    assert {one.parent_id for one in (queue, prefill, decode)} == {whole.context.span_id}
    assert whole.attributes["gen_ai.response.time_to_first_chunk"] == 1.0


@pytest.mark.parametrize(
    ("times", "phases"),
    [
        (None, []),
        (EngineTimes(arrived_s=1000.0), ["engine queue"]),
        (EngineTimes(arrived_s=1000.0, scheduled_s=1001.0), ["engine queue", "engine prefill"]),
    ],
)
def test_a_request_that_ended_early_has_the_phases_that_it_came_to(
    times: EngineTimes | None, phases: list[str]
) -> None:
    failed = replace(ASKED, error="deadline_exceeded")
    whole, *others = model_spans(place(), failed, times, {})
    assert [one.name for one in others] == phases
    assert whole.error == "deadline_exceeded"
    if others:
        assert (others[-1].end_s, others[-1].error) == (1003.0, "deadline_exceeded")
        assert all(one.error == "" for one in others[:-1])


def test_decisions_are_events_and_no_arguments_are_in_them() -> None:
    _, passage, *_ = every_span()
    assert [one.name for one in passage.events] == [
        "headrace.policy.decision",
        "headrace.monitor.verdict",
        "headrace.tool.call",
    ]
    assert passage.events[0].attributes["headrace.policy.outcome"] == "denied"
    assert "secret" not in repr(passage)
    assert passage.error == passage.attributes["error.type"] == "policy_denied"


def test_what_others_chose_is_bounded() -> None:
    verdicts = (Verdict(monitor="m" * 1000, version="1", score=1.0),) * 100
    facts = PassageFacts(started_s=0.0, ended_s=1.0, reason="r" * 1000, verdicts=verdicts)
    passage = passage_span(place(), replace(RECORD, route="x" * 1000, backend="y" * 1000), facts)
    assert len(passage.events) == MAX_EVENTS
    asked = attempt_span(place(), replace(ASKED, model="z" * 10_000), backend="b", address="h")
    texts = [passage.name, asked.name, *passage.attributes.values(), *passage.events[0].attributes.values()]
    texts += asked.attributes.values()
    assert max(len(one) for one in texts if isinstance(one, str)) <= MAX_CHARS + len("gateway ")


@pytest.mark.parametrize(
    ("status", "outcome", "error", "kind"),
    [
        (200, "ok", "", None),
        (200, "cancelled", "", None),
        (404, "model_not_found", "", "model_not_found"),
        (429, "rate_limit_exceeded", "", "rate_limit_exceeded"),
        (503, "overloaded", "overloaded", "overloaded"),
        (200, "upstream_fault", "upstream_fault", "upstream_fault"),  # inside a stream
    ],
)
def test_only_what_is_the_servers_fault_is_an_error_of_its_span(
    status: int, outcome: str, error: str, kind: str | None
) -> None:
    span = server_span(place(), AccessRecord("r", "POST", route="/v1/x", status=status, outcome=outcome), 0.0)
    assert span is not None
    assert (span.error, span.attributes.get("error.type")) == (error, kind)


def test_methods_that_clients_make_up_are_no_names() -> None:
    span = server_span(place(), AccessRecord("r", "bReW\n", route="other"), 0.0)
    assert span is not None
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP other", "_OTHER")


def test_an_estimate_is_not_told_as_usage() -> None:
    asked = replace(ASKED, usage=Usage(9, 9, is_estimated=True))
    assert not any("usage" in name for name in attempt_span(place(), asked, backend="b", address="h").attributes)


def said(*events: Event, captures: bool = True, **fields: Any) -> Telling:
    request = Request(id="r", model="m", **({"prompt": "Ask"} | fields))
    telling = Telling(request if captures else None)
    for event in events:
        telling.hear(event)
    return telling


EVENTS = (
    Started("r", "m-1", 3, 0, {}),
    ReasoningDelta(0, "Hm.", 1),
    TextDelta(0, "Yes", 1),
    TextDelta(1, "No", 1),
    TextDelta(0, ", sir", 2),
    ToolCallDelta(0, 0, '{"a"', 1, id="c1", name="send"),
    ToolCallDelta(0, 0, ":1}", 1),
    ChoiceFinished(0, FinishReason.TOOL_CALLS),
    ChoiceFinished(1, FinishReason.STOP),
    Finished(Usage(3, 6)),
)


def test_content_has_the_conventions_form() -> None:
    telling = said(*EVENTS)
    assert json.loads(telling.content().output) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Yes, sir"},
                {"type": "tool_call", "id": "c1", "name": "send", "arguments": '{"a":1}'},
            ],
            "finish_reason": "tool_calls",
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "No"}], "finish_reason": "stop"},
    ]
    assert (telling.response_model, telling.usage, telling.finish_reasons) == (
        "m-1",
        Usage(3, 6),
        ["tool_calls", "stop"],
    )


def test_without_being_asked_for_nothing_of_content_is_kept() -> None:
    telling = said(*EVENTS, captures=False)
    assert telling.content() == Content()
    assert telling.finish_reasons == ["tool_calls", "stop"]


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"prompt": "Ask"}, [("user", [{"type": "text", "content": "Ask"}])]),
        (
            {
                "prompt": None,
                "messages": (
                    Message(Role.SYSTEM, (TextPart("Be brief."),)),
                    Message(Role.ASSISTANT, (), tool_calls=(ToolCall("c", "f", "{}"),), reasoning="Hm"),
                    Message(Role.TOOL, (TextPart("42"),), tool_call_id="c"),
                ),
            },
            [
                ("system", [{"type": "text", "content": "Be brief."}]),
                (
                    "assistant",
                    [
                        {"type": "reasoning", "content": "Hm"},
                        {"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"},
                    ],
                ),
                ("tool", [{"type": "tool_call_response", "id": "c", "response": "42"}]),
            ],
        ),
        (
            {"prompt": None, "task": Task.SCORE, "inputs": (Input("a", "b"),)},
            [("user", [{"type": "text", "content": "a"}]), ("user", [{"type": "text", "content": "b"}])],
        ),
        ({"prompt": None, "tokens": (1, 2)}, None),
    ],
)
def test_input_is_told_as_it_was_asked(fields: dict[str, Any], parts: list[Any] | None) -> None:
    content = said(**fields).content()
    if parts is None:
        assert content == Content()
    else:
        assert json.loads(content.input) == [{"role": role, "parts": told} for role, told in parts]


def test_content_is_bounded() -> None:
    telling = said(*[TextDelta(0, "x" * 10_000, 1)] * 20, prompt="y" * 200_000)
    for text in (telling.content().input, telling.content().output):
        assert MAX_CONTENT_CHARS <= len(text) < MAX_CONTENT_CHARS + 200
