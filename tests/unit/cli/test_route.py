"""`headrace route explain` and `POST /v1/gateway/explain`: the order and the reasons, offline and from a server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.doubles_routing import Hand, backend, route, settings, shape, target
from tests.unit.server.test_keys import entry
from typer.testing import CliRunner, Result

from headrace.api.explanation import decode_question
from headrace.cli.main import app
from headrace.core.errors import InvalidRequest
from headrace.server.keys import KeyRing

FILE = """
[backends.near]
kind = "vllm"
url = "http://10.0.0.5:8000/v1"
models = ["small"]
clearance = ["restricted"]

[backends.far]
kind = "openai-compatible"
url = "https://llm.example.com/v1"
[backends.far.models.large]
prices = {input = 1, output = 2}

[routes.chat]
candidates = ["far/large", "near/small"]
policies = ["lowest_cost"]
"""


Explain = Callable[..., Result]


@pytest.fixture
def explain(tmp_path: Path) -> Explain:
    file = tmp_path / "headrace.toml"
    file.write_text(FILE, "utf-8")
    return lambda *options: CliRunner().invoke(app, ["route", "explain", "--config", str(file), *options])


def test_it_says_the_order_and_what_each_policy_measured(explain: Explain) -> None:
    lines = explain("-m", "chat", "--tokens", "1000", "--max-tokens", "100").stdout.splitlines()
    assert lines[0] == "chat -> route chat: lowest_cost,least_loaded of 2"
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "near/small"], ["2", "far/large"]]
    assert "costs 0.001200" in lines[2]


def test_it_says_who_is_not_asked_and_why(explain: Explain) -> None:
    told = json.loads(explain("-m", "chat", "--labels", "restricted", "--tools", "--json").stdout)
    assert [(one["target"], one["place"], one["reason"]) for one in told["targets"]] == [
        ("near/small", 1, ""),
        ("far/large", None, "not cleared for restricted"),
    ]


def test_it_says_what_a_client_would_be_told(explain: Explain) -> None:
    assert "the client would be told: 403 not_cleared" in explain("-m", "chat", "--labels", "secret").stdout
    result = explain("-m", "nothing")
    assert result.exit_code == 1
    assert "served: chat, large, small" in result.output


def ask(hand: Hand, key: str, **question: object) -> Reply:
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate"), entry("hr_root", "ops", "admin")])
    served = make_app(ScriptedBackend(answer("x")), keys=ring, explaining=hand.planner)
    body = json.dumps(question).encode()
    client = Client(served, "POST", "/v1/gateway/explain", body, {"authorization": f"Bearer {key}"})

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_a_running_server_tells_an_admin_its_loads_and_who_is_out() -> None:
    names = ("a", "b", "c")
    hand = Hand(settings([backend(name) for name in names], [route("r", *(f"{name}/m" for name in names))]))
    hand.sightings.begin(target("a/m"), shape())
    hand.out["b"] = "its breaker is open"
    assert ask(hand, "hr_user", model="r").status == 403
    told = ask(hand, "hr_root", model="r").json()
    assert [(one["target"], one["place"], one["scores"]) for one in told["targets"]] == [
        ("c/m", 1, {"least_loaded": 0.0}),
        ("a/m", 2, {"least_loaded": 1.0}),
        ("b/m", None, {}),
    ]
    assert told["targets"][2]["reason"] == "its breaker is open"
    assert ask(hand, "hr_root", model="nothing").status == 404
    refused = ask(hand, "hr_root", model="r", needs=["flying"])
    assert (refused.status, refused.error()["param"]) == (400, "needs")
    assert (ask(hand, "hr_root", model="").status, ask(hand, "hr_root").status) == (400, 400)


def test_a_question_that_is_wrong_is_refused_by_name() -> None:
    for body, name in ((b'{"modle": "x"}', "modle"), (b'{"model": "x", "prompt_tokens": -1}', "prompt_tokens")):
        with pytest.raises(InvalidRequest, match=name):
            decode_question(body)
