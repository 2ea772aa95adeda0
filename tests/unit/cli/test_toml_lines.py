"""Lines of keys: every way in which TOML writes one, held against what `tomllib` reads."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.toml_lines import Lines, Path


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def check(text: str) -> None:
    """Every @ of the text stands for the number of its own line, so that the document tells where its values are."""
    rows = [row.replace("@", str(number)) for number, row in enumerate(text.split("\n"), 1)]
    numbered = "\n".join(rows)
    lines = Lines(numbered)
    found = list(leaves(tomllib.loads(numbered)))
    assert found
    for path, value in found:
        if type(value) is int:
            assert lines.paths().get(path) == value, path


@pytest.mark.parametrize(
    "text",
    [
        "a = @\n\n  b=@ # c = 7\n\t'c'   =   @\n\"d e\" = @\n",
        "a.b.c = @\na . 'b' . d = @\n a.\"x.y\".z=@",
        '[t]\na = @\n[ t . u ]\nb = @\n["t.v"]\nc = @\n  [ \'t\' . "w\\u0041" ] # [no]\nd = @',
        "[[a]]\nx = @\n[[a]]\nx = @\n[a.b]\ny = @\n[[a.c]]\nz = @\n[[a.c]]\nz = @\n[[ a ]]\n[[a.c]]\nz=@\n",
        "p = {x = @, y = {z = @}, 'q r'=@}\nq = [{a = @}, {b = @, c = [@, @]}]\n",
        "l = [\n  @,\n  # in between\n  [@, @],\n  {a = @},\n\n  @\n]\nm = @",
        's = """\n[no]\nk = 1\n\\""" """\nt = @\nu = \'\'\'\n# no \'\' "\n\'\'\'\nv = @\nw = """a"""""\nx = @',
        's = "a # no ] } , \\" "\nt = @\nu = \'C:\\\'\nv = @',
        "d = 2026-01-01T00:00:00Z\nf = 1_000.5e3\ne = @\nb = [true, false]\ng = @",
        "a = @\r\n[t]\r\nb = @\r\n",
        "# only\n\na = @",
        "[a.b.c]\nx = @\n[a]\ny = @\n[a.b]\nz = @\n",
        "1 = @\n[2.-x_]\n3.4 = @\n",
    ],
)
def test_each_key_is_found_on_its_line_however_it_is_written(text: str) -> None:
    check(text)


def test_what_is_not_there_is_found_on_the_line_of_the_nearest_table_around_it() -> None:
    lines = Lines("a = 1\n[t.u]\nb = 2\n[[l]]\n[[l]]\nc = 3\n")
    assert lines.find(("t", "u", "none")) == 2
    assert lines.find(("l", 1, "none", "deeper")) == 5
    assert lines.find(("l", 0)) == 4
    assert lines.find(("none",)) is None


def test_a_table_is_where_its_header_stands_and_not_where_an_inner_one_passed_through_it() -> None:
    assert Lines("[a.b]\nx = 1\n[a]\ny = 2\n").find(("a", "z")) == 3


_NAMES = st.sampled_from(["a", "b", '"c d"', "'e.f'", '"g\\"h"', "-1", "i_j"])
_SPACES = st.sampled_from(["", " ", "\t", "  "])
_FILLERS = st.sampled_from(["", "# a = [1\n", "\n\n", "  \n", '\t# "\n'])


@st.composite
def _documents(draw: st.DrawFn) -> str:
    def value(depth: int) -> str:
        kind = draw(st.integers(0, 5 if depth else 1))
        if kind <= 1:
            return "@"
        if kind == 2:
            return draw(st.sampled_from(['"x # ]"', "'}'", '"""\n[z]\n"""', "'''\n, '''", "1.5", "true"]))
        if kind == 3:
            inner = [draw(_FILLERS.filter(lambda text: "#" not in text)) + value(depth - 1) for _ in range(2)]
            return "[" + draw(_SPACES) + ", ".join(inner) + draw(st.sampled_from(["", ",", ",\n"])) + "]"
        keys = draw(st.lists(_NAMES, unique=True, max_size=3))
        pairs = (f"{key}{draw(_SPACES)}={draw(_SPACES)}{value(0 if kind == 5 else depth - 1)}" for key in keys)
        return "{" + ", ".join(pairs).replace("\n", " ").replace('"""', '"').replace("'''", "'") + "}"

    text = "first = @\n"
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.integers(0, 2))
        if kind:
            name = ".".join([f"t{number if kind == 1 else draw(st.integers(100, 102))}", *draw(st.lists(_NAMES))])
            text += (
                draw(_FILLERS) + (f"[{draw(_SPACES)}{name} ]" if kind == 1 else f"[[ {name}{draw(_SPACES)}]]") + "\n"
            )
        for index in range(draw(st.integers(0, 3))):
            prefix = "".join(f"{name}." for name in draw(st.lists(_NAMES, max_size=2)))
            text += f"{draw(_FILLERS)}{prefix}k{number}{index} = {value(2)}\n"
    return text


@given(_documents())
def test_random_documents_have_their_keys_where_they_stand(text: str) -> None:
    try:
        tomllib.loads(text.replace("@", "1"))
    except tomllib.TOMLDecodeError:
        return  # names that meet; what remains is most of them
    check(text)
