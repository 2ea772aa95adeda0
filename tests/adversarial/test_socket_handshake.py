"""Handshakes that must not become a WebSocket: each gets an HTTP response, and the connection is let go."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from tests.doubles_http import make_app, run
from tests.loopback import exchange, listening
from tests.scripted import Scripted, Turn
from tests.socket_client import serving, until

from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing
from headrace.server.protocol import MAX_SOCKET_LINE_BYTES

OK = [Turn(text="OK")]
UPGRADE = {
    "host": "localhost",
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass(frozen=True)
class Entry:
    name: str
    sha256: str
    tenant: str = "acme"
    scopes: frozenset[str] = frozenset({"generate"})
    priority: int = 0
    share: float = 1.0
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: datetime | None = None
    is_disabled: bool = False


def ring(*entries: Entry) -> KeyRing:
    return KeyRing(lambda: entries)


def entry(key: str, **fields: Any) -> Entry:
    return replace(Entry(key, hashlib.sha256(key.encode()).hexdigest()), **fields)


def handshake(method: str = "GET", path: str = "/v1/responses", **headers: str | None) -> bytes:
    given = UPGRADE | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode()


def answered(data: bytes, config: ServerConfig | None = None, keys: KeyRing | None = None) -> tuple[int, Any]:
    """Status and body of what a raw handshake gets, after which the same server must still take a good one."""
    replies = []

    async def main() -> None:
        async with serving(OK, config, keys=keys) as (place, _):
            replies.append(await exchange(place.port, data))
            if keys is None:
                async with place.client() as client:
                    assert (await client.turn())["type"] == "response.completed"

    run(main())
    head, _, body = replies[0].partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (handshake(path="/v1/nothing"), 404, "not_found"),
        (handshake(path="/v1/chat/completions"), 404, "not_found"),
        (handshake(host="evil.example"), 403, "host_not_allowed"),
        (handshake(origin="https://evil.example"), 403, "origin_not_allowed"),
        (handshake(x_headrace_session="mine"), 400, "invalid_value"),
        (handshake(x_headrace_timeout="soon"), 400, "invalid_value"),
        (handshake("POST"), 400, "invalid_http"),
        (handshake("POST", content_length="100"), 400, "invalid_http"),
        (handshake(content_length="100"), 400, "invalid_http"),
        (handshake(transfer_encoding="chunked"), 400, "invalid_http"),
        (handshake() + b"\x81\x85\x00\x00\x00\x00Hello", 400, "invalid_http"),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" + handshake(), 400, "invalid_http"),
    ],
)
def test_a_handshake_that_may_not_be_is_refused_over_http(data: bytes, status: int, code: str | None) -> None:
    got, body = answered(data)
    assert got == status
    if code is not None:
        assert body["error"]["code"] == code


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (handshake(sec_websocket_key=None), 400),
        (handshake(sec_websocket_key="short"), 400),
        (handshake(sec_websocket_version="8"), 400),
        (handshake(**{f"x-{index}": "1" for index in range(200)}), 400),
        (handshake(path="/v1/responses?" + "x" * 9000), 400),
    ],
)
def test_what_is_no_handshake_of_rfc_6455_is_answered_and_let_go(data: bytes, status: int) -> None:
    assert answered(data)[0] == status


def test_a_handshake_with_a_longer_header_than_is_read_is_refused_by_its_name() -> None:
    longest = MAX_SOCKET_LINE_BYTES - len("cookie: \r\n")
    assert answered(handshake(cookie="a" * longest), keys=ring(entry("hr_good")))[0] == 401  # it was read
    status, body = answered(handshake(cookie="a" * (longest + 1)), keys=ring(entry("hr_good")))
    assert status == 431
    assert body["error"]["message"].startswith("cookie: has 8183 bytes")


def test_a_key_is_asked_for_before_anything_is_accepted() -> None:
    keys = ring(entry("hr_good"), entry("hr_metrics", scopes=frozenset({"metrics"})))
    status, body = answered(handshake(), keys=keys)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    status, body = answered(handshake(authorization="Bearer hr_wrong"), keys=keys)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    status, body = answered(handshake(authorization="Bearer hr_metrics"), keys=keys)
    assert (status, body["error"]["code"]) == (403, "insufficient_scope")
    status, _ = answered(handshake(path="/v1/nothing"), keys=keys)
    assert status == 401  # nobody learns what exists without a key

    async def main() -> None:
        async with serving(OK, keys=keys) as (place, _), place.client(authorization="Bearer hr_good") as client:
            assert (await client.turn())["type"] == "response.completed"

    run(main())


def test_sockets_and_requests_are_counted_together() -> None:
    async def main() -> None:
        async with serving(OK, ServerConfig(port=0, max_connections=2)) as (place, _):
            async with place.client(), place.client() as client:
                reply = await exchange(place.port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert reply.startswith(b"HTTP/1.1 503 ")
                assert (await exchange(place.port, handshake())).startswith(b"HTTP/1.1 503 ")
                assert (await client.turn())["type"] == "response.completed"
            await until(lambda: not place.server.server_state.connections)
            async with place.client() as client:
                assert (await client.turn())["type"] == "response.completed"

    run(main())


def test_a_request_on_the_same_connection_may_come_before_the_handshake() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b'{"status":"alive"}')
            writer.write(handshake())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            writer.close()

    run(main())


def test_a_server_without_the_service_has_no_such_socket() -> None:
    async def main() -> None:
        async with listening(make_app(Scripted(OK), ServerConfig(port=0))) as (_, port):
            assert (await exchange(port, handshake())).startswith(b"HTTP/1.1 404 ")

    run(main())


def test_a_server_that_stops_takes_no_new_socket() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _):
            place.app.lifecycle.start_draining()
            reply = await exchange(place.port, handshake())
            assert reply.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"unavailable"' in reply

    run(main())
