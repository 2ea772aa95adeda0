"""Sessions of the console: whose they are, when they end, and who cannot use them."""

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from secrets import token_bytes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles_http import Client, HandClock, Reply, ScriptedBackend, answer, chat, make_app
from tests.doubles_sessions import SealInMemory
from tests.tokens import NOW_S, key, proof, public, token
from tests.unit.server.test_credentials import ANNA, Scripted
from tests.unit.server.test_keys import Entry, entry
from tests.unit.trust.identity.test_users import users

from headrace.core.errors import Unavailable
from headrace.core.identity import Identity
from headrace.core.sessions import MAX_ENDED
from headrace.core.trust import Delegation
from headrace.server.app import App
from headrace.server.config import ConsoleSettings, ServerConfig
from headrace.server.keys import KeyRing
from headrace.server.sessions import LOOK_S
from headrace.trust.identity.jwk import read_key
from headrace.trust.identity.session_seal import AesSeal

SESSION = "/console/session"
CHAT = "/v1/chat/completions"
PAGE = {"x-headrace-console": "1"}
ALICE = entry("hr_alice", "acme", "generate", "observe")


@dataclass
class Visitor:
    """A browser at the console: its cookies, and what it asks."""

    entries: list[Entry] = field(default_factory=lambda: [ALICE])
    config: ServerConfig = field(default_factory=lambda: ServerConfig(console=ConsoleSettings(session_hours=2)))
    clock: HandClock = field(default_factory=HandClock)
    seal: SealInMemory = field(default_factory=SealInMemory)
    authenticators: list[Any] = field(default_factory=list)
    cookies: dict[str, str] = field(default_factory=dict)
    host: str = "localhost:8000"
    scheme: str = "http"
    peer: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.backend = ScriptedBackend(answer("x"))
        self.ring = KeyRing(lambda: self.entries, self.clock)
        self.app: App = make_app(
            self.backend,
            self.config,
            keys=self.ring,
            clock=self.clock,
            session_seal=self.seal,
            authenticators=self.authenticators,
        )

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        given = {"host": self.host} | PAGE | (headers or {})
        if self.cookies and "cookie" not in given:
            given["cookie"] = "; ".join(f"{name}={value}" for name, value in {"other": "1", **self.cookies}.items())
        client = Client(self.app, method, path, body, {name: value for name, value in given.items() if value})
        client.scope |= {"scheme": self.scheme, "client": (self.peer, 4711)}
        reply = asyncio.run(client.run())
        for line in reply.all("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if "Max-Age=0" in line:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return reply

    def sign_in(self, secret: str = "hr_alice", **headers: str) -> Reply:
        return self.ask("POST", SESSION, {"authorization": f"Bearer {secret}"} | headers)

    def told(self) -> Any:
        return self.ask("GET", SESSION).json()

    def chat(self, **headers: str) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", CHAT, given, chat())


def test_a_key_becomes_a_cookie_that_is_its_caller_on_every_route() -> None:
    anna = Visitor()
    assert anna.told()["needs_sign_in"]
    reply = anna.sign_in()
    assert reply.status == 200
    assert reply.json() | {"expires": 0} == {
        "object": "console.session",
        "needs_sign_in": False,
        "name": "acme's",
        "tenant": "acme",
        "scopes": ["generate", "observe"],
        "expires": 0,
    }
    assert anna.told() == reply.json()
    assert anna.chat().status == 200
    assert anna.backend.requests[0].principal.subject == "key:acme's"


def test_no_cache_on_the_way_keeps_what_a_session_read() -> None:
    anna = Visitor()
    anna.sign_in()
    assert anna.chat().headers["cache-control"] == "no-store"
    assert anna.ask("GET", "/v1/models").headers["cache-control"] == "no-store"
    assert (
        "cache-control" not in anna.ask("GET", "/v1/models", {"cookie": "", "authorization": "Bearer hr_alice"}).headers
    )


def test_no_script_reads_the_cookie_and_no_other_site_sends_it() -> None:
    line = Visitor().sign_in().headers["set-cookie"]
    assert line.startswith("headrace-session-8000=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=7200"} <= set(line.split("; "))
    assert "hr_alice" not in line


def test_over_tls_the_cookie_is_this_hosts_alone() -> None:
    anna = Visitor(host="llm.example", scheme="https")
    line = anna.sign_in().headers["set-cookie"]
    assert line.startswith("__Host-headrace-session=")
    assert "Secure" in line.split("; ")
    assert anna.chat().status == 200
    anna.scheme = "http"
    assert anna.chat().status == 401


def test_a_proxy_that_is_trusted_says_what_the_browser_came_by() -> None:
    told = {"x-forwarded-proto": "https"}
    for proxies, name in ((("10.0.0.0/8",), "__Host-headrace-session"), ((), "headrace-session")):
        config = ServerConfig(console=ConsoleSettings(), trusted_proxies=proxies)
        anna = Visitor(config=config, host="llm.example", peer="10.0.0.1")
        assert anna.sign_in(**told).headers["set-cookie"].startswith(f"{name}=")
        assert anna.ask("GET", SESSION, told).json()["needs_sign_in"] is False


def test_two_servers_on_one_machine_have_two_sessions() -> None:
    anna = Visitor()
    anna.sign_in()
    anna.host = "localhost:8001"
    assert anna.told()["needs_sign_in"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-headrace-console": ""},
        {"x-headrace-console": "yes"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9000"},
        {"origin": "null"},
        {"origin": "http://[oops"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_cookie_that_the_page_itself_did_not_send_is_nothing(headers: dict[str, str]) -> None:
    anna = Visitor()
    anna.sign_in()
    assert anna.ask("POST", CHAT, headers, chat()).status in (401, 403)
    assert anna.ask("DELETE", SESSION, headers).status in (400, 403)
    assert anna.ask("POST", SESSION, {"authorization": "Bearer hr_alice"} | headers).status in (400, 403)
    assert anna.backend.requests == []


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://localhost:8000"}, {"origin": "https://LOCALHOST:8000"}, {"sec-fetch-site": "same-origin"}],
)
def test_the_page_itself_may(headers: dict[str, str]) -> None:
    anna = Visitor()
    anna.sign_in()
    assert anna.ask("POST", CHAT, headers, chat()).status == 200


@pytest.mark.parametrize("headers", [{"authorization": "Bearer hr_alice"}, {"x_api_key": "hr_alice"}])
def test_a_session_beside_another_credential_is_refused(headers: dict[str, str]) -> None:
    anna = Visitor()
    anna.sign_in()
    reply = anna.chat(**headers)
    assert reply.status == 401 and "send one" in reply.error()["message"]


def test_a_session_ends_after_its_hours_and_asks_to_sign_in() -> None:
    anna = Visitor()
    until_s = anna.sign_in().json()["expires"]
    assert until_s == anna.clock.unix_s() + 7200
    anna.clock.now_s += 7199
    assert anna.chat().status == 200
    anna.clock.now_s += 1
    reply = anna.chat()
    assert (reply.status, reply.error()["code"]) == (401, "session_ended")
    assert anna.told() == {
        "object": "console.session",
        "needs_sign_in": True,
        "name": None,
        "tenant": None,
        "scopes": [],
        "expires": None,
    }


def test_a_session_lasts_no_longer_than_its_key() -> None:
    clock = HandClock()
    ends = datetime.fromtimestamp(clock.unix_s() + 60, UTC)
    anna = Visitor(entries=[replace(ALICE, expires=ends)], clock=clock)
    assert anna.sign_in().json()["expires"] == ends.timestamp()
    clock.now_s += 60
    assert anna.chat().status == 401


@pytest.mark.parametrize(
    "entries",
    [
        [entry("hr_other", "acme", "generate")],
        [replace(ALICE, is_disabled=True), entry("hr_other", "acme", "generate")],
        [replace(ALICE, expires=datetime.fromtimestamp(1, UTC))],
    ],
)
def test_a_key_that_is_none_any_more_ends_its_sessions_at_once(entries: list[Entry]) -> None:
    anna = Visitor()
    anna.sign_in()
    anna.entries = entries
    anna.ring.reload()
    assert anna.chat().error()["code"] == "session_ended"


def test_scopes_of_a_session_are_those_that_its_key_has_now() -> None:
    anna = Visitor()
    anna.sign_in()
    anna.entries = [replace(ALICE, scopes=frozenset({"metrics"}), tenant="other")]
    anna.ring.reload()
    assert (anna.told()["tenant"], anna.told()["scopes"]) == ("other", ["metrics"])
    assert anna.chat().status == 403


def test_a_session_outlives_the_server_and_not_the_key_that_sealed_it() -> None:
    anna = Visitor()
    anna.sign_in()
    anna.restart()
    assert anna.chat().status == 200
    anna.seal = SealInMemory(bytes([1]) * 32)
    anna.restart()
    assert anna.chat().error()["code"] == "session_ended"


def test_signing_out_takes_the_cookie_and_ends_a_copy_of_it() -> None:
    anna = Visitor()
    anna.sign_in()
    copied = dict(anna.cookies)
    assert anna.ask("DELETE", SESSION).status == 204
    assert anna.cookies == {} and anna.told()["needs_sign_in"]
    anna.cookies = copied
    assert anna.chat().status == 401
    anna.restart()
    assert anna.chat().status == 401
    anna.cookies = {}
    anna.sign_in()
    assert anna.chat().status == 200  # another session of the same key goes on


def test_what_was_signed_out_is_forgotten_when_it_would_have_ended_and_is_never_much() -> None:
    anna = Visitor()
    for _ in range(3):
        anna.sign_in()
        anna.ask("DELETE", SESSION)
    assert len(anna.seal.ended) == 3
    anna.clock.now_s += 7200
    anna.sign_in()
    anna.ask("DELETE", SESSION)
    assert len(anna.seal.ended) == 1
    anna.seal.ended = {f"old{one}": anna.clock.unix_s() + 60 for one in range(MAX_ENDED)}
    anna.restart()
    anna.sign_in()
    anna.ask("DELETE", SESSION)
    assert len(anna.seal.ended) == MAX_ENDED and "old0" not in anna.seal.ended


def test_a_sign_out_that_cannot_be_kept_is_told_and_takes_the_cookie_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: SealInMemory, ended: object, now_s: float) -> None:
        raise Unavailable("the state cannot be written; make room.")

    monkeypatch.setattr(SealInMemory, "add_ended", full)
    anna = Visitor()
    anna.sign_in()
    copied = dict(anna.cookies)
    assert anna.ask("DELETE", SESSION).status == 503
    assert anna.cookies == {}
    anna.cookies = copied
    assert anna.chat().status == 401


def test_a_sign_out_takes_the_cookie_where_it_cannot_be_told_who_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: SealInMemory) -> None:
        raise Unavailable("sessions cannot be judged now.", code="key_unavailable")

    anna = Visitor()
    anna.sign_in()
    copied = dict(anna.cookies)
    with monkeypatch.context() as patched:
        patched.setattr(SealInMemory, "look_ended", damaged)
        anna.clock.now_s += LOOK_S
        assert anna.ask("DELETE", SESSION).status == 204
    assert anna.cookies == {}
    anna.cookies = copied
    anna.clock.now_s += LOOK_S
    assert anna.chat().status == 401


def test_a_new_sign_in_replaces_the_one_there_was() -> None:
    anna = Visitor(entries=[ALICE, entry("hr_bob", "other", "generate")])
    anna.sign_in()
    assert anna.sign_in("hr_bob").json()["tenant"] == "other"
    assert anna.told()["tenant"] == "other"


def test_a_wrong_key_sets_no_cookie() -> None:
    anna = Visitor()
    reply = anna.sign_in("hr_mallory")
    assert reply.status == 401 and "set-cookie" not in reply.headers


@pytest.mark.parametrize("cookie", ["", "x", "!" * 40, "AAAA" * 20, "\u00e9", "=" * 10, "A" * 5000])
def test_a_cookie_that_nobody_sealed_is_an_ended_session(cookie: str) -> None:
    anna = Visitor()
    anna.cookies = {"headrace-session-8000": cookie}
    assert anna.chat().status == 401
    assert anna.told()["needs_sign_in"]


# Tokens ---------------------------------------------------------------------------------------------------------------


def with_tokens(**fields: Any) -> Visitor:
    clock = HandClock()
    clock.now_s = NOW_S - 1_700_000_000.0
    return Visitor(authenticators=[users()], clock=clock, **fields)


def test_a_token_signs_in_until_it_ends() -> None:
    anna = with_tokens()
    reply = anna.sign_in(token(scope="llm:use"))
    assert (reply.status, reply.json()["tenant"], reply.json()["expires"]) == (
        200,
        "acme",
        NOW_S + 290 + 30,
    )  # clocks differ
    assert anna.chat().status == 200
    assert anna.backend.requests[0].principal.user == "anna"
    anna.restart()
    assert anna.chat().status == 200
    anna.clock.now_s += 400
    assert anna.chat().status == 401
    assert anna.told()["needs_sign_in"]


def test_a_key_signs_in_beside_authenticators() -> None:
    anna = with_tokens()
    assert anna.sign_in().status == 200
    assert anna.chat().status == 200
    assert anna.backend.requests[0].principal.subject == "key:acme's"


def test_a_token_that_its_issuer_is_not_known_for_any_more_ends_its_session() -> None:
    anna = with_tokens()
    anna.sign_in(token(scope="llm:use"))
    anna.authenticators[0].replace([])
    assert anna.chat().status == 401


def test_a_credential_that_no_cookies_can_hold_is_refused_in_words() -> None:
    rambling = "?".join(f"{one}{hashlib.sha512(b'%d' % one).hexdigest()}" for one in range(400))
    anna = Visitor(authenticators=[Scripted({rambling: Identity(ANNA, is_token=True)})])
    reply = anna.sign_in(rambling)
    assert reply.status == 400 and "too long for a sign-in" in reply.error()["message"]
    assert "set-cookie" not in reply.headers


def test_what_proves_each_request_anew_is_no_sign_in() -> None:
    anna = with_tokens()
    client = key("ES256", "client")
    bound = token(scope="llm:use", cnf={"jkt": read_key(public(client)).thumbprint})
    shown = proof(client, bound, "POST", f"http://localhost:8000{SESSION}")
    reply = anna.ask("POST", SESSION, {"authorization": f"DPoP {bound}", "dpop": shown})
    assert reply.status == 400 and "proves each request anew" in reply.error()["message"]
    assert anna.sign_in(bound).status == 401  # nor without its proof
    reply = anna.ask("POST", SESSION, {"authorization": "Bearer hr_alice", "signature": "sig=:AA==:"})
    assert reply.status == 400


def test_a_delegation_is_no_sign_in() -> None:
    granted = Identity(replace(ANNA, delegation=Delegation(chain=("a",))), is_token=True)
    anna = Visitor(authenticators=[Scripted({"grant": granted})])
    reply = anna.sign_in("grant")
    assert reply.status == 400 and "delegation" in reply.error()["message"]


def test_nothing_to_sign_in_with_is_said() -> None:
    anna = Visitor(authenticators=[Scripted({None: Identity(ANNA)})])
    assert anna.ask("POST", SESSION).status == 400
    assert anna.told()["name"] == ANNA.subject  # its connection says who it is


# The seal ---------------------------------------------------------------------------------------------------------


@given(content=st.binary(max_size=300), at=st.integers(min_value=0), by=st.integers(1, 255))
def test_a_sealed_text_opens_and_no_byte_of_it_can_be_changed(content: bytes, at: int, by: int) -> None:
    seal = AesSeal(bytes(32), token_bytes)
    text = seal.seal(content)
    assert seal.open(text) == content
    assert AesSeal(bytes([1]) * 32, token_bytes).open(text) is None
    index = at % len(text)
    changed = text[:index] + chr((ord(text[index]) + by) % 256) + text[index + 1 :]
    assert seal.open(changed) is None


def test_a_key_of_another_length_seals_nothing() -> None:
    with pytest.raises(ValueError, match="31"):
        AesSeal(bytes(31), token_bytes)
