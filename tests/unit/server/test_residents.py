"""Routes for models that come and go: who may, what is passed on, and that they are there only where models do."""

import json

from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.unit.server.test_keys import entry

from headrace.core.errors import Conflict
from headrace.core.service import Residence
from headrace.server.app import App
from headrace.server.keys import KeyRing

ROUTES = (("GET", "/models"), ("POST", "/models/load"), ("POST", "/models/unload"))


class NotedResidents:
    """Notes what it is asked for; `error` is raised instead of an answer."""

    memory_bytes = 250

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._error = error

    async def load_model(self, name: str) -> Residence:
        self.calls.append(("load", name))
        return Residence(name=name, state="ready", bytes_held=100)

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        self.calls.append(("unload", name, "waits" if waits else "does not"))
        if self._error is not None:
            raise self._error
        return Residence(name=name, state="absent")

    def residences(self) -> tuple[Residence, ...]:
        return (Residence(name="a", state="ready", bytes_held=100), Residence(name="b", state="absent"))


def send(app: App, method: str, path: str, body: bytes = b"", key: str = "") -> Reply:
    client = Client(app, method, path, body, {"authorization": f"Bearer {key}"} if key else None)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_only_keys_with_the_admin_scope_may_look_load_and_unload() -> None:
    residents = NotedResidents()
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate", "metrics"), entry("hr_root", "ops", "admin")])
    app = make_app(ScriptedBackend(answer("x")), keys=ring, residents=residents)
    body = json.dumps({"model": "a"}).encode()
    for method, path in ROUTES:
        assert send(app, method, path, body).status == 401
        assert send(app, method, path, body, key="hr_user").status == 403
    assert residents.calls == []
    assert [send(app, method, path, body, key="hr_root").status for method, path in ROUTES] == [200, 200, 200]
    assert residents.calls == [("load", "a"), ("unload", "a", "waits")]


def test_the_list_tells_every_model_and_the_bound() -> None:
    said = send(make_app(ScriptedBackend(answer("x")), residents=NotedResidents()), "GET", "/models").json()
    assert [(one["id"], one["state"], one["bytes_held"]) for one in said["data"]] == [
        ("a", "ready", 100),
        ("b", "absent", 0),
    ]
    assert (said["bytes_held"], said["memory_bytes"]) == (100, 250)


def test_an_unload_that_does_not_wait_is_refused_as_a_conflict_while_the_model_is_in_use() -> None:
    residents = NotedResidents(Conflict("a is in use.", param="model", code="model_in_use"))
    app = make_app(ScriptedBackend(answer("x")), residents=residents)
    reply = send(app, "POST", "/models/unload", b'{"model": "a", "wait": false}')
    assert (reply.status, reply.error()["code"], reply.error()["param"]) == (409, "model_in_use", "model")
    assert residents.calls == [("unload", "a", "does not")]


def test_a_server_whose_models_stay_has_no_such_routes() -> None:
    app = make_app(ScriptedBackend(answer("x")))
    assert [send(app, method, path, b"{}").status for method, path in ROUTES] == [404, 404, 404]
