"""Cookies at a real server's port: as many and as long as a client likes, and what a stranger learns of the files."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import ScriptedBackend, answer, make_app, run
from tests.doubles_sessions import SealInMemory
from tests.loopback import exchange, listening
from tests.unit.server.test_keys import entry

from headrace.cli.console import KeptSeal
from headrace.core.sessions import SessionSeal
from headrace.server.config import ConsoleSettings, ServerConfig
from headrace.server.keys import KeyRing

KEY = "hr_alice"


def ask(port: int, *lines: str, method: str = "GET") -> list[bytes]:
    """A request, in parts as a socket sends what is long."""
    head = [f"{method} /console/session HTTP/1.1", f"host: localhost:{port}", "connection: close", *lines]
    data = "\r\n".join([*head, "x-headrace-console: 1", "", ""]).encode("latin-1")
    return [data[start : start + 8192] for start in range(0, len(data), 8192)]


def read(reply: bytes) -> tuple[int, Any, list[str]]:
    """Status, body and cookies of a reply."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    cookies = [line.partition(": ")[2] for line in lines if line.lower().startswith("set-cookie: ")]
    return int(lines[0].split()[1]), json.loads(body) if body else None, cookies


async def signed_in(port: int) -> str:
    status, _, (line,) = read(await exchange(port, *ask(port, f"authorization: Bearer {KEY}", method="POST")))
    assert status == 200
    return line.partition(";")[0]


def serve(test: Any, seal: SessionSeal | None = None) -> None:
    """Run a test with a server's port, after which the same server must still know who is signed in."""

    async def main() -> None:
        app = make_app(
            ScriptedBackend(answer("ok")),
            ServerConfig(port=0, console=ConsoleSettings()),
            keys=KeyRing(lambda: [entry(KEY, "acme", "generate")]),
            session_seal=seal or SealInMemory(),
        )
        async with listening(app) as (_, port):
            await test(port)
            if seal is None:
                _, told, _ = read(await exchange(port, *ask(port, f"cookie: {await signed_in(port)}")))
                assert told["tenant"] == "acme"

    run(main())


def test_a_session_among_a_thousand_cookies_is_found() -> None:
    async def test(port: int) -> None:
        mine = await signed_in(port)
        others = [f"headrace-session-{other}=1.AAAA" for other in range(1000, 2000)]
        status, told, _ = read(await exchange(port, *ask(port, f"cookie: {'; '.join([*others, mine, *others])}")))
        assert (status, told["tenant"]) == (200, "acme")

    serve(test)


@pytest.mark.parametrize(
    "cookie",
    [
        "headrace-session-{port}=5." + "A" * 50_000,
        "; ".join(["headrace-session-{port}=1.AAAA"] * 1000),
        "; ".join(f"headrace-session-{{port}}.{number}=AAAA" for number in range(1500)),
        ";" * 50_000,
        "=" * 50_000,
        "headrace-session-{port}=5.\xff\x80; headrace-session-{port}.1=\xff",
    ],
    ids=["long", "twice", "pieces", "semicolons", "equals", "not ascii"],
)
def test_cookies_that_nobody_set_sign_nobody_in(cookie: str) -> None:
    async def test(port: int) -> None:
        status, told, _ = read(await exchange(port, *ask(port, "cookie: " + cookie.replace("{port}", str(port)))))
        assert (status, told["needs_sign_in"]) == (200, True)

    serve(test)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["cookie: " + "a" * 300_000, "accept: */*"], "the header behind 'connection'"),
        (["cookie: " + "a" * 20_000, "accept: " + "b" * 300_000], "the header behind 'cookie'"),
        (["cookie: " + "a" * 60_000, *(f"x-{one}: {'b' * 100}" for one in range(3000))], "'cookie'"),
    ],
    ids=["cookie", "behind it", "many more"],
)
def test_more_headers_than_are_taken_are_refused_and_the_longest_is_named(lines: list[str], named: str) -> None:
    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in ask(port, *lines)[:10]:  # a little more than is taken: a client that goes on sending is reset
            writer.write(part)
            await writer.drain()
        status, body, _ = read(await reader.read())
        writer.close()
        assert status == 431
        assert f"most of that is {named};" in body["error"]["message"]

    serve(test)


@pytest.mark.parametrize("damaged", ["console.key", "console.ended"])
def test_a_stranger_with_a_cookie_learns_nothing_of_the_servers_files(tmp_path: Path, damaged: str) -> None:
    async def test(port: int) -> None:
        name = f"headrace-session-{port}"
        good = "" if damaged == "console.key" else await signed_in(port)  # with its key it could not be
        (tmp_path / damaged).write_bytes(b"{")
        (tmp_path / damaged).chmod(0o600)
        for cookie in (f"{name}=1.{'A' * 80}", f"{name}=x", good):
            for method in ("GET", "DELETE"):
                reply = await exchange(port, *ask(port, f"cookie: {cookie}", method=method))
                assert read(reply)[0] in (200, 204, 503)
                assert str(tmp_path).encode() not in reply and damaged.encode() not in reply

    serve(test, KeptSeal(tmp_path / "console.key"))
