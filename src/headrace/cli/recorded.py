"""What commands change without a server is remembered in the state database, too: begun before, ended afterwards.

Whoever may type a command may also write the files that it writes: where the database cannot be opened, that is said
and the command goes on. A server hands the actions in to its log. Knows no command.
"""

import os
import pwd
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from headrace.api.actions import cut_asked
from headrace.core.actions import Actor, Begun, Outcome, Through, outcome_of
from headrace.core.errors import HeadraceError
from headrace.memory import actions
from headrace.memory.database import Database
from headrace.models.store import open_home

NONCE_BYTES = 16


@contextmanager
def recorded(home: Path, name: str, target: str, asked: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The block is an action of whoever types: `name` is the command, `target` what it changes."""
    actor = Actor(tenant="local", subject=f"os:{_user()}", through=Through.CLI)
    begun = Begun(actor=actor, name=f"headrace {name}", target=target[:200], asked=cut_asked(asked or {}))
    action_id = _begin(home, begun)
    try:
        yield
    except HeadraceError as error:
        _end(home, action_id, outcome_of(error), error.code)
        raise
    except BaseException:
        _end(home, action_id, Outcome.UNKNOWN)
        raise
    _end(home, action_id, Outcome.DONE)


def _begin(home: Path, begun: Begun) -> str | None:
    action_id = f"act_{secrets.token_hex(12)}"
    try:
        with Database(open_home(home).database) as database:
            nonce = secrets.token_bytes(NONCE_BYTES)
            database.transact_durably(actions.begin, action_id, begun, time.time(), nonce)
    except HeadraceError as error:
        typer.echo(f"warning: this is not in the list of actions: {error}", err=True)
        return None
    return action_id


def _end(home: Path, action_id: str | None, outcome: Outcome, code: str | None = None) -> None:
    if action_id is None:
        return
    try:
        with Database(open_home(home).database) as database:
            database.transact(actions.end, action_id, outcome, code, time.time())
    except HeadraceError as error:
        typer.echo(f"warning: the list of actions does not know how this ended: {error}", err=True)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
