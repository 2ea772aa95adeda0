"""Anthropic's Messages, outwards: what a backend is asked, as the official types read it, and what its answers mean."""

import json
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types import MessageCountTokensParams, MessageCreateParams
from anthropic.types.message_create_params import MessageCreateParamsBase
from pydantic import TypeAdapter

from headrace.api.outbound.call_ids import sign_id
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.api.outbound.messages import MESSAGES
from headrace.api.outbound.messages_models import ROWS
from headrace.core import errors
from headrace.core.errors import HeadraceError, UnsupportedField, UpstreamFault
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
from headrace.core.gateway import RawBody
from headrace.core.request import (
    Breakpoint,
    CacheHints,
    Effort,
    FormatKind,
    Input,
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

QUIRKS = Quirks()
OLD, NEW = "claude-sonnet-4-5", "claude-sonnet-5"
CREATE: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)
COUNT: TypeAdapter[Any] = TypeAdapter(MessageCountTokensParams)
# Older models take these; the SDK has dropped them.
OLD_FIELDS = {"temperature", "top_p", "top_k", "stream"}
FIELDS = set(MessageCreateParamsBase.__annotations__) | OLD_FIELDS


def said(role: Role, text: str = "", **fields: Any) -> Message:
    return Message(role, (TextPart(text),) if text else (), **fields)


HI = (said(Role.USER, "Hi"),)
WEATHER = Tool("get_weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
TIME = Tool("get_time", "", {}, strict=True)
CALLS = (ToolCall("call_a", "get_weather", '{"city":"Paris"}'), ToolCall("toolu_b", "get_time", ""))


def asked(**fields: Any) -> Request:
    return Request(**{"id": "r1", "model": "route", "messages": HI} | fields)


def call(request: Request, model: str = NEW, quirks: Quirks = QUIRKS) -> OutboundCall:
    made = MESSAGES.encode(request, model, quirks)
    given = json.loads(made.body)
    if made.is_stream:
        CREATE.validate_python(given, strict=True)
        assert set(given) <= FIELDS
    else:
        COUNT.validate_python(given)
    return made


def body(request: Request, model: str = NEW, quirks: Quirks = QUIRKS) -> dict[str, Any]:
    return dict(json.loads(call(request, model, quirks).body))


def test_a_plain_question_is_as_small_as_it_can_be() -> None:
    made = call(asked())
    assert (made.path, made.is_stream, made.headers) == (
        "/v1/messages",
        True,
        ((b"anthropic-version", b"2023-06-01"),),
    )
    assert json.loads(made.body) == {
        "model": NEW,
        "max_tokens": 64_000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": True,
    }


def test_a_conversation_becomes_system_blocks_and_turns() -> None:
    messages = (
        said(Role.SYSTEM, "Be brief."),
        said(Role.DEVELOPER, "Be kind."),
        said(Role.USER, "Weather and time?"),
        said(Role.ASSISTANT, "Let me see.", tool_calls=CALLS, reasoning="Two calls."),
        said(Role.TOOL, "Sunny", tool_call_id="call_a"),
        said(Role.TOOL, "", tool_call_id="toolu_b"),
        said(Role.USER, "And?"),
        said(Role.SYSTEM, "Now in French."),
        said(Role.USER, "Go on."),
    )
    given = body(asked(messages=messages, tools=(WEATHER, TIME)))
    assert [one["text"] for one in given["system"]] == ["Be brief.", "Be kind."]
    assert [(turn["role"], [block["type"] for block in turn["content"]]) for turn in given["messages"]] == [
        ("user", ["text"]),
        ("assistant", ["text", "tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result", "text"]),
        ("system", ["text"]),
        ("user", ["text"]),
    ]
    uses, results = given["messages"][1]["content"][1:], given["messages"][2]["content"][:2]
    assert [one["input"] for one in uses] == [{"city": "Paris"}, {}]
    assert [one["id"] for one in uses] == [one["tool_use_id"] for one in results] == ["toolu_a", "toolu_b"]
    assert results[0]["content"] == [{"type": "text", "text": "Sunny"}] and "content" not in results[1]
    assert given["tools"] == [
        {"name": "get_weather", "description": "The weather.", "input_schema": dict(WEATHER.parameters)},
        {"name": "get_time", "input_schema": {"type": "object"}, "strict": True},
    ]


def test_what_gemini_signed_does_not_reach_anthropic() -> None:
    signed = sign_id("call_a", "c2ln")
    messages = (
        *HI,
        said(Role.ASSISTANT, tool_calls=(ToolCall(signed, "get_time", "{}"),)),
        said(Role.TOOL, "1", tool_call_id=signed),
    )
    turns = body(asked(messages=messages, tools=(TIME,)))["messages"]
    assert turns[1]["content"][0]["id"] == turns[2]["content"][0]["tool_use_id"] == "toolu_a"


def test_arguments_that_were_cut_are_shown_as_they_are() -> None:
    messages = (
        *HI,
        said(Role.ASSISTANT, tool_calls=(ToolCall("a", "f", '{"a":'),)),
        said(Role.TOOL, tool_call_id="a"),
    )
    assert body(asked(messages=messages))["messages"][1]["content"][0]["input"] == {"INVALID_JSON": '{"a":'}


@pytest.mark.parametrize(
    ("choice", "told", "tools"),
    [
        (ToolChoice(), None, 2),
        (ToolChoice(ToolMode.NONE), {"type": "none"}, 2),
        (ToolChoice(ToolMode.REQUIRED), {"type": "any"}, 2),
        (ToolChoice(ToolMode.REQUIRED, ("get_time",)), {"type": "tool", "name": "get_time"}, 2),
        (ToolChoice(ToolMode.AUTO, ("get_time",)), {"type": "auto"}, 1),
        (ToolChoice(max_calls=1), {"type": "auto", "disable_parallel_tool_use": True}, 2),
        (ToolChoice(ToolMode.REQUIRED, max_calls=1), {"type": "any", "disable_parallel_tool_use": True}, 2),
    ],
)
def test_a_choice_of_tools_has_words(choice: ToolChoice, told: Any, tools: int) -> None:
    given = body(asked(tools=(WEATHER, TIME), tool_choice=choice))
    assert (given.get("tool_choice"), len(given["tools"])) == (told, tools)


def test_how_an_answer_is_made() -> None:
    given = body(
        asked(
            sampling=Sampling(temperature=0.5, top_p=0.9, top_k=4),
            limits=Limits(max_tokens=9, stop=("END",)),
            principal=Principal(key="secret-name", user="u1"),
            response_format=ResponseFormat(FormatKind.JSON_SCHEMA, schema={"type": "object"}),
            answer_start="Well",
        )
    )
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "max_tokens": 9, "stop_sequences": ["END"]}
    assert {name: given[name] for name in wanted} == wanted
    assert given["metadata"] == {"user_id": "u1"}
    assert given["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert given["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "Well"}]}
    assert "secret-name" not in json.dumps(given)


@pytest.mark.parametrize(
    ("reasoning", "model", "thinks", "effort"),
    [
        (Reasoning(), NEW, None, None),
        (Reasoning(Effort.NONE), NEW, {"type": "disabled"}, None),
        (Reasoning(Effort.NONE), "claude-3-5-haiku", None, None),
        (Reasoning(Effort.HIGH), "claude-3-5-haiku", None, None),
        (Reasoning(Effort.HIGH), NEW, {"type": "adaptive"}, "high"),
        (Reasoning(Effort.MINIMAL), NEW, {"type": "adaptive"}, "low"),
        (Reasoning(Effort.LOW), OLD, {"type": "enabled", "budget_tokens": 2048}, None),
        (Reasoning(Effort.XHIGH), OLD, {"type": "enabled", "budget_tokens": 3999}, None),
        (Reasoning(Effort.MEDIUM, 1500), NEW, {"type": "enabled", "budget_tokens": 1500}, None),
    ],
)
def test_thinking_is_asked_for_as_a_model_understands_it(
    reasoning: Reasoning, model: str, thinks: Any, effort: str | None
) -> None:
    given = body(asked(reasoning=reasoning, limits=Limits(max_tokens=4000)), model)
    assert given.get("thinking") == thinks
    assert given.get("output_config", {}).get("effort") == effort


def test_a_wish_to_think_that_has_no_room_is_left_out() -> None:
    assert "thinking" not in body(asked(reasoning=Reasoning(Effort.HIGH), limits=Limits(max_tokens=1024)), OLD)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": (TIME,), "tool_choice": ToolChoice(ToolMode.REQUIRED)},
        {"sampling": Sampling(temperature=0.5)},
        {"sampling": Sampling(top_k=5)},
        {"sampling": Sampling(top_p=0.5)},
    ],
)
@pytest.mark.parametrize("model", [OLD, NEW])
def test_a_wish_to_think_gives_way_to_what_it_does_not_go_with(fields: dict[str, Any], model: str) -> None:
    assert "thinking" not in body(asked(reasoning=Reasoning(Effort.HIGH), **fields), model)


def test_a_budget_is_no_wish() -> None:
    given = body(asked(reasoning=Reasoning(None, 2000), sampling=Sampling(temperature=0.5)))
    assert given["thinking"] == {"type": "enabled", "budget_tokens": 2000}


def test_a_budget_of_thinking_does_not_follow_calls_whose_signature_is_lost() -> None:
    messages = (*HI, said(Role.ASSISTANT, tool_calls=CALLS[:1]), said(Role.TOOL, "1", tool_call_id="call_a"))
    request = asked(messages=messages, tools=(WEATHER,), reasoning=Reasoning(Effort.HIGH))
    assert "thinking" not in body(request, OLD)
    assert body(request, NEW)["thinking"] == {"type": "adaptive"}


def test_cache_marks_stand_on_the_last_block_of_what_they_end_longest_first() -> None:
    messages = (said(Role.SYSTEM, "s"), said(Role.USER, "a"), said(Role.ASSISTANT), said(Role.USER, "b"))
    points = (Breakpoint(-1, 3600.0), Breakpoint(0, 86_400.0), Breakpoint(2, 300.0), Breakpoint(None, 3600.0))
    request = asked(messages=messages, tools=(WEATHER,), cache=CacheHints(breakpoints=points))
    given = body(request)
    long, short = {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral", "ttl": "5m"}
    assert given["tools"][-1]["cache_control"] == given["system"][0]["cache_control"] == long
    # The empty turn has no block: its mark is that of the turn before. An hour cannot follow five minutes.
    assert [block.get("cache_control") for turn in given["messages"] for block in turn["content"]] == [short, short]
    salted = replace(request, cache=CacheHints(salt="mine", breakpoints=points))
    assert b"cache_control" not in call(salted).body


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": Sampling(num_choices=2)}, "n"),
        ({"sampling": Sampling(best_of=2)}, "best_of"),
        ({"sampling": Sampling(seed=1)}, "seed"),
        ({"sampling": Sampling(min_p=0.1)}, "min_p"),
        ({"sampling": Sampling(typical_p=0.5)}, "typical_p"),
        ({"sampling": Sampling(repetition_penalty=1.1)}, "repetition_penalty"),
        ({"sampling": Sampling(presence_penalty=1)}, "presence_penalty"),
        ({"sampling": Sampling(frequency_penalty=1)}, "frequency_penalty"),
        ({"sampling": Sampling(logit_bias=((1, 2.0),))}, "logit_bias"),
        ({"sampling": Sampling(temperature=1.5)}, "temperature"),
        ({"limits": Limits(stop_token_ids=(1,))}, "stop_token_ids"),
        ({"limits": Limits(ignore_eos=True)}, "ignore_eos"),
        ({"logprobs": 1}, "logprobs"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"messages": None, "prompt": "x"}, "prompt"),
        ({"messages": None, "prompt": "x", "suffix": "y"}, "prompt"),
        ({"messages": None, "tokens": (1,)}, "tokens"),
        ({"messages": None, "inputs": (Input("x"),), "task": Task.EMBED}, "inputs"),
        ({"response_format": ResponseFormat(FormatKind.JSON_OBJECT)}, "response_format"),
        ({"response_format": ResponseFormat(FormatKind.JSON_SCHEMA, schema=True)}, "response_format"),
        ({"response_format": ResponseFormat(FormatKind.REGEX, source="a+")}, "response_format"),
        ({"messages": (said(Role.USER, "Hi", name="bob"),)}, "messages[0].name"),
    ],
)
def test_what_the_protocol_cannot_say_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    request = asked(**fields)
    request.check()
    with pytest.raises(UnsupportedField) as caught:
        MESSAGES.encode(request, NEW, QUIRKS)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


def test_a_conversation_of_instructions_alone_is_no_question() -> None:
    with pytest.raises(errors.InvalidRequest, match="messages:"):
        MESSAGES.encode(asked(messages=(said(Role.SYSTEM, "s"),)), NEW, QUIRKS)


def test_half_a_character_is_the_callers_mistake() -> None:
    with pytest.raises(errors.InvalidRequest, match="half a character"):
        MESSAGES.encode(asked(messages=(said(Role.USER, "\ud800"),)), NEW, QUIRKS)


def test_a_count_asks_for_nothing_but_what_is_read() -> None:
    made = call(asked(task=Task.COUNT, tools=(TIME,), limits=Limits(max_tokens=5), principal=Principal(user="u")), NEW)
    assert (made.path, made.is_stream) == ("/v1/messages/count_tokens", False)
    assert set(json.loads(made.body)) == {"model", "messages", "tools"}
    told = list(MESSAGES.decode(asked(task=Task.COUNT), "m", b'{"input_tokens":12,"new":1}'))
    assert told == [Started("r1", "m", 12), Finished(Usage(12, 0))]


def test_what_a_provider_always_gets_is_added_and_what_it_refuses_is_refused_by_name() -> None:
    quirks = Quirks(drops=frozenset({"temperature"}), adds={"speed": "fast", "max_tokens": 7})
    given = body(asked(), NEW, quirks)
    assert (given["speed"], given["max_tokens"]) == ("fast", 64_000)
    with pytest.raises(UnsupportedField, match="temperature"):
        MESSAGES.encode(asked(sampling=Sampling(temperature=0.5)), NEW, quirks)


def test_every_model_has_a_row_and_the_last_fits_all() -> None:
    prefixes = [row.prefix for row in ROWS]
    assert prefixes[-1] == ""
    for at, prefix in enumerate(prefixes):
        assert not any(prefix.startswith(earlier) for earlier in prefixes[:at]), f"{prefix} is never reached"


# Answers -------------------------------------------------------------------------------------------------------------


def frames(*events: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: " + str(one["type"]).encode() + b"\ndata: " + json.dumps(one).encode() + b"\n\n" for one in events
    )


def read(*given: dict[str, Any], request: Request | None = None) -> list[Event]:
    reader = MESSAGES.reader(request or asked(), "m")
    told = [event for one in given for event in reader.feed(str(one.get("type")), json.dumps(one).encode())]
    told += reader.end()
    assert reader.is_done
    return told


START = {
    "type": "message_start",
    "message": {
        "id": "msg_x",
        "type": "message",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 5,
            "cache_creation_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
PING = {"type": "ping"}
STOP = {"type": "message_stop"}


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def more(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def close(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ending(reason: str | None, **fields: Any) -> dict[str, Any]:
    usage = {"output_tokens": 20, "output_tokens_details": {"thinking_tokens": 6}}
    return {"type": "message_delta", "delta": {"stop_reason": reason, **fields}, "usage": usage}


WRITES = ((300.0, 3), (3600.0, 4))


def test_an_answer_of_every_kind_of_block() -> None:
    told = read(
        PING,
        START,
        begin(0, type="thinking", thinking="", signature=""),
        more(0, type="thinking_delta", thinking="Hm"),
        more(0, type="signature_delta", signature="sig"),
        close(0),
        begin(1, type="redacted_thinking", data="x"),
        close(1),
        {"type": "something_new", "index": 7},
        begin(2, type="text", text="", citations=None),
        more(2, type="text_delta", text="Hé"),
        PING,
        more(2, type="citations_delta", citation={}),
        close(2),
        begin(3, type="tool_use", id="toolu_1", name="f", input={}),
        more(3, type="input_json_delta", partial_json=""),
        more(3, type="input_json_delta", partial_json='{"a":'),
        more(3, type="input_json_delta", partial_json="1}"),
        close(3),
        begin(4, type="tool_use", id="toolu_2", name="g", input={}),
        close(4),
        begin(5, type="tool_use", id="toolu_3", name="h", input={"b": 2}),
        close(5),
        ending("tool_use"),
        STOP,
    )
    assert told == [
        Started("r1", "m", 22, 5, cache_writes=WRITES),
        ReasoningDelta(0, "Hm", 1),
        TextDelta(0, "Hé", 1),
        ToolCallDelta(0, 0, "", 1, "toolu_1", "f"),
        ToolCallDelta(0, 0, '{"a":', 1),
        ToolCallDelta(0, 0, "1}", 1),
        ToolCallDelta(0, 1, "", 1, "toolu_2", "g"),
        ToolCallDelta(0, 1, "{}", 1),
        ToolCallDelta(0, 2, '{"b":2}', 1, "toolu_3", "h"),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        Finished(Usage(22, 20, 5, cache_writes=WRITES, reasoning_tokens=6)),
    ]


@pytest.mark.parametrize(
    ("reason", "ended"),
    [
        ("end_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("pause_turn", FinishReason.LENGTH),
        ("tool_use", FinishReason.TOOL_CALLS),
        ("refusal", FinishReason.FILTERED),
        ("a_new_reason", FinishReason.STOP),
    ],
)
def test_why_an_answer_ended(reason: str, ended: FinishReason) -> None:
    assert read(START, ending(reason), STOP)[-2] == ChoiceFinished(0, ended)


def test_a_stop_string_is_named() -> None:
    told = read(START, ending("stop_sequence", stop_sequence="END"), STOP)
    assert told[-2] == ChoiceFinished(0, FinishReason.STOP, "END")


def test_counts_of_the_end_win_and_those_that_are_not_told_again_stay() -> None:
    late = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 12, "output_tokens": 2}}
    usage = read(START, late, ending("end_turn"), STOP)[-1]
    assert usage == Finished(Usage(24, 20, 5, cache_writes=WRITES, reasoning_tokens=6))


BEGUN = [START, begin(0, type="text", text="")]


@pytest.mark.parametrize(
    "given",
    [
        [],
        [START],
        [START, STOP],
        [START, ending("end_turn")],
        [START, ending(None), STOP],
        [START, START],
        [begin(0, type="text", text="")],
        [*BEGUN, begin(1, type="text", text="")],
        [*BEGUN, more(1, type="text_delta", text="x")],
        [*BEGUN, more(0, type="thinking_delta", thinking="x")],
        [*BEGUN, close(1)],
        [*BEGUN, ending("end_turn")],
        [START, more(0, type="text_delta", text="x")],
        [START, begin(0, type="server_tool_use", id="a", name="web_search", input={})],
        [START, begin(0, type="tool_use", id="", name="f", input={})],
        [START, ending("end_turn"), STOP, more(0, type="text_delta", text="x")],
        [START, ending("end_turn"), begin(0, type="text", text="")],
        [START, {"type": 5}],
        [START, {"no": "type"}],
        [{"type": "message_start"}],
        [{"type": "message_start", "message": {"usage": {"input_tokens": -1}}}],
        [{"type": "message_start", "message": {"usage": {"input_tokens": 1.5}}}],
    ],
)
def test_what_is_not_the_protocol_is_the_backends_fault(given: list[dict[str, Any]]) -> None:
    with pytest.raises(UpstreamFault):
        read(*given)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"null", b'{"type":"message_start","message":7}'])
def test_bytes_that_are_no_event_are_the_backends_fault(data: bytes) -> None:
    with pytest.raises(UpstreamFault):
        MESSAGES.reader(asked(), "m").feed("message_start", data)


KINDS = [
    ("overloaded_error", errors.Overloaded),
    ("rate_limit_error", errors.RateLimited),
    ("invalid_request_error", errors.InvalidRequest),
    ("not_found_error", errors.NotFound),
    ("request_too_large", errors.PayloadTooLarge),
    ("timeout_error", errors.UpstreamTimeout),
    ("api_error", errors.UpstreamFault),
    ("something_new", errors.UpstreamFault),
]


@pytest.mark.parametrize(("kind", "error"), KINDS)
@pytest.mark.parametrize("has_begun", [False, True])
def test_an_error_in_a_stream_is_raised_as_what_it_is(kind: str, error: type[HeadraceError], has_begun: bool) -> None:
    failing = {"type": "error", "error": {"type": kind, "message": "Because."}}
    with pytest.raises(error) as caught:
        read(*([START] if has_begun else []), failing)
    assert type(caught.value) is error
    assert ("Because." in caught.value.message) == (not caught.value.retryable or error is UpstreamFault)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        *((400, kind, error) for kind, error in KINDS if kind != "something_new"),
        (400, "", errors.InvalidRequest),
        (404, "", errors.UpstreamFault),  # a page of some server: our URL is wrong
        (413, "", errors.PayloadTooLarge),
        (429, "", errors.RateLimited),
        (500, "", errors.UpstreamFault),
        (502, "", errors.UpstreamFault),
        (503, "", errors.Overloaded),
        (504, "", errors.UpstreamTimeout),
        (529, "", errors.Overloaded),
    ],
)
def test_a_refusal_is_read_by_its_kind_or_else_by_its_status(
    status: int, kind: str, error: type[HeadraceError]
) -> None:
    told = json.dumps({"type": "error", "error": {"type": kind, "message": "Because."}}).encode()
    made = MESSAGES.read_error(status, [(b"retry-after", b"7")], told if kind else b"<html>")
    assert type(made) is error
    if error in (errors.RateLimited, errors.Overloaded):
        assert made.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, "authentication_error", "invalid x-api-key sk-ant-123"),
        (403, "permission_error", "org 7 may not"),
        (402, "billing_error", "pay"),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        (401, "", ""),
    ],
)
def test_what_is_wrong_with_our_own_key_is_nobody_elses_business(status: int, kind: str, message: str) -> None:
    told = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    made = MESSAGES.read_error(status, [], told)
    assert type(made) is (errors.UpstreamDenied if status == 403 else UpstreamFault)
    assert "credentials" in made.message and not (message and message in made.message)


def test_a_prompt_that_does_not_fit_is_too_long() -> None:
    told = b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8"}}'
    assert type(MESSAGES.read_error(400, [], told)) is errors.ContextTooLong


# Bytes that pass through ---------------------------------------------------------------------------------------------


def raw(path: str = "/v1/messages", **fields: Any) -> RawBody:
    given = {"model": "route", "messages": [], "metadata": {"user_id": "u"}, "brand_new": {"a": [1, 2]}} | fields
    headers = ((b"anthropic-beta", b"new-2030-01-01"), (b"anthropic-version", b"2024-01-01"))
    encoded = {name: json.dumps(value).encode() for name, value in given.items()}
    return RawBody(dialect="messages", path=path, fields=encoded, headers=headers)


def test_a_body_goes_on_as_it_came_but_for_the_model() -> None:
    given = raw(max_tokens=50, stream=True)
    made = MESSAGES.reframe(given, "claude", 100, QUIRKS)
    assert json.loads(made.body) == {
        "model": "claude",
        "messages": [],
        "metadata": {"user_id": "u"},
        "brand_new": {"a": [1, 2]},
        "max_tokens": 50,
        "stream": True,
    }
    assert given.fields["brand_new"] in made.body
    assert (made.path, made.is_stream) == ("/v1/messages", True)


@pytest.mark.parametrize(
    ("given", "bound", "sent"),
    [({"max_tokens": 50}, 10, 10), ({"max_tokens": 5}, 10, 5), ({"max_tokens": 50}, None, 50), ({}, 10, 10)],
)
def test_an_answer_is_held_to_its_bound(given: dict[str, Any], bound: int | None, sent: Any) -> None:
    assert json.loads(MESSAGES.reframe(raw(**given), "m", bound, QUIRKS).body)["max_tokens"] == sent


def test_a_bound_that_is_no_number_is_refused_where_it_would_have_to_be_lowered() -> None:
    with pytest.raises(errors.InvalidRequest, match="max_tokens"):
        MESSAGES.reframe(raw(max_tokens="x"), "m", 10, QUIRKS)
    assert json.loads(MESSAGES.reframe(raw(max_tokens="x"), "m", None, QUIRKS).body)["max_tokens"] == "x"


def test_a_count_passes_without_a_bound_and_with_the_protocols_version() -> None:
    made = MESSAGES.reframe(raw("/v1/messages/count_tokens"), "m", 10, QUIRKS)
    assert (made.path, made.is_stream) == ("/v1/messages/count_tokens", False)
    assert "max_tokens" not in json.loads(made.body)
    assert made.headers == ((b"anthropic-version", b"2023-06-01"),)


def test_a_stream_passes_unchanged_and_tells_its_usage() -> None:
    whole = frames(
        PING, START, begin(0, type="text", text=""), more(0, type="text_delta", text="Hé"), close(0),
        ending("end_turn"), STOP,
    )  # fmt: skip
    for size in (1, 7, len(whole)):
        scanner = MESSAGES.scanner(raw())
        passed = b""
        for start in range(0, len(whole), size):
            passed += scanner.feed(whole[start : start + size])
            assert passed == whole[: len(passed)]
            assert (scanner.usage is None) == (b"message_delta" not in passed)
        assert passed == whole
        assert scanner.usage == Usage(22, 20, 5, cache_writes=WRITES, reasoning_tokens=6)
        assert scanner.num_output_bytes == len(json.dumps(more(0, type="text_delta", text="Hé")))
        assert scanner.is_done


def test_an_error_instead_of_an_answer_is_raised_and_one_within_passes() -> None:
    failing = {"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}
    with pytest.raises(errors.Overloaded):
        MESSAGES.scanner(raw()).feed(frames(PING, failing))
    scanner = MESSAGES.scanner(raw())
    assert scanner.feed(frames(START, failing)) == frames(START, failing)
    assert scanner.usage is None
    assert not (scanner.is_done or scanner.can_end), "a stream that failed did not end well"


@pytest.mark.parametrize("data", [b"data: nonsense\n\n", b"event: message_start\ndata: []\n\n"])
def test_a_stream_of_something_else_does_not_pass(data: bytes) -> None:
    with pytest.raises(UpstreamFault):
        MESSAGES.scanner(raw()).feed(data)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (json.dumps(START["message"]).encode(), Usage(22, 1, 5, cache_writes=WRITES)),
        (b'{"content":[]}', None),
        (b"nonsense", None),
    ],
)
def test_a_whole_message_tells_its_usage(told: bytes, usage: Usage | None) -> None:
    assert MESSAGES.usage_of(told) == usage


def test_the_key_has_its_own_header() -> None:
    assert MESSAGES.secret_header("sk-1") == (b"x-api-key", b"sk-1")


def test_only_its_own_dialect_passes_through() -> None:
    assert MESSAGES.takes == frozenset({"messages"})


def test_an_event_that_is_new_may_look_like_anything() -> None:
    new = b'event: news\ndata: {"type":"news","message":"hello"}\n\n'
    assert MESSAGES.scanner(raw()).feed(new) == new
    assert MESSAGES.reader(asked(), "m").feed("news", b'{"type":"news","message":"hello"}') == []
