"""Routes that load and unload adapters: who may, what they take, and that they are there only where adapters are."""

import pytest
from tests.doubles_http import MODEL, Client, Reply, ScriptedBackend, answer, make_app, run
from tests.unit.server.test_keys import entry

from headrace.core.backend import ModelCard
from headrace.core.errors import Unavailable
from headrace.core.service import AdapterState
from headrace.server.app import App
from headrace.server.keys import KeyRing

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class NotedAdapters:
    """Notes what it is asked for; `error` is raised instead of an answer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self._error = error

    async def load_adapter(self, name: str) -> ModelCard:
        self.calls.append(("load", name))
        if self._error is not None:
            raise self._error
        return ModelCard(
            id=f"tiny:{name}", created=1, owned_by="tests", context_length=4096, digest="sha256:1", parent=MODEL.id
        )

    async def unload_adapter(self, name: str) -> None:
        self.calls.append(("unload", name))

    def adapters(self) -> tuple[AdapterState, ...]:
        return (AdapterState(name="tiny:red", model="tiny", is_loaded=True, num_bytes=7),)


def test_who_may_load_adapters_and_who_observes_see_those_that_there_are() -> None:
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate"), entry("hr_eyes", "ops", "observe")])
    app = make_app(ScriptedBackend(answer("x")), keys=ring, adapters=NotedAdapters())
    for key, status in (("hr_user", 403), ("hr_eyes", 200)):
        client = Client(app, "GET", "/v1/adapters", b"", {"authorization": f"Bearer {key}"})
        run(whole(client))
        assert client.reply.status == status
    (told,) = client.reply.json()["data"]
    assert told == {"object": "adapter", "id": "tiny:red", "model": "tiny", "is_loaded": True, "bytes_held": 7}


async def whole(client: Client) -> None:
    await client.run()


def post(app: App, path: str, body: bytes = b'{"lora_name": "red"}', key: str = "") -> Reply:
    client = Client(app, "POST", path, body, {"authorization": f"Bearer {key}"} if key else None)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_only_keys_with_the_admin_scope_may_load_and_unload() -> None:
    adapters = NotedAdapters()
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate", "metrics"), entry("hr_root", "ops", "admin")])
    app = make_app(ScriptedBackend(answer("x")), keys=ring, adapters=adapters)
    for path in (LOAD, UNLOAD):
        assert post(app, path).status == 401
        assert post(app, path, key="hr_user").status == 403
    assert adapters.calls == []
    assert post(app, LOAD, key="hr_root").json()["id"] == "tiny:red"
    assert post(app, UNLOAD, key="hr_root").json() == {"id": "red", "object": "model", "unloaded": True}
    assert adapters.calls == [("load", "red"), ("unload", "red")]


def test_a_server_without_adapters_has_no_such_routes() -> None:
    assert post(make_app(ScriptedBackend(answer("x"))), LOAD).status == 404


def test_what_loading_refuses_is_told_in_openais_shape() -> None:
    adapters = NotedAdapters(Unavailable("those in use leave no room; try again.", retry_after_s=1.0))
    reply = post(make_app(ScriptedBackend(answer("x")), adapters=adapters), LOAD)
    assert (reply.status, reply.error()["code"], reply.headers["retry-after"]) == (503, "unavailable", "1")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"{}", "lora_name"),
        (b'{"lora_name": ""}', "lora_name"),
        (b'{"lora_name": 3}', "lora_name"),
        (b'{"lora_name": "' + b"a" * 401 + b'"}', "lora_name"),
        (b'{"lora_name": "red", "lora_path": "/etc"}', "lora_path"),
        (b'{"lora_name": "red", "base_model_name": "x"}', "base_model_name"),
    ],
)
def test_bodies_that_say_anything_else_are_refused_by_field(body: bytes, param: str | None) -> None:
    adapters = NotedAdapters()
    reply = post(make_app(ScriptedBackend(answer("x")), adapters=adapters), LOAD, body)
    assert (reply.status, reply.error()["param"]) == (400, param)
    assert adapters.calls == []
