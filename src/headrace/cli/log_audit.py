"""`headrace log audit`: every hash and the root of a log, and, where the records lie, that they are what was logged."""

import json as jsonlib
import secrets
import time
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import typer

from headrace.cli.log_reading import open_with, read_note, read_trust_file, source_of
from headrace.cli.log_show import own_log, place_of
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.provenance import Kept
from headrace.trust.log.audit import Report, audit
from headrace.trust.log.tiles import WIDTH
from headrace.trust.log.trust_file import TrustFile
from headrace.trust.records import dsse
from headrace.trust.records.commitment import read_entry
from headrace.trust.records.keys import read_grant, verifier
from headrace.trust.records.node_key import read_node_key

SAMPLED: Final = 100
"""One signature in so many is verified where not all are."""
MAX_SHOWN: Final = 20


class AuditFailed(HeadraceError):
    """Something of the log does not hold; what was printed."""

    code = "audit_failed"


class StateCheck:
    """Compares what the database keeps with what the log has, entry by entry, in order."""

    def __init__(self, database: Database, trust: TrustFile | None, *, all_signatures: bool) -> None:
        self._database = database
        self._all = all_signatures
        self._random = secrets.SystemRandom()
        self._rows: dict[int, Kept] = {}
        self._keys: dict[str, dsse.Verify] = {}  # of records, by the delegations so far
        self._nodes = (
            {one.id: one.verify for one in map(read_node_key, (node.vkey for node in trust.nodes))} if trust else {}
        )
        self.num_signatures = 0
        self.num_erased = 0

    def see(self, index: int, entry: bytes) -> str | None:
        """What is wrong with an entry's row."""
        if index not in self._rows:
            start = index // WIDTH * WIDTH
            rows = self._database.read(provenance.in_range, start, start + WIDTH)
            self._rows = {row.index: row for row in rows}
        row = self._rows.get(index)
        if row is None:
            return "the database does not have it."
        if row.item.entry != entry:
            return "the database has another entry."
        try:
            found = read_entry(entry)
        except HeadraceError:
            return None  # of another kind than records' commitments: there is nothing to open
        if not row.item.envelope:
            self.num_erased += 1
            return None
        if sha256(row.item.envelope).digest() != found.digest:
            return f"the envelope of {row.item.id} is not the one that was logged."
        return self._check_signature(row)

    def _check_signature(self, row: Kept) -> str | None:
        is_grant = row.item.kind == "delegation"
        if not (is_grant or self._all or self._random.randrange(SAMPLED) == 0):
            return None
        try:
            envelope = dsse.read(row.item.envelope)
            if is_grant:
                grant = read_grant(envelope.payload)
                if self._nodes and not envelope.signers(self._nodes):
                    return f"the delegation {row.item.id} is not signed by a node of the trust file."
                self._keys[grant.key_id] = verifier(grant.public)
                self.num_signatures += bool(self._nodes)
                return None
        except HeadraceError as error:
            return f"the envelope of {row.item.id} cannot be read: {error}"
        if row.item.kind in {"record", "evidence", "endorsement", "action"} and not envelope.signers(self._keys):
            return f"the signature of {row.item.id} is not of a key that was delegated before."
        self.num_signatures += 1
        return None


def run_audit(
    place: str | None,
    trust: Path | None,
    flags: Mapping[str, Any],
    config: Path | None,
    *,
    all_signatures: bool,
    json: bool,
) -> None:
    """Print what is wrong. Raises AuditFailed if anything is."""
    if place is not None and all_signatures:
        raise InvalidRequest("--all-signatures: envelopes lie in the state directory; leave out the folder.")
    where = place_of(place, flags, config)
    source, trusted = source_of(where), None if trust is None else read_trust_file(trust)
    checkpoint, _ = open_with(read_note(source, where), trusted)
    started_s = time.monotonic()
    with ExitStack() as stack:
        check = None
        if place is None:
            layout = own_log(flags, config)[1]
            database = stack.enter_context(Database(layout.provenance, provenance.MIGRATIONS))
            check = StateCheck(database, trusted, all_signatures=all_signatures)
        report = audit(source, checkpoint, see=None if check is None else check.see)
    took_s = time.monotonic() - started_s
    _tell(report, check, took_s, is_trusted=trusted is not None, json=json)
    if not report.is_clean:
        raise AuditFailed(f"{where}: {len(report.findings)} things do not hold.")


def _tell(report: Report, check: StateCheck | None, took_s: float, *, is_trusted: bool, json: bool) -> None:
    if json:
        told = {
            "size": report.size,
            "num_tiles": report.num_tiles,
            "num_signatures": 0 if check is None else check.num_signatures,
            "num_erased": 0 if check is None else check.num_erased,
            "is_trusted": is_trusted,
            "is_clean": report.is_clean,
            "findings": [{"where": one.where, "what": one.what} for one in report.findings],
            "took_s": round(took_s, 3),
        }
        typer.echo(jsonlib.dumps(told, indent=2))
        return
    for one in report.findings[:MAX_SHOWN]:
        typer.echo(str(one))
    if len(report.findings) > MAX_SHOWN:
        typer.echo(f"... and {len(report.findings) - MAX_SHOWN} more; --json tells all.")
    if report.is_clean:
        typer.echo(
            f"{report.size} entries and {report.num_tiles} tiles hash to the checkpoint's root ({took_s:.1f} s)."
        )
        if check is not None:
            typer.echo(
                f"What is kept is what was logged; {check.num_signatures} signatures hold, {check.num_erased} erased."
            )
        if not is_trusted:
            typer.echo("Who signed the checkpoint was not looked at; --trust FILE does it.")
