"""Requests that two servers could read in two ways: refused, and what hides in them is never answered."""

import asyncio
import json

import pytest
from tests.doubles_http import Client, ScriptedBackend, answer, chat, make_app
from tests.loopback import exchange, listening

from headrace.server.config import ServerConfig

HIDDEN = b"GET /version HTTP/1.1\r\nhost: localhost\r\nx-request-id: hidden\r\nconnection: close\r\n\r\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"0\r\n\r\n" + HIDDEN
LENGTH = b"%d" % len(HIDDEN)

REFUSED = {
    "length and chunks": b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "chunks and length": b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n" + CHUNKED,
    "two lengths": b"content-length: 0\r\ncontent-length: " + LENGTH + b"\r\n\r\n" + HIDDEN,
    "the same length twice": b"content-length: " + LENGTH + b"\r\ncontent-length: " + LENGTH + b"\r\n\r\n" + HIDDEN,
    "a list of lengths": b"content-length: 0, " + LENGTH + b"\r\n\r\n" + HIDDEN,
    "a length with a sign": b"content-length: +0\r\n\r\n" + HIDDEN,
    "a length below 0": b"content-length: -1\r\n\r\n" + HIDDEN,
    "a length in hex": b"content-length: 0x10\r\n\r\n" + HIDDEN,
    "a length with a space": b"content-length: 1 0\r\n\r\n" + HIDDEN,
    "a length beyond all numbers": b"content-length: 99999999999999999999\r\n\r\n" + HIDDEN,
    "an encoding that is none": b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED,
    "the encoding of old": b"transfer-encoding: identity\r\n\r\n" + CHUNKED,
    "chunks that are not last": b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "two encodings": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n" + CHUNKED,
    "a space before the colon": b"transfer-encoding : chunked\r\n\r\n" + CHUNKED,
    "a vertical tab": b"transfer-encoding:\x0bchunked\r\n\r\n" + CHUNKED,
    "a folded header": b"x-a: b\r\n c\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a folded encoding": b"transfer-encoding:\r\n chunked\r\ncontent-length: %d\r\n\r\n" % len(CHUNKED) + CHUNKED,
    "a line feed alone": b"x-a: b\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a carriage return alone": b"x-a: b\rcontent-length: 0\r\n\r\n" + HIDDEN,
    "a zero byte": b"x-a: b\x00c\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "a name with a space": b"content length: 5\r\n\r\n" + HIDDEN,
    "no name": b": 5\r\n\r\n" + HIDDEN,
    "chunks with line feeds": b"transfer-encoding: chunked\r\n\r\n1\nA\n0\n\n" + HIDDEN,
    "a line feed in an extension": b"transfer-encoding: chunked\r\n\r\n1;a=\n\r\nA\r\n0\r\n\r\n" + HIDDEN,
    "a chunk beyond all numbers": b"transfer-encoding: chunked\r\n\r\n10000000000000000\r\nA\r\n0\r\n\r\n" + HIDDEN,
    "a chunk below 0": b"transfer-encoding: chunked\r\n\r\n-1\r\nA\r\n0\r\n\r\n" + HIDDEN,
    "a chunk's length with 0x": b"transfer-encoding: chunked\r\n\r\n0x1\r\nA\r\n0\r\n\r\n" + HIDDEN,
    "a chunk longer than it says": b"transfer-encoding: chunked\r\n\r\n1\r\nAB\r\n0\r\n\r\n" + HIDDEN,
    "two hosts": b"host: evil.example\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
    "the same host twice": b"host: localhost\r\ncontent-length: 0\r\n\r\n" + HIDDEN,
}
WHOLE = {
    "lines that end in line feeds": b"GET /version HTTP/1.1\nhost: localhost\nx-request-id: hidden\n\n",
    "no host": b"GET /version HTTP/1.1\r\nx-request-id: hidden\r\n\r\n",
    "no version": b"GET /version\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a space in the target": b"GET /ver sion HTTP/1.1\r\nhost: localhost\r\nx-request-id: hidden\r\n\r\n",
}


@pytest.mark.parametrize("sent", [*(HEAD + rest for rest in REFUSED.values()), *WHOLE.values()], ids=[*REFUSED, *WHOLE])
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_answered(sent: bytes) -> None:
    async def main() -> None:
        backend = ScriptedBackend(answer("ok"))
        async with listening(make_app(backend, ServerConfig(port=0))) as (_, port):
            data = await exchange(port, sent)
            assert data.count(b"HTTP/1.1 ") == 1 and data.startswith(b"HTTP/1.1 400 ")
            assert b"connection: close\r\n" in data and b"hidden" not in data and b"1.2.3" not in data
            assert json.loads(data.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
            assert (await exchange(port, HIDDEN)).startswith(b"HTTP/1.1 200 ")
        assert backend.requests == []

    asyncio.run(main())


@pytest.mark.parametrize("header", ["x-request-id", "traceparent", "origin", "anthropic-version", "x-headrace-session"])
@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nx-evil: 1", "a\x00b", "é\r\n\r\n<script>", "%0d%0ax-evil:1"])
def test_nothing_of_a_clients_headers_becomes_a_header_of_ours(header: str, value: str) -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0))
        headers = {"content-type": "application/json", header: value}
        reply = await Client(app, "POST", "/v1/chat/completions", chat(), headers).run()
        for name, told in reply.headers.items():
            assert "\n" not in name + told and "\r" not in name + told and "\x00" not in name + told
        assert "x-evil" not in reply.headers and "evil" not in "".join(reply.headers.values())

    asyncio.run(main())


def test_a_path_with_line_breaks_is_only_ever_shown_escaped() -> None:
    async def main() -> None:
        async with listening(make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0))) as (_, port):
            data = await exchange(
                port, b"GET /v1/x%0d%0ax-evil:%201 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
            assert data.startswith(b"HTTP/1.1 404 ") and b"\r\nx-evil" not in data

    asyncio.run(main())


def test_a_body_with_the_wish_for_http2_is_refused_in_words_and_not_taken_for_an_empty_one() -> None:
    backend = ScriptedBackend(answer("x"))

    async def main() -> None:
        sent = HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n"
        async with listening(make_app(backend, ServerConfig(port=0))) as (_, port):
            told = await exchange(port, sent + b"content-length: " + LENGTH + b"\r\n\r\n" + HIDDEN)
            assert told.count(b"HTTP/1.1 ") == 1
            assert told.startswith(b"HTTP/1.1 400")
            assert b"without the header 'upgrade'" in told

    asyncio.run(main())
    assert not backend.requests
