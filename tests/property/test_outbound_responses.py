"""A response as a backend tells it: what our server writes is read back, what is asked is read alike, and what passes
through is what was sent."""

import json
from dataclasses import replace
from typing import Any, get_type_hints

import msgspec
import pytest
from fuzz.outbound_codec import RESPONSE_STREAMS, check_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from headrace.api.openai import Caller
from headrace.api.outbound.codec import Quirks
from headrace.api.outbound.frames import FrameParser
from headrace.api.outbound.responses import RESPONSES
from headrace.api.responses import decode_create
from headrace.api.responses_events import ResponseWriter
from headrace.api.responses_service import CreateCall
from headrace.core.errors import InvalidRequest, RateLimited, UnsupportedField, UpstreamFault
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.gateway import RawBody
from headrace.core.request import (
    Effort,
    FormatKind,
    Limits,
    Message,
    Principal,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)

OFFICIAL = TypeAdapter[Any](ResponseCreateParamsStreaming)
OFFICIAL_NAMES = get_type_hints(ResponseCreateParamsStreaming).keys()
CALLER = Caller(request_id="resp_1", principal=Principal())
ASKED = Request(id="resp_1", model="m", messages=(Message(Role.USER, (TextPart("Hi"),)),), logprobs=2)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


def call(**fields: Any) -> CreateCall:
    tools = [{"type": "function", "name": "f"}]
    return decode_create(msgspec.json.encode({"model": "m", "input": "x", "tools": tools} | fields), CALLER)


def logprob(text: str) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), -1.0, (("x", b"x", -2.0),))


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Any answer: runs of text, of thoughts and of calls in any order. Pieces of one call stand together."""
    events: list[Event] = [Started("resp_1", "m", 0)]
    num_calls = 0
    for kind in draw(st.lists(st.sampled_from("trf"), max_size=6)):
        pieces = draw(st.lists(TEXTS, min_size=1, max_size=3))
        if kind == "t":
            events += [TextDelta(0, piece, 1, (logprob(piece),)) for piece in pieces]
        elif kind == "r":
            events += [ReasoningDelta(0, piece, 1) for piece in pieces]
        else:
            events.append(ToolCallDelta(0, num_calls, "", 1, f"call_{num_calls}", "f"))
            events += [ToolCallDelta(0, num_calls, piece, 1) for piece in pieces]
            num_calls += 1
    reason = FinishReason.TOOL_CALLS if num_calls else draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
    usage = Usage(9, 5, draw(st.integers(0, 4)), 0, ((1800.0, 3),), draw(st.integers(0, 5)))
    return [*events, ChoiceFinished(0, reason), Finished(usage)]


def sent_by_us(events: list[Event], asked: CreateCall) -> bytes:
    writer = ResponseWriter(asked, 100)
    told = writer.begin()
    for event in events:
        told += writer.take(event, 101)
    frames = [b"event: %s\ndata: %s\n\n" % (one.type.encode(), one.data) for one in told]
    return b"".join(frames) + b"data: [DONE]\n\n"


@given(answers(), st.integers(1, 400), st.booleans())
@settings(deadline=None)
def test_a_reader_reads_back_whatever_our_server_writes(events: list[Event], step: int, summarizes: bool) -> None:
    settings_ = {"reasoning": {"summary": "auto"}} if summarizes else {}
    asked = call(include=["message.output_text.logprobs"], top_logprobs=1, **settings_)
    sent = sent_by_us(events, asked)
    reader, parser = RESPONSES.reader(ASKED, "m"), FrameParser()
    found: list[Event] = []
    for start in range(0, len(sent), step):
        for name, data in parser.feed(sent[start : start + step]):
            found += reader.feed(name, data)
    assert reader.is_done
    assert reader.end() == []
    assert [
        replace(one, prompt_tokens=0, cached_tokens=0, cache_writes=()) if isinstance(one, Started) else one
        for one in found
    ] == events


@given(answers(), st.integers(1, 400))
@settings(deadline=None)
def test_a_scanner_passes_on_what_was_sent_and_finds_the_usage(events: list[Event], step: int) -> None:
    sent = sent_by_us(events, call())
    scanner = RESPONSES.scanner(RawBody(dialect="responses", path="", fields={}))
    assert b"".join(scanner.feed(sent[start : start + step]) for start in range(0, len(sent), step)) == sent
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert scanner.usage == finished.usage
    assert scanner.is_done
    assert scanner.can_end


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
TOOLS = st.lists(
    st.builds(Tool, st.sampled_from("fgh"), WORDS, st.just(SCHEMA), st.booleans()),
    max_size=3,
    unique_by=lambda tool: tool.name,
)


@st.composite
def asked_responses(draw: st.DrawFn) -> Request:
    tools = tuple(draw(TOOLS))
    modes = [ToolMode.AUTO, ToolMode.NONE, ToolMode.REQUIRED] if tools else [ToolMode.AUTO]
    choice = ToolChoice(draw(st.sampled_from(modes)), max_calls=draw(st.sampled_from([None, 1])) if tools else None)
    if choice.mode is ToolMode.REQUIRED and len(tools) == 1:
        choice = replace(choice, names=(tools[0].name,), max_calls=1)
    formats = [ResponseFormat(), ResponseFormat(FormatKind.JSON_OBJECT), ResponseFormat(FormatKind.JSON_SCHEMA, SCHEMA)]
    return Request(
        id="resp_1",
        model="m",
        messages=(Message(Role.SYSTEM, (TextPart("Be brief."),)), Message(Role.USER, (TextPart(draw(WORDS)),))),
        tools=tools,
        tool_choice=choice,
        sampling=Sampling(temperature=draw(st.floats(0, 2)), top_p=draw(st.floats(0.1, 1))),
        limits=Limits(max_tokens=draw(st.none() | st.integers(1, 9))),
        response_format=draw(st.sampled_from(formats)),
        reasoning=Reasoning(draw(st.none() | st.sampled_from(Effort))),
        logprobs=draw(st.none() | st.integers(0, 5)),
    )


@given(asked_responses())
@settings(deadline=None)
def test_another_headrace_reads_what_was_asked_and_the_official_types_know_it(request: Request) -> None:
    sent = RESPONSES.encode(request, "m", Quirks())
    assert (sent.path, sent.is_stream) == ("/responses", True)
    body = json.loads(sent.body)
    OFFICIAL.validate_python(body)
    assert body.keys() <= OFFICIAL_NAMES
    assert body["store"] is False
    read = decode_create(sent.body, CALLER)
    assert (read.stream, read.store, read.instructions) == (True, False, "Be brief.")
    # What a conversation was is put together by the service; the new items are what the user said.
    assert [item["content"][0]["text"] for item in read.items] == [message.text for message in request.messages or ()][
        1:
    ]
    assert replace(read.request, messages=None) == replace(request, messages=None)


def test_earlier_turns_become_items() -> None:
    messages = (
        Message(Role.USER, (TextPart("a"),)),
        Message(Role.ASSISTANT, (TextPart("b"),), tool_calls=(ToolCall("c1", "f", "{}"),), reasoning="hm"),
        Message(Role.TOOL, (TextPart("d"),), tool_call_id="c1"),
        Message(Role.DEVELOPER, (TextPart("e"),)),
    )
    items = [
        {"type": "message", "role": "user", "content": "a"},
        {"type": "message", "role": "assistant", "content": "b"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "d"},
        {"type": "message", "role": "developer", "content": "e"},
    ]
    asked = replace(ASKED, messages=messages, logprobs=None)
    assert json.loads(RESPONSES.encode(asked, "m", Quirks()).body)["input"] == items
    knowing = RESPONSES.encode(asked, "m", Quirks(knows=frozenset({"input.reasoning"})))
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    assert json.loads(knowing.body)["input"] == [items[0], thought, *items[1:]]
    assert decode_create(knowing.body, CALLER).items


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("stop", replace(ASKED, limits=Limits(stop=("x",)))),
        ("n", replace(ASKED, sampling=Sampling(num_choices=2))),
        ("seed", replace(ASKED, sampling=Sampling(seed=1))),
        ("top_k", replace(ASKED, sampling=Sampling(top_k=1))),
        ("logit_bias", replace(ASKED, sampling=Sampling(logit_bias=((1, 1.0),)))),
        ("prompt", replace(ASKED, messages=None, prompt="x")),
        ("response_format", replace(ASKED, response_format=ResponseFormat(FormatKind.REGEX, source="a"))),
        ("max_tokens", replace(ASKED, limits=Limits(max_tokens=0))),
    ],
)
def test_what_the_protocol_cannot_say_is_refused_by_name(field: str, request_: Request) -> None:
    with pytest.raises(UnsupportedField) as raised:
        RESPONSES.encode(request_, "m", Quirks())
    assert raised.value.param == field


def test_a_count_is_asked_for_and_read() -> None:
    asked = replace(ASKED, task=Task.COUNT, logprobs=None)
    sent = RESPONSES.encode(asked, "m", Quirks())
    assert (sent.path, sent.is_stream) == ("/responses/input_tokens", False)
    body = b'{"object":"response.input_tokens","input_tokens":7}'
    assert list(RESPONSES.decode(asked, "m", body)) == [Started("resp_1", "m", 7), Finished(Usage(7, 0))]
    with pytest.raises(UpstreamFault):
        RESPONSES.decode(asked, "m", b"{}")


def read(*told: dict[str, Any]) -> list[Event]:
    reader = RESPONSES.reader(ASKED, "m")
    return [event for one in told for event in reader.feed("", json.dumps(one).encode())] + reader.end()


COMPLETED = {
    "type": "response.completed",
    "response": {"status": "completed", "usage": {"input_tokens": 5, "output_tokens": 2}},
}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}


def test_whole_items_stand_in_for_deltas_that_were_not_sent() -> None:
    added = {"type": "response.output_item.added", "output_index": 0, "item": CALL}
    piece = {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a"'}
    done = {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": '{"a":1}'}
    ended = {"type": "response.output_item.done", "output_index": 0, "item": CALL | {"arguments": '{"a":1}'}}
    for told in ([added, piece, done, ended], [added, done], [ended], [added, piece, ended]):
        calls = [event for event in read(*told, COMPLETED) if isinstance(event, ToolCallDelta)]
        assert [(one.id, one.name) for one in calls] == [("c", "f")] + [(None, None)] * (len(calls) - 1)
        assert "".join(one.arguments for one in calls) == '{"a":1}'


def test_a_response_that_is_told_at_once_is_read() -> None:
    output = [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "web_search_call", "status": "completed"},
        {"type": "message", "content": [{"type": "output_text", "text": "x"}, {"type": "refusal", "refusal": "no"}]},
    ]
    whole = COMPLETED | {"response": {"status": "completed", "output": output}}
    events = read(whole)
    assert events[1:5] == [
        ReasoningDelta(0, "hm", 1),
        TextDelta(0, "x", 1),
        TextDelta(0, "no", 1),
        ChoiceFinished(0, FinishReason.FILTERED),
    ]


def test_parts_of_a_summary_are_set_apart_and_never_told_twice() -> None:
    first = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "a"}
    twice = {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "a"}
    events = read(first, twice, first | {"summary_index": 1, "delta": "b"}, COMPLETED)
    assert [one.text for one in events if isinstance(one, ReasoningDelta)] == ["a", "\n\nb"]


FAILED = {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "slow"}}}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (FAILED, RateLimited),
        ({"type": "error", "code": "server_error", "message": "boom"}, UpstreamFault),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}, InvalidRequest),
        ({"type": "response.output_text.delta", "delta": 5}, UpstreamFault),
        ({"type": "response.function_call_arguments.delta", "output_index": 3, "delta": "x"}, UpstreamFault),
        ({"type": "response.incomplete", "response": {"incomplete_details": {"reason": "?"}}}, UpstreamFault),
        ({"type": "response.created"}, UpstreamFault),
    ],
)
def test_a_response_that_fails_is_an_error(told: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        read(told)
    assert type(raised.value) is kind


def test_a_scanner_raises_an_error_that_comes_first_and_passes_a_later_one() -> None:
    failure = b"event: response.failed\ndata: " + json.dumps(FAILED).encode() + b"\n\n"
    raw = RawBody(dialect="responses", path="", fields={})
    with pytest.raises(RateLimited):
        RESPONSES.scanner(raw).feed(failure)
    scanner = RESPONSES.scanner(raw)
    scanner.feed(b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n')
    assert not scanner.can_end
    assert scanner.feed(failure) == failure
    with pytest.raises(UpstreamFault):
        RESPONSES.scanner(raw).feed(b'data: {"choices":[]}\n\n')
    scanner = RESPONSES.scanner(raw)
    assert scanner.feed(b": working\n\n") == b""
    with pytest.raises(RateLimited):
        scanner.feed(failure)


def test_a_body_passes_through_but_for_what_a_gateway_may_change() -> None:
    fields = {"model": b'"route"', "input": b'"Hi"', "x": b'{"a": 1.50}', "stream": b"true"}
    raw = RawBody(dialect="responses", path="", fields=fields)
    sent = RESPONSES.reframe(raw, "big", 50, Quirks())
    assert sent.body == b'{"model":"big","input":"Hi","x":{"a": 1.50},"stream":true,"max_output_tokens":50}'
    assert (sent.path, sent.is_stream) == ("/responses", True)
    lower = RESPONSES.reframe(replace(raw, fields=fields | {"max_output_tokens": b"20"}), "big", 50, Quirks())
    assert b'"max_output_tokens":20' in lower.body
    with pytest.raises(InvalidRequest, match=r"^max_output_tokens: "):
        RESPONSES.reframe(replace(raw, fields=fields | {"max_output_tokens": b'"x"'}), "big", 50, Quirks())


def test_a_whole_response_tells_its_usage() -> None:
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2}
    body = {"object": "response", "output": [], "usage": usage | {"output_tokens_details": {"reasoning_tokens": 1}}}
    assert RESPONSES.usage_of(json.dumps(body).encode()) == Usage(9, 2, 4, reasoning_tokens=1)
    with pytest.raises(RateLimited):
        RESPONSES.usage_of(b'{"error":{"code":429,"message":"slow"}}')
    with pytest.raises(UpstreamFault):
        RESPONSES.usage_of(b"{}")


@given(st.sampled_from(RESPONSE_STREAMS), st.integers(0, 900), st.integers(0, 30), st.binary(max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_damaged_stream_is_read_or_is_a_fault_of_the_backend(
    seed: bytes, start: int, length: int, patch: bytes
) -> None:
    check_stream(RESPONSES, seed[:start] + patch + seed[start + length :])


def test_a_stream_made_of_the_official_types_is_read() -> None:
    """Each event is built by the official client's own class, which refuses what the API would not send."""
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "f",
        "arguments": "",
        "status": "in_progress",
    }
    usage = {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 4},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 28,
    }
    response = {
        "id": "resp_9",
        "object": "response",
        "created_at": 1,
        "model": "gpt",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "status": "completed",
        "usage": usage,
    }
    where = {"item_id": "x", "output_index": 1, "content_index": 0}
    place = {"item_id": "fc_1", "output_index": 2}
    told = [
        ("response.created", {"response": response | {"status": "in_progress", "usage": None}}),
        (
            "response.reasoning_summary_text.delta",
            {"item_id": "r", "output_index": 0, "summary_index": 0, "delta": "hm"},
        ),
        ("response.output_text.delta", where | {"delta": "Hel", "logprobs": []}),
        ("response.output_text.delta", where | {"delta": "lo", "logprobs": []}),
        ("response.output_item.added", {"output_index": 2, "item": call}),
        ("response.function_call_arguments.delta", place | {"delta": '{"a":1}'}),
        ("response.function_call_arguments.done", place | {"arguments": '{"a":1}', "name": "f"}),
        (
            "response.output_item.done",
            {"output_index": 2, "item": call | {"arguments": '{"a":1}', "status": "completed"}},
        ),
        ("response.completed", {"response": response}),
    ]
    official = TypeAdapter[Any](ResponseStreamEvent)
    made = [
        official.validate_python({"type": kind, "sequence_number": number} | fields)
        for number, (kind, fields) in enumerate(told)
    ]
    assert read(*(json.loads(event.model_dump_json()) for event in made)) == [
        Started("resp_1", "m", 0),
        ReasoningDelta(0, "hm", 1),
        TextDelta(0, "Hel", 1),
        TextDelta(0, "lo", 1),
        ToolCallDelta(0, 0, "", 1, "c1", "f"),
        ToolCallDelta(0, 0, '{"a":1}', 1),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        Finished(Usage(20, 8, 12, 0, ((1800.0, 4),), 3)),
    ]
