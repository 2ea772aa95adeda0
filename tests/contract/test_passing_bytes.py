"""Same protocol on both sides: what a client sends and a backend says passes as it is, through the real server, gate
and client of backends. Each test speaks raw HTTP, so that bytes are compared and not what an SDK makes of them.
"""

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.contract.governed import ROUTE, SECRET, Governed, governed
from tests.contract.provider import Provider
from tests.contract.provider_chat import CHAT
from tests.contract.provider_messages import MESSAGES
from tests.contract.provider_responses import RESPONSES
from tests.doubles_http import run
from tests.upstreams import Step, chunk, hang_midstream, head, stream, whole

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ASKED = b'{"model":"scripted","messages":[{"role":"user","content":"Hi \\u00e9"}] , "made_up":{"b":1,"a":[ 2 ]}}'
STREAMED = ASKED[:-1] + b',"stream":true}'
FRAMES = [
    b'data: {"id":"1","new":{"x": 1},"choices":[{"index":0,"delta":{"content":"a","vendor":true}}]}\n\n',
    b': still here\n\ndata: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]


class Client:
    """One raw connection to a governed server."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])

    async def __aenter__(self) -> "Client":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, path: str, body: bytes, *headers: str) -> None:
        """A request."""
        lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def ask(self, path: str, body: bytes, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """A request and all of its answer."""
        self.send(path, body, *headers)
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *fields = text.strip().split("\r\n")
        named = dict(field.split(": ", 1) for field in fields)
        if "content-length" in named:
            return int(first.split()[1]), named, await self.reader.readexactly(int(named["content-length"]))
        data = b""
        while size := int(await self.reader.readline(), 16):
            data += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return int(first.split()[1]), named, data


Talk = Callable[[Governed, Client], Awaitable[None]]


def through(provider: Provider, talk: Talk) -> None:
    async def main() -> None:
        async with governed(provider) as server, Client(server.url) as client:
            await talk(server, client)
            assert server.is_quiet

    run(main())


def test_a_whole_answer_passes_to_the_byte() -> None:
    said = b'{ "id":"1","choices":[],"new" : {"x":[1 ,2]},"usage":%b }' % json.dumps(USAGE).encode()

    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        server.up.script.append(whole(said, 200, ("x-ratelimit-remaining-tokens", "9"), ("set-cookie", "a=b")))
        sent = ("x-vendor-beta: 1", "authorization: Bearer hr_client", "x-headrace-tags: team", "cookie: c=d")
        status, headers, body = await client.ask("/v1/chat/completions", ASKED, *sent)
        assert (status, body) == (200, said)
        assert headers["x-ratelimit-remaining-tokens"] == "9"
        assert (headers["x-headrace-route"], headers["x-headrace-backend"]) == (ROUTE, "up")
        assert (headers["x-headrace-attempts"], float(headers["x-headrace-cost"]) > 0) == ("1", True)
        assert "set-cookie" not in headers
        (asked,) = server.up.received
        assert b'"messages":[{"role":"user","content":"Hi \\u00e9"}]' in asked.body
        assert b'"made_up":{"b":1,"a":[ 2 ]}' in asked.body
        assert asked.fields["model"] == "m"
        assert (asked.header("x-vendor-beta"), asked.header("authorization")) == ("1", f"Bearer {SECRET}")
        assert (asked.header("cookie"), asked.header("x-headrace-tags")) == (None, None)
        (record,) = server.book.records
        assert (record.prompt_tokens, record.completion_tokens, record.tags) == (7, 3, ("team",))

    through(CHAT, talk)


def test_a_stream_passes_to_the_byte_and_its_usage_is_kept_back_from_who_did_not_ask() -> None:
    usage = b"data: " + json.dumps({"id": "1", "choices": [], "usage": USAGE}).encode() + b"\n\n"

    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        pieces = [*FRAMES[:2], usage, FRAMES[2]]
        server.up.script.append(stream([b"".join(pieces)[start : start + 7] for start in range(0, 400, 7)]))
        status, headers, body = await client.ask("/v1/chat/completions", STREAMED)
        assert (status, body) == (200, b"".join(FRAMES))
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["x-headrace-backend"] == "up"
        assert server.up.received[0].fields["stream_options"] == {"include_usage": True}
        server.up.script.append(stream(pieces))
        wanted = STREAMED[:-1] + b',"stream_options":{"include_usage":true}}'
        assert (await client.ask("/v1/chat/completions", wanted))[2] == b"".join(pieces)
        assert [record.completion_tokens for record in server.book.records] == [3, 3]

    through(CHAT, talk)


def test_a_name_that_stands_there_twice_means_one_thing_to_both() -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        body = b'{"model":"elsewhere","n":5,"messages":[],"model":"scripted","n":1,"max_tokens":9,"max_tokens":4}'
        assert (await client.ask("/v1/chat/completions", body))[0] == 200
        sent = json.loads(server.up.received[0].body, object_pairs_hook=list)
        assert sorted(name for name, _ in sent) == sorted({name for name, _ in sent})
        assert {name: value for name, value in sent if name != "messages"}["n"] == 1
        (reserved,) = server.book.reserved
        assert reserved.shape.max_tokens == 4

    through(CHAT, talk)


def test_a_client_that_leaves_frees_its_backend_and_is_settled_for() -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        server.up.script.append(hang_midstream(FRAMES[0]))
        client.send("/v1/chat/completions", STREAMED)
        await client.reader.readuntil(b'"vendor":true}}]}\n\n')
        client.writer.transport.abort()
        await server.up.wait_open(0)
        (record,) = server.book.records
        assert (record.outcome, record.is_estimated) == ("cancelled", True)

    through(CHAT, talk)


def test_a_client_that_leaves_before_anything_came_frees_its_backend() -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        server.up.script.append([Step.HANG])
        client.send("/v1/chat/completions", STREAMED)
        await server.up.wait_received(1)
        client.writer.transport.abort()
        await server.up.wait_open(0)
        assert [record.outcome for record in server.book.records] == ["cancelled"]

    through(CHAT, talk)


def test_a_backend_that_dies_in_the_middle_ends_the_stream_with_an_error() -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        begun = head(200, "text/event-stream", ("transfer-encoding", "chunked")) + b"\r\n" + chunk(FRAMES[0])
        server.up.script.append([begun, Step.YIELD, Step.ABORT])
        status, _, body = await client.ask("/v1/chat/completions", STREAMED)
        assert status == 200
        assert body.startswith(FRAMES[0])
        assert json.loads(body.removeprefix(FRAMES[0]).removeprefix(b"data: "))["error"]["code"] == "upstream_fault"

    through(CHAT, talk)


@pytest.mark.parametrize(
    ("provider", "path", "body"),
    [
        (MESSAGES, "/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}),
        (MESSAGES, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
        (RESPONSES, "/v1/responses", {"input": "Hi", "store": False}),
        (CHAT, "/v1/completions", {"prompt": "Hi"}),
    ],
)
def test_every_route_that_may_passes_what_nobody_knows(provider: Provider, path: str, body: dict[str, Any]) -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        said = b'{"kept": [ 1 ], "choices":[], "object":"response", "output":[], "content":[], "input_tokens":1}'
        server.up.script.append(whole(said))
        data = json.dumps({"model": "scripted", **body, "made_up": {"x": 1}}).encode()
        status, headers, answer = await client.ask(path, data, "anthropic-version: 2023-06-01")
        assert (status, answer) == (200, said)
        assert headers["x-headrace-route"] == ROUTE
        (asked,) = server.up.received
        assert asked.path == path
        assert asked.fields["made_up"] == {"x": 1}

    through(provider, talk)


@pytest.mark.parametrize("body", [{"store": True}, {}, {"store": False, "background": True}])
def test_a_response_that_somebody_here_must_keep_does_not_pass(body: dict[str, Any]) -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        data = json.dumps({"model": "scripted", "input": "Hi", **body, "made_up": 1}).encode()
        status, _, answer = await client.ask("/v1/responses", data)
        assert (status, json.loads(answer)["error"]["param"]) == (400, "made_up")
        assert server.up.received == []

    through(RESPONSES, talk)


def test_a_response_made_here_says_which_way_it_went_too() -> None:
    async def talk(server: Governed, client: Client) -> None:
        assert server.up is not None
        status, headers, _ = await client.ask("/v1/responses", b'{"model":"scripted","input":"Hi"}')
        assert (status, headers["x-headrace-backend"]) == (200, "up")

    through(CHAT, talk)


def test_requests_leave_nothing_for_the_collector_of_garbage() -> None:
    async def talk(server: Governed, client: Client) -> None:
        for body in (ASKED, STREAMED):
            await client.ask("/v1/chat/completions", body)
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    await client.ask("/v1/chat/completions", body)
                assert gc.collect() < 20
            finally:
                gc.enable()

    through(CHAT, talk)
