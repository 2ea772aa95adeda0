"""Bodies become requests; what we do not do is refused by name."""

import dataclasses
import json
from typing import Any

import pytest

from headrace.api.openai import Call, Caller, decode_chat, decode_completion
from headrace.api.openai_fields import INERT_CHAT, INERT_COMPLETION, INERT_MESSAGE, ChatBody, CompletionBody, Message
from headrace.core.errors import HeadraceError, InvalidRequest, UnsupportedField
from headrace.core.request import Limits, Principal, Role, Sampling, TextPart

CALLER = Caller(request_id="id-1", principal=Principal(tenant="acme"), deadline_s=30.0)
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
        typical_p=0.75,
        frequency_penalty=-2,
        presence_penalty=2.0,
        repetition_penalty=1.5,
        logit_bias={"7": -100, "0": 0.5},
        stop_token_ids=[9, 8],
        logprobs=True,
        top_logprobs=20,
        cache_salt="s",
    )
    assert (call.stream, call.include_usage) == (True, True)
    assert call.request.sampling == Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        typical_p=0.75,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        repetition_penalty=1.5,
        logit_bias=((0, 0.5), (7, -100.0)),
        seed=-3,
        num_choices=2,
    )
    assert call.request.limits == Limits(
        max_tokens=9, stop=("END",), stop_token_ids=(9, 8), ignore_eos=True, deadline_s=30.0
    )
    assert (call.request.logprobs, call.request.cache.salt) == (20, "s")
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


@pytest.mark.parametrize("name", sorted(name for name, values in INERT_MESSAGE.items() if values is not None))
def test_a_message_field_we_do_not_support_is_refused_with_its_path(name: str) -> None:
    error = refused(UnsupportedField, chat, messages=[HI[0], HI[0] | {name: {"id": 1}}])
    assert error.param == f"messages[1].{name}"


def test_true_is_not_one() -> None:
    refused(UnsupportedField, chat, min_tokens=False)
    refused(InvalidRequest, completion, best_of=True)
    refused(InvalidRequest, chat, frequency_penalty=False)


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
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
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


def test_several_prompts_are_as_many_requests_of_one_call() -> None:
    call = completion(prompt=["a", [1, 2], "c"], n=2, seed=7, max_tokens=3, guided_regex="x+", echo=True)
    first, *others = requests = [call.request, *call.others]
    assert [(one.prompt, one.tokens) for one in requests] == [("a", None), (None, (1, 2)), ("c", None)]
    assert [one.id for one in requests] == ["id-1", "id-1-1", "id-1-2"]
    # Only the echo of token ids needs what they read as.
    assert [one.prompt_logprobs for one in requests] == [None, 0, None]
    for other in others:
        same = ("sampling", "limits", "response_format", "principal", "model", "cache")
        assert all(getattr(other, name) == getattr(first, name) for name in same)


def test_several_prompts_make_no_more_choices_than_one_may() -> None:
    assert len(completion(prompt=["a"] * 64, n=2).others) == 63
    assert refused(InvalidRequest, completion, prompt=["a"] * 65, n=2).param == "prompt"
    assert refused(InvalidRequest, completion, prompt=["a"] * 65, best_of=2).param == "prompt"
    assert refused(InvalidRequest, completion, prompt=["a", ""]).param == "prompt"
    explaining = dataclasses.replace(CALLER, explains_cache=True)
    assert decode_completion(b'{"model":"m","prompt":["a"]}', explaining).request.cache.explain
    with pytest.raises(UnsupportedField, match=r"^x-headrace-explain: one prompt at a time"):
        decode_completion(b'{"model":"m","prompt":["a","b"]}', explaining)
    assert refused(InvalidRequest, completion, prompt=["a", 7]).message.startswith("prompt[1]: 7 is a token id among")


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [-1], [2**31], [10**400], None, {}])
def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    param = refused(InvalidRequest, completion, prompt=prompt).param
    assert param in ("prompt", "tokens")


def test_completions_answer_sixteen_tokens_unless_told() -> None:
    assert completion().request.limits.max_tokens == 16
    assert completion(max_tokens=3).request.limits.max_tokens == 3


def test_best_of_may_equal_n() -> None:
    assert completion(n=3, best_of=3).request.sampling == Sampling(num_choices=3)
    assert completion(best_of=1, stream=True).stream


def test_best_of_is_drawn_beside_n_and_never_streamed() -> None:
    sampling = completion(n=2, best_of=5).request.sampling
    assert (sampling.num_choices, sampling.best_of, sampling.num_drawn) == (2, 5, 5)
    assert completion(best_of=3).request.sampling == Sampling(best_of=3)
    assert refused(InvalidRequest, completion, n=3, best_of=2).message.startswith("best_of: 2 is not in [3, 128]")
    assert refused(UnsupportedField, completion, best_of=2, stream=True).param == "best_of"
    assert refused(InvalidRequest, chat, best_of=2).code == "unknown_parameter"


def test_a_suffix_goes_with_the_prompt_it_follows() -> None:
    assert completion(suffix="end").request.suffix == "end"
    assert completion(suffix="") == completion()
    assert refused(InvalidRequest, completion, suffix="end", prompt=[1, 2]).param == "suffix"


def test_no_tokens_at_all_asks_for_the_input_to_be_read_and_kept() -> None:
    assert chat(max_completion_tokens=0).request.limits.max_tokens == 0
    assert completion(max_tokens=0).request.limits.max_tokens == 0


def test_plain_roles_become_what_templates_know() -> None:
    roles = ["system", "developer", "user", "assistant"]
    request = chat(messages=[{"role": role, "content": "x"} for role in roles]).request
    assert request.messages is not None
    assert [message.role for message in request.messages] == [Role(role) for role in roles]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frequency_penalty": 3}, "frequency_penalty: 3.0 is not in [-2.0, 2.0]; give a number inside."),
        ({"presence_penalty": -2.5}, "presence_penalty: -2.5 is not in [-2.0, 2.0]; give a number inside."),
        ({"repetition_penalty": 0}, "repetition_penalty: 0.0 is not in [0.01, 100.0]; give a number inside."),
        ({"typical_p": 0}, "typical_p: 0.0 is not in (0.0, 1.0]; give a number inside."),
        ({"prompt_logprobs": -1}, "prompt_logprobs: -1 is not in [0, 20]; give a number inside."),
        ({"prompt_logprobs": 21}, "prompt_logprobs: 21 is not in [0, 20]; give a number inside."),
        ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]: -1 is not a token id; ids are in [0, 2147483647]."),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids: 1025 tokens given; at most 1024 are allowed."),
        ({"logit_bias": {"a": 1}}, 'logit_bias: "a" is not a token id; keys are ids in [0, 2147483647].'),
        ({"logit_bias": {"-1": 1}}, 'logit_bias: "-1" is not a token id; keys are ids in [0, 2147483647].'),
        ({"logit_bias": {"07": 1}}, 'logit_bias: "07" is not a token id; keys are ids in [0, 2147483647].'),
        ({"logit_bias": {"\u0661": 1}}, 'logit_bias: "\u0661" is not a token id; keys are ids in [0, 2147483647].'),
        (
            {"logit_bias": {"2147483648": 1}},
            'logit_bias: "2147483648" is not a token id; keys are ids in [0, 2147483647].',
        ),
        ({"logit_bias": {"7": "x"}}, 'logit_bias.7: "x" given, but a number is needed.'),
        ({"logit_bias": {"7": True}}, "logit_bias.7: true given, but a number is needed."),
        ({"logit_bias": {"7": 101}}, "logit_bias.7: 101 is not in [-100, 100]; give a number inside."),
        (
            {"logit_bias": {"7": 10**400}},
            "logit_bias.7: a number of more than 64 bits is not in [-100, 100]; give a number inside.",
        ),
        (
            {"logit_bias": {str(token): 1 for token in range(1025)}},
            "logit_bias: 1025 tokens given; at most 1024 are allowed.",
        ),
        ({"logit_bias": [1]}, "logit_bias: [1] given, but an object or null is needed."),
        ({"cache_salt": ""}, "cache_salt: 0 characters given; it must have 1 to 256, or be left out."),
        ({"cache_salt": "x" * 257}, "cache_salt: 257 characters given; it must have 1 to 256, or be left out."),
    ],
)
@pytest.mark.parametrize("decode", [chat, completion])
def test_a_number_outside_its_range_is_told_by_its_name_on_the_wire(
    decode: Any, fields: dict[str, Any], message: str
) -> None:
    error = refused(InvalidRequest, decode, **fields)
    assert error.message == message
    assert error.param == next(iter(fields))


def test_the_ends_of_every_range_are_inside() -> None:
    for penalty in (-2, 2):
        assert chat(frequency_penalty=penalty, presence_penalty=penalty).request.sampling.has_penalties
    assert chat(typical_p=1, repetition_penalty=1, logit_bias={}) == chat()
    assert chat(logit_bias={"2147483647": 100, "0": -100}).request.sampling.logit_bias == (
        (0, -100.0),
        (2**31 - 1, 100.0),
    )
    assert chat(prompt_logprobs=20).request.prompt_logprobs == 20


def test_log_probabilities_of_chat_are_asked_for_in_two_fields() -> None:
    assert chat(logprobs=True).request.logprobs == 0
    assert chat(logprobs=True, top_logprobs=5).request.logprobs == 5
    assert chat(logprobs=False, top_logprobs=0).request.logprobs is None
    assert "needs logprobs" in refused(InvalidRequest, chat, top_logprobs=5).message
    assert refused(InvalidRequest, chat, logprobs=False, top_logprobs=1).param == "top_logprobs"
    assert refused(InvalidRequest, chat, logprobs=True, top_logprobs=21).param == "top_logprobs"
    assert (
        refused(InvalidRequest, chat, logprobs=5).message == "logprobs: 5 given, but true or false or null is needed."
    )


def test_log_probabilities_of_completions_are_asked_for_by_a_number() -> None:
    assert completion(logprobs=0).request.logprobs == 0
    assert completion(logprobs=20).request.logprobs == 20
    assert refused(InvalidRequest, completion, logprobs=21).param == "logprobs"
    assert refused(InvalidRequest, completion, logprobs=True).param == "logprobs"


@pytest.mark.parametrize(
    ("fields", "asked", "shown"),
    [
        ({"echo": True}, None, None),
        ({"echo": True, "prompt": [1, 2]}, 0, None),
        ({"echo": True, "logprobs": 0}, 0, None),
        ({"echo": True, "logprobs": 3}, 3, None),
        ({"echo": True, "logprobs": 3, "prompt_logprobs": 1}, 3, 1),
        ({"echo": True, "logprobs": 1, "prompt_logprobs": 3}, 3, 3),
        ({"echo": False, "logprobs": 3}, None, None),
        ({"prompt_logprobs": 0}, 0, 0),
    ],
)
def test_an_echo_asks_for_what_it_has_to_show(fields: dict[str, Any], asked: int | None, shown: int | None) -> None:
    call = completion(**fields)
    assert (call.request.prompt_logprobs, call.prompt_logprobs) == (asked, shown)
    assert call.echo == fields.get("echo", False)


def test_log_probabilities_of_a_prompt_come_whole_only() -> None:
    for decode in (chat, completion):
        assert refused(InvalidRequest, decode, prompt_logprobs=1, stream=True).param == "prompt_logprobs"
    assert completion(echo=True, logprobs=1, stream=True).request.prompt_logprobs == 1


def test_a_request_may_be_less_urgent_than_its_key_and_never_more() -> None:
    def urgency(limit: int, **fields: Any) -> int:
        caller = Caller(request_id="id-1", principal=Principal(priority=limit))
        body = {"model": "m", "messages": HI} | fields
        return decode_chat(json.dumps(body).encode(), caller).request.principal.priority

    assert urgency(3) == 3
    assert urgency(3, priority=-3) == 3
    assert urgency(3, priority=0) == 0
    assert urgency(0, priority=5) == -5
    for limit, priority in ((0, -1), (3, -4), (-2, 1), (0, 2**31), (0, 10**400)):
        assert refused(InvalidRequest, urgency, limit=limit, priority=priority).param == "priority"


def test_what_headers_said_goes_with_the_request() -> None:
    caller = Caller(request_id="id-1", principal=Principal(), session="s", parent="p", explains_cache=True)
    request = decode_chat(json.dumps({"model": "m", "messages": HI}).encode(), caller).request
    assert (request.session, request.parent, request.cache.explain) == ("s", "p", True)


def marked(*marks: bool) -> list[dict[str, Any]]:
    part: dict[str, Any] = {"type": "text", "text": "x"}
    point = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    return [{"role": "user", "content": [part | point, part] if mark else "x"} for mark in marks]


@pytest.mark.parametrize(
    ("fields", "points"),
    [
        ({}, []),
        ({"prompt_cache_retention": "in_memory", "prompt_cache_key": "k"}, []),
        ({"prompt_cache_retention": "24h"}, [(None, 86_400)]),
        ({"prompt_cache_options": {}}, [(None, 1800)]),
        ({"prompt_cache_options": {"mode": "implicit", "ttl": "12h"}}, [(None, 43_200)]),
        ({"prompt_cache_options": {"ttl": "30m"}, "prompt_cache_retention": "24h"}, [(None, 86_400)]),
        ({"messages": marked(False, True, True)}, [(1, 1800), (2, 1800), (None, 1800)]),
        ({"messages": marked(True, True, True, True, True)}, [(2, 1800), (3, 1800), (4, 1800), (None, 1800)]),
        (
            {"messages": marked(True, True, True, True, True), "prompt_cache_options": {"mode": "explicit"}},
            [(1, 1800), (2, 1800), (3, 1800), (4, 1800)],
        ),
    ],
)
def test_what_is_worth_keeping_is_marked_as_openai_marks_it(
    fields: dict[str, Any], points: list[tuple[int | None, float]]
) -> None:
    found = chat(**fields).request.cache.breakpoints
    assert [(point.message, point.ttl_s) for point in found] == points


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_cache_retention": "1y"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {"ttl": "1s"}}, "prompt_cache_options.ttl"),
        ({"prompt_cache_options": {"mode": "off"}}, "prompt_cache_options.mode"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options.mode"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "implicit"}}],
                    }
                ]
            },
            "messages[0].content[0].prompt_cache_breakpoint.mode",
        ),
    ],
)
def test_a_mark_that_we_do_not_know_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(UnsupportedField, chat, **fields).param == param
