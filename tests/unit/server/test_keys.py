"""Who may call, with keys and without."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.doubles_accounts import SetClock
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, chat, make_app, run

from headrace.core.errors import InvalidRequest, Unauthenticated
from headrace.server.keys import KeyRing

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Entry:
    name: str
    tenant: str
    scopes: frozenset[str]
    sha256: str
    priority: int = 0
    share: float = 1.0
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: datetime | None = None
    is_disabled: bool = False


def entry(key: str, tenant: str, *scopes: str, priority: int = 0, share: float = 1.0) -> Entry:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Entry(f"{tenant}'s", tenant, frozenset(scopes), digest, priority, share)


ENTRIES = [entry("hr_alice", "acme", "generate"), entry("hr_watch", "ops", "metrics")]


def ask(ring: KeyRing, method: str, path: str, headers: dict[str, str]) -> tuple[Reply, ScriptedBackend]:
    backend = ScriptedBackend(answer("x"))
    client = Client(make_app(backend, keys=ring), method, path, chat() if method == "POST" else b"", headers)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply, backend


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer hr_mallory", 401),
        ("Bearer hr_alicf", 401),
        ("Basic hr_alice", 401),
        ("Bearer " + "x" * 10_000, 401),
        ("Bearer \xff\xfe", 401),
        ("Bearer hr_watch", 403),
        ("Bearer hr_alice", 200),
        ("bearer  hr_alice ", 200),
    ],
)
def test_a_route_is_open_only_to_a_key_with_its_scope(authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    reply, backend = ask(KeyRing(lambda: ENTRIES), "POST", CHAT, headers)
    assert reply.status == status
    assert len(backend.requests) == (status == 200)
    if status == 401:
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert reply.error()["code"] == "invalid_api_key"


def test_the_tenant_of_the_key_reaches_the_backend() -> None:
    _, backend = ask(KeyRing(lambda: ENTRIES), "POST", CHAT, {"authorization": "Bearer hr_alice"})
    assert backend.requests[0].principal.tenant == "acme"


def test_a_keys_priority_and_share_reach_the_backend_and_a_request_cannot_exceed_the_first() -> None:
    ring = KeyRing(lambda: [entry("hr_alice", "acme", "generate", priority=2, share=0.5)])
    headers = {"authorization": "Bearer hr_alice"}
    found = []
    for priority in (None, 1, -2, -3):
        backend = ScriptedBackend(answer("x"))
        client = Client(make_app(backend, keys=ring), "POST", CHAT, chat(priority=priority), headers)
        run(client.run())
        assert (client.reply.status == 400) == (priority == -3)
        found += [(request.principal.priority, request.principal.share) for request in backend.requests]
    assert found == [(2, 0.5), (-1, 0.5), (2, 0.5)]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/metrics", "/version", "/nowhere", "/docs"])
def test_everything_but_health_and_readiness_is_denied_without_a_key(path: str) -> None:
    assert ask(KeyRing(lambda: ENTRIES), "GET", path, {})[0].status == 401


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health_and_readiness_need_no_key(path: str) -> None:
    assert ask(KeyRing(lambda: ENTRIES), "GET", path, {})[0].status == 200


def test_metrics_need_their_own_scope() -> None:
    ring = KeyRing(lambda: ENTRIES)
    assert ask(ring, "GET", "/metrics", {"authorization": "Bearer hr_watch"})[0].status == 200
    assert ask(ring, "GET", "/metrics", {"authorization": "Bearer hr_alice"})[0].status == 403


def test_a_server_with_keys_answers_to_any_name() -> None:
    headers = {"host": "llm.example.com", "authorization": "Bearer hr_alice"}
    assert ask(KeyRing(lambda: ENTRIES), "POST", CHAT, headers)[0].status == 200


def test_reloading_swaps_the_keys_and_keeps_them_when_it_fails() -> None:
    entries = [ENTRIES[0]]
    ring = KeyRing(lambda: list(entries))
    entries[:] = [ENTRIES[1]]
    ring.reload()
    assert ring.authenticate("hr_watch").principal.tenant == "ops"
    with pytest.raises(Unauthenticated):
        ring.authenticate("hr_alice")
    entries.clear()
    with pytest.raises(InvalidRequest, match="no key"):
        ring.reload()
    assert ring.authenticate("hr_watch").key == "ops's"


def test_a_ring_without_keys_is_a_mistake() -> None:
    with pytest.raises(InvalidRequest):
        KeyRing(list)


def test_a_key_tells_who_asks_and_under_what() -> None:
    asking = replace(ENTRIES[0], user="bob", tags=("night",), labels=frozenset({"restricted"}), routes=frozenset({"s"}))
    principal = KeyRing(lambda: [asking]).authenticate("hr_alice").principal
    assert (principal.tenant, principal.key, principal.user, principal.tags) == ("acme", "acme's", "bob", ("night",))
    assert (principal.labels, principal.routes) == ({"restricted"}, {"s"})


def test_a_key_ends_on_its_date_without_being_asked_for_again() -> None:
    clock = SetClock()
    ends = datetime.fromtimestamp(clock.now_s, UTC) + timedelta(seconds=10)
    ring = KeyRing(lambda: [replace(ENTRIES[0], expires=ends)], clock)
    assert ring.authenticate("hr_alice").key == "acme's"
    clock.pass_s(10)
    with pytest.raises(Unauthenticated, match="not valid"):
        ring.authenticate("hr_alice")


def test_a_disabled_key_is_none_from_the_next_reload_on_even_if_it_was_the_only_one() -> None:
    entries = [ENTRIES[0]]
    ring = KeyRing(lambda: entries)
    entries = [replace(ENTRIES[0], is_disabled=True)]
    ring.reload()
    with pytest.raises(Unauthenticated):
        ring.authenticate("hr_alice")
