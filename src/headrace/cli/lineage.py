"""`headrace lineage`: what an answer comes from, as a tree for people or one JSON document.

Records of a server or of the state directory; with a trust file each of them is verified.
"""

import json as jsonlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from headrace.cli.record_books import RecordSource
from headrace.cli.saved_files import read_file
from headrace.core.errors import NotFound
from headrace.trust.records.bundle import Bundle
from headrace.trust.records.lineage import Lineage, Node, trace
from headrace.trust.records.statement import Statement
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Trusted, verify

_UNKNOWN = "of:"


def run_lineage(source: RecordSource, record_id: str, trust: Path | None, *, json: bool) -> None:
    """Print the graph; leave with 1 if something of it is forged."""
    bundles: dict[str, Bundle] = {}

    def find(one: str) -> bytes | None:
        if one.startswith(_UNKNOWN):
            return None  # a request whose record was not known when it was named
        try:
            bundles[one] = source.bundle(one)
        except NotFound:
            if one == record_id:
                raise
            return None
        return bundles[one].record.envelope

    lineage = trace(record_id, find)
    trusted = None if trust is None else read_trusted(read_file(trust, "trust"))
    levels = {} if trusted is None else {one: _level(bundle, trusted) for one, bundle in bundles.items()}
    if json:
        typer.echo(jsonlib.dumps(_told(lineage, levels)))
    else:
        for line in _tree(lineage, levels):
            typer.echo(line)
        for problem in lineage.problems:
            typer.echo(f"FORGED  {problem}")
        if lineage.is_cut:
            typer.echo(f"There is more than {len(lineage.nodes)} records; the rest was not followed.")
        if trusted is None:
            typer.echo("No signature was verified; --trust FILE does it.")
    if lineage.problems or any(level.startswith("refused") for level in levels.values()):
        raise typer.Exit(1)


def _level(bundle: Bundle, trusted: Trusted) -> str:
    if not bundle.record.envelope:
        return "erased"
    report = verify(bundle, None, trusted)
    return f"refused: {report.clauses[-1].text}" if report.is_refused else report.level.name.lower()


def _told(lineage: Lineage, levels: dict[str, str]) -> dict[str, Any]:
    return {
        "root": lineage.root,
        "records": [
            {
                "id": one.record_id,
                "is_known": one.statement is not None,
                "level": levels.get(one.record_id),
                "problem": one.problem or None,
                **({} if one.statement is None else _facts(one.statement)),
            }
            for one in lineage.nodes.values()
        ],
        "edges": [
            {
                "record": one.record_id,
                "relation": one.source.relation,
                "source": one.source.record_id,
                "digest": None if one.source.digest is None else f"sha256:{one.source.digest.hex()}",
                "problem": one.problem or None,
            }
            for one in lineage.edges
        ],
        "problems": lineage.problems,
        "is_cut": lineage.is_cut,
    }


def _facts(statement: Statement) -> dict[str, Any]:
    return {
        "response": statement.response_id,
        "ended": statement.finished_on,
        "model": statement.external["model"],
        "made_with": statement.digests,
        "tools": statement.internal.get("tools", []),
        "documents": [
            {"tool": one.get("annotations", {}).get("tool", ""), "commitment": f"sha256:{one['digest']['sha256']}"}
            for one in statement.dependencies
            if one["name"] == "tool-result"
        ],
    }


def _tree(lineage: Lineage, levels: dict[str, str]) -> Iterator[str]:
    shown: set[str] = set()
    # (what stands before, id, how it was named): depth first, without recursion, however long a conversation is.
    waiting: list[tuple[str, str, str]] = [("", lineage.root, "")]
    while waiting:
        before, record_id, relation = waiting.pop()
        node = lineage.nodes.get(record_id)
        yield f"{before}{relation}{_line(node, record_id, levels)}" + (" (above)" if record_id in shown else "")
        if record_id in shown or node is None or node.statement is None:
            continue
        shown.add(record_id)
        inside = f"{before}    "
        for name, digest in node.statement.digests.items():
            yield f"{inside}{name:<12} {digest}"
        for tool in node.statement.internal.get("tools", []):
            yield f"{inside}calls        {tool['name']} {_decided(tool)}{tool['manifest']}"
        for document in _facts(node.statement)["documents"]:
            yield f"{inside}read         {document['tool'] or 'a tool'}: {document['commitment']}"
        waiting += [
            (inside, one.source.record_id, f"{one.source.relation}: ") for one in reversed(lineage.sources(record_id))
        ]


def _line(node: Node | None, record_id: str, levels: dict[str, str]) -> str:
    if node is None or node.statement is None:
        name = record_id.removeprefix(_UNKNOWN)
        return f"{name} (no record of it is known here, or it was erased)"
    level = f" [{levels[record_id]}]" if record_id in levels else ""
    return f"{record_id} {node.statement.external['model']} {node.statement.finished_on}{level}"


def _decided(tool: dict[str, Any]) -> str:
    if tool.get("endorsements"):
        return "endorsed "
    decision = tool.get("decision")
    return "" if decision is None else "allowed " if decision["is_allowed"] else "denied "
