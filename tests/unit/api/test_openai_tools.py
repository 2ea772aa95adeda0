"""Tools, calls and reasoning of a chat, in both directions; tiers, metadata and effort of its body."""

import json
from typing import Any

import pytest

from headrace.api.openai import Call, Caller, decode_chat
from headrace.api.openai_answers import CHAT, COMPLETION, AnswerHead, AnswerWriter, answer_head
from headrace.api.openai_stream import StreamWriter
from headrace.core.errors import EngineFault, HeadraceError, InvalidRequest, UnsupportedField
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
from headrace.core.ledger import PriceList, Prices
from headrace.core.request import (
    Effort,
    Message,
    Principal,
    Reasoning,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)

PRICES = PriceList({"m": Prices(input=1, output=10)})
CALLER = Caller(request_id="id-1", principal=Principal(tenant="acme", priority=2), prices=PRICES)
HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": SCHEMA}}
SHELL = {"type": "custom", "custom": {"name": "shell", "description": "Runs it"}}
TIME = {"type": "function", "function": {"name": "time", "strict": True}}


def chat(**fields: Any) -> Call:
    return decode_chat(json.dumps({"model": "m", "messages": HI} | fields).encode(), CALLER)


def refused(kind: type[HeadraceError], **fields: Any) -> HeadraceError:
    with pytest.raises(kind) as caught:
        chat(**fields)
    assert type(caught.value) is kind
    return caught.value


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_tools_arrive_with_their_schemas() -> None:
    request = chat(tools=[WEATHER, TIME]).request
    assert request.tools == (Tool("weather", "Of a city", SCHEMA), Tool("time", strict=True))
    assert request.tool_choice == ToolChoice()
    assert chat(tools=[]) == chat()


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({"tool_choice": None}, ToolChoice()),
        ({"tool_choice": "auto"}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice(ToolMode.NONE)),
        ({"tool_choice": "required"}, ToolChoice(ToolMode.REQUIRED)),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ToolChoice(ToolMode.REQUIRED, max_calls=1)),
        ({"parallel_tool_calls": True}, ToolChoice()),
        ({"tool_choice": named("time")}, ToolChoice(ToolMode.REQUIRED, ("time",), 1)),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("time")]}}},
            ToolChoice(ToolMode.AUTO, ("time",)),
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [named("time"), named("weather")]},
                },
                "parallel_tool_calls": False,
            },
            ToolChoice(ToolMode.REQUIRED, ("time", "weather"), 1),
        ),
    ],
)
def test_what_may_and_must_be_called(fields: dict[str, Any], choice: ToolChoice) -> None:
    assert chat(tools=[WEATHER, TIME], **fields).request.tool_choice == choice


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [named("a b")]}, "tools[0].function.name"),
        ({"tools": [named("")]}, "tools[0].function.name"),
        ({"tools": [named("x" * 129)]}, "tools[0].function.name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [SHELL | {"custom": {"name": "a b"}}]}, "tools[0].custom.name"),
        ({"tools": [SHELL | {"function": {"name": "a"}}]}, "tools[0].function"),
        ({"tools": [WEATHER | {"type": "custom"}]}, "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [WEATHER | {"strict": True}]}, "tools[0].strict"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": named("time")}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}},
            "tool_choice.allowed_tools.tools",
        ),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "none", "tools": [named("weather")]},
                },
            },
            "tool_choice.allowed_tools.mode",
        ),
        ({"tools": [WEATHER], "functions": [{"name": "a"}]}, "functions"),
        ({"tools": [WEATHER], "function_call": "auto"}, "function_call"),
        ({"function_call": "required"}, "function_call"),
    ],
)
def test_tools_that_make_no_sense_are_refused_with_their_field(fields: dict[str, Any], param: str) -> None:
    assert refused(InvalidRequest, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "mcp"}]}, "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        (
            {"tools": [SHELL | {"custom": {"name": "shell", "format": {"type": "yaml"}}}]},
            "tools[0].custom.format",
        ),
        (
            {
                "tools": [
                    {
                        "type": "custom",
                        "custom": {
                            "name": "shell",
                            "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}},
                        },
                    }
                ]
            },
            "tools[0].custom.format",
        ),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp"}]},
                },
            },
            "tool_choice.allowed_tools.tools[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "mcp"}]}]},
            "messages[0].tool_calls[0].type",
        ),
    ],
)
def test_tools_of_other_kinds_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(UnsupportedField, **fields).param == param


CALLED = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


def test_a_conversation_with_calls_results_and_reasoning_arrives() -> None:
    messages = chat(
        messages=[
            *HI,
            # What clients make of our own answer, streamed or whole, and send back.
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "tool_calls": [CALLED | {"index": 0}],
                "reasoning_content": "Rome, then.",
                "reasoning": "Rome, then.",
            },
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
            {"role": "tool", "tool_call_id": "call_2", "content": ""},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning": "Hm."},
            {"role": "assistant", "content": None, "refusal": "Never."},
        ]
    ).request.messages
    assert messages == (
        Message(Role.USER, (TextPart("Hi"),)),
        Message(
            Role.ASSISTANT,
            tool_calls=(ToolCall("call_1", "weather", '{"city": "Rome"}'),),
            reasoning="Rome, then.",
        ),
        Message(Role.TOOL, (TextPart("sunny"),), tool_call_id="call_1"),
        Message(Role.TOOL, (TextPart(""),), tool_call_id="call_2"),
        Message(Role.ASSISTANT, (TextPart("No."),), reasoning="Hm."),
        Message(Role.ASSISTANT, (TextPart("Never."),)),
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": "1"}, "content"),
        ({"role": "function", "content": "x"}, "name"),
        ({"role": "user", "content": "x", "tool_calls": [CALLED]}, "tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "1"}, "tool_call_id"),
        ({"role": "assistant", "content": "x", "tool_call_id": "1"}, "tool_call_id"),
        ({"role": "system", "content": "x", "reasoning": "Hm."}, "reasoning"),
        ({"role": "assistant", "content": "x", "reasoning": "Hm.", "reasoning_content": "Ah."}, "reasoning"),
        ({"role": "assistant", "tool_calls": []}, "content"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [CALLED | {"id": ""}]}, "tool_calls[0].id"),
        (
            {"role": "assistant", "tool_calls": [CALLED | {"function": {"name": "x"}}]},
            "tool_calls[0].function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [CALLED], "function_call": {"name": "a", "arguments": ""}},
            "function_call",
        ),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "content[0].refusal"),
    ],
)
def test_messages_that_make_no_sense_are_refused_with_their_path(message: dict[str, Any], param: str) -> None:
    assert refused(InvalidRequest, messages=[*HI, message]).param == f"messages[1].{param}"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_what_is_no_text_is_refused_by_its_kind(kind: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "x"}}]}
    error = refused(UnsupportedField, messages=[message])
    assert error.param == "messages[0].content[1].type"
    assert f'"{kind}"' in error.message
    assert refused(UnsupportedField, messages=[{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}])


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    pattern = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "ls|cd"}}
    held = {"type": "custom", "custom": {"name": "held", "format": pattern}}
    named_shell = {"type": "custom", "custom": {"name": "shell"}}
    call = chat(tools=[SHELL, WEATHER, held], tool_choice=named_shell)
    shell, _, strict = call.request.tools
    assert (shell.name, shell.description, shell.strict) == ("shell", "Runs it", False)
    assert shell.parameters["properties"] == {"input": {"type": "string"}}
    assert (strict.strict, strict.parameters["properties"]["input"]["pattern"]) == (True, "^(?:ls|cd)$")
    assert call.request.tool_choice == ToolChoice(ToolMode.REQUIRED, ("shell",), 1)
    assert call.custom_tools == {"shell", "held"}
    said = {"id": "1", "type": "custom", "custom": {"name": "shell", "input": 'echo "\u2764"'}}
    messages = chat(messages=[*HI, {"role": "assistant", "tool_calls": [said]}]).request.messages
    assert messages is not None
    assert json.loads(messages[1].tool_calls[0].arguments) == {"input": 'echo "\u2764"'}


def test_the_text_of_a_custom_tool_is_told_when_it_is_all_there() -> None:
    given = answer_head(CHAT, chat(tools=[SHELL, WEATHER]), 5)
    events: list[Event] = [
        Started("id-1", "m", 5),
        ToolCallDelta(0, 0, "", 1, "call_a", "shell"),
        ToolCallDelta(0, 0, '{"input": "ls', 1),
        ToolCallDelta(0, 0, ' -l"}', 1),
        ToolCallDelta(0, 1, "{}", 1, "call_b", "weather"),
        ToolCallDelta(0, 2, "not JSON", 1, "call_c", "shell"),
        *CALLS[8:],
    ]
    wanted = [
        {"id": "call_a", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}},
        {"id": "call_b", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        {"id": "call_c", "type": "custom", "custom": {"name": "shell", "input": "not JSON"}},
    ]
    assert whole(events, given)["choices"][0]["message"]["tool_calls"] == wanted
    pieces = [
        piece
        for frame in stream(events, given)
        for choice in frame["choices"]
        for piece in choice["delta"].get("tool_calls", ())
    ]
    assert pieces == [{"index": index} | call for index, call in enumerate(wanted)]


def test_the_older_functions_are_tools_of_which_one_is_called() -> None:
    call = chat(functions=[WEATHER["function"]], function_call={"name": "weather"})
    assert call.has_functions
    assert call.request.tools == (Tool("weather", "Of a city", SCHEMA),)
    assert call.request.tool_choice == ToolChoice(ToolMode.REQUIRED, ("weather",), 1)
    assert chat(functions=[TIME["function"]]).request.tool_choice == ToolChoice(max_calls=1)
    assert chat(functions=[TIME["function"]], function_call="none").request.tool_choice.mode is ToolMode.NONE
    messages = chat(
        messages=[
            *HI,
            {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": "{}"}},
            {"role": "function", "name": "time", "content": "noon"},
        ]
    ).request.messages
    assert messages is not None
    assert messages[1].tool_calls == (ToolCall("call_time", "time", "{}"),)
    assert (messages[2].role, messages[2].tool_call_id) == (Role.TOOL, "call_time")


@pytest.mark.parametrize(
    ("effort", "wanted"),
    [("none", Effort.NONE), ("minimal", Effort.MINIMAL), ("high", Effort.HIGH), ("max", Effort.XHIGH)],
)
def test_effort_arrives(effort: str, wanted: Effort) -> None:
    assert chat(reasoning_effort=effort).request.reasoning == Reasoning(wanted)
    assert chat().request.reasoning == Reasoning()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, Effort.NONE),
        ({"chat_template_kwargs": {"thinking": False}}, Effort.NONE),
        ({"chat_template_kwargs": {"enable_thinking": True}}, None),
        ({"chat_template_kwargs": {}}, None),
        ({"thinking": {"type": "disabled"}}, Effort.NONE),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, Effort.HIGH),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "none"}, Effort.NONE),
    ],
)
def test_vllm_and_deepseek_switch_thinking_on_and_off(fields: dict[str, Any], wanted: Effort | None) -> None:
    assert chat(**fields).request.reasoning == Reasoning(wanted)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, "thinking.type"),
        ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, "thinking.type"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"thinking": {}}, "thinking.type"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"date": "today"}}, "chat_template_kwargs.date"),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "thinking": {"type": "enabled"}},
            "thinking.type",
        ),
    ],
)
def test_a_switch_that_contradicts_or_is_none_is_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(InvalidRequest, **fields).param == param


def test_effort_that_nobody_knows_is_refused() -> None:
    assert refused(InvalidRequest, reasoning_effort="hard").message.startswith(
        'reasoning_effort: "hard" is none of none, minimal, low, medium, high, xhigh, max.'
    )


@pytest.mark.parametrize(
    ("limit", "tier", "priority", "told"),
    [
        (2, None, 2, None),
        (2, "auto", 2, "priority"),
        (2, "default", 0, "default"),
        (2, "flex", -1, "flex"),
        (2, "priority", 2, "priority"),
        (2, "fast", 2, "priority"),
        (2, "scale", 2, "priority"),
        (0, "auto", 0, "default"),
        (0, "priority", 0, "default"),
        (0, "flex", -1, "flex"),
        (-3, "priority", -3, "default"),
        (-3, "flex", -4, "flex"),
    ],
)
def test_a_tier_is_as_urgent_as_the_key_allows_and_is_told_as_it_was_served(
    limit: int, tier: str | None, priority: int, told: str | None
) -> None:
    caller = Caller(request_id="id-1", principal=Principal(priority=limit))
    call = decode_chat(json.dumps({"model": "m", "messages": HI, "service_tier": tier}).encode(), caller)
    assert (call.request.principal.priority, call.service_tier) == (priority, told)


def test_a_tier_beside_a_priority_or_one_that_nobody_knows_is_refused() -> None:
    assert chat(service_tier="auto", priority=1).request.principal.priority == -1
    assert refused(InvalidRequest, service_tier="flex", priority=1).param == "priority"
    assert refused(InvalidRequest, service_tier="first").param == "service_tier"


def test_metadata_is_sixteen_short_texts() -> None:
    full = {f"k{index}" + "x" * 61: "v" * 512 for index in range(10)} | {str(index): "" for index in range(6)}
    assert chat(metadata=full).metadata == full
    assert chat().metadata is None
    for wrong in (
        full | {"one": "more"},
        {"": "x"},
        {"x" * 65: "x"},
        {"a": "v" * 513},
        {"a": 1},
        {"a": None},
        {"a": {"b": "c"}},
    ):
        assert refused(InvalidRequest, metadata=wrong).param == "metadata"
    assert refused(InvalidRequest, metadata=[1]).param == "metadata"


def test_a_call_that_is_to_be_kept_keeps_its_messages_as_they_came() -> None:
    call = chat(store=True, metadata={"a": "b"})
    assert call.stores
    assert [(message.role, message.content) for message in call.messages] == [("user", "Hi")]
    assert not chat(store=False).stores
    assert not chat().messages


CALLS: list[Event] = [
    Started("id-1", "m", 5),
    ReasoningDelta(0, "Hm", 1),
    ReasoningDelta(0, "", 1),
    ReasoningDelta(0, "...", 1),
    ToolCallDelta(0, 0, "", 1, "call_a", "weather"),
    ToolCallDelta(0, 0, '{"city":', 1),
    ToolCallDelta(0, 0, '"Rome"}', 1),
    ToolCallDelta(0, 1, "{}", 1, "call_b", "time"),
    ChoiceFinished(0, FinishReason.TOOL_CALLS),
    Finished(Usage(5, 7, cached_tokens=2, reasoning_tokens=3)),
]


def head(**fields: Any) -> AnswerHead:
    return AnswerHead(CHAT, "id-1", 5, **fields)


def whole(events: list[Event], given: AnswerHead) -> Any:
    writer = AnswerWriter(given)
    writer.add(events)
    return json.loads(writer.encode())


def stream(events: list[Event], given: AnswerHead) -> list[Any]:
    sent = StreamWriter(given).encode(events).decode()
    return [json.loads(line[6:]) for line in sent.split("\n\n")[:-1] if line != "data: [DONE]"]


def test_a_whole_answer_tells_reasoning_calls_and_what_they_used() -> None:
    answer = whole(CALLS, head(prices=PRICES, service_tier="flex", metadata={"a": "b"}))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "refusal": None,
        "content": None,
        "reasoning_content": "Hm...",
        "reasoning": "Hm...",
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
            {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }
    assert (answer["service_tier"], answer["metadata"]) == ("flex", {"a": "b"})
    usage = answer["usage"]
    assert (usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"]) == (2, 3)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3
    assert usage["cost"] == pytest.approx((3 * 1 + 2 * 0.1 + 7 * 10) / 1e6)
    assert "cost" not in whole(CALLS, head())["usage"]


def test_a_stream_tells_a_call_in_pieces_that_add_up() -> None:
    frames = stream(CALLS, head(service_tier="default"))
    deltas = [choice["delta"] for frame in frames for choice in frame["choices"]]
    assert deltas == [
        {"role": "assistant", "content": None, "refusal": None},
        {"reasoning_content": "Hm", "reasoning": "Hm"},
        {"reasoning_content": "...", "reasoning": "..."},
        {
            "tool_calls": [
                {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}}
            ]
        },
        {},
    ]
    assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert {frame["service_tier"] for frame in frames} == {"default"}


def test_text_before_a_call_is_content() -> None:
    events: list[Event] = [
        Started("id-1", "m", 5),
        TextDelta(0, "Let me see.", 3),
        *CALLS[4:5],
        *CALLS[8:],
    ]
    assert whole(events, head())["choices"][0]["message"]["content"] == "Let me see."
    deltas = [choice["delta"] for frame in stream(events, head()) for choice in frame["choices"]]
    assert [delta.get("content") for delta in deltas] == ["", "Let me see.", None, None]


def test_calls_are_told_in_the_older_words_to_who_asked_in_them() -> None:
    events = [*CALLS[:7], *CALLS[8:]]
    call = chat(functions=[WEATHER["function"]])
    given = answer_head(CHAT, call, 5)
    (choice,) = whole(events, given)["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert "tool_calls" not in choice["message"]
    frames = stream(events, given)
    pieces = [frame["choices"][0]["delta"].get("function_call") for frame in frames]
    assert pieces[3:6] == [{"name": "weather", "arguments": ""}, {"arguments": '{"city":'}, {"arguments": '"Rome"}'}]
    assert choice["finish_reason"] == frames[-1]["choices"][0]["finish_reason"] == "function_call"
    with pytest.raises(EngineFault, match="call 1"):
        stream(CALLS, given)


def test_every_chunk_tells_what_was_used_so_far_if_it_is_asked_to() -> None:
    call = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    frames = stream(CALLS, answer_head(CHAT, call, 5))
    told = [(frame["usage"]["prompt_tokens"], frame["usage"]["completion_tokens"]) for frame in frames]
    assert told == [(5, 1), (5, 1), (5, 3), (5, 4), (5, 5), (5, 6), (5, 7), (5, 7), (5, 7)]
    assert frames[-1]["choices"] == []
    error = refused(InvalidRequest, stream=True, stream_options={"continuous_usage_stats": True})
    assert error.param == "stream_options.continuous_usage_stats"


STARTED = CALLS[0]


@pytest.mark.parametrize(
    "events",
    [
        [STARTED, ToolCallDelta(0, 0, "{}", 1)],
        [STARTED, ToolCallDelta(0, 1, "{}", 1, "id", "name")],
        [STARTED, ToolCallDelta(0, 0, "{}", 1, "id")],
        [STARTED, ToolCallDelta(0, 0, "{}", 1, "id", "name"), ToolCallDelta(0, 1, "{}", 1)],
        [STARTED, ToolCallDelta(0, 0, "{}", 1, "id", "name"), ToolCallDelta(0, 0, "{}", 1, "id2", "name")],
        [STARTED, ToolCallDelta(0, -1, "{}", 1)],
        [STARTED, ToolCallDelta(1, 0, "{}", 1, "id", "name")],
        [STARTED, ReasoningDelta(1, "Hm", 1)],
        [STARTED, ChoiceFinished(0, FinishReason.STOP), ReasoningDelta(0, "Hm", 1)],
        [ReasoningDelta(0, "Hm", 1)],
    ],
)
def test_pieces_that_belong_to_nothing_are_a_defect_of_the_backend(events: list[Event]) -> None:
    with pytest.raises(EngineFault):
        AnswerWriter(head()).add(events)
    with pytest.raises(EngineFault):
        StreamWriter(head()).encode(events)


def test_the_continuation_of_a_prompt_is_text() -> None:
    for event in (ReasoningDelta(0, "Hm", 1), ToolCallDelta(0, 0, "", 1, "id", "name")):
        with pytest.raises(EngineFault):
            StreamWriter(AnswerHead(COMPLETION, "id-1", 5)).encode([STARTED, event])
