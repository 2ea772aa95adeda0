"""What a policy has to know of a body, read from it without decoding it."""

import base64
import json
from typing import Any

import pytest

from headrace.api.openai import Caller
from headrace.api.peek import (
    BLOCK_BYTES,
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    MAX_BLOCKS,
    MESSAGES,
    RESPONSES,
    TOOLS_OVERHEAD,
    BodyKind,
    Peeked,
    peek,
)
from headrace.core.errors import InvalidRequest
from headrace.core.request import Principal, Task
from headrace.core.shape import Need

USER = {"role": "user", "content": "Hi"}
CHATTING: dict[str, Any] = {"model": "m", "messages": [USER]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"x" * 30_000).decode()}}


def caller(**given: Any) -> Caller:
    return Caller(
        request_id="id-1", principal=Principal(tenant="t", tags=("team",), labels=frozenset({"own"})), **given
    )


def look(kind: BodyKind, body: Any, **given: Any) -> Peeked:
    return peek(kind, body if isinstance(body, bytes) else json.dumps(body).encode(), caller(**given))


def saying(*parts: dict[str, Any]) -> dict[str, Any]:
    return CHATTING | {"messages": [{"role": "user", "content": list(parts)}]}


def test_the_numbers_that_bound_a_request() -> None:
    body = CHATTING | {"max_tokens": 5, "max_completion_tokens": 9, "n": 3, "stream": True, "temperature": 0.0}
    shape = look(CHAT, body).shape
    assert (shape.id, shape.model, shape.task) == ("id-1", "m", Task.GENERATE)
    assert (shape.max_tokens, shape.num_choices, shape.is_stream, shape.is_deterministic) == (9, 3, True, True)
    assert (shape.num_messages, shape.num_media) == (2, 0)
    assert shape.num_bytes >= len("userHi")
    plain = look(CHAT, CHATTING | {"stream": False, "max_tokens": None, "temperature": 1}).shape
    assert (plain.max_tokens, plain.num_choices, plain.is_stream, plain.is_deterministic) == (None, 1, False, False)
    assert look(CHAT, CHATTING | {"seed": 0}).shape.is_deterministic


@pytest.mark.parametrize(
    ("kind", "more", "needs"),
    [
        (CHAT, {}, set()),
        (CHAT, {"tools": [{"type": "function"}]}, {Need.TOOLS}),
        (CHAT, {"tools": [], "response_format": {"type": "text"}, "logprobs": False}, set()),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, {Need.SCHEMA}),
        (CHAT, {"guided_regex": "a+"}, {Need.SCHEMA}),
        (CHAT, {"logprobs": True}, {Need.LOGPROBS}),
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, {Need.VISION}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, {Need.AUDIO}),
        (CHAT, {"messages": [{"role": "user", "content": 'I wrote "image_url", "type":"image"'}]}, set()),
        (COMPLETIONS, {"prompt": "a", "suffix": "b", "logprobs": 0}, {Need.SUFFIX, Need.LOGPROBS}),
        (COMPLETIONS, {"prompt": [1, 2]}, {Need.TOKENS}),
        (EMBEDDINGS, {"input": [[1, 2], [3]]}, {Need.TOKENS}),
        (EMBEDDINGS, {"input": ["1", "2"]}, set()),
        (RESPONSES, {"input": "a", "text": {"format": {"type": "json_object"}}}, {Need.SCHEMA}),
        (RESPONSES, {"input": "a", "text": {"verbosity": "low", "format": {"type": "text"}}}, set()),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, {Need.VISION}),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, {Need.VISION}),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema"}}}, {Need.SCHEMA}),
        (MESSAGES, {"output_config": {"effort": "low"}}, set()),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]},
            {Need.VISION},
        ),
    ],
)
def test_what_a_request_needs(kind: BodyKind, more: dict[str, Any], needs: set[Need]) -> None:
    assert look(kind, CHATTING | more).shape.needs == needs


def test_bytes_of_images_are_no_text_but_are_counted() -> None:
    with_image = CHATTING | {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE, IMAGE]}]
    }
    shape = look(CHAT, with_image).shape
    assert shape.num_media == 2
    assert shape.num_bytes < 500
    text = CHATTING | {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 40_000, "image_url": 1}]}]
    }
    assert look(CHAT, text).shape.num_bytes > 40_000


@pytest.mark.parametrize("kind", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@pytest.mark.parametrize("name", ["n_predict", "max_new_tokens", "max_length"])
def test_an_answer_is_bound_by_the_largest_of_all_names_that_a_backend_could_go_by(kind: BodyKind, name: str) -> None:
    assert look(kind, CHATTING | {"max_tokens": 1, name: 5000}).shape.max_tokens == 5000


def test_tools_count_as_more_than_their_bytes() -> None:
    without, with_tools = look(MESSAGES, CHATTING).shape, look(MESSAGES, CHATTING | {"tools": [{"name": "f"}]}).shape
    assert with_tools.num_messages - without.num_messages >= TOOLS_OVERHEAD


def test_of_a_field_that_is_there_twice_the_last_counts_for_all() -> None:
    peeked = look(CHAT, b'{"model":"a","mod\\u0065l":"b","messages":[],"n":1,"n":2}')
    assert peeked.raw is not None
    assert (peeked.shape.model, peeked.raw.fields["model"]) == ("b", b'"b"')
    assert (peeked.shape.num_choices, peeked.raw.fields["n"]) == (2, b"2")
    assert list(peeked.raw.fields) == ["model", "messages", "n"]


def test_a_completion_says_its_default_aloud() -> None:
    peeked = look(COMPLETIONS, {"model": "m", "prompt": "a"})
    assert peeked.raw is not None
    assert (peeked.shape.max_tokens, peeked.raw.fields["max_tokens"]) == (16, b"16")
    several = look(COMPLETIONS, {"model": "m", "prompt": ["a", "b", "c"], "n": 2, "max_tokens": 7})
    assert (several.shape.num_choices, several.shape.max_tokens, several.raw) == (6, 7, None)
    one = look(COMPLETIONS, {"model": "m", "prompt": ["a"], "best_of": 3})
    assert one.shape.num_choices == 3
    assert one.raw is not None


@pytest.mark.parametrize(
    ("kind", "more", "may_travel"),
    [
        (CHAT, {"store": True}, False),
        (CHAT, {"store": False, "metadata": {"a": "b"}, "made_up": 1}, True),
        (CHAT, {"cached_content": "cachedContents/1"}, False),
        (CHAT, {"priority": -5}, False),
        (RESPONSES, {"input": "a"}, False),
        (RESPONSES, {"input": "a", "store": False}, True),
        (RESPONSES, {"input": "a", "store": False, "previous_response_id": "resp_1"}, False),
        (RESPONSES, {"input": "a", "store": False, "conversation": "conv_1"}, False),
        (RESPONSES, {"input": "a", "store": False, "background": True}, False),
    ],
)
def test_what_our_own_server_acts_on_stays(kind: BodyKind, more: dict[str, Any], may_travel: bool) -> None:
    assert (look(kind, CHATTING | more).raw is not None) == may_travel


def test_who_asks_and_under_what_labels() -> None:
    shape = look(
        CHAT, CHATTING | {"user": "ann"}, labels=frozenset({"restricted"}), tags=("a", "team"), session="s"
    ).shape
    assert (shape.principal.tenant, shape.principal.user, shape.session) == ("t", "ann", "s")
    assert (shape.labels, shape.tags) == ({"own", "restricted"}, ("team", "a"))
    assert look(MESSAGES, CHATTING | {"metadata": {"user_id": "bob"}}).shape.principal.user == "bob"
    claude = {b"x-claude-code-session-id": b"c-1"}
    assert look(MESSAGES, CHATTING, headers=claude).shape.session == "c-1"
    assert look(MESSAGES, CHATTING, headers=claude, session="s").shape.session == "s"
    assert look(CHAT, CHATTING, headers=claude).shape.session is None


def test_how_much_is_embedded_and_counted() -> None:
    shape = look(EMBEDDINGS, {"model": "m", "input": ["a", "b", "c"]}).shape
    assert (shape.task, shape.num_inputs, shape.max_tokens) == (Task.EMBED, 3, None)
    assert look(EMBEDDINGS, {"model": "m", "input": "a"}).shape.num_inputs == 1
    assert look(COUNT_TOKENS, CHATTING).shape.task is Task.COUNT


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"{", None, "invalid_json"),
        (b"[1]", None, "invalid_type"),
        (b'"x"', None, "invalid_type"),
        (b'{"model":"m","messages":[' + b"[" * 100_000, None, "invalid_json"),
        (b'{"model":"m","messages":"\xff"}', None, "invalid_json"),
        (b'{"messages":[]}', "model", "missing_required_parameter"),
        (b'{"model":3}', "model", "invalid_type"),
        (b'{"model":""}', "model", "invalid_value"),
        (b'{"model":"m","max_tokens":"9"}', "max_tokens", "invalid_type"),
        (b'{"model":"m","max_tokens":-1}', "max_tokens", "invalid_value"),
        (b'{"model":"m","max_tokens":1e99}', "max_tokens", "invalid_type"),
        (b'{"model":"m","n":[]}', "n", "invalid_type"),
        (b'{"model":"m","n_predict":-1}', "n_predict", "invalid_value"),
        (b'{"model":"m","stream":1}', "stream", "invalid_type"),
        (b'{"model":"m","models":["dear"]}', "models", "invalid_value"),
        (b'{"model":"m","fallbacks":["dear"]}', "fallbacks", "invalid_value"),
        (b'{"model":"m","stream":"true"}', "stream", "invalid_type"),
        (b'{"model":"m","user":3}', "user", "invalid_type"),
        (b'{"model":"m","user":"' + b"x" * 600 + b'"}', "user", "invalid_value"),
    ],
)
def test_what_cannot_be_decided_about_is_refused_by_name(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        look(CHAT, body)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_requests_that_begin_alike_have_the_same_first_blocks() -> None:
    system = {"role": "system", "content": "s" * 3 * BLOCK_BYTES}

    def prefix(*messages: dict[str, str], model: str = "m") -> tuple[int, ...]:
        return look(CHAT, {"model": model, "messages": list(messages)}).shape.prefix()

    one, two = prefix(system, USER), prefix(system, USER, {"role": "assistant", "content": "y" * 2 * BLOCK_BYTES}, USER)
    assert len(one) >= 3
    assert two[:3] == one[:3]
    assert len(two) > len(one)
    assert len(set(two)) == len(two)
    assert prefix(system, USER, model="other")[:1] != one[:1]
    assert len(prefix({"role": "user", "content": "x" * 10**6})) == MAX_BLOCKS
    assert prefix(USER) == ()


@pytest.mark.parametrize(
    ("kind", "more", "probes"),
    [
        (CHAT, {}, set()),
        (CHAT, {"logprobs": False, "top_logprobs": None, "logit_bias": {}}, set()),
        (CHAT, {"logprobs": True, "logit_bias": {"5": 1}}, {"logprobs", "logit_bias"}),
        (COMPLETIONS, {"prompt": "a", "logprobs": 0, "echo": True}, {"logprobs"}),
        (CHAT, {"n_probs": 10, "return_hidden_states": True}, {"n_probs", "return_hidden_states"}),
        (RESPONSES, {"input": "a", "include": ["reasoning.encrypted_content"]}, set()),
        (RESPONSES, {"input": "a", "include": ["message.output_text.logprobs"]}, {"include"}),
        (RESPONSES, b'{"model":"m","input":"a","include":["message.output_text.logpro\\u0062s"]}', {"include"}),
        (CHAT, b'{"model":"m","messages":[],"logit_b\\u0069as":{"5":1}}', {"logit_bias"}),
    ],
)
def test_fields_that_ask_for_probabilities_or_shift_them_are_named(kind: BodyKind, more: Any, probes: set[str]) -> None:
    body = more if isinstance(more, bytes) else CHATTING | more if kind is CHAT else {"model": "m"} | more
    assert look(kind, body).shape.probes == probes
