"""What administrators do: every change to a server or its state directory, as it is remembered. Values and protocols.

An action is begun before anything changes and ended afterwards. Of one that never ended it is not known whether it took
place: its process was killed in between. Visits stand in the same list: a sign-in at the console or a sign-out, which
changes nothing. Knows neither where actions are kept (`memory/actions.py`) nor what is logged
of them (`gateway/actions.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from headrace.core.errors import HeadraceError


class Outcome(StrEnum):
    """What became of an action. Of BEGUN, FAILED and UNKNOWN nobody may conclude that nothing has changed."""

    BEGUN = "begun"  # it goes on, in the process that says so
    DONE = "done"
    REFUSED = "refused"  # nothing has changed; `code` says why
    FAILED = "failed"  # it ended with a fault
    UNKNOWN = "unknown"  # it has no end: its process is gone, or its caller was


def outcome_of(error: HeadraceError) -> Outcome:
    """Of an action that ended with an error: what was refused has changed nothing."""
    return Outcome.REFUSED if error.status < 500 else Outcome.FAILED


class Through(StrEnum):
    """Which way somebody came."""

    API = "api"
    CONSOLE = "console"
    CLI = "cli"
    SIGNAL = "signal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts: `key` is what logs call the credential, None without one; `subject` as in `core.request.Principal`, or
    `os:NAME` of whoever typed a command or sent a signal, as far as that is known."""

    tenant: str
    subject: str
    key: str | None = None
    through: Through = Through.API


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An action that is about to take place.

    `name` is a method and the name of its route, a command or a signal: `POST /v1/accounts/keys`, `headrace keys add`,
    `SIGHUP`. `target`
    is what it is done to, as far as that has a name. `asked` are the fields of what was asked, JSON values without
    secrets; what is long is cut.
    """

    actor: Actor
    name: str
    target: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAction:
    """An action as it is remembered. `number` counts them; times are Unix seconds; `code` is the error's of one that
    was refused or failed. `begun_index` and `ended_index` are the entries of the transparency log that commit to its
    beginning and its end, None while there are none. `is_erased`: who, what and why were forgotten."""

    number: int
    id: str
    begun: Begun
    begun_s: float
    outcome: Outcome
    ended_s: float | None = None
    code: str | None = None
    begun_index: int | None = None
    ended_index: int | None = None
    is_erased: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionQuery:
    """A page of actions, newest first: `limit` of those before the one with the number `after`. `who` is a key, a
    subject or a tenant; `name` an action's whole name or its beginning; `target` what it was done to."""

    limit: int = 100
    after: int | None = None
    who: str | None = None
    name: str | None = None
    target: str | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class ActionPage:
    """Actions, and whether there are more."""

    actions: tuple[AdminAction, ...]
    has_more: bool


class ActionBook(Protocol):
    """Remembers what administrators do."""

    async def begin(self, begun: Begun) -> str:
        """Remember that something is about to be done; its id. When it returns, that survives a loss of power. Raises
        DiskFull and Unavailable, and then it must not be done."""
        ...

    async def end(self, action_id: str, outcome: Outcome, code: str | None = None) -> None:
        """Remember how it ended. Never raises: what was done is done, and what cannot be written is told to
        operators."""
        ...

    async def note_visit(self, begun: Begun) -> None:
        """Remember a visit, which is over. Never raises: it changes nothing, so that nobody is kept out for it; what
        cannot be written is told to operators. Visits are bounded by themselves and push no change out."""
        ...

    async def actions(self, query: ActionQuery) -> ActionPage:
        """Those that are asked for."""
        ...
