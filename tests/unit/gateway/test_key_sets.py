"""Key sets of issuers: from where they may come, when they are fetched, and what is in force when that fails."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_accounts import SetClock
from tests.tokens import AUDIENCE, ISSUER, key, key_set
from tests.unit.gateway.upstreams.test_tls import certificate, served
from tests.upstreams import Step, Upstream, head, upstream, whole

from headrace.core.errors import InvalidRequest, UpstreamFault
from headrace.gateway.key_sets import KeySetBook, Pauses
from headrace.gateway.upstreams.fetch import Reach, fetch, read_place
from headrace.trust.identity.settings import IssuerSettings

AT_ONCE = Pauses(wanted_s=0, failed_s=0.001)
KEYS = key_set(key())


def issuer(jwks: str | None, **changed: Any) -> IssuerSettings:
    given = {"name": "corp", "issuer": ISSUER, "audience": frozenset({AUDIENCE}), "tenant": "a", "is_private": True}
    return IssuerSettings(jwks=jwks, **(given | changed))


def run(test: Callable[[Upstream], Awaitable[None]], tls: Any = None) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), upstream(tls=tls) as up:
            await test(up)

    asyncio.run(body())


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until that is so; the test's own timeout ends it."""
    while not condition():  # noqa: ASYNC110 - what it waits for is in another task, and has no event
        await asyncio.sleep(0.001)


def test_keys_are_fetched_before_anybody_asks_and_anew_when_a_key_is_wanted() -> None:
    async def body(up: Upstream) -> None:
        up.script.extend([whole(KEYS), whole(key_set(key("ES256", "two")))])
        book = KeySetBook(SetClock(), AT_ONCE)
        assert book.find("corp") is None
        await book.open([issuer(f"{up.url}/keys?for=us")])
        await book.settle()
        found = book.find("corp")
        assert found is not None and [one.kid for one in found.keys] == ["one"]
        assert (up.received[0].path, up.received[0].header("authorization")) == ("/keys?for=us", None)
        book.want("corp")
        await until(lambda: book.find("corp") != found)
        assert [one.kid for one in book.find("corp").keys] == ["two"]  # type: ignore[union-attr]
        await book.close()

    run(body)


def test_however_many_tokens_want_a_key_it_is_fetched_once_in_a_while() -> None:
    async def body(up: Upstream) -> None:
        up.respond = lambda _: whole(KEYS)
        book = KeySetBook(SetClock(), Pauses(wanted_s=3600, failed_s=3600))
        await book.open([issuer(f"{up.url}/keys")])
        await book.settle()
        for _ in range(1000):
            book.want("corp")
            await asyncio.sleep(0)
        assert len(up.received) == 1
        await book.close()

    run(body)


def test_the_same_keys_stay_the_same_set_so_that_what_was_verified_stays_so() -> None:
    async def body(up: Upstream) -> None:
        up.respond = lambda _: whole(KEYS)
        book = KeySetBook(SetClock(), AT_ONCE)
        await book.open([issuer(f"{up.url}/keys")])
        await book.settle()
        found = book.find("corp")
        book.want("corp")
        await up.wait_received(2)
        await book.settle()
        assert book.find("corp") is found
        await book.close()

    run(body)


@pytest.mark.parametrize(
    "script",
    [
        whole(b"{}"),
        whole(b"x" * 300_000),
        whole(KEYS, 500),
        whole(KEYS, 302, ("location", "https://attacker.example/keys")),
        whole(KEYS, 200, ("content-encoding", "gzip")),
        [head() + b"content-length: 99\r\n\r\n{", Step.CLOSE],
        [Step.ABORT],
        whole(key_set({"kty": "oct", "k": "c2VjcmV0"})),
    ],
)
def test_what_fails_leaves_the_set_in_force_until_it_is_too_old(script: Any) -> None:
    async def body(up: Upstream) -> None:
        clock = SetClock()
        up.script.append(whole(KEYS))
        up.respond = lambda _: script
        book = KeySetBook(clock, AT_ONCE)
        await book.open([issuer(f"{up.url}/keys", stale_s=100)])
        await book.settle()
        book.want("corp")
        await up.wait_received(3)
        assert book.find("corp") is not None
        clock.pass_s(101)
        assert book.find("corp") is None
        up.respond = lambda _: whole(KEYS)
        await until(lambda: book.find("corp") is not None)
        await book.close()

    run(body)


def test_a_discovery_document_says_where_keys_are_if_it_is_the_issuers_own() -> None:
    async def body(up: Upstream) -> None:
        for said, is_found in (
            ({"issuer": up.url, "jwks_uri": f"{up.url}/keys"}, True),
            ({"issuer": ISSUER, "jwks_uri": f"{up.url}/keys"}, False),
            ({"issuer": up.url}, False),
            ({"issuer": up.url, "jwks_uri": "http://169.254.169.254/keys"}, False),
            ({"issuer": up.url, "jwks_uri": "file:///etc/passwd"}, False),
        ):
            up.received.clear()
            document: Any = said
            up.respond = lambda request, document=document: whole(  # type: ignore[misc]
                KEYS if request.path == "/keys" else document
            )
            book = KeySetBook(SetClock(), AT_ONCE)
            await book.open([issuer(None, issuer=up.url)])
            await book.settle()
            assert (book.find("corp") is not None) == is_found
            await book.close()
            assert up.received[0].path == "/.well-known/openid-configuration"

    run(body)


def test_keys_in_a_file_are_there_at_once_and_read_again(tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "keys.json"
        path.write_bytes(KEYS)
        book = KeySetBook(SetClock(), AT_ONCE)
        await book.open([issuer(str(path))])
        found = book.find("corp")
        assert found is not None
        path.write_bytes(key_set(key("ES256", "two")))
        book.want("corp")
        await until(lambda: book.find("corp") != found)
        await book.close()

    asyncio.run(body())


@pytest.mark.parametrize("content", [None, b"{}", b"not JSON"])
def test_a_file_that_holds_no_keys_is_told_at_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"identity\.issuers\.corp\.jwks: .*keys\.json"):
        KeySetBook(SetClock()).prepare([issuer(str(path))])


def test_the_authority_of_where_keys_are_can_be_named(tmp_path: Path) -> None:
    path = certificate(tmp_path, "localhost")

    async def body(up: Upstream) -> None:
        up.respond = lambda _: whole(KEYS)
        assert await fetch(f"{up.url}/keys", Reach(allows_private=True, ca_file=str(path))) == KEYS
        with pytest.raises(UpstreamFault, match="certificate"):
            await fetch(f"{up.url}/keys", Reach(allows_private=True))

    run(body, served(path))


OUTSIDE = Reach()
INSIDE = Reach(allows_private=True)
WRONG_PLACES = [
    ("http://id.example/keys", OUTSIDE),
    ("http://id.example/keys", INSIDE),
    ("http://10.0.0.1/keys", INSIDE),
    ("http://127.0.0.1/keys", OUTSIDE),
    ("https://127.0.0.1/keys", OUTSIDE),
    ("https://localhost/keys", OUTSIDE),
    ("https://x.localhost/keys", OUTSIDE),
    ("https://[::1]/keys", OUTSIDE),
    ("https://10.1.2.3/keys", OUTSIDE),
    ("https://192.168.0.1/keys", OUTSIDE),
    ("https://172.16.0.1/keys", OUTSIDE),
    ("https://100.64.0.1/keys", OUTSIDE),
    ("https://[fd00::1]/keys", OUTSIDE),
    ("https://[::ffff:10.0.0.1]/keys", OUTSIDE),
    ("https://[64:ff9b::a00:1]/keys", OUTSIDE),
    ("https://[2002:a00:1::]/keys", OUTSIDE),
    ("https://169.254.169.254/keys", OUTSIDE),
    ("https://169.254.169.254/keys", INSIDE),
    ("https://0.0.0.0/keys", INSIDE),
    ("https://224.0.0.1/keys", OUTSIDE),
    ("file:///etc/passwd", INSIDE),
    ("ftp://id.example/keys", INSIDE),
    ("https://user:secret@id.example/keys", INSIDE),
    ("https://id.example/keys#a", INSIDE),
    ("https://id.example/a/../../keys", INSIDE),
    ("https://id.example\r\nx: y/keys", INSIDE),
    ("", INSIDE),
]


@pytest.mark.parametrize(("url", "reach"), WRONG_PLACES)
def test_a_place_where_no_keys_may_come_from_is_refused_as_it_is_written(url: str, reach: Reach) -> None:
    with pytest.raises(ValueError):
        read_place(url, reach)
    if url.startswith(("https://", "http://")):
        with pytest.raises(InvalidRequest, match=r"identity\.issuers\.corp\.jwks"):
            KeySetBook(SetClock()).prepare([issuer(url, is_private=reach.allows_private)])


@pytest.mark.parametrize(
    ("machine", "reach"), [("127.0.0.1", OUTSIDE), ("10.0.0.1", OUTSIDE), ("::1", OUTSIDE), ("169.254.169.254", INSIDE)]
)
def test_a_public_name_that_leads_inside_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, machine: str, reach: Reach
) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()

        async def resolve(host: str, port: int, **_: Any) -> list[Any]:
            family = socket.AF_INET6 if ":" in machine else socket.AF_INET
            public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.1", port))
            return [public, (family, socket.SOCK_STREAM, 6, "", (machine, port))]

        async def connect(*_: Any, **__: Any) -> Any:
            raise AssertionError("nothing may be connected to")

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        monkeypatch.setattr(loop, "create_connection", connect)
        with pytest.raises(UpstreamFault, match="leads to a machine"):
            await fetch("https://id.example/keys", reach)

    asyncio.run(body())


def test_a_fetch_leaves_nothing_open() -> None:
    async def body(up: Upstream) -> None:
        up.script.append([Step.HANG])
        task = asyncio.get_running_loop().create_task(fetch(f"{up.url}/keys", INSIDE))
        await up.wait_received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await up.wait_open(0)

    run(body)


def test_other_issuers_are_put_in_force_and_those_that_stay_are_not_fetched_again(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        up.respond = lambda _: whole(KEYS)
        book = KeySetBook(SetClock(), Pauses(wanted_s=3600, failed_s=3600))
        stays, goes = issuer(f"{up.url}/keys", name="stays"), issuer(f"{up.url}/keys", name="goes")
        await book.open([stays, goes])
        await book.settle()
        found = book.find("stays")
        path = tmp_path / "keys.json"
        path.write_bytes(KEYS)
        prepared = book.prepare([stays, issuer(str(path), name="comes")])
        assert book.find("comes") is None
        book.replace(prepared)
        assert book.find("stays") is found and book.find("goes") is None and book.find("comes") is not None
        path.write_bytes(key_set(key("ES256", "two")))
        book.replace(book.prepare([issuer(str(path), name="comes")]))
        assert [one.kid for one in book.find("comes").keys] == ["two"]  # type: ignore[union-attr]
        await book.settle()
        assert len(up.received) == 2
        await book.close()
        assert book.find("comes") is None

    run(body)
