"""`headrace policy`: policies are checked, tried out and explained without a server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.main import app

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
HOURS = """
@id("night")
@reason("nobody watches at night")
forbid (principal, action == Action::"request", resource) when { context.minute < 360 };
"""

Policy = Callable[..., Result]


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.chdir(tmp_path)
    return lambda *options: CliRunner().invoke(app, ["policy", *options])


def test_files_that_are_good_are_counted_and_odd_ones_hinted_at(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text(HOURS + "permit (principal, action, resource);")
    result = policy("check", "a.cedar")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "a.cedar:5: hint: has no @id, and is called by its place, which moves.",
        "10 policies are good, those that ship among them.",
    ]


def test_what_is_wrong_is_told_by_file_and_line_and_fails(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text(HOURS.replace("minute", "minutes"))
    result = policy("check", "a.cedar")
    assert result.exit_code == 1
    assert result.stdout.startswith("a.cedar:2: ")
    assert "minutes" in result.stdout
    told = json.loads(policy("check", "a.cedar", "--json").stdout)
    assert (told["policies"], len(told["flaws"])) == (0, 1)
    assert policy("check", "b.cedar").exit_code == 1


def test_the_settings_files_are_checked_where_none_is_named(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text("permit (principal, action resource);")
    (tmp_path / "headrace.toml").write_text('[policy]\nmode = "enforce"\nfiles = "a.cedar"\n')
    assert policy("check").stdout.startswith("a.cedar:1: ")


def test_a_question_is_explained_with_what_was_outweighed(policy: Policy) -> None:
    result = policy("explain", "--action", "tool", "--resource", "mail", "--context", "integrity=1")
    lines = result.stdout.splitlines()
    assert lines[0] == "denied"
    assert lines[1].startswith("  forbid agents-untrusted-egress (agents.cedar:")
    assert lines[-1] == "  permit default-tool would permit it, and is outweighed"
    told = json.loads(policy("explain", "--action", "request", "--resource", "m", "--json").stdout)
    assert (told["is_allowed"], told["policies"]) == (True, ["default-request"])


def test_values_of_flags_are_numbers_truths_texts_and_sets(policy: Policy) -> None:
    flags = ["integrity=3", "is_endorsed=true", "labels=[a, b]", "session=x", "confidentiality=0"]
    given = [part for flag in flags for part in ("--context", flag)]
    result = policy("explain", "--action", "tool", "--resource", "mail", *given, "--attribute", "effect=egress")
    assert result.stdout.startswith("allowed\n  permit default-tool (default.cedar:")
    wrong = policy("explain", "--action", "tool", "--resource", "mail", "--context", "integrity")
    assert wrong.exit_code == 1
    unknown = policy("explain", "--action", "tool", "--resource", "mail", "--context", "sise=3")
    assert unknown.exit_code == 1 and "no field 'sise'" in unknown.stderr
    assert policy("explain", "--action", "rout", "--resource", "mail").exit_code == 1


def test_the_example_cases_that_ship_hold(policy: Policy) -> None:
    result = policy("test", str(EXAMPLES / "policy-cases.toml"), "--file", str(EXAMPLES / "policy.cedar"))
    assert result.exit_code == 0, result.stdout
    assert "cases are as expected" in result.stdout


def test_a_case_that_does_not_hold_is_named_and_fails(policy: Policy, tmp_path: Path) -> None:
    cases = [
        {"name": "good", "action": "request", "resource": "m", "allowed": True},
        {"name": "bad", "action": "request", "resource": "m", "allowed": False},
        {"name": "other", "action": "request", "resource": "m", "allowed": True, "policies": ["x"]},
    ]
    (tmp_path / "c.json").write_text(json.dumps({"case": cases}))
    result = policy("test", "c.json")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "c.json: bad: is allowed by default-request, not denied",
        "c.json: other: is decided by default-request, not x",
        "1 of 3 cases are as expected.",
    ]
    (tmp_path / "c.json").write_text(
        json.dumps(
            {"case": [{"name": "typo", "action": "tool", "resource": "m", "allowed": False, "context": {"deph": 1}}]}
        )
    )
    result = policy("test", "c.json")
    assert result.exit_code == 1
    assert result.stdout.startswith("c.json: typo: the question cannot be put: context has no field 'deph'; known are ")
    (tmp_path / "d.json").write_text('{"case": [{"nme": 1}]}')
    assert "is no file of cases" in CliRunner().invoke(app, ["policy", "test", "d.json"]).stderr


def test_the_schema_and_the_sets_that_ship_are_shown(policy: Policy) -> None:
    assert "action tool appliesTo" in policy("schema").stdout
    assert '@id("default-request")' in policy("show", "default").stdout
    assert policy("show", "other").exit_code == 1
