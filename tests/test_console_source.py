"""The rules of the house for the console's source that a machine can hold."""

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "console" / "src"
SCRIPTS = sorted(path for path in SOURCE.rglob("*.ts*") if not path.name.endswith(".d.ts"))
SHEETS = sorted(SOURCE.rglob("*.css"))
MAX_LINES = 400
# What makes markup or code of text. The page's policy forbids it as well; here it is found before somebody runs it.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc"
    r"|\beval\(|new Function|javascript:|trustedTypes"
)
OTHER_HOSTS = re.compile(r"(?:fetch|import|send|fetchJson|url)\(\s*[\"'`]?https?:|(?:src|href|action)=[{\"'`]*https?:")
COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgba?|hsla?|oklch|oklab)\(", re.IGNORECASE)


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_file_says_what_it_owns_and_stays_short(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    # What it owns, and what it does not know.
    assert path.name.endswith(".test.ts") or lines[0].startswith("// ")
    assert len(lines) <= MAX_LINES


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_no_text_becomes_markup_or_code(path: Path) -> None:
    if not path.name.endswith(".test.ts"):
        assert FORBIDDEN.findall(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", [*SCRIPTS, *SHEETS], ids=name_of)
def test_nothing_comes_from_another_host(path: Path) -> None:
    if not path.name.endswith(".test.ts"):
        assert OTHER_HOSTS.findall(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", SHEETS, ids=name_of)
def test_colours_have_names(path: Path) -> None:
    if name_of(path) != "style/tokens.css":
        assert COLOUR.findall(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_views_know_the_kit_and_not_each_other(path: Path) -> None:
    imported = re.findall(r"from \"(\.[^\"]*)\"", path.read_text("utf-8"))
    places = [(path.parent / one).resolve().relative_to(SOURCE).parts for one in imported]
    own = path.relative_to(SOURCE).parts
    for place in places:
        if own[0] == "kit":
            assert place[0] != "views"
        elif own[0] == "views":
            assert place[0] != "views" or place[1:2] in ((), (own[1],))  # views.ts, which names them, is for all
