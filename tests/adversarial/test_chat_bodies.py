"""What no client should send to chat and its routes: each is refused in OpenAI's shape, and nothing reaches a model."""

import json
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, make_app, run
from tests.scripted import Call, Scripted, Turn
from tests.scripted_services import ScriptedTokens

from headrace.api.metadata import MAX_PAIRS
from headrace.core.request import MAX_TOOLS

CHAT = "/v1/chat/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]


def ask(method: str, path: str, body: bytes | list[bytes] = b"", backend: Scripted | None = None) -> Reply:
    backend = backend or Scripted([Turn(text="Yes.")])
    client = Client(make_app(backend, tokens=ScriptedTokens(backend)), method, path, body, {"x-request-id": "mine-1"})

    async def main() -> None:
        await client.run()

    run(main(), limit_s=30)
    assert client.reply.headers["x-request-id"] == "mine-1"
    return client.reply


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "scripted", "messages": HI} | fields).encode()


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | fields}


def deep(depth: int) -> bytes:
    schema = b'{"a":' * depth + b"1" + b"}" * depth
    return b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":' + (
        b'{"name":"f","parameters":' + schema + b"}}]}"
    )


ALLOWED = {"mode": "auto", "tools": []}
OBJECT = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
WRONG = [
    ("two of one name", body(tools=[tool(), tool()])),
    ("more tools than there may be", body(tools=[tool(f"f{index}") for index in range(MAX_TOOLS + 1)])),
    ("a name that is no name", body(tools=[tool("\u2764")])),
    ("a name of a megabyte", body(tools=[tool("x" * 2**20)])),
    ("parameters that are a list", body(tools=[tool(parameters=["object"])])),
    ("parameters without a bottom", deep(100_000)),
    ("a number of a thousand digits", body(tools=[tool(parameters={})], n=10**1000)),
    ("a choice of nothing", body(tools=[tool()], tool_choice={})),
    ("a choice of another tool", body(tools=[tool()], tool_choice=tool("g"))),
    ("a choice of two kinds", body(tools=[tool()], tool_choice=tool() | {"allowed_tools": ALLOWED})),
    ("an effort that is a number", body(reasoning_effort=3)),
    ("a tier in capitals", body(service_tier="FLEX")),
    ("metadata of one pair too many", body(metadata={str(index): "" for index in range(MAX_PAIRS + 1)})),
    ("metadata that is a list", body(metadata=["a"])),
    ("a result of no call", body(messages=[{"role": "tool", "content": "x"}])),
    ("arguments that are an object", body(messages=[{"role": "assistant", "tool_calls": [OBJECT]}])),
    ("half a character", body(messages=[{"role": "user", "content": "x"}]).replace(b'"x"', b'"\xe2\x9d"')),
    ("half a surrogate pair", b'{"model":"scripted","messages":[{"role":"user","content":"\\ud83d"}]}'),
    ("a thousand images", body(messages=[{"role": "user", "content": [{"type": "image_url"}] * 1000}])),
    ("two words for one thing", body(max_tokens=5, max_completion_tokens=6)),
    ("two words for tools", body(tools=[tool()], functions=[{"name": "f"}])),
    ("a list of bodies", b"[" + body() + b"]"),
    ("nothing", b""),
]


@pytest.mark.parametrize("data", [data for _, data in WRONG], ids=[name.replace(" ", "-") for name, _ in WRONG])
def test_what_makes_no_sense_is_refused_and_reaches_no_model(data: bytes) -> None:
    backend = Scripted([Turn(text="Yes.")])
    for chunks in (data, [data[:7], data[7:-3], data[-3:]]):
        reply = ask("POST", CHAT, chunks, backend)
        assert reply.status == 400
        assert set(reply.error()) == {"message", "type", "param", "code"}
        assert reply.error()["type"] == "invalid_request_error"
        assert len(reply.body) < 5000
        assert reply.headers["x-should-retry"] == "false"
    assert not backend.requests


def test_characters_that_arrive_in_pieces_are_whole() -> None:
    data = body(messages=[{"role": "user", "content": "x"}]).replace(b'"x"', '"caf\u00e9 \u2764"'.encode())
    backend = Scripted([Turn(text="Yes.")])
    assert ask("POST", CHAT, [data[index : index + 1] for index in range(len(data))], backend).status == 200
    messages = backend.requests[0].messages
    assert messages is not None
    assert messages[0].text == "caf\u00e9 \u2764"


def test_whatever_a_model_writes_as_arguments_comes_out_as_it_wrote_it() -> None:
    for written in ("", "{", '{"a":', "\u2764\n\t\\", '{"a": "\\ud83d"}', "null", "x" * 100_000):
        backend = Scripted([Turn(calls=(Call("f", written),), sizes=(1000, 1, 7))])
        whole = ask("POST", CHAT, body(tools=[tool()]), backend).json()
        assert whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == written
        frames = ask("POST", CHAT, body(tools=[tool()], stream=True), backend).frames()
        pieces = [
            piece["function"]["arguments"]
            for frame in frames[:-1]
            for choice in frame["choices"]
            for piece in choice["delta"].get("tool_calls", ())
        ]
        assert "".join(pieces) == written


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", CHAT, 405),
        ("DELETE", CHAT, 405),
        ("GET", "/v1/completions", 405),
        ("GET", "/tokenize", 405),
        ("POST", "/tokenize/", 404),
        ("GET", CHAT + "/chatcmpl-1/choices", 404),
    ],
)
def test_methods_and_paths_that_are_not_there(method: str, path: str, status: int) -> None:
    reply = ask(method, path)
    assert (reply.status, reply.headers["x-should-retry"]) == (status, "false")
