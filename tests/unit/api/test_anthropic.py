"""What bodies of Anthropic's Messages become, and how they are refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from headrace.api.anthropic import Call, decode_count, decode_messages
from headrace.api.anthropic_thinking import seal
from headrace.api.errors import encode_anthropic_error
from headrace.api.openai import Caller
from headrace.core.errors import ContextTooLong, InvalidRequest, UnsupportedField
from headrace.core.request import Breakpoint, Effort, Message, Principal, Reasoning, Role, TextPart, ToolCall

USER: dict[str, Any] = {"role": "user", "content": "Hi"}
TOOL: dict[str, Any] = {"name": "look", "input_schema": {"type": "object"}}
USE: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": [1, "\u00e9"]}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}
MARK: dict[str, Any] = {"type": "ephemeral"}


def caller(**headers: str) -> Caller:
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Caller(request_id="msg_1", principal=Principal(), headers=given)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 10, "messages": [USER]} | fields).encode()


def decode(headers: dict[str, str] | None = None, /, **fields: Any) -> Call:
    return decode_messages(body(**fields), caller(**(headers or {})))


def told(**fields: Any) -> list[tuple[Role, str]]:
    messages = decode(**fields).request.messages
    assert messages is not None
    return [(message.role, message.text) for message in messages]


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said} | fields


def test_turns_of_one_role_are_one_turn_and_text_blocks_are_lines() -> None:
    talk = [USER, user(text("a\n"), text("b"), text("c")), assistant(text("on"), text("ce")), USER]
    assert told(messages=talk) == [
        (Role.USER, "Hi\na\nb\nc"),
        (Role.ASSISTANT, "once"),
        (Role.USER, "Hi"),
    ]


def test_the_system_prompt_is_the_first_message_without_what_is_not_for_the_model() -> None:
    blocks = [text("x-anthropic-billing-header: cc_version=1;"), text("Be"), text("brief.")]
    assert told(system=blocks)[0] == (Role.SYSTEM, "Be\nbrief.")
    assert told(system="Be brief.")[0] == (Role.SYSTEM, "Be brief.")
    assert told(system="")[0][0] is Role.USER


def test_system_messages_stand_where_they_are_and_may_be_for_one_turn_only() -> None:
    once = {"role": "system", "content": "once", "clear_at": "next_user_message"}
    always = {"role": "system", "content": "always"}
    talk = [USER, once, always, assistant(text("a")), USER, once]
    assert [said for _, said in told(messages=talk)] == ["Hi", "always", "a", "Hi", "once"]


def test_a_tool_exchange_becomes_calls_and_results() -> None:
    failed = {"type": "tool_result", "tool_use_id": "toolu_2", "content": [text("no file")], "is_error": True}
    talk = [
        USER,
        assistant(text("Let me see."), USE, USE | {"id": "toolu_2"}),
        user(RESULT, failed, text("and now?")),
    ]
    messages = decode(messages=talk, tools=[TOOL]).request.messages
    assert messages is not None
    assert messages[1].tool_calls[0] == ToolCall("toolu_1", "look", '{"a":[1,"\u00e9"]}')
    assert messages[2:] == (
        Message(Role.TOOL, (TextPart("seen"),), tool_call_id="toolu_1"),
        Message(Role.TOOL, (TextPart("Error:"), TextPart("\nno file")), tool_call_id="toolu_2"),
        Message(Role.USER, (TextPart("and now?"),)),
    )


def test_thinking_comes_back_as_reasoning() -> None:
    ours = {"type": "thinking", "thinking": "hm", "signature": seal("hm", is_hidden=False)}
    hidden = {"type": "thinking", "thinking": "", "signature": seal(" so", is_hidden=True)}
    foreign = {"type": "thinking", "thinking": " ok", "signature": "EqQBCgIYAh"}
    sealed = {"type": "redacted_thinking", "data": "abc"}
    messages = decode(messages=[USER, assistant(ours, hidden, sealed, foreign, text("4")), USER]).request.messages
    assert messages is not None
    assert (messages[1].reasoning, messages[1].text) == ("hm so ok", "4")


def test_older_thinking_is_cleared_if_that_is_asked_for() -> None:
    def think(thought: str) -> dict[str, Any]:
        return {"type": "thinking", "thinking": thought, "signature": "x"}

    talk = [USER, assistant(think("a"), text("1")), USER, assistant(text("2")), USER, assistant(think("b"), text("3"))]

    def kept(*keep: Any) -> list[str]:
        edits = [{"type": "clear_thinking_20251015"} | ({"keep": keep[0]} if keep else {})]
        messages = decode(messages=[*talk, USER], context_management={"edits": edits}).request.messages
        return [one.reasoning for one in messages or () if one.reasoning]

    assert kept("all") == kept({"type": "all"}) == ["a", "b"]
    assert kept() == kept({"type": "thinking_turns", "value": 1}) == ["b"]
    assert kept({"type": "thinking_turns", "value": 2}) == kept({"type": "thinking_turns", "value": 9}) == ["a", "b"]


def test_the_assistants_last_words_are_what_the_answer_begins_with() -> None:
    marked = text("wer is", cache_control=MARK)
    request = decode(messages=[USER, assistant(text("The ans")), assistant(marked)]).request
    assert [message.text for message in request.messages or ()] == ["Hi"]
    assert request.answer_start == "The answer is"
    assert request.cache.breakpoints == (Breakpoint(0, 300.0),)
    assert decode(messages=[USER, assistant()]).request.answer_start == ""


def test_documents_and_search_results_of_plain_text_are_read() -> None:
    document = {
        "type": "document",
        "title": "T",
        "context": "C",
        "source": {"type": "text", "media_type": "text/plain", "data": "D"},
    }
    parts = {"type": "document", "source": {"type": "content", "content": [text("E"), text("F")]}}
    found = {"type": "search_result", "title": "S", "source": "http://x", "content": [text("G")]}
    assert told(messages=[user(document, parts, found)]) == [(Role.USER, "T\nC\nD\nE\nF\nS\nhttp://x\nG")]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, Reasoning(Effort.NONE, is_default=True)),
        ({"thinking": {"type": "disabled"}}, Reasoning(Effort.NONE)),
        ({"thinking": {"type": "adaptive"}}, Reasoning()),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, Reasoning(Effort.XHIGH)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1025}, Reasoning(None, 1024)),
    ],
)
def test_thinking_is_asked_for_as_the_fields_say(fields: dict[str, Any], wanted: Reasoning) -> None:
    assert decode(**fields).request.reasoning == wanted


def test_an_interleaved_budget_may_exceed_the_answer() -> None:
    headers = {"anthropic_beta": "a, interleaved-thinking-2025-05-14"}
    asked = decode(headers, thinking={"type": "enabled", "budget_tokens": 5000})
    assert asked.request.reasoning.max_tokens == 5000


def test_tools_that_the_client_runs_bring_their_own_schema() -> None:
    given = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 99},
        TOOL | {"input_examples": [{"a": 1}], "strict": True, "type": "custom", "description": "Looks."},
    ]
    bash, editor, own = decode(tools=given).request.tools
    assert "command" in bash.parameters["properties"]
    assert editor.parameters["properties"]["command"]["enum"] == ["view", "create", "str_replace", "insert"]
    assert "99" in editor.description
    assert (own.description, own.strict) == ('Looks.\nExample of its input: {"a":1}', True)


def test_a_deferred_tool_waits_until_a_result_names_it() -> None:
    given = [*(TOOL | {"name": name, "defer_loading": True} for name in ("a", "b", "c")), TOOL]
    assert [tool.name for tool in decode(tools=given).request.tools] == ["look"]
    found = RESULT | {"content": [{"type": "tool_reference", "tool_name": name} for name in ("c", "a", "c", "x")]}
    call = decode(tools=given, messages=[USER, assistant(USE), user(found)])
    assert [tool.name for tool in call.request.tools] == ["look", "c", "a"]


def test_marks_become_breakpoints_of_the_messages_they_lie_in() -> None:
    long = MARK | {"ttl": "1h"}
    call = decode(
        tools=[TOOL, TOOL | {"name": "b", "cache_control": long}],
        system=[text("a", cache_control=long), text("b")],
        messages=[USER, assistant(text("c"), USE), user(RESULT | {"cache_control": MARK}, text("d"))],
        cache_control=MARK,
    )
    assert call.request.cache.breakpoints == (
        Breakpoint(-1, 3600.0),
        Breakpoint(0, 3600.0),
        Breakpoint(3, 300.0),
        Breakpoint(4, 300.0),
    )


def test_of_two_marks_in_one_message_the_longer_time_counts() -> None:
    blocks = [text("a", cache_control=MARK | {"ttl": "1h"}), text("b", cache_control=MARK)]
    assert decode(messages=[user(*blocks)]).request.cache.breakpoints == (Breakpoint(0, 3600.0),)


def test_the_mark_of_the_whole_request_is_none_more_where_the_last_block_has_one() -> None:
    marked = [text("a", cache_control=MARK)] * 4
    call = decode(messages=[user(*marked)], cache_control=MARK)
    assert call.request.cache.breakpoints == (Breakpoint(0, 300.0),)


def test_the_header_of_claude_code_names_the_session() -> None:
    assert decode({"x_claude_code_session_id": "abc"}).request.session == "abc"
    assert decode({"x_claude_code_session_id": "not one"}).request.session is None
    both = replace(caller(x_claude_code_session_id="abc"), session="ours")
    assert decode_messages(body(), both).request.session == "ours"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user()]}, "messages[0].content"),
        ({"messages": [user(text(""))]}, "messages[0].content"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [USER, assistant(text("and "))]}, "messages[1].content"),
        ({"messages": [assistant(text("and"))]}, "messages"),
        ({"messages": [USER, assistant(text("x"), USE)]}, "messages[1].content[1].type"),
        ({"messages": [USER, assistant(text("and"))], "thinking": {"type": "adaptive"}}, "thinking"),
        (
            {
                "messages": [USER, assistant(text("and"))],
                "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
            },
            "output_config.format",
        ),
        ({"messages": [USER, assistant(text("and"))], "tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": [USER | {"clear_at": "never"}]}, "messages[0].clear_at"),
        ({"messages": [user({"type": "image", "source": {}})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "document", "source": {"type": "url"}})]}, "messages[0].content[0].source.type"),
        ({"messages": [user(USE)]}, "messages[0].content[0].type"),
        ({"messages": [user(RESULT)]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [USER, assistant(USE), USER]}, "messages[1].content[0]"),
        ({"messages": [USER, assistant(USE), user(text("x"), RESULT)]}, "messages[2].content[0]"),
        ({"messages": [USER, assistant(USE), user(RESULT, RESULT)]}, "messages[2].content[1].tool_use_id"),
        ({"messages": [USER, assistant(USE, USE), user(RESULT)]}, "messages[1].content[1].id"),
        ({"messages": [USER, assistant({"type": "tool_use", "id": "a"}), USER]}, "messages[1].content[0].input"),
        (
            {"messages": [USER, assistant({"type": "thinking", "thinking": "x", "signature": "hr1d_x"}), USER]},
            "messages[1].content[0].signature",
        ),
        (
            {"messages": [USER, assistant({"type": "redacted_thinking", "data": "x", "cache_control": MARK}), USER]},
            "messages[1].content[0].cache_control",
        ),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}, "max_tokens": 2000}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 2000}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled", "display": "omitted"}}, "thinking.display"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "tools[0].name"),
        ({"tools": [{"name": "a", "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "shell"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL | {"allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "any", "name": "look"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "book"}}, "tool_choice"),
        ({"cache_control": {"type": "lasting"}}, "cache_control.type"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0].type"),
        ({"metadata": {"user_id": "x" * 513}}, "metadata.user_id"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"stop_sequence": ["a"]}, "stop_sequence"),
        ({"messages": [{"role": "user", "contents": "a"}]}, "messages[0].contents"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert error.message.startswith(param)
    told = json.loads(encode_anthropic_error(error, "req_1"))
    assert (told["error"]["type"], told["request_id"]) == ("invalid_request_error", "req_1")


@pytest.mark.parametrize(
    "fields",
    [
        {"speed": "standard", "service_tier": "auto", "container": None, "mcp_servers": [], "fallbacks": "default"},
        {"metadata": {"user_id": "me"}, "context_management": {"edits": []}, "tools": [], "stop_sequences": []},
        {"tools": [TOOL | {"eager_input_streaming": True, "allowed_callers": ["direct"]}]},
        {"messages": [user(text("x", citations=None, cache_control=None))]},
    ],
)
def test_fields_that_ask_for_nothing_more_pass(fields: dict[str, Any]) -> None:
    decode(**fields)


def test_the_client_of_a_held_conversation_is_told_to_do_without() -> None:
    told = json.loads(encode_anthropic_error(refused(thread={"type": "create"}), "req_1"))
    assert told["error"]["details"] == {"error_code": "thread_unsupported_request"}


def test_fields_that_come_with_betas_are_left_out_and_named() -> None:
    talk = [user(text("a", glow=1, cache_control=MARK | {"scope": "global"})), USER | {"glow": 2}]
    fields = {"messages": talk, "novelty": {"on": True}, "tools": [TOOL | {"glow": {}}]}
    call = decode({"anthropic_beta": "x"}, **fields)
    assert set(call.left_out) == {
        "messages[].content[].cache_control.scope",
        "messages[].content[].glow",
        "messages[].glow",
        "novelty",
        "tools[].glow",
    }
    assert call.request.cache.breakpoints
    assert refused(**fields).param == "messages[0].content[0].glow"


def test_a_slip_is_named_even_beside_betas() -> None:
    for fields, meant in (
        ({"max_token": 1}, "max_tokens"),
        ({"tools": [TOOL | {"discription": "x"}]}, "description"),
        ({"messages": [user(text("a", cache_contrl={}))]}, "cache_control"),
    ):
        with pytest.raises(InvalidRequest, match=f"did you mean {meant}"):
            decode({"anthropic_beta": "x"}, **fields)


def test_wrong_types_are_named_beside_betas_too() -> None:
    with pytest.raises(InvalidRequest, match='top_k: "many" given, but an integer'):
        decode({"anthropic_beta": "x"}, novelty=1, top_k="many")


def test_counting_takes_the_prompt_alone() -> None:
    given = json.dumps({"model": "m", "messages": [USER], "thinking": {"type": "adaptive"}, "system": "s"}).encode()
    assert decode_count(given, caller()).request.limits.max_tokens is None
    with pytest.raises(InvalidRequest, match="max_tokens: is not a field"):
        decode_count(body(), caller())


def test_a_backends_refusal_comes_in_the_protocols_words() -> None:
    call = decode()
    error = call.reword(UnsupportedField("response_format: this schema is too wide.", param="response_format"))
    assert isinstance(error, UnsupportedField)
    assert (error.param, error.message) == ("output_config.format", "output_config.format: this schema is too wide.")
    plain = call.reword(InvalidRequest("This schema is too wide.", param="response_format"))
    assert (plain.param, plain.message) == ("output_config.format", "This schema is too wide.")
    other = InvalidRequest("messages: too many.", param="messages")
    assert call.reword(other) is other


def test_a_prompt_that_is_too_long_is_said_to_be_in_words_that_clients_look_for() -> None:
    error = decode().reword(ContextTooLong("The prompt has 9 tokens and the model's context 8.", param="messages"))
    assert isinstance(error, ContextTooLong)
    assert error.message.startswith("prompt is too long: The prompt has 9 tokens")


def test_a_packed_signature_has_a_bound() -> None:
    bomb = {"type": "thinking", "thinking": "", "signature": seal("x" * 5_000_000, is_hidden=True)}
    assert refused(messages=[USER, assistant(bomb), USER]).param == "messages[1].content[0].signature"
