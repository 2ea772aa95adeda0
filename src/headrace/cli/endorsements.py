"""`headrace tools endorse`, `endorsements`, `withheld` and `unendorse`, of a running server. Knows no judge."""

import json as jsonlib
import shlex
from datetime import UTC, datetime
from typing import Any

import typer

from headrace.cli.residents import Server
from headrace.core.errors import InvalidRequest

PATH = "/v1/endorsements"


def run_endorse(server: Server, order: dict[str, Any], value: str | None, *, json: bool) -> None:
    """Make one. A `value` is read as a number if it is one, and else taken as it is; in quotes it is a text."""
    given = {name: one for name, one in order.items() if one is not None}
    answer = server.ask(PATH, given | {"uses": order["uses"]} | ({} if value is None else {"value": _value(value)}))
    if json:
        typer.echo(jsonlib.dumps(answer, ensure_ascii=False, indent=2))
    else:
        typer.echo(f"{answer['id']}: {_what(answer)}, {_uses(answer)}, until {_time(answer['expires_at'])}")


def run_list(server: Server, *, json: bool) -> None:
    """List those that hold."""
    answer = server.ask(PATH)
    if json:
        typer.echo(jsonlib.dumps(answer, ensure_ascii=False, indent=2))
        return
    if not answer["data"]:
        typer.echo("Nothing is endorsed.")
    for one in answer["data"]:
        only = "".join(f", {name} {one[name]}" for name in ("session", "subject") if one[name])
        typer.echo(
            f"{one['id']}  {_what(one)}{only}\n"
            f"  {_uses(one)}, used {one['num_used']} times, until {_time(one['expires_at'])}, by {one['by']}"
        )


def run_withheld(server: Server, *, json: bool) -> None:
    """List calls that could be endorsed, and how."""
    answer = server.ask(f"{PATH}/withheld")
    if json:
        typer.echo(jsonlib.dumps(answer, ensure_ascii=False, indent=2))
        return
    if not answer["data"]:
        typer.echo("Nothing was withheld in the last hour.")
    for one in answer["data"]:
        doubts = ", ".join(doubt["argument"] for doubt in one["in_doubt"])
        typer.echo(f"{_time(one['withheld_at'])}  {one['subject']}  {_plain(one['tool'])}({_plain(one['arguments'])})")
        typer.echo(f"  in doubt: {_plain(doubts)}; {_plain(one['reason'])}")
        typer.echo(f"  headrace tools endorse {shlex.quote(_plain(one['tool']))} --call {one['call']}")


def run_withdraw(server: Server, endorsement_id: str) -> None:
    """End one."""
    answer = server.ask(f"{PATH}/{endorsement_id}", method="DELETE")
    typer.echo(f"{answer['id']}: withdrawn, used {answer['num_used']} times")


def parse_uses(text: str) -> int | None:
    """A number, or `any`. Raises InvalidRequest."""
    if text == "any":
        return None
    if not text.isascii() or not text.isdigit():
        raise InvalidRequest(f"uses: {text!r} is no number; write for example 1, or any.", param="uses")
    return int(text)


def _value(text: str) -> str | int | float:
    try:
        found = jsonlib.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, str | int | float) and not isinstance(found, bool) else text


def _what(one: dict[str, Any]) -> str:
    of = f"call {one['call']}" if one["call"] else f"{one['argument']} = {jsonlib.dumps(one['value'])}"
    return f"{_plain(one['tool'])}, {of}"


def _uses(one: dict[str, Any]) -> str:
    left = one["uses_left"]
    return "any number of calls" if left is None else f"{left} more call{'' if left == 1 else 's'}"


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _plain(text: str) -> str:
    """A stranger's words on a terminal: what moves its cursor is shown and does nothing."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
