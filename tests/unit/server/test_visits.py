"""Whoever signs in at the console or out is told to operators, and nobody can fill what they are told in."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_actions import book
from tests.doubles_gateway import in_loop
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app
from tests.doubles_sessions import SealInMemory
from tests.scripted_services import ScriptedOperations
from tests.unit.gateway.test_actions import fill
from tests.unit.server.test_actions import Book
from tests.unit.server.test_keys import entry
from tests.unit.server.test_sessions import SESSION, Visitor

from headrace.core.actions import ActionBook
from headrace.server.app import App
from headrace.server.config import ConsoleSettings, ServerConfig
from headrace.server.keys import KeyRing
from headrace.server.visits import MAX_LISTED, SIGN_IN, SIGN_OUT, TELL_S, WINDOW_S

BOB = entry("hr_bob", "bobs", "admin", "observe")


def visitor(listed: Book) -> Visitor:
    anna = Visitor()
    anna.entries = [*anna.entries, BOB]
    anna.restart()
    anna.app = served(anna.ring, listed, anna.clock, anna.seal)
    return anna


def served(ring: KeyRing, listed: ActionBook, clock: Any = None, seal: SealInMemory | None = None) -> App:
    config = ServerConfig(console=ConsoleSettings(session_hours=2))
    return make_app(
        ScriptedBackend(answer("x")),
        config,
        keys=ring,
        clock=clock,
        session_seal=seal or SealInMemory(),
        actions=listed,
        operations=ScriptedOperations(),
    )


def test_a_sign_in_and_a_sign_out_are_listed_with_whose_they_are_and_without_the_secret() -> None:
    listed = Book()
    anna = visitor(listed)
    reply = anna.sign_in()
    assert anna.told()["name"] == "acme's"
    assert anna.ask("DELETE", SESSION).status == 204
    assert [(one.name, one.target) for one in listed.visits] == [(SIGN_IN, "acme's"), (SIGN_OUT, "acme's")]
    for one in listed.visits:
        assert (one.actor.tenant, one.actor.key, one.actor.subject) == ("acme", "acme's", "key:acme's")
        assert one.actor.through == "console" and "hr_alice" not in repr(one)
    assert listed.visits[0].request_id == reply.headers["x-request-id"]
    assert not listed.begun  # it changes nothing


def test_who_is_not_signed_in_any_more_signs_out_unlisted() -> None:
    listed = Book()
    anna = visitor(listed)
    assert anna.ask("DELETE", SESSION).status == 204
    anna.sign_in()
    cookies = dict(anna.cookies)
    for _ in range(2):  # a copy of the cookie is good for nothing
        anna.cookies = dict(cookies)
        assert anna.ask("DELETE", SESSION).status == 204
    assert [one.name for one in listed.visits] == [SIGN_IN, SIGN_OUT]


def test_where_nobody_has_to_sign_in_nobody_does() -> None:
    listed = Book()
    anna = visitor(listed)
    anna.app = make_app(ScriptedBackend(answer("x")), anna.config, session_seal=anna.seal, actions=listed)
    assert not anna.told()["needs_sign_in"]
    assert anna.ask("POST", SESSION).status == 400 and not listed.visits


def test_a_refused_sign_in_is_not_listed_but_counted_and_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headrace.console")
    listed = Book()
    anna = visitor(listed)
    for number in range(500):
        assert anna.sign_in(f"hr_guess_{number}").status == 401
    assert anna.ask("POST", SESSION, {"sec-fetch-site": "cross-site"}).status == 403
    assert not listed.visits and not listed.begun
    count = anna.app._metrics.registry.get_sample_value
    labels = {"route": SESSION, "method": "POST"}
    assert count("headrace:http_requests_total", labels | {"status": "401"}) == 500
    assert count("headrace:http_requests_total", labels | {"status": "403"}) == 1
    assert [one.message for one in caplog.records] == [
        "sign-ins at the console were refused since this was last told: 1, the last with invalid_api_key"
    ]
    anna.clock.now_s += TELL_S
    anna.sign_in("hr_guess")
    assert caplog.records[-1].message.endswith("told: 501, the last with invalid_api_key") and len(caplog.records) == 2
    assert "hr_guess" not in caplog.text


def test_one_who_signs_in_a_thousand_times_leaves_the_list_to_others() -> None:
    listed = Book()
    anna = visitor(listed)
    for _ in range(500):
        assert anna.sign_in().status == 200
        assert anna.ask("DELETE", SESSION).status == 204
    assert len(listed.visits) == MAX_LISTED
    assert [one.asked for one in listed.visits[:-1]] == [{}] * (MAX_LISTED - 1)
    assert listed.visits[-1].asked == {"unlisted_for_s": WINDOW_S}
    assert anna.sign_in("hr_bob").status == 200
    assert listed.visits[-1].target == "bobs's"
    anna.clock.now_s += WINDOW_S
    assert anna.sign_in().status == 200
    assert (listed.visits[-1].target, listed.visits[-1].asked) == ("acme's", {})


@in_loop
async def test_on_a_full_disk_one_may_sign_in_to_look_and_changes_nothing(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, store):
        app = served(KeyRing(lambda: [BOB]), keeper)
        page = {"host": "localhost", "x-headrace-console": "1"}
        await store.call(fill)

        async def ask(method: str, path: str, **headers: str) -> Reply:
            return await Client(app, method, path, b"", page | headers).run()

        for _ in range(MAX_LISTED):
            reply = await ask("POST", SESSION, authorization="Bearer hr_bob")
            assert reply.status == 200
        cookie = reply.headers["set-cookie"].partition(";")[0]
        assert (await ask("GET", "/v1/gateway/backends", cookie=cookie)).status == 200
        assert (await ask("GET", "/v1/admin/actions", cookie=cookie)).status == 200
        statuses = {(await ask("POST", "/v1/gateway/backends/up/drain", cookie=cookie)).status for _ in range(100)}
        assert statuses == {200, 503}  # what is left of the last page holds a few


@in_loop
async def test_the_list_that_is_asked_for_shows_them_among_the_changes(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, _):
        app = served(KeyRing(lambda: [BOB]), keeper)
        page = {"host": "localhost", "x-headrace-console": "1"}
        signed_in = await Client(app, "POST", SESSION, b"", page | {"authorization": "Bearer hr_bob"}).run()
        page["cookie"] = signed_in.headers["set-cookie"].partition(";")[0]
        assert (await Client(app, "POST", "/v1/gateway/backends/up/drain", b"", page).run()).status == 200
        assert (await Client(app, "DELETE", SESSION, b"", page).run()).status == 204
        reply = await Client(app, "GET", "/v1/admin/actions", b"", {"authorization": "Bearer hr_bob"}).run()
        told = reply.json()["data"]
        assert [(one["action"], one["who"]["key"], one["who"]["through"], one["outcome"]) for one in told] == [
            (SIGN_OUT, "bobs's", "console", "done"),
            ("POST /v1/gateway/backends/{name}/drain", "bobs's", "console", "done"),
            (SIGN_IN, "bobs's", "console", "done"),
        ]
        assert "hr_bob" not in json.dumps(told)
