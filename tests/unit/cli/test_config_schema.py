"""The JSON schema of the settings file: what the reader takes it takes, and what it refuses by itself it refuses."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.unit.cli.test_gateway_tables import BACKEND, ROUTE, WHOLE
from tests.unit.docs.test_settings_in_pages import FILES

from headrace.cli.config import compose
from headrace.cli.config_schema import schema
from headrace.cli.setting_texts import TEXTS
from headrace.core.errors import InvalidRequest

VALIDATOR = Draft202012Validator(schema())


def mistakes(text: str) -> list[Any]:
    return list(VALIDATOR.iter_errors(tomllib.loads(text)))


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("text", [WHOLE, *(text for _, _, text in FILES)])
def test_it_takes_what_the_reader_takes(text: str) -> None:
    assert mistakes(text) == []


def test_it_takes_the_settings_in_force_as_they_are_printed(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(WHOLE, "utf-8")
    assert mistakes(compose({"host": "h", "kv_memory": "1GiB"}, {"HOME": "/h"}, file).toml()) == []


@pytest.mark.parametrize(
    "text",
    [
        "prot = 1",
        "port = 'x'",
        "port = 70000",
        "kv_type = 'fp8'",
        "[backends.a]\nkind = 'opnai'",
        BACKEND + "[backends.a.breaker]\nwindw = 7",
        BACKEND + "[backends.a.timeouts]\nconnect = 'soon'",
        "[backends.a]\nkind='openai'\nsecret='sk-1'",
        BACKEND + "[routes.r]",
        ROUTE + "policies = ['fastest']",
        ROUTE + "canary_share = 1.5",
        "[[budgets]]\nsubject='anna'\nwindow='day'\ntokens=1",
        "[[limits]]\nsubject='all'\nrpm=1",
        "[cors]\norigins=['*']",
        "[[keys]]\nname='a'\nsha256='00'",
    ],
)
def test_it_refuses_what_the_reader_refuses_by_itself(tmp_path: Path, text: str) -> None:
    assert mistakes(text) != []
    file = tmp_path / "a.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(InvalidRequest):
        compose({}, {"HOME": "/h"}, file)


def test_every_setting_says_what_it_means_and_nothing_else_does() -> None:
    told: set[str] = set()

    def look(part: dict[str, Any], path: str) -> None:
        if path:
            assert part.get("description"), path
            told.add(path)
        for name, inner in part.get("properties", {}).items():
            look(inner, f"{path}.{name}" if path else name)
        if isinstance(part.get("additionalProperties"), dict) and not path.endswith(".headers"):
            look(part["additionalProperties"], f"{path}.NAME")
        for inner in [part["items"]] if isinstance(part.get("items"), dict) else part.get("anyOf", []):
            look(inner, path)

    look(schema(), "")
    assert told == set(TEXTS)
