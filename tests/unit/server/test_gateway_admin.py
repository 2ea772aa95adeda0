"""Routes for a gateway's backends: who may, what they tell, and that they are there only where a gateway is."""

from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.scripted_services import ScriptedOperations
from tests.unit.server.test_keys import entry

from headrace.server.app import App
from headrace.server.keys import KeyRing

ROUTES = (
    ("GET", "/v1/gateway/backends"),
    ("POST", "/v1/gateway/backends/up/drain"),
    ("POST", "/v1/gateway/backends/up/resume"),
)


def send(app: App, method: str, path: str, key: str = "") -> Reply:
    client = Client(app, method, path, b"", {"authorization": f"Bearer {key}"} if key else None)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_only_keys_with_the_admin_scope_may_look_drain_and_resume() -> None:
    operations = ScriptedOperations()
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate", "metrics"), entry("hr_root", "ops", "admin")])
    app = make_app(ScriptedBackend(answer("x")), keys=ring, operations=operations)
    for method, path in ROUTES:
        assert send(app, method, path).status == 401
        assert send(app, method, path, key="hr_user").status == 403
    assert not operations.backends()[0].is_draining
    for (method, path), is_draining in zip(ROUTES, (False, True, False), strict=True):
        assert send(app, method, path, key="hr_root").status == 200
        assert operations.backends()[0].is_draining == is_draining


def test_a_backend_is_told_with_its_models_and_an_unknown_one_is_not_found() -> None:
    app = make_app(ScriptedBackend(answer("x")), operations=ScriptedOperations())
    (told,) = send(app, "GET", "/v1/gateway/backends").json()["data"]
    assert (told["id"], told["object"], told["health"], told["share"]) == ("up", "gateway.backend", "well", 1.0)
    assert (told["models"][0]["breaker"], told["models"][0]["seconds_per_token"]) == ("closed", 0.012346)
    assert send(app, "POST", "/v1/gateway/backends/down/drain").status == 404
    assert send(app, "GET", "/v1/gateway/backends/up/drain").status == 405


def test_a_server_without_a_gateway_has_no_such_routes() -> None:
    app = make_app(ScriptedBackend(answer("x")))
    assert [send(app, method, path).status for method, path in ROUTES] == [404, 404, 404]
