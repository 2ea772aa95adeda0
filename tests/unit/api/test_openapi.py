"""The OpenAPI document says what is true: every route is in it, and bodies that codecs take and answers fit it."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz.target import Target
from fuzz.targets import CODECS
from jsonschema import Draft202012Validator
from tests.doubles_http import Client, Reply, make_app
from tests.scripted import Call, Scripted, Turn
from tests.scripted_services import scripted_services

from headrace.api.openapi import Listed, document, shown_path
from headrace.api.openapi_routes import OPERATIONS
from headrace.server.app import App
from headrace.server.config import ConsoleSettings, ServerConfig

TURN = Turn(reasoning="Hm.", text="Yes, it is.", calls=(Call("get_weather", {"city": "Paris"}),))


class Server:
    """The application with all services, for exchanges one after the other."""

    def __init__(self, runner: asyncio.Runner, app: App) -> None:
        self._runner = runner
        self.app = app

    def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        return self._runner.run(Client(self.app, method, path, body).run())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    backend = Scripted([TURN], any_model=True)
    with asyncio.Runner() as runner:
        opening = scripted_services(backend, tmp_path_factory.mktemp("state"))
        services = runner.run(opening.__aenter__())
        given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
        # What signs answers has no routes.
        assert [name for name, one in given.items() if one is None] == ["answer_signer"]
        yield Server(runner, make_app(backend, ServerConfig(console=ConsoleSettings()), **given))
        runner.run(opening.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def told(server: Server) -> dict[str, Any]:
    reply = server.ask("GET", "/openapi.json")
    assert reply.status == 200
    whole: dict[str, Any] = reply.json()
    return whole


def schema(told: dict[str, Any], part: dict[str, Any]) -> Draft202012Validator:
    """A validator of a part of the document that finds what the part refers to."""
    return Draft202012Validator(part | {"components": told["components"]})


def test_every_route_has_a_row_and_every_row_a_route(server: Server) -> None:
    assert {(route.method, route.name) for route in server.app.routes} == set(OPERATIONS)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere(told: dict[str, Any]) -> None:
    assert told["openapi"] == "3.1.0"
    for one in told["components"]["schemas"].values():
        Draft202012Validator.check_schema(one)
    text = json.dumps(told)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(told["components"]["schemas"])


@pytest.mark.parametrize("target", [one for one in CODECS if one.paths], ids=lambda one: one.name)
def test_bodies_that_a_codec_takes_fit_and_its_answers_too(
    server: Server, told: dict[str, Any], target: Target
) -> None:
    operation = told["paths"][shown_path(target.paths[0])]["post"]
    body = schema(told, operation["requestBody"]["content"]["application/json"]["schema"])
    answer = schema(told, operation["responses"]["200"]["content"]["application/json"]["schema"])
    num_answers = 0
    for seed in target.seeds:
        body.validate(json.loads(seed))
        reply: Reply = server.ask("POST", target.paths[0], seed)
        if reply.status == 200 and reply.headers["content-type"].startswith("application/json"):
            answer.validate(reply.json())
            num_answers += 1
    assert num_answers > 0


def test_refusals_fit_and_fields_that_ask_for_nothing_show_their_values(server: Server, told: dict[str, Any]) -> None:
    refused = told["paths"]["/v1/chat/completions"]["post"]["responses"]["default"]["content"]["application/json"]
    reply = server.ask("POST", "/v1/chat/completions", b"{")
    assert reply.status == 400
    schema(told, refused["schema"]).validate(reply.json())
    fields = told["components"]["schemas"]["EmbeddingBody"]["properties"]
    assert fields["padding"]["enum"] == [None, "do_not_pad"]
    assert not schema(told, told["components"]["schemas"]["EmbeddingBody"]).is_valid({"model": "m", "input": ""})


def test_a_frame_of_the_live_feed_fits(server: Server, told: dict[str, Any]) -> None:
    operation = told["paths"]["/v1/live"]["get"]["responses"]["200"]["content"]["application/json"]
    frame = server.ask("GET", "/v1/live?once=true").json()
    assert frame["models"] and frame["models"][0]["tree"]["runs"]
    schema(told, operation["schema"]).validate(frame)
    schema(told, operation["schema"]).validate(server.ask("GET", "/v1/live?once=true&history=true").json())


def test_a_route_without_a_row_is_listed_too() -> None:
    from headrace.api.errors import OLLAMA

    told = json.loads(document([Listed("/x/{name*}", "DELETE", OLLAMA, is_open=False)], "1"))
    operation = told["paths"]["/x/{name}"]["delete"]
    assert operation["operationId"] == "delete_x_name"
    assert [one["name"] for one in operation["parameters"]] == ["name"]
