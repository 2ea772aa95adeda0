"""Bodies become requests; what we do not do is refused by name."""

import json
from typing import Any

import pytest

from headrace.api.openai import Call, Caller, decode_chat, decode_completion
from headrace.api.openai_fields import INERT_CHAT, INERT_COMPLETION, INERT_MESSAGE, ChatBody, CompletionBody, Message
from headrace.core.errors import HeadraceError, InvalidRequest, UnsupportedField
from headrace.core.request import Limits, Principal, Role, Sampling, TextPart

CALLER = Caller("id-1", Principal(tenant="acme"), 30.0)
HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> Call:
    return decode_chat(json.dumps({"model": "m", "messages": HI} | fields).encode(), CALLER)


def completion(**fields: Any) -> Call:
    return decode_completion(json.dumps({"model": "m", "prompt": "Hi"} | fields).encode(), CALLER)


def refused(kind: type[HeadraceError], decode: Any, **fields: Any) -> HeadraceError:
    with pytest.raises(kind) as caught:
        decode(**fields)
    assert type(caught.value) is kind
    return caught.value


def test_a_plain_chat_body_takes_every_default() -> None:
    call = chat()
    request = call.request
    assert (call.stream, call.include_usage) == (False, False)
    assert (request.id, request.model, request.principal.tenant) == ("id-1", "m", "acme")
    assert request.messages is not None
    assert request.messages[0].parts == (TextPart("Hi"),)
    assert request.sampling == Sampling()
    assert request.limits == Limits(deadline_s=30.0)


def test_every_supported_field_arrives() -> None:
    call = chat(
        max_tokens=9,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        seed=-3,
        n=2,
        stop="END",
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        ignore_eos=True,
        user="u",
    )
    assert (call.stream, call.include_usage) == (True, True)
    assert call.request.sampling == Sampling(temperature=0.5, top_p=0.25, top_k=7, min_p=0.125, seed=-3, num_choices=2)
    assert call.request.limits == Limits(max_tokens=9, stop=("END",), ignore_eos=True, deadline_s=30.0)
    assert call.request.principal == Principal(tenant="acme", user="u")


def test_null_means_the_default_everywhere() -> None:
    optional = [name for name in ChatBody.__struct_fields__ if name not in ("model", "messages")]
    assert chat(**dict.fromkeys(optional)) == chat()
    optional = [name for name in CompletionBody.__struct_fields__ if name not in ("model", "prompt")]
    assert completion(**dict.fromkeys(optional)) == completion()
    empty = {name: None for name in Message.__struct_fields__ if name not in ("role", "content")}
    assert chat(messages=[HI[0] | empty]) == chat()


@pytest.mark.parametrize(
    ("decode", "table", "name"),
    [(chat, INERT_CHAT, name) for name in INERT_CHAT]
    + [(completion, INERT_COMPLETION, name) for name in INERT_COMPLETION],
)
def test_a_field_we_do_not_support_passes_when_it_asks_for_nothing_and_is_refused_by_name_otherwise(
    decode: Any, table: dict[str, tuple[Any, ...] | None], name: str
) -> None:
    accepted = table[name]
    if accepted is None:
        assert decode(**{name: {"any": "thing"}}) == decode()
        return
    for value in accepted:
        assert decode(**{name: value}) == decode()
    error = refused(UnsupportedField, decode, **{name: {"some": "thing"}})
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert error.message.startswith(f"{name}: ")


@pytest.mark.parametrize("name", sorted(INERT_MESSAGE))
def test_a_message_field_we_do_not_support_is_refused_with_its_path(name: str) -> None:
    error = refused(UnsupportedField, chat, messages=[HI[0], HI[0] | {name: {"id": 1}}])
    assert error.param == f"messages[1].{name}"


def test_true_is_not_one() -> None:
    refused(UnsupportedField, completion, best_of=True)
    refused(UnsupportedField, chat, frequency_penalty=False)


def test_an_unknown_field_is_refused_with_the_nearest_known_name() -> None:
    for fields, param, near in [
        ({"temprature": 1}, "temprature", "temperature"),
        ({"messages": [HI[0] | {"contents": "x"}]}, "messages[0].contents", "content"),
        ({"stream": True, "stream_options": {"include_usge": True}}, "stream_options.include_usge", "include_usage"),
    ]:
        error = refused(InvalidRequest, chat, **fields)
        assert (error.param, error.code) == (param, "unknown_parameter")
        assert f"did you mean {near}?" in error.message
    assert refused(InvalidRequest, chat, zzz=1).message.endswith("leave it out.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": "5"}, 'max_tokens: "5" given, but an integer or null is needed.'),
        ({"max_tokens": 1.5}, "max_tokens: 1.5 given, but an integer or null is needed."),
        ({"n": True}, "n: true given, but an integer or null is needed."),
        ({"stop": ["a", 5]}, "stop[1]: 5 given, but a string is needed."),
        ({"stream": "yes"}, 'stream: "yes" given, but true or false or null is needed.'),
        ({"messages": "Hi"}, 'messages: "Hi" given, but a list is needed.'),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content: 5 given, but a string or a list or null is needed.",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role: is missing; it is required."),
        ({"model": None}, "model: null given, but a string is needed."),
    ],
)
def test_a_wrong_type_is_told_with_path_value_and_need(fields: dict[str, Any], message: str) -> None:
    assert refused(InvalidRequest, chat, **fields).message == message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_their_field(fields: dict[str, Any], param: str) -> None:
    assert refused(InvalidRequest, chat, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ],
)
def test_kinds_we_do_not_serve_yet_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(UnsupportedField, chat, **fields).param == param


@pytest.mark.parametrize(
    ("prompt", "text", "tokens"),
    [("Hi", "Hi", None), (["Hi"], "Hi", None), ([1, 2], None, (1, 2)), ([[3, 4]], None, (3, 4)), ([5], None, (5,))],
)
def test_a_prompt_has_four_spellings(prompt: Any, text: str | None, tokens: tuple[int, ...] | None) -> None:
    request = completion(prompt=prompt).request
    assert (request.prompt, request.tokens, request.messages) == (text, tokens, None)


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]], [1, "a"]])
def test_several_prompts_are_refused_by_name(prompt: Any) -> None:
    assert refused(UnsupportedField, completion, prompt=prompt).param == "prompt"


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [-1], [2**31], [10**400], None, {}])
def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    param = refused(InvalidRequest, completion, prompt=prompt).param
    assert param in ("prompt", "tokens")


def test_completions_answer_sixteen_tokens_unless_told() -> None:
    assert completion().request.limits.max_tokens == 16
    assert completion(max_tokens=3).request.limits.max_tokens == 3


def test_best_of_may_equal_n() -> None:
    assert completion(n=3, best_of=3).request.sampling.num_choices == 3
    refused(UnsupportedField, completion, n=2, best_of=3)


def test_roles_are_the_four_that_templates_know() -> None:
    roles = ["system", "developer", "user", "assistant"]
    request = chat(messages=[{"role": role, "content": "x"} for role in roles]).request
    assert request.messages is not None
    assert [message.role for message in request.messages] == [Role(role) for role in roles]
