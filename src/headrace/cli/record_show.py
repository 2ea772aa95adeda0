"""`headrace records list` and `show`: what records say, unverified."""

import base64
import json as jsonlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import compose
from headrace.cli.record_books import RecordSource, StoredRecords
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.memory.provenance import Kept
from headrace.trust.records import dsse
from headrace.trust.records.statement import Statement, read_statement


def run_list(flags: Mapping[str, Any], config: Path | None, *, tenant: str | None, limit: int, json: bool) -> None:
    """List the newest records."""
    rows = [_row(one) for one in StoredRecords(compose(flags, os.environ, config).settings).newest(tenant, limit)]
    if json:
        typer.echo(jsonlib.dumps({"data": rows}))
        return
    typer.echo(f"{'RECORD':<28} {'ENDED':<24} {'TENANT':<12} {'MODEL':<28} OUTCOME")
    for row in rows:
        typer.echo(f"{row['id']:<28} {row['ended']:<24} {row['tenant']:<12} {row['model']:<28} {row['outcome']}")


def _row(kept: Kept) -> dict[str, Any]:
    row: dict[str, Any] = {"id": kept.item.id, "index": kept.index, "tenant": kept.item.tenant}
    if kept.is_erased:
        return row | {"ended": "", "model": "", "outcome": "erased"}
    statement = read_statement(dsse.read(kept.item.envelope).payload)
    outcome = statement.internal["outcome"]
    return row | {
        "ended": statement.finished_on,
        "model": statement.external["model"],
        "outcome": outcome.get("error") or outcome["state"],
    }


def statement_of(envelope: bytes) -> Statement:
    """What an envelope's payload says. Raises InvalidRequest if it was erased."""
    if not envelope:
        raise InvalidRequest("the record was erased; what is left is that there was one.")
    return read_statement(dsse.read(envelope).payload)


def run_show(source: RecordSource, record_id: str, *, json: bool) -> None:
    """Show one."""
    bundle = source.bundle(record_id)
    statement = statement_of(bundle.record.envelope)
    if json:
        typer.echo(statement.payload.decode())
        return
    internal = statement.internal
    lines = {
        "record": statement.record_id,
        "response": statement.response_id,
        "time": f"{statement.started_on} to {statement.finished_on}",
        "node": statement.node,
        "model": f"{statement.external['model']}, answered by {_way(internal['way'])}",
        "outcome": ", ".join(f"{name} {value}" for name, value in internal["outcome"].items()),
        "for": ", ".join(f"{name} {value}" for name, value in internal["principal"].items()),
    }
    for name, digest in statement.digests.items():
        lines[f"{name} was"] = digest
    for subject, commitment in statement.subjects.items():
        lines[f"{subject} is"] = f"sha256:{commitment.hex()}"
    lines["nonce"] = "erased" if not bundle.nonce else base64.b64encode(bundle.nonce).decode()
    for name, value in lines.items():
        typer.echo(f"{name:<14} {value}")
    typer.echo("Nothing of this was verified; `headrace verify` does it.")


def _way(way: Mapping[str, Any]) -> str:
    place = f"{way.get('backend', '')}/{way.get('model', '')}".strip("/") or "nobody"
    return f"{place} ({way['cache']} cache)" if way.get("cache") else place


def run_content(record_id: str, flags: Mapping[str, Any], config: Path | None) -> None:
    """Print what was kept of one."""
    kept = StoredRecords(compose(flags, os.environ, config).settings).kept(record_id)
    typer.echo(jsonlib.dumps(content_of(kept), indent=2, ensure_ascii=False))


def content_of(kept: Kept) -> Mapping[str, Any]:
    """What is kept of a record's content. Raises InvalidRequest if nothing is."""
    if not kept.item.content:
        raise InvalidRequest(
            "the record has no content: it was not kept (records.keeps_content), or erased. Give the request's body "
            "with --request.",
            param="request",
        )
    try:
        found = jsonlib.loads(kept.item.content)
    except ValueError as error:
        raise HeadraceError(f"the content of {kept.item.id} is damaged ({error}).") from error
    assert isinstance(found, dict)
    return found
