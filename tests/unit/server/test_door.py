"""Who may come in before a key is shown: names, pages of other sites, and whose word is taken for an address."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, chat, make_app

from headrace.server.config import Cors, ServerConfig
from headrace.server.keys import KeyRing

CHAT = "/v1/chat/completions"
SITE = "https://app.example.com"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-made-up"}


def ask(config: ServerConfig, method: str, path: str, headers: dict[str, str], keys: Any = None) -> Reply:
    async def main() -> Reply:
        app = make_app(ScriptedBackend(answer("ok")), config, keys=keys)
        return await Client(app, method, path, chat() if method == "POST" else b"", headers).run()

    return asyncio.run(main())


@dataclass(frozen=True)
class Entry:
    """The one key that there is."""

    name: str = "good"
    tenant: str = "anna"
    scopes: frozenset[str] = frozenset({"generate"})
    priority: int = 0
    share: float = 1.0
    sha256: str = hashlib.sha256(b"hr_good").hexdigest()
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: Any = None
    is_disabled: bool = False


def one_key() -> KeyRing:
    return KeyRing(lambda: [Entry()])


CONFIG = ServerConfig(cors=Cors(origins=(SITE, "http://localhost:3000"), max_age_s=60))


def test_a_page_that_is_named_may_ask_and_read() -> None:
    reply = ask(CONFIG, "OPTIONS", CHAT, {"origin": SITE, **PREFLIGHT}, one_key())
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == SITE
    assert reply.headers["access-control-allow-headers"] == "*, authorization"
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-max-age"] == "60"
    reply = ask(CONFIG, "POST", CHAT, {"origin": SITE, "authorization": "Bearer hr_good"}, one_key())
    assert reply.status == 200 and reply.headers["access-control-allow-origin"] == SITE
    assert "x-request-id" in reply.headers["access-control-expose-headers"] and reply.headers["vary"] == "origin"
    refused = ask(CONFIG, "POST", CHAT, {"origin": SITE}, one_key())
    assert refused.status == 401 and refused.headers["access-control-allow-origin"] == SITE


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "HTTPS://app.example.com",
        "https://app.example.com/",
        "null",
        "*",
        "",
        f"{SITE}, https://evil.example",
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
def test_no_other_page_is_told_that_it_may_and_none_is_reflected(origin: str, method: str) -> None:
    headers = {"origin": origin, "authorization": "Bearer hr_good"} | (PREFLIGHT if method == "OPTIONS" else {})
    reply = ask(CONFIG, method, CHAT, headers, one_key())
    assert reply.status == (403 if method == "OPTIONS" else 200)
    assert not [name for name in reply.headers if name.startswith("access-control-")]
    assert reply.headers["vary"] == "origin"


def test_credentials_are_never_asked_for() -> None:
    for method in ("OPTIONS", "POST"):
        reply = ask(CONFIG, method, CHAT, {"origin": SITE, **(PREFLIGHT if method == "OPTIONS" else {})}, one_key())
        assert "access-control-allow-credentials" not in reply.headers


def test_without_such_a_setting_nothing_of_it_is_said() -> None:
    reply = ask(ServerConfig(), "POST", CHAT, {"origin": "http://localhost:3000"})
    assert reply.status == 200 and not {"vary", "access-control-allow-origin"} & reply.headers.keys()
    assert ask(ServerConfig(), "OPTIONS", CHAT, PREFLIGHT).status == 405


def test_without_keys_a_named_page_may_call_and_others_may_not() -> None:
    assert ask(CONFIG, "POST", CHAT, {"origin": SITE}).status == 200
    reply = ask(CONFIG, "POST", CHAT, {"origin": "https://evil.example"})
    assert (reply.status, reply.error()["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("llm.example.com", 200),
        ("LLM.example.com:443", 200),
        ("llm.example.com.", 200),
        ("evil.example", 403),
        ("localhost:8000", 200),
        ("localhost.evil.example", 403),
        ("llm.example.com@evil.example", 403),
        ("", 403),
    ],
)
def test_with_keys_only_named_hosts_are_answered_if_some_are_named(host: str, status: int) -> None:
    config = ServerConfig(allowed_hosts=("llm.example.com",))
    headers = {"host": host, "authorization": "Bearer hr_good"}
    assert ask(config, "POST", CHAT, headers, one_key()).status == status
    assert ask(ServerConfig(), "POST", CHAT, headers, one_key()).status == 200
    assert ask(config, "GET", "/health", {"host": host}, one_key()).status == 200


def told_client(
    peer: str, *headers: tuple[str, str], trusted: tuple[str, ...] = ("10.0.0.0/8", "fd00::/8")
) -> str | None:
    """What the access log would say."""
    config = ServerConfig(trusted_proxies=trusted, logs_clients=True)
    seen: list[str | None] = []

    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), config)
        client = Client(app, "GET", "/health")
        client.scope["client"] = (peer, 4711)
        client.scope["headers"] += [(name.encode(), value.encode()) for name, value in headers]
        note = app.door.note_client

        def noting(exchange: Any) -> None:
            note(exchange)
            seen.append(exchange.record.client)

        app.door.note_client = noting  # type: ignore[method-assign]
        await client.run()

    asyncio.run(main())
    return seen[0]


XFF, FORWARDED = "x-forwarded-for", "forwarded"


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.9", [(XFF, "198.51.100.1")], "192.0.2.9"),
        ("192.0.2.9", [(FORWARDED, "for=198.51.100.1")], "192.0.2.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [(XFF, "198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "6.6.6.6, 198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "6.6.6.6"), (XFF, "198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "198.51.100.1, 10.0.0.2")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        ("10.0.0.1", [(XFF, "198.51.100.1:4711")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "2001:db8::1")], "2001:db8::1"),
        ("fd00::1", [(XFF, "[2001:db8::1]:80")], "2001:db8::1"),
        ("::ffff:10.0.0.1", [(XFF, "198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "unknown")], "10.0.0.1"),
        ("10.0.0.1", [(XFF, "6.6.6.6, <script>")], "10.0.0.1"),
        ("10.0.0.1", [(XFF, "6.6.6.6,")], "10.0.0.1"),
        ("10.0.0.1", [(FORWARDED, 'for=198.51.100.1;proto=https, For="[2001:db8::1]:80"')], "2001:db8::1"),
        ("10.0.0.1", [(FORWARDED, "for=6.6.6.6, proto=https")], "10.0.0.1"),
        ("10.0.0.1", [(FORWARDED, "for=_hidden")], "10.0.0.1"),
        ("10.0.0.1", [(XFF, "198.51.100.1"), (FORWARDED, "for=198.51.100.1")], "198.51.100.1"),
        ("10.0.0.1", [(XFF, "198.51.100.1"), (FORWARDED, "for=6.6.6.6")], "10.0.0.1"),
        ("10.0.0.1", [(XFF, ", ".join(["10.0.0.2"] * 100_000))], "10.0.0.2"),
    ],
)
def test_a_clients_address_is_the_word_of_a_trusted_proxy_and_of_nobody_else(
    peer: str, headers: list[tuple[str, str]], client: str
) -> None:
    assert told_client(peer, *headers) == client
    assert told_client(peer, *headers, trusted=()) == peer


def test_a_log_has_no_addresses_unless_that_is_asked_for() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(trusted_proxies=("10.0.0.0/8",)))
        assert not app.door.logs_clients

    asyncio.run(main())
