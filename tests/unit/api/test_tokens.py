"""`/tokenize` and `/detokenize`: vLLM's bodies and answers, llama.cpp's, and what goes with neither."""

import json
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, make_app, run
from tests.scripted import Scripted, Turn
from tests.scripted_services import ScriptedTokens

from headrace.api.openai import Caller
from headrace.api.tokens import INERT_TOKENIZE, TokenizeBody, TokenizeCall, decode_tokenize
from headrace.core.errors import HeadraceError, InvalidRequest, UnsupportedField
from headrace.core.request import Principal, Request, Task, Tool
from headrace.core.service import Tokenized

CALLER = Caller(request_id="id-1", principal=Principal(tenant="acme"), deadline_s=3.0)
HI: list[Any] = [{"role": "user", "content": "Hi there"}]
FOUND = Tokenized((5, 7), (b"Hi", b"\xe2\x9d"), 512)


def call(**fields: Any) -> TokenizeCall:
    return decode_tokenize(json.dumps(fields).encode(), CALLER, "first")


def ask(path: str, body: bytes) -> Reply:
    backend = Scripted([Turn(text="x")])
    client = Client(make_app(backend, tokens=ScriptedTokens(backend)), "POST", path, body)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_a_prompt_is_asked_for_as_vllm_does() -> None:
    asked = call(model="m", prompt="Hi")
    assert (asked.request.model, asked.request.prompt, asked.request.task) == ("m", "Hi", Task.COUNT)
    assert (asked.request.principal.tenant, asked.request.limits.deadline_s) == ("acme", 3.0)
    assert (asked.adds_special, asked.shows_pieces, asked.is_short) == (True, False, False)
    assert not call(prompt="Hi", add_special_tokens=False).adds_special
    assert json.loads(asked.encode(FOUND)) == {
        "count": 2,
        "max_model_len": 512,
        "tokens": [5, 7],
        "token_strs": None,
    }
    shown = json.loads(call(prompt="Hi", return_token_strs=True).encode(FOUND))
    assert shown["token_strs"] == ["Hi", "\ufffd"]


def test_a_conversation_may_bring_tools_and_end_where_it_ends() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    asked = call(messages=HI, tools=tools, add_generation_prompt=False)
    assert asked.request.messages is not None
    assert (asked.request.model, asked.request.messages[0].text, asked.request.tools) == (
        "first",
        "Hi there",
        (Tool("look"),),
    )
    assert not asked.opens_answer
    assert call(messages=HI).opens_answer


def test_llama_cpp_asks_for_content() -> None:
    asked = call(content="Hi")
    assert (asked.request.prompt, asked.adds_special, asked.is_short) == ("Hi", False, True)
    assert call(content="Hi", add_special=True).adds_special
    assert json.loads(asked.encode(FOUND)) == {"tokens": [5, 7]}
    pieces = json.loads(call(content="Hi", with_pieces=True, parse_special=True).encode(FOUND))
    assert pieces == {"tokens": [{"id": 5, "piece": "Hi"}, {"id": 7, "piece": [0xE2, 0x9D]}]}


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (InvalidRequest, {}, "prompt"),
        (InvalidRequest, {"prompt": "a", "content": "b"}, "content"),
        (InvalidRequest, {"prompt": ""}, "prompt"),
        (InvalidRequest, {"messages": []}, "messages"),
        (InvalidRequest, {"prompt": "a", "model": ""}, "model"),
        (InvalidRequest, {"prompt": "a", "with_pieces": True}, "with_pieces"),
        (InvalidRequest, {"prompt": "a", "tools": []}, "tools"),
        (InvalidRequest, {"content": "a", "return_token_strs": True}, "return_token_strs"),
        (InvalidRequest, {"messages": HI, "add_special_tokens": True}, "add_special_tokens"),
        (InvalidRequest, {"prompt": 5}, "prompt"),
        (InvalidRequest, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        (InvalidRequest, {"prompt": "a", "zzz": 1}, "zzz"),
        (UnsupportedField, {"content": "a", "parse_special": False}, "parse_special"),
        (UnsupportedField, {"messages": HI, "chat_template": "x"}, "chat_template"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(
    kind: type[HeadraceError], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(kind) as caught:
        call(**fields)
    assert (type(caught.value), caught.value.param) == (kind, param)  # type: ignore[attr-defined]


def test_null_means_the_default_everywhere() -> None:
    optional = [name for name in TokenizeBody.__struct_fields__ if name != "prompt"]
    assert call(prompt="a", **dict.fromkeys(optional)) == call(prompt="a")
    assert set(INERT_TOKENIZE) < set(optional)


def test_the_routes_tell_tokens_and_texts() -> None:
    reply = ask("/tokenize", b'{"prompt":"one two one"}')
    assert reply.json() == {"count": 3, "max_model_len": 200_000, "tokens": [0, 1, 0], "token_strs": None}
    reply = ask("/detokenize", b'{"tokens":[0,1],"model":"scripted"}')
    assert reply.json() == {"prompt": "<0><1>", "content": "<0><1>"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", b"{", 400, None),
        ("/tokenize", b'{"prompt":"x","model":"none"}', 404, "model"),
        ("/detokenize", b'{"tokens":[]}', 400, "tokens"),
        ("/detokenize", b'{"tokens":[-1]}', 400, "tokens"),
        ("/detokenize", b'{"tokens":["a"]}', 400, "tokens[0]"),
        ("/detokenize", b'{"tokens":[1],"text":"x"}', 400, "text"),
    ],
)
def test_the_routes_refuse_in_openais_shape(path: str, body: bytes, status: int, param: str | None) -> None:
    reply = ask(path, body)
    assert (reply.status, reply.error()["param"]) == (status, param)


def test_a_request_is_its_callers() -> None:
    backend = Scripted([Turn(text="x")])
    tokens = ScriptedTokens(backend)
    client = Client(make_app(backend, tokens=tokens), "POST", "/tokenize", b'{"prompt":"x"}')

    async def main() -> None:
        await client.run()

    run(main())
    (request,) = tokens.requests
    assert isinstance(request, Request)
    assert request.id == "tok-0001"
