"""Routes for what monitors have against accounts: who may, what they tell, and that taking it back is one account's."""

import json

from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.scripted_services import ScriptedMonitors
from tests.unit.server.test_keys import entry

from headrace.server.app import App
from headrace.server.keys import KeyRing

CLEAR = "/v1/monitors/clear"


def send(app: App, method: str, path: str, body: object = None, key: str = "") -> Reply:
    data = b"" if body is None else json.dumps(body).encode()
    client = Client(app, method, path, data, {"authorization": f"Bearer {key}"} if key else None)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_only_keys_with_the_admin_scope_may_look_and_clear() -> None:
    monitors = ScriptedMonitors()
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate", "accounts"), entry("hr_root", "ops", "admin")])
    app = make_app(ScriptedBackend(answer("x")), keys=ring, monitors=monitors)
    for method, path, body in (("GET", "/v1/monitors", None), ("POST", CLEAR, {"account": "acme/key:k"})):
        assert send(app, method, path, body).status == 401
        assert send(app, method, path, body, key="hr_user").status == 403
    assert monitors.flags()
    assert send(app, "GET", "/v1/monitors", key="hr_root").status == 200
    assert send(app, "POST", CLEAR, {"account": "acme/key:k"}, key="hr_root").status == 200
    assert not monitors.flags()


def test_a_flag_is_told_with_all_that_is_known_and_who_is_not_flagged_is_not_found() -> None:
    app = make_app(ScriptedBackend(answer("x")), monitors=ScriptedMonitors())
    told = send(app, "GET", "/v1/monitors").json()
    assert (told["mode"], told["num_unwatched"]) == ("shadow", 0)
    (flag,) = told["data"]
    assert (flag["account"], flag["monitor"], flag["action"]) == ("acme/key:k", "theft.bias", "throttle")
    assert (flag["since"], flag["last"], flag["evidence"]) == (1_700_000_000, 1_700_000_100, None)
    assert send(app, "POST", CLEAR, {"account": "acme/key:other"}).status == 404
    for body in ({}, {"account": ""}, {"account": "a", "all": True}, []):
        assert send(app, "POST", CLEAR, body).status == 400
    assert send(app, "POST", CLEAR, {"account": "acme/key:k"}).json()["data"] == [flag]


def test_a_server_without_monitors_has_no_such_routes() -> None:
    assert send(make_app(ScriptedBackend(answer("x"))), "GET", "/v1/monitors").status == 404
