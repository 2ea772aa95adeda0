"""Holds the documents against the code: generated pages are current, versions agree, links and commands lead somewhere.

`python docs/check.py` says what is wrong and fails; `--write` writes what can be generated.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import performance
import settings
import typer.main

import clients
from headrace import __version__
from headrace.api.openapi import shown_path
from headrace.api.openapi_routes import OPERATIONS
from headrace.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
HTTP_PAGE = ROOT / "docs" / "reference" / "http.md"
CLI_PAGE = ROOT / "docs" / "reference" / "cli.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "bench").glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = {
    CLI_PAGE: "--help says",
    clients.PAGE: "tests/clients/results say",
    settings.PAGE: "the tables of settings say",
}
_WIDTH = 100
_HEADER = """\
# The command line

Written from `--help` by `make fix`; `make check` compares.
"""


def cli_page() -> str:
    """Every command's help, one section each."""
    sections = [_HEADER]
    for name, command, context in _commands(typer.main.get_command(app), None, "headrace"):
        sections.append(f"## {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(sections)


def _commands(command: Any, parent: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    context = command.context_class(command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=_WIDTH)
    yield name, command, context
    for child_name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(child, context, f"{name} {child_name}")


def command_names() -> set[str]:
    """Everything that may follow `headrace`."""
    return {name.removeprefix("headrace ") for name, _, _ in _commands(typer.main.get_command(app), None, "headrace")}


def generated() -> dict[Path, str]:
    """Every document that is written by a program, with its text."""
    return {CLI_PAGE: cli_page(), **performance.generated(), **clients.generated(), **settings.generated()}


def _stale() -> Iterator[str]:
    files = generated()
    for path, text in files.items():
        if not path.exists() or path.read_text("utf-8") != text:
            source = SOURCES.get(path, "bench/results say")
            yield f"{path.relative_to(ROOT)} is not what {source}; run `make fix`."
    for path in performance.DRAWINGS.glob("*"):
        if path not in files:
            yield f"{path.relative_to(ROOT)} shows results that are no longer the newest; delete it."


def _routes() -> Iterator[str]:
    """Paths that docs/reference/http.md's list of routes has and the server does not, and the other way round."""
    table = HTTP_PAGE.read_text("utf-8").partition("| route |")[2].partition("\n\n")[0]
    told = {path for row in table.splitlines()[2:] for path in re.findall(r"`(/[^`]*)`", row.split("|")[1])}
    served = {shown_path(path) for _, path in OPERATIONS}
    for path in sorted(served - told):
        yield f"docs/reference/http.md has no row for {path}."
    for path in sorted(told - served):
        yield f"docs/reference/http.md has a row for {path}, which no server has."


def problems() -> Iterator[str]:
    """Sentences, one for each thing that is not true."""
    yield from _stale()
    yield from _routes()
    changelog = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    if changelog is None or changelog[1] != __version__:
        yield f"CHANGELOG.md begins with {changelog and changelog[1]}, the package is {__version__}."
    if f'version = "{__version__}"' not in (ROOT / "pyproject.toml").read_text("utf-8"):
        yield f"pyproject.toml and headrace.__version__ ({__version__}) differ."
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    names = command_names()
    for page in PAGES:
        text = page.read_text("utf-8")
        where = page.relative_to(ROOT)
        for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text):
            if not (page.parent / link).exists():
                yield f"{where} links to {link}, which does not exist."
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, flags=re.MULTILINE):
            if target not in targets:
                yield f"{where} names `make {target}`, which the Makefile does not have."
        for command in re.findall(r"(?:^|`)headrace ([a-z]+)", text, flags=re.MULTILINE):
            if command not in names:
                yield f"{where} names `headrace {command}`, which does not exist."


def main() -> int:
    """Check, or write what is generated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write what is generated")
    if parser.parse_args().write:
        for path, text in generated().items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    found = list(problems())
    for problem in found:
        print(problem, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    # The terminal that this runs in must not change what is written.
    os.environ.update(COLUMNS=str(_WIDTH), NO_COLOR="1", TERM="dumb")
    raise SystemExit(main())
