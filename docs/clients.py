"""Writes docs/reference/clients.md from tests/clients/results; `docs/check.py` calls it. No result is typed here."""

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "tests" / "clients" / "results"
PAGE = DOCS / "reference" / "clients.md"

_HEAD = """\
# Clients

Other people's programs, as they come from their registries, run against Headrace. Written from
[tests/clients/results](../../tests/clients/results) by `make fix`; `make check` compares.

`make clients` installs each at the version below in an environment of its own, starts the server with a scripted
backend (the model's words are in [a script](../../tests/clients/script.json), so that runs repeat), lets the client do
what the table says, asserts on what it made of the answers and on what the server was asked, and deletes the
environment. `make clients CLIENT=llm` runs one; `make conformance` runs schemathesis on `GET /openapi.json`, and
`make load` the load tool. It needs `npm` and Node 20 for the clients that are Node's.

The official Python packages `openai`, `anthropic` and `ollama` are in `make test`, which needs no network.

| client | package | version | what it did | result | date |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The table, a row for each client that was run."""
    rows = [_row(json.loads(path.read_text("utf-8"))) for path in sorted(RESULTS.glob("*.json"))]
    return _HEAD + "".join(rows)


def generated() -> dict[Path, str]:
    """The page, by its path."""
    return {PAGE: page()}


def _row(result: dict[str, Any]) -> str:
    did = "; ".join(result["did"]).replace("|", "\\|")
    said = (
        "passed"
        if not result["failure"]
        else "failed: " + result["failure"].strip().splitlines()[-1][:200].replace("|", "\\|")
    )
    cells = (result["title"], f"`{result['package']}`", result["version"], did, said, result["date"])
    return f"| {' | '.join(cells)} |\n"
