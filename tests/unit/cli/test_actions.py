"""What commands change without a server is in the list of actions, and `headrace actions` shows it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from headrace.cli.main import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def listed(*words: str) -> list[dict[str, Any]]:
    done = typed("actions", "--json", *words)
    assert done.exit_code == 0, done.output
    data: list[dict[str, Any]] = json.loads(done.stdout)["data"]
    return data


def test_keys_that_are_issued_disabled_and_taken_back_are_in_the_list_without_their_text() -> None:
    key = typed("keys", "add", "laptop", "--tenant", "acme", "--scope", "generate").stdout.strip()
    assert typed("keys", "disable", "laptop").exit_code == 0
    assert typed("keys", "enable", "laptop").exit_code == 0
    assert typed("keys", "remove", "laptop").exit_code == 0
    assert typed("keys", "disable", "nobody").exit_code == 1
    told = listed()
    assert [(one["action"], one["target"], one["outcome"]) for one in reversed(told)] == [
        ("headrace keys add", "laptop", "done"),
        ("headrace keys disable", "laptop", "done"),
        ("headrace keys enable", "laptop", "done"),
        ("headrace keys remove", "laptop", "done"),
        ("headrace keys disable", "nobody", "refused"),
    ]
    assert told[0]["code"] == "not_found" and told[-1]["asked"]["tenant"] == "acme"
    assert key.startswith("hr_") and key not in json.dumps(told)
    assert {one["who"]["through"] for one in told} == {"cli"}
    assert len(listed("--outcome", "refused")) == 1 and len(listed("--action", "headrace keys d")) == 2
    shown = typed("actions", "--limit", "1").stdout
    assert "refused (not_found)" in shown and "There are more: --after 5" in shown


def test_delegations_that_are_taken_back_and_tenants_that_are_erased_are_in_the_list() -> None:
    assert typed("delegate", "revoke", "ab" * 64, "--reason", "lost").exit_code == 0
    words = ["--subject", "tenant:acme", "--window", "day", "--tokens", "5"]
    assert typed("budgets", "set", "theirs", *words).exit_code == 0
    done = typed("erase", "--tenant", "acme", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["actions"] == 2  # the budget's, and this one
    erase, budget, revoke = listed()
    assert (revoke["target"], revoke["asked"]["reason"]) == ("ab" * 64, "lost")
    assert (budget["is_erased"], budget["target"], budget["asked"]) == (True, "", {})
    assert (erase["action"], erase["outcome"], erase["is_erased"]) == ("headrace erase", "done", True)


def test_what_is_stored_of_a_tenant_does_not_go_unseen() -> None:
    assert typed("responses", "erase", "--tenant", "acme").exit_code == 0
    (told,) = listed()
    assert (told["action"], told["target"], told["outcome"]) == ("headrace responses erase", "acme", "done")


def test_where_the_list_cannot_be_written_a_command_says_so_and_goes_on(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "headrace.db").write_bytes(b"no database at all, but long enough to look at" * 100)
    done = typed("keys", "add", "laptop")
    assert done.exit_code == 0 and done.stdout.startswith("hr_")
    assert "warning: this is not in the list of actions" in done.stderr


def test_without_a_log_there_is_nothing_to_hold_the_list_against() -> None:
    assert typed("actions").exit_code == 1  # nobody did anything there
    typed("keys", "add", "laptop")
    done = typed("actions", "--verify")
    assert done.exit_code == 1 and "nothing commits to the list" in done.stderr
