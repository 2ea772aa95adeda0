"""`headrace actions`: what administrators did, of a running server or out of the state directory, and whether that is
what the transparency log committed to."""

import json as jsonlib
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import typer

from headrace.api.actions import encode_actions, read_query
from headrace.cli.config import Settings, compose
from headrace.cli.residents import Server
from headrace.core.actions import ActionPage
from headrace.core.errors import HeadraceError, NotFound
from headrace.memory import actions
from headrace.memory.database import Database
from headrace.models.store import Layout

if TYPE_CHECKING:
    from headrace.cli.action_audit import Audit
    from headrace.memory.actions import Kept
    from headrace.memory.provenance import Kept as Logged
    from headrace.trust.records.settings import ActionSettings

DAY_S: Final = 86_400.0


class ActionsDiffer(HeadraceError):
    """The list of actions is not what the log committed to; what was printed."""

    code = "audit_failed"


def run_list_there(server: Server, query: Mapping[str, str], *, json: bool) -> None:
    """Print what a running server tells."""
    _tell(server.ask(f"/v1/admin/actions?{urlencode(query)}"), json=json)


def run_list(query: Mapping[str, str], flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Print what the state directory has."""
    asked = read_query({name: [value] for name, value in query.items()})
    with Database(_layout(compose(flags, os.environ, config).settings).database) as database:
        found = database.read(actions.find, asked)
    page = ActionPage(found[: asked.limit], len(found) > asked.limit)
    _tell(jsonlib.loads(encode_actions(page)), json=json)


def run_verify(trust: Path | None, flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Compare the list with the log of the same state directory. Raises ActionsDiffer if they say different things."""
    from headrace.cli.action_audit import LogState, audit_actions
    from headrace.cli.log import log_folder
    from headrace.cli.log_reading import open_with, read_note, read_trust_file, source_of
    from headrace.memory import provenance
    from headrace.trust.log.reading import Reader

    settings = compose(flags, os.environ, config).settings
    layout = _layout(settings)
    if not layout.provenance.exists():
        raise NotFound(f"{layout.home} has no log, which [records] begins; nothing commits to the list of actions.")
    where = str(log_folder(settings.trust.log, layout))
    # In this order: a server may write meanwhile, and each has all that the one before it speaks of.
    with Database(layout.provenance, provenance.MIGRATIONS) as database:
        num_read, entries = database.read(provenance.num_logged), _entries(database)
    with Database(layout.database) as database:
        rows = [one for one in database.read(actions.read_all) if not one.is_visit]  # nothing commits to those
    source = source_of(where)
    checkpoint, opened = open_with(read_note(source, where), None if trust is None else read_trust_file(trust))
    log = LogState(entries=entries, num_read=num_read, reader=Reader(source, checkpoint.size), root=checkpoint.root)
    audit = audit_actions(rows, log, _expected_since_s(settings.trust.actions, rows))
    _tell_audit(audit, is_trusted=opened is not None, json=json)
    if audit.findings:
        raise ActionsDiffer(f"{len(audit.findings)} things do not hold.")


def _entries(database: Database) -> "dict[str, Logged]":
    from headrace.memory import provenance
    from headrace.trust.records.action import KIND

    found: dict[str, Logged] = {}
    start = 0
    while page := database.read(provenance.of_kind, KIND, start=start):
        found |= {one.item.id: one for one in page}
        start = page[-1].index + 1
    return found


def _expected_since_s(settings: "ActionSettings", rows: "Sequence[Kept]") -> float:
    """When an action must have been logged to be in the list, with a day for what waited to be logged."""
    if len(rows) >= settings.max_actions:
        return rows[0].action.begun_s + DAY_S
    return time.time() - (settings.days - 1) * DAY_S


def _tell_audit(audit: "Audit", *, is_trusted: bool, json: bool) -> None:
    if json:
        told = {
            "num_actions": audit.num_actions,
            "num_held": audit.num_held,
            "num_waiting": audit.num_waiting,
            "num_erased": audit.num_erased,
            "is_trusted": is_trusted,
            "is_clean": not audit.findings,
            "findings": audit.findings,
        }
        typer.echo(jsonlib.dumps(told, indent=2))
    else:
        for finding in audit.findings:
            typer.echo(finding)
        typer.echo(
            f"{audit.num_held} of {audit.num_actions} actions are what the log committed to; {audit.num_waiting} are "
            f"not in it yet, {audit.num_erased} were erased."
        )
        if not is_trusted:
            typer.echo("Who signed the checkpoint was not looked at; --trust FILE does it.")


def _layout(settings: Settings) -> Layout:
    layout = Layout(settings.home)
    if not layout.database.exists():
        raise NotFound(f"{settings.home} has no database yet; nobody did anything there.")
    return layout


def _tell(answer: Any, *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(answer, indent=2))
        return
    if not answer["data"]:
        typer.echo("No actions.")
        return
    typer.echo(f"{'BEGUN':<20} {'WHO':<24} {'THROUGH':<8} {'ACTION':<36} {'TARGET':<24} OUTCOME")
    for one in answer["data"]:
        who = one["who"]
        name = "(erased)" if one["is_erased"] else who["key"] or who["subject"] or who["tenant"]
        said = one["outcome"] + (f" ({one['code']})" if one["code"] else "")
        begun = f"{datetime.fromtimestamp(one['begun'], UTC):%Y-%m-%d %H:%M:%S}"
        target = _plain(one["target"])
        typer.echo(f"{begun:<20} {_plain(name):<24} {who['through']:<8} {one['action']:<36} {target:<24} {said}")
    if answer["has_more"]:
        typer.echo(f"There are more: --after {answer['last']}")


def _plain(text: str) -> str:
    """A name as a terminal may be shown it: others chose it."""
    return "".join(one if one.isprintable() else "?" for one in text)
