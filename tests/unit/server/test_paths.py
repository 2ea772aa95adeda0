"""The routes for which way requests went: who may read them, and that nobody changes anything by them."""

import pytest
from tests.doubles_http import ScriptedBackend, answer, make_app
from tests.scripted_services import scripted_paths
from tests.unit.server.test_gateway_admin import send
from tests.unit.server.test_keys import entry

from headrace.server.keys import KeyRing

ROUTES = ("/v1/gateway/routes", "/v1/gateway/requests", "/v1/gateway/requests/req_1")


@pytest.mark.parametrize("path", ROUTES)
def test_operators_and_observers_read_them_and_nobody_else_does(path: str) -> None:
    keys = [entry("hr_user", "acme", "generate", "metrics"), entry("hr_root", "ops", "admin")]
    ring = KeyRing(lambda: [*keys, entry("hr_eye", "ops", "observe")])
    app = make_app(ScriptedBackend(answer("x")), keys=ring, paths=scripted_paths())
    assert send(app, "GET", path).status == 401
    assert send(app, "GET", path, key="hr_user").status == 403
    assert send(app, "GET", path, key="hr_eye").status == 200
    assert send(app, "GET", path, key="hr_root").status == 200
    assert send(app, "POST", path, key="hr_root").status == 405


def test_a_request_is_told_in_a_line_and_whole() -> None:
    app = make_app(ScriptedBackend(answer("x")), paths=scripted_paths())
    told = send(app, "GET", "/v1/gateway/requests?outcome=failed&limit=1").json()
    (line,) = told["data"]
    assert (line["id"], line["tenant"], line["refusal"], told["has_more"]) == ("req_1", "acme", "it failed", False)
    path = send(app, "GET", "/v1/gateway/requests/req_1").json()
    assert path["request"] == line
    assert [(one["target"], one["place"]) for one in path["choices"]] == [("up/m", 1), ("up/other", None)]
    assert [(one["began_s"], one["ended_s"], one["outcome"]) for one in path["steps"]] == [(0.0, 0.5, "upstream_fault")]
    assert send(app, "GET", "/v1/gateway/requests/req_2").status == 404
    assert send(app, "GET", "/v1/gateway/requests?outcome=failed&outcome=ok").status == 400
