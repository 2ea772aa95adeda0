"""Who calls, where more than keys can tell: what is shown, who is asked, and how several credentials are joined."""

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.doubles_http import Client, HandClock, Reply, ScriptedBackend, answer, chat, make_app
from tests.unit.server.test_keys import entry

from headrace.core.errors import Unauthenticated
from headrace.core.identity import Identity, Shown
from headrace.core.request import Principal
from headrace.core.trust import Delegation
from headrace.server.config import ServerConfig
from headrace.server.credentials import TLS_EXTENSION, join
from headrace.server.keys import KeyRing

CHAT = "/v1/chat/completions"
PROXY = ServerConfig(trusted_proxies=("10.0.0.0/8",), allowed_hosts=("api.example.com",))
ANNA = Principal(tenant="acme", user="anna", subject="user:https://id.example#anna")
AGENT = Principal(tenant="acme", subject="spiffe://acme/agent", workload="spiffe://acme/agent")
OTHER = replace(AGENT, subject="spiffe://acme/other", workload="spiffe://acme/other")


@dataclass
class Scripted:
    """An authenticator that knows what is in its table, by the token, and keeps what it was shown."""

    known: dict[str | None, Identity] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    challenges: tuple[str, ...] = ()

    def authenticate(self, shown: Shown) -> Identity | None:
        self.shown.append(shown)
        if shown.token == "expired":
            raise Unauthenticated("the token has expired; renew it.")
        return self.known.get(shown.token)


def ask(
    asked: list[Scripted],
    headers: dict[str, str] | None = None,
    *,
    path: str = CHAT,
    body: bytes | list[bytes] = b"",
    config: ServerConfig | None = None,
    keys: Any = None,
    clock: HandClock | None = None,
    scope: dict[str, Any] | None = None,
) -> tuple[Reply, ScriptedBackend]:
    backend = ScriptedBackend(answer("ok"))

    async def main() -> Reply:
        app = make_app(backend, config, keys=keys, authenticators=asked, clock=clock)
        client = Client(app, "POST", path, body or chat(), headers)
        client.scope |= scope or {}
        return await client.run()

    return asyncio.run(main()), backend


def ring() -> KeyRing:
    return KeyRing(lambda: [entry("hr_alice", "acme", "generate", "metrics")])


def test_a_token_that_an_authenticator_knows_is_no_key_and_its_principal_asks() -> None:
    asked = Scripted({"jwt": Identity(ANNA, is_token=True)})
    reply, backend = ask([asked], {"authorization": "Bearer jwt"}, keys=ring())
    assert reply.status == 200
    assert backend.requests[0].principal == ANNA


def test_a_key_is_still_a_key_beside_authenticators() -> None:
    reply, backend = ask([Scripted()], {"x-api-key": "hr_alice"}, keys=ring())
    assert reply.status == 200 and backend.requests[0].principal.subject == "key:acme's"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer hr_mallory"},
        {"authorization": "Bearer expired"},
        {"authorization": "Basic aHI6YWxpY2U="},
        {"authorization": "DPoP hr_alice"},
        {"authorization": "Bearer hr_alice", "x-api-key": "hr_mallory"},
    ],
)
@pytest.mark.parametrize("has_keys", [True, False])
def test_with_authenticators_nobody_is_anonymous(headers: dict[str, str], has_keys: bool) -> None:
    reply, backend = ask([Scripted()], headers, keys=ring() if has_keys else None)
    assert reply.status == 401 and backend.requests == []


def test_a_wrong_key_is_refused_also_beside_a_certificate_that_is_good() -> None:
    asked = Scripted({"hr_mallory": Identity(AGENT), "hr_alice": Identity(AGENT)})
    assert ask([asked], {"authorization": "Bearer hr_mallory"}, keys=ring())[0].status == 401
    reply, backend = ask([asked], {"authorization": "Bearer hr_alice"}, keys=ring())
    assert reply.status == 200
    principal = backend.requests[0].principal
    assert (principal.subject, principal.workload, principal.scopes) == ("key:acme's", AGENT.workload, {"generate"})


def test_who_shows_nothing_is_told_everything_that_would_do() -> None:
    client = Client(
        make_app(ScriptedBackend(answer("ok")), authenticators=[Scripted(challenges=('DPoP algs="ES256"',))]),
        "POST",
        CHAT,
        chat(),
    )
    told: list[bytes] = []

    async def main() -> None:
        send = client.send

        async def note(message: Any) -> None:
            told.extend(value for name, value in message.get("headers", ()) if name == b"www-authenticate")
            await send(message)

        client.send = note  # type: ignore[method-assign]
        await client.run()

    asyncio.run(main())
    assert told == [b'Bearer realm="headrace"', b'DPoP algs="ES256"']


def test_a_caller_is_shown_as_it_addressed_the_server() -> None:
    asked = Scripted()
    ask([asked], {"host": "localhost:8000", "authorization": "DPoP  abc "}, path=CHAT + "?a=1&b=%20")
    shown = asked.shown[0]
    assert (shown.method, shown.url) == ("POST", f"http://localhost:8000{CHAT}?a=1&b=%20")
    assert (shown.scheme, shown.token, shown.certificates, shown.is_own_url) == ("dpop", "abc", (), True)


@pytest.mark.parametrize(
    ("client", "forwarded", "url"),
    [
        ("10.1.2.3", "https", "https://api.example.com"),
        ("10.1.2.3", "http, https", "https://api.example.com"),
        ("10.1.2.3", "gopher", "http://api.example.com"),
        ("10.1.2.3", None, "http://api.example.com"),
        ("192.0.2.1", "https", "http://api.example.com"),
    ],
)
def test_only_a_trusted_proxy_can_say_that_its_client_came_by_tls(client: str, forwarded: str | None, url: str) -> None:
    asked = Scripted()
    headers = {"host": "api.example.com"} | ({} if forwarded is None else {"x-forwarded-proto": forwarded})
    ask([asked], headers, config=PROXY, scope={"client": (client, 4711)})
    assert asked.shown[0].url == url + CHAT


def test_a_name_that_is_not_the_servers_own_is_shown_as_such() -> None:
    asked = Scripted()
    ask([asked], {"host": "other.example"})
    assert not asked.shown[0].is_own_url


def test_certificates_come_from_the_connection_and_from_nowhere_else() -> None:
    asked = Scripted()
    ask([asked], {"client-cert": "MIIB", "x-forwarded-client-cert": "MIIB"})
    ask([asked], scope={"extensions": {TLS_EXTENSION: {"certificates": (b"leaf", b"issuer")}}})
    assert [one.certificates for one in asked.shown] == [(), (b"leaf", b"issuer")]


def test_headers_that_come_twice_are_joined_but_for_credentials() -> None:
    asked = Scripted()
    pair = [(b"host", b"localhost"), (b"signature-input", b"a=()"), (b"signature-input", b"b=()")]
    ask([asked], scope={"headers": pair})
    assert asked.shown[0].headers[b"signature-input"] == b"a=(), b=()"
    for name in (b"authorization", b"x-api-key", b"dpop"):
        reply, _ = ask([asked], scope={"headers": [(b"host", b"localhost"), (name, b"Bearer a"), (name, b"Bearer b")]})
        assert reply.status == 401 and "twice" in reply.error()["message"]
    assert len(asked.shown) == 1


def test_a_caller_whose_time_is_over_is_refused_whoever_knew_it() -> None:
    clock = HandClock()
    asked = Scripted({"jwt": Identity(ANNA, expires_s=clock.unix_s() + 1, is_token=True)})
    headers = {"authorization": "Bearer jwt"}
    assert ask([asked], headers, clock=clock)[0].status == 200
    clock.now_s += 1
    assert ask([asked], headers, clock=clock)[0].status == 401


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("is_changed", [True, False])
def test_a_body_that_was_signed_must_be_that_body(chunks: int, is_changed: bool) -> None:
    body = chat()
    digest = hashlib.sha256(body).digest()
    sent = body.replace(b"Hi", b"Ho") if is_changed else body
    pieces = [sent[start::1][: len(sent) // chunks + 1] for start in range(0, len(sent), len(sent) // chunks + 1)]
    asked = Scripted({"jwt": Identity(ANNA, body_digest=digest, is_token=True)})
    reply, backend = ask([asked], {"authorization": "Bearer jwt"}, body=pieces)
    assert (reply.status, len(backend.requests)) == ((401, 0) if is_changed else (200, 1))


def test_without_authenticators_and_keys_nothing_is_looked_at() -> None:
    reply, backend = ask([], {"authorization": "Basic whatever"})
    assert reply.status == 200 and backend.requests[0].principal.subject == "local"


def test_of_two_credentials_only_what_both_allow_is_left() -> None:
    user = replace(ANNA, scopes=frozenset({"generate", "metrics"}), labels=frozenset({"a"}), tags=("t",), priority=3)
    agent = replace(AGENT, labels=frozenset({"b"}), routes=frozenset({"small"}), tags=("u", "t"))
    both = join([Identity(agent, "cert", 20.0), Identity(user, "jwt", 10.0, b"d", is_token=True)])
    assert both == Identity(
        replace(
            user,
            scopes=frozenset({"generate"}),
            labels=frozenset({"a", "b"}),
            tags=("u", "t"),
            priority=0,
            routes=frozenset({"small"}),
            workload=AGENT.workload,
        ),
        "jwt",
        10.0,
        b"d",
        is_token=True,
    )


def test_an_agent_acts_on_the_authority_that_it_was_given() -> None:
    chain = ("user:https://id.example#anna", AGENT.subject)
    granted = replace(ANNA, subject=AGENT.subject, agent=AGENT.subject, delegation=Delegation(chain=chain))
    found = join([Identity(granted), Identity(AGENT, "cert")]).principal
    assert (found.subject, found.workload, found.delegation) == (AGENT.subject, AGENT.workload, granted.delegation)
    assert (found.user, found.agent) == ("anna", AGENT.subject)
    for holder in (OTHER.subject, "helper", ANNA.subject):
        stolen = replace(granted, subject=holder, delegation=Delegation(chain=(chain[0], holder)))
        with pytest.raises(Unauthenticated, match="not made out"):
            join([Identity(stolen), Identity(AGENT, "cert")])


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (Identity(ANNA), Identity(replace(AGENT, tenant="rival")), "tenant"),
        (Identity(ANNA), Identity(replace(ANNA, subject="user:https://id.example#bert")), "subject"),
        (Identity(AGENT), Identity(OTHER), "workload"),
        (Identity(ANNA, body_digest=b"a"), Identity(AGENT, body_digest=b"b"), "body"),
        (
            Identity(replace(ANNA, delegation=Delegation(chain=("a",)))),
            Identity(replace(ANNA, delegation=Delegation(chain=("b",)))),
            "delegation",
        ),
        (
            Identity(replace(ANNA, routes=frozenset({"small"}))),
            Identity(replace(AGENT, routes=frozenset({"large"}))),
            "no model in common",
        ),
    ],
)
def test_credentials_that_disagree_are_refused(one: Identity, other: Identity, what: str) -> None:
    for pair in ([one, other], [other, one]):
        with pytest.raises(Unauthenticated, match=what):
            join(pair)


def test_what_a_caller_shows_of_itself_goes_to_no_backend() -> None:
    from headrace.server.relay import travelling

    shown = "authorization x-api-key dpop signature signature-input content-digest x-headrace-delegation client-cert"
    headers = [(name.encode(), b"x") for name in (*shown.split(), "traceparent")]
    assert travelling(headers) == [(b"traceparent", b"x")]
