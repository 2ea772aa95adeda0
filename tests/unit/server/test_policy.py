"""`POST /v1/policy/decide`: callers ask what they may do, about themselves alone."""

import json
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.doubles_policy import desk_of, judge
from tests.unit.server.test_keys import entry

from headrace.server.keys import KeyRing

TEXT = """
@id("mine") permit (principal == Key::"acme's", action == Action::"tool", resource == Tool::"mail")
when { context.integrity == 2 };
"""


def ask(key: str, body: Any) -> Reply:
    ring = KeyRing(lambda: [entry("hr_a", "acme", "generate"), entry("hr_b", "other", "generate", "metrics")])
    served = make_app(ScriptedBackend(answer("x")), keys=ring, deciding=desk_of(judge(TEXT)))
    client = Client(served, "POST", "/v1/policy/decide", json.dumps(body).encode(), {"authorization": f"Bearer {key}"})

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


MAIL = {"resource": "mail", "context": {"integrity": 2, "untrusted_arguments": ["to"]}}


def test_many_questions_are_answered_in_order_about_the_caller_itself() -> None:
    told = ask("hr_a", {"questions": [MAIL, {"resource": "mail", "action": "tool"}, {"resource": "pay"}]}).json()
    assert [(one["resource"], one["is_allowed"], one["policies"]) for one in told["data"]] == [
        ("mail", True, ["mine"]),
        ("mail", False, []),
        ("pay", False, []),
    ]
    assert not ask("hr_b", {"questions": [MAIL]}).json()["data"][0]["is_allowed"]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({}, "questions"),
        ({"questions": []}, "questions"),
        ({"questions": [MAIL] * 65}, "questions"),
        ({"questions": [{"resource": ""}]}, "resource"),
        ({"questions": [{"resource": "x", "action": "fly"}]}, "action"),
        ({"questions": [{"resource": "x", "principal": "key:root"}]}, "principal"),
        ({"questions": [{"resource": "x", "context": {"depth": 1.5}}]}, "context"),
        ({"questions": [{"resource": "x", "context": {"session": "y" * 5000}}]}, "context"),
    ],
)
def test_what_is_no_question_is_refused_by_name(body: Any, name: str) -> None:
    refused = ask("hr_a", body)
    assert refused.status == 400
    assert name in json.dumps(refused.error())


def test_a_field_that_there_is_none_of_is_denied_and_said() -> None:
    told = ask("hr_a", {"questions": [MAIL | {"context": {"integrty": 2}}]}).json()["data"][0]
    assert not told["is_allowed"]
    assert "no field 'integrty'" in told["reason"]
