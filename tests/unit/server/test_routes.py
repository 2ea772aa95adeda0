"""Which route a path finds, what its variable parts are, and whose error shape a refusal has."""

import asyncio
import json
from typing import Any

import pytest
from tests.doubles_http import Client, ScriptedBackend, chat, make_app

from headrace.api.errors import ANTHROPIC, OLLAMA
from headrace.core.errors import Overloaded
from headrace.core.identity import Identity
from headrace.server.exchange import Exchange
from headrace.server.routes import Route, RouteTable


async def _nobody(exchange: Exchange, identity: Identity) -> None:
    raise AssertionError


def _route(name: str, method: str = "GET") -> Route:
    return Route(name, method, None, _nobody)


TABLE = RouteTable(
    [
        _route("/v1/things"),
        _route("/v1/things", "POST"),
        _route("/v1/things/count", "POST"),
        _route("/v1/things/{id}"),
        _route("/v1/things/{id}", "DELETE"),
        _route("/v1/things/{id}/parts/{part}"),
        _route("/v1/things/{id}/parts/first"),
        _route("/v1/files/{name*}"),
    ]
)


@pytest.mark.parametrize(
    ("path", "name", "params"),
    [
        ("/v1/things", "/v1/things", {}),
        ("/v1/things/count", "/v1/things/count", {}),
        ("/v1/things/a", "/v1/things/{id}", {"id": "a"}),
        ("/v1/things/a/parts/b", "/v1/things/{id}/parts/{part}", {"id": "a", "part": "b"}),
        ("/v1/things/a/parts/first", "/v1/things/{id}/parts/first", {"id": "a"}),
        ("/v1/files/a/b", "/v1/files/{name*}", {"name": "a/b"}),
    ],
)
def test_a_path_finds_its_route(path: str, name: str, params: dict[str, str]) -> None:
    found = TABLE.find(path)
    assert found is not None
    assert (found.any.name, found.params) == (name, params)


@pytest.mark.parametrize("path", ["/", "", "/v1/things/", "/v1/things/a/", "/v1/things/a/parts/", "/v1/files/", "/v1"])
def test_a_path_without_a_route_finds_none(path: str) -> None:
    assert TABLE.find(path) is None


def test_a_path_says_which_methods_it_has() -> None:
    found = TABLE.find("/v1/things")
    assert found is not None
    assert found.allowed == ("GET", "HEAD", "POST")
    assert found.method("DELETE") is None
    assert found.method("HEAD") is found.methods["GET"]


def test_one_method_of_one_path_has_one_route() -> None:
    with pytest.raises(ValueError, match="twice"):
        RouteTable([_route("/a"), _route("/a")])


OPENAI_SHAPE = {"error": {"message", "type", "param", "code"}}
ANTHROPIC_SHAPE = {"type": None, "error": {"type", "message"}, "request_id": None}


@pytest.mark.parametrize(
    ("path", "headers", "shape"),
    [
        ("/nowhere", [], OPENAI_SHAPE),
        ("/nowhere", [(b"anthropic-version", b"2023-06-01")], ANTHROPIC_SHAPE),
        ("/api/nowhere", [], {"error": None}),
    ],
)
def test_an_unknown_path_is_refused_in_the_clients_shape(path: str, headers: Any, shape: dict[str, Any]) -> None:
    async def ask() -> None:
        client = Client(make_app(ScriptedBackend(lambda _: [])), "GET", path, b"")
        client.scope["headers"] += headers
        reply = await client.run()
        body = json.loads(reply.body)
        assert reply.status == 404
        assert {name: set(value) if isinstance(value, dict) else None for name, value in body.items()} == shape

    asyncio.run(ask())


def test_anthropics_overload_has_its_own_status_and_names_the_request() -> None:
    error = Overloaded("full.", retry_after_s=1)
    assert ANTHROPIC.status(error) == 529
    assert OLLAMA.status(error) == 503
    body = json.loads(ANTHROPIC.body(error, "req_1"))
    assert (body["error"]["type"], body["request_id"]) == ("overloaded_error", "req_1")
    assert ANTHROPIC.encode_frame(error, "req_1").startswith(b"event: error\ndata: {")


def test_a_key_may_come_in_anthropics_header() -> None:
    class Keys:
        def authenticate(self, key: str | None) -> Identity:
            assert key == "hr_1"
            raise Overloaded("asked.")

    async def ask() -> None:
        client = Client(make_app(ScriptedBackend(lambda _: []), keys=Keys()), "POST", "/v1/chat/completions", chat())
        client.scope["headers"] += [(b"x-api-key", b"hr_1")]
        assert (await client.run()).status == 503

    asyncio.run(ask())


def test_who_observes_reads_what_others_change_and_changes_nothing() -> None:
    observer = frozenset({"observe"})
    assert Route("/v1/keys", "GET", "accounts", _nobody).admits(observer)
    assert not Route("/v1/keys", "POST", "accounts", _nobody).admits(observer)
    assert not Route("/v1/chat", "GET", "generate", _nobody).admits(observer)
    assert not Route("/v1/records", "GET", "audit", _nobody).admits(observer)
    assert not Route("/v1/keys", "GET", "accounts", _nobody).admits(frozenset({"generate"}))
