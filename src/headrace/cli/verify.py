"""`headrace verify`: an answer that was saved, against its record and a trust file. Needs no network and no server."""

import json as jsonlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from headrace.cli.saved_files import SavedAnswer, goes_on, read_answer, read_file, request_forms
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.trust.records import dsse
from headrace.trust.records.bundle import Bundle, read_bundle
from headrace.trust.records.statement import read_statement
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Clause, Level, Report, verify

REFUSED: Final = 1
LOWER: Final = 3
"""Exit codes: something does not hold; everything that could be looked at holds, and it is less than was wanted."""
_MARKS: Final[Mapping[bool | None, str]] = {True: "ok ", False: "NO ", None: " - "}
_MEANINGS: Final = {
    Level.NONE: "Nothing is proved.",
    Level.SIGNED: "The node that you trust signed this record. A signature shows who said it, not that the model "
    "computed it, and not that others are shown the same.",
    Level.LOGGED: "The node signed this record and its log has committed to it: it cannot be taken back unseen. That "
    "everybody is shown the same log, only witnesses could say.",
    Level.WITNESSED: "The node signed this record, its log has committed to it, and as many witnesses as you ask for "
    "have seen the log so. That the model computed the answer, only `headrace replay` can show.",
    Level.REPLAYED: "The same model has said the same again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is to be verified. `record` None: nothing but what stands in the stream is there."""

    response: Path | None
    trust: Path
    record: Path | None = None
    request: Path | None = None
    is_rewritten: bool = False
    wanted: str | None = None


def run_verify(given: Given, *, json: bool) -> None:
    """Verify, and leave with a code that says how it went."""
    trusted = read_trusted(read_file(given.trust, "trust"))
    answer = None if given.response is None else read_answer(read_file(given.response, "response"))
    bundle = _bundle(given, answer)
    wanted = trusted.wanted if given.wanted is None else _level(given.wanted)
    request = None if given.request is None else read_file(given.request, "request")
    shown = None
    if answer is not None:
        forms = () if request is None else request_forms(request)
        is_partial = request is not None and goes_on(request)
        shown = answer.shown(forms, is_rewritten=given.is_rewritten, is_partial=is_partial)
    report = verify(bundle, shown, trusted)
    if answer is not None and answer.records and not report.is_refused:
        _compare_inline(answer, bundle, report)
    _print(report, wanted, json=json)
    if report.is_refused:
        raise typer.Exit(REFUSED)
    if report.level < wanted:
        raise typer.Exit(LOWER)


def _bundle(given: Given, answer: SavedAnswer | None) -> Bundle:
    if given.record is not None:
        return read_bundle(read_file(given.record, "record"))
    ids = [record_id for one in (() if answer is None else answer.records) if (record_id := _id_of(one))]
    name = ids[-1] if ids else "ID"
    raise InvalidRequest(
        "record: is missing; what vouches for the key that signed, and the log's proof, are in the record's bundle. "
        f"Fetch it once with `headrace records fetch {name} --url SERVER > record.json`; verifying needs no network.",
        param="record",
    )


def _id_of(envelope: bytes) -> str | None:
    try:
        return read_statement(dsse.read(envelope).payload).record_id
    except HeadraceError:
        return None


def _level(name: str) -> Level:
    try:
        return Level[name.upper()]
    except KeyError as error:
        known = ", ".join(level.name.lower() for level in Level if level)
        raise InvalidRequest(f"level: {name!r} is none; known are {known}.", param="level") from error


def _compare_inline(answer: SavedAnswer, bundle: Bundle, report: Report) -> None:
    """A record inside the stream is the one that is verified, or the stream says two things."""
    others = [one for one in answer.records if one != bundle.record.envelope]
    if not others:
        report.meet("inline", "the record inside the stream is this one")
        return
    report.clauses.append(Clause("inline", False, "the stream has a record that is not the one of the bundle."))
    report.level = Level.NONE


def _print(report: Report, wanted: Level, *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(told(report, wanted)))
        return
    for one in report.clauses:
        typer.echo(f"{_MARKS[one.is_met]} {one.name:<11} {one.text}")
    name = "not verified" if report.is_refused else report.level.name.lower()
    typer.echo(f"\nLevel reached: {name}. {_MEANINGS[report.level]}")
    if not report.is_refused and report.level < wanted:
        typer.echo(f"Wanted was {wanted.name.lower()}.")


def told(report: Report, wanted: Level) -> dict[str, Any]:
    """A report as a JSON value."""
    return {
        "level": report.level.name.lower(),
        "wanted": wanted.name.lower(),
        "is_refused": report.is_refused,
        "record": None if report.statement is None else report.statement.record_id,
        "clauses": [{"name": one.name, "is_met": one.is_met, "text": one.text} for one in report.clauses],
    }
