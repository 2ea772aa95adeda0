"""What Responses bodies become, and how they are refused: by field, value and remedy."""

import base64
import zlib
from typing import Any

import msgspec
import pytest

from headrace.api.metadata import decode_metadata
from headrace.api.openai import Caller
from headrace.api.responses import (
    decode_conversation,
    decode_count,
    decode_create,
    decode_follow,
    decode_items,
    decode_page,
)
from headrace.api.responses_items import complete
from headrace.api.responses_seal import MAX_TEXT_BYTES, open_seal, seal
from headrace.api.responses_service import Page, reword
from headrace.core.errors import ContextTooLong, InvalidRequest, UnsupportedField
from headrace.core.request import Breakpoint, Message, Principal, Request, Role

CALLER = Caller(request_id="resp_1", principal=Principal(priority=2))
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}


def asked(**fields: Any) -> Any:
    return decode_create(msgspec.json.encode({"model": "m", "input": "Hi"} | fields), CALLER)


def request(**fields: Any) -> Request:
    call = asked(**fields)
    return complete(call.request, call.instructions, call.items, call.cache)


def messages(*items: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    return request(input=list(items), **fields).messages or ()


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


# fields -> the parameter that is named, its code, and a part of the sentence
REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"model": ""}, "model", "invalid_value", "GET /v1/models"),
    ({"inpt": "x"}, "inpt", "unknown_parameter", "did you mean input?"),
    ({"input": [5]}, "input[0]", "invalid_type", "5 given, but an object"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter", "is missing"),
    ({"input": [{"role": "boss", "content": "x"}]}, "input[0].role", "invalid_value", "use user, assistant"),
    ({"input": [user({"type": "input_text"})]}, "input[0].content[0].text", "missing_required_parameter", "needs it"),
    ({"input": [user({"type": "input_file", "file_id": "f"})]}, "input[0].content[0].type", "unsupported_parameter",
     "input_file"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "unsupported_parameter", "send items"),
    ({"input": [CALL | {"arguments": 5}]}, "input[0].arguments", "invalid_type", "5 given, but a string"),
    ({"input": [CALL | {"arguemnts": "x"}]}, "input[0].arguemnts", "unknown_parameter", "is not a field"),
    ({"input": [CALL | {"status": "lost"}]}, "input[0].status", "invalid_value", '"lost" is none'),
    ({"input": [CALL | {"async": True}]}, "input[0].async_", "unsupported_parameter", "leave it out"),
    ({"input": [{"type": "compaction", "encrypted_content": "gAAA"}]}, "input[0].encrypted_content",
     "invalid_encrypted_content", "leave the item out"),
    ({"tools": [{"type": "file_search"}]}, "tools[0].type", "unsupported_parameter", "your own program runs"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter", "is missing"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "invalid_value", "letters, digits"),
    ({"tools": [{"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}]},
     "tools[0].format", "unsupported_parameter", "regex"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "g"}]}]},
     "tools[0].tools[0].type", "unsupported_parameter", "a namespace holds tools of type 'function'"),
    ({"tool_choice": "maybe"}, "tool_choice", "invalid_value", "use auto, none, required"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "invalid_value", "there is no tool"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "unsupported_parameter", "use function, custom"),
    ({"tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.tools", "invalid_value", "at least one"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter", "in the instructions"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "unsupported_parameter", "json_schema"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing_required_parameter",
     "is held to"),
    ({"reasoning": {"effort": "heroic"}}, "reasoning.effort", "invalid_value", "minimal"),
    ({"reasoning": {"summary": "rhymed"}}, "reasoning.summary", "invalid_value", "concise"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_parameter", "standard"),
    ({"truncation": "some"}, "truncation", "invalid_value", "auto or disabled"),
    ({"include": ["everything"]}, "include", "invalid_value", "cannot be included"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value", "add 'message.output_text.logprobs' to include"),
    ({"top_logprobs": 21}, "top_logprobs", "invalid_value", "[0, 20]"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value", "[1, "),
    ({"max_tool_calls": 0}, "max_tool_calls", "invalid_value", "[1, "),
    ({"temperature": -1}, "temperature", "invalid_value", "not in [0.0"),
    ({"service_tier": "first"}, "service_tier", "invalid_value", "flex"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter", "leave it out"),
    ({"context_management": [{"type": "compaction"}]}, "context_management", "unsupported_parameter", "leave it out"),
    ({"stream_options": {}}, "stream_options", "invalid_value", "stream is true"),
    ({"background": True, "store": False}, "background", "invalid_value", "needs store"),
    ({"conversation": "c", "previous_response_id": "r"}, "previous_response_id", "mutually_exclusive_parameters",
     "send one of them"),
    ({"conversation": {}}, "conversation.id", "missing_required_parameter", "is missing"),
    ({"metadata": {"k" * 65: "v"}}, "metadata", "invalid_value", "1 to 64 are allowed"),
    ({"metadata": {"k": "v" * 513}}, "metadata", "invalid_value", "512 are allowed"),
    ({"metadata": {str(index): "v" for index in range(17)}}, "metadata", "invalid_value", "at most 16"),
    ({"metadata": {"k": 5}}, "metadata[...]", "invalid_type", "a string is needed"),
    ({"prompt_cache_options": {"ttl": "1h"}}, "prompt_cache_options.ttl", "unsupported_parameter", "30m or 12h"),
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "unsupported_parameter", "false"),
    ({"cache_salt": ""}, "cache_salt", "invalid_value", "1 to 256"),
    ({"priority": -3}, "priority", "invalid_value", "the key says"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_body_is_refused_by_field_value_and_remedy(fields: dict[str, Any], param: str, code: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert words in caught.value.message
    assert isinstance(caught.value, UnsupportedField) == (code == "unsupported_parameter")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"model":"m","input":"\xff"}', b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_create(data, CALLER)


def test_what_the_assistant_said_thought_and_called_is_one_turn() -> None:
    told = messages(
        user({"type": "input_text", "text": "Go"}),
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"role": "assistant", "content": "Yes."},
        CALL,
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": 'a"b'},
        OUTPUT,
        {"type": "custom_tool_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "y"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "So."}]},
        {"role": "assistant", "content": "But."},
        instructions="Be brief.",
    )
    assert [(one.role, one.text) for one in told] == [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Go"),
        (Role.ASSISTANT, "Yes."),
        (Role.TOOL, "x"),
        (Role.TOOL, "y"),
        (Role.ASSISTANT, "No."),
        (Role.ASSISTANT, "But."),
    ]
    assert [one.reasoning for one in told] == ["", "", "Hm.", "", "", "", "So."]
    assert [(call.id, call.arguments) for call in told[2].tool_calls] == [("c", "{}"), ("d", '{"input":"a\\"b"}')]
    assert [one.tool_call_id for one in told[3:5]] == ["c", "d"]


def test_items_without_an_id_get_one_of_the_request_and_those_with_one_keep_it() -> None:
    call = asked(input=[{"role": "user", "content": "a"}, CALL | {"id": "fc_mine"}, OUTPUT])
    assert [item["id"] for item in call.items] == ["msg_1i0", "fc_mine", "fco_1i1"]


def test_marks_of_parts_become_those_of_their_messages() -> None:
    def marked(text: str, **mark: str) -> dict[str, Any]:
        return {"type": "input_text", "text": text, "prompt_cache_breakpoint": {"mode": "explicit"} | mark}

    asked_with = {"input": [user(marked("a")), user(marked("b", ttl="12h")), {"role": "user", "content": "c"}]}
    assert request(**asked_with).cache.breakpoints == (
        Breakpoint(0, 1800.0),
        Breakpoint(1, 43_200.0),
        Breakpoint(None, 1800.0),
    )
    explicit = asked_with | {"prompt_cache_options": {"mode": "explicit"}, "instructions": "x"}
    assert request(**explicit).cache.breakpoints == (Breakpoint(1, 1800.0), Breakpoint(2, 43_200.0))
    assert request().cache.breakpoints == ()
    assert request(prompt_cache_retention="24h").cache.breakpoints == (Breakpoint(None, 86_400.0),)


def test_the_response_repeats_what_it_was_asked_with_every_mandatory_field() -> None:
    echo = asked(
        tools=[{"type": "function", "name": "f"}, {"type": "web_search"}], service_tier="flex", priority=1
    ).echo
    assert echo["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": False}
    ]
    assert echo["headrace"] == {"left_out": ["tools[1]"]}
    assert echo["service_tier"] == "flex"
    for name in ("instructions", "previous_response_id", "conversation", "safety_identifier", "user"):
        assert echo[name] is None
    assert (echo["temperature"], echo["top_p"], echo["truncation"], echo["text"]["verbosity"]) == (
        1.0,
        1.0,
        "disabled",
        "medium",
    )


def test_a_flex_request_goes_after_everybody_who_asked_for_no_tier() -> None:
    assert asked(priority=-2).request.principal.priority == 2
    assert asked(priority=-2, service_tier="flex").request.principal.priority == -1


def test_what_is_sealed_comes_back_and_nothing_else_does() -> None:
    assert open_seal(seal("thoughts \u2764", "reasoning"), "reasoning", "x") == "thoughts \u2764"
    bomb = "hr1." + base64.urlsafe_b64encode(zlib.compress(b'{"reasoning":"' + b"a" * MAX_TEXT_BYTES + b'"}')).decode()
    for wrong in ("", "hr1.", "hr1.%%", seal("x", "summary"), seal("x", "reasoning")[:-4], "é", bomb):
        with pytest.raises(InvalidRequest) as caught:
            open_seal(wrong, "reasoning", "input[0].encrypted_content")
        assert caught.value.code == "invalid_encrypted_content"


def test_a_count_asks_the_first_model_unless_one_is_named() -> None:
    assert decode_count(b'{"input":"x"}', CALLER, "first").request.model == "first"
    assert decode_count(b'{"input":"x","model":"m"}', CALLER, "first").request.model == "m"


def test_conversations_take_a_bounded_number_of_items_at_once() -> None:
    assert decode_conversation(b"", "7") == ((), {})
    with pytest.raises(InvalidRequest, match="at most 20"):
        decode_items(msgspec.json.encode({"items": [{"role": "user", "content": "x"}] * 21}), "7")
    with pytest.raises(InvalidRequest, match="1 to 20"):
        decode_items(b'{"items":[]}', "7")
    with pytest.raises(UnsupportedField, match="no references"):
        decode_items(b'{"items":[{"id":"msg_1"}]}', "7")
    assert decode_metadata(b'{"metadata":null}') == {}


def test_queries_are_read() -> None:
    assert decode_page({}) == Page(20)
    assert decode_page({"limit": ["5"], "order": ["asc"], "after": ["x"]}) == Page(5, True, "x")
    for wrong in ({"limit": ["0"]}, {"limit": ["101"]}, {"limit": ["x"]}, {"order": ["up"]}):
        with pytest.raises(InvalidRequest):
            decode_page(wrong)
    assert decode_follow({}) == (False, None)
    assert decode_follow({"stream": ["true"], "starting_after": ["7"]}) == (True, 7)
    for bad in ({"stream": ["maybe"]}, {"starting_after": ["7"]}, {"stream": ["true"], "starting_after": ["-1"]}):
        with pytest.raises(InvalidRequest):
            decode_follow(bad)


def test_errors_of_the_backend_name_fields_of_this_dialect() -> None:
    error = reword(ContextTooLong("max_tokens: 9 do not fit.", param="max_tokens"))
    assert (error.param, error.message) == ("max_output_tokens", "max_output_tokens: 9 do not fit.")
    assert reword(ContextTooLong("x", param="other")).param == "other"
