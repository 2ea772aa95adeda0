"""Settings files that were damaged anywhere: each is read, and printed as itself, or refused in sentences."""

import tomllib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.unit.cli.test_gateway_tables import WHOLE

from headrace.cli.config import compose
from headrace.cli.config_schema import schema
from headrace.cli.kinds import WrongSettings
from headrace.cli.toml_writer import write_value
from headrace.core.errors import InvalidRequest

MORE = """
[[keys]]
name = "k"
secret = "env:K"
tags = ["t"]
[tls]
certificate = "/c"
key = "/k"
[cors]
origins = ["https://a.example"]
[prices.m]
input = 1
output = 2
"""
VALIDATOR = Draft202012Validator(schema())

_SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.sampled_from(
        ["", " ", "*", "a/b", "near/small", "env:", "file:x", "10s", "all", "key:*", "http://h", "\x00", "é" * 9]
    ),
    st.text(max_size=20).filter(lambda text: not any("\ud800" <= one <= "\udfff" for one in text)),
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_é. ", min_size=1, max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


PLACES = places(tomllib.loads(WHOLE + MORE))


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The whole file with up to three values replaced, removed, or under another name."""
    document = tomllib.loads(WHOLE + MORE)
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(PLACES))
        holder: Any = document
        try:
            for step in way:
                holder = holder[step]
            value = holder[last]
        except (KeyError, IndexError, TypeError):
            continue  # damaged before
        kind = draw(st.integers(0, 2))
        if kind == 0:
            holder[last] = draw(VALUES)
        elif kind == 1:
            del holder[last]
        elif isinstance(holder, dict):
            del holder[last]
            holder[draw(st.sampled_from([f"{last}x", "", "name", "url", "é", "a.b"]))] = value
    return document


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(damaged())
def test_a_damaged_file_is_read_or_refused_in_sentences(tmp_path: Path, document: dict[str, Any]) -> None:
    file = tmp_path / "a.toml"
    file.write_text("\n".join(f"{key} = {write_value(value)}" for key, value in document.items()), "utf-8")
    try:
        resolved = compose({}, {"HOME": "/h"}, file)
    except WrongSettings as error:
        for problem in error.problems:
            assert problem.line is None or problem.line >= 1
            assert problem.sentence[-1] in ".?" and "\n" not in problem.sentence.replace("\\n", "")
    except InvalidRequest:
        pass
    else:
        again = tmp_path / "b.toml"
        again.write_text(resolved.toml(), "utf-8")
        assert compose({}, {}, again).settings == resolved.settings
        # What the reader takes the schema takes, too.
        assert list(VALIDATOR.iter_errors(tomllib.loads(resolved.toml()))) == []


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(WHOLE)), st.integers(0, 9), st.text("[]{}=\"'\n#., ax1-é", max_size=6))
def test_a_text_that_was_cut_or_overwritten_is_read_or_refused(tmp_path: Path, at: int, cut: int, more: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(WHOLE[:at] + more + WHOLE[at + cut :], "utf-8")
    try:
        compose({}, {"HOME": "/h"}, file)
    except WrongSettings as error:
        lines = len(file.read_text("utf-8").split("\n"))
        assert all(problem.line is not None and 1 <= problem.line <= lines for problem in error.problems)
    except InvalidRequest:
        pass
