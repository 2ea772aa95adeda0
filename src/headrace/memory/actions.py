"""What administrators did: a row for every action, in the state database. A server writes them, and commands do beside
it or without one.

A row is there before anything changes; its outcome comes afterwards, once. A visit is written when it is over, and the
log never has it. Functions over a connection. Knows neither
what an action is about nor what the log says of it: `nonce` is what opens its commitments.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.actions import ActionQuery, Actor, AdminAction, Begun, Outcome, Through

_COLUMNS: Final = (
    "number, id, begun_s, tenant, key, subject, through, name, target, asked, request_id, outcome, code, ended_s, "
    "begun_index, ended_index, is_erased, nonce, is_visit"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """An action as it is kept: `asked` is the text of what was asked, as the commitments have it. `is_visit`: nothing
    was changed, and nothing commits to it."""

    action: AdminAction
    asked: str
    nonce: bytes
    is_visit: bool = False


def begin(connection: sqlite3.Connection, action_id: str, begun: Begun, now_s: float, nonce: bytes) -> None:
    """Remember that an action is about to be done."""
    actor = begun.actor
    connection.execute(
        "INSERT INTO actions (id, begun_s, tenant, key, subject, through, name, target, asked, request_id, nonce) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            action_id,
            now_s,
            actor.tenant,
            actor.key,
            actor.subject,
            actor.through.value,
            begun.name,
            begun.target,
            json.dumps(begun.asked, ensure_ascii=False, sort_keys=True),
            begun.request_id,
            nonce,
        ),
    )


def note_visit(connection: sqlite3.Connection, visit_id: str, begun: Begun, now_s: float) -> None:
    """Remember a visit, which is over."""
    begin(connection, visit_id, begun, now_s, b"")
    connection.execute(
        "UPDATE actions SET outcome = ?, ended_s = ?, is_visit = 1 WHERE id = ?", (Outcome.DONE.value, now_s, visit_id)
    )


def end(connection: sqlite3.Connection, action_id: str, outcome: Outcome, code: str | None, now_s: float) -> None:
    """Remember how it ended; what was said first stays."""
    connection.execute(
        "UPDATE actions SET outcome = ?, code = ?, ended_s = ? WHERE id = ? AND outcome IS NULL",
        (outcome.value, code, now_s, action_id),
    )


def find(connection: sqlite3.Connection, query: ActionQuery, running: Iterable[str] = ()) -> tuple[AdminAction, ...]:
    """One more than a page has, if there is one more; newest first. `running` are the ids of those that go on: others
    without an end are of a process that is gone."""
    going_on = frozenset(running)
    clauses: list[str] = ["1"]
    values: list[object] = []
    if query.after is not None:
        clauses.append("number < ?")
        values.append(query.after)
    if query.who is not None:
        clauses.append("(key = ? OR subject = ? OR tenant = ?)")
        values += [query.who] * 3
    if query.name is not None:
        clauses.append("substr(name, 1, ?) = ?")
        values += [len(query.name), query.name]
    if query.target is not None:
        clauses.append("target = ?")
        values.append(query.target)
    _add_outcome(query.outcome, going_on, clauses, values)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM actions WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?",  # noqa: S608
        (*values, query.limit + 1),
    )
    return tuple(_kept(row, going_on).action for row in rows)


def _add_outcome(outcome: Outcome | None, going_on: frozenset[str], clauses: list[str], values: list[object]) -> None:
    if outcome is None:
        return
    ids = ", ".join("?" * len(going_on))
    if outcome is Outcome.BEGUN:
        clauses.append(f"outcome IS NULL AND id IN ({ids})")
        values += sorted(going_on)
    elif outcome is Outcome.UNKNOWN:
        clauses.append(f"(outcome = ? OR outcome IS NULL AND id NOT IN ({ids}))")
        values += [outcome.value, *sorted(going_on)]
    else:
        clauses.append("outcome = ?")
        values.append(outcome.value)


def unlogged(connection: sqlite3.Connection, limit: int) -> list[Kept]:
    """Those of which the log does not have all yet, oldest first. What was erased before is never logged."""
    # In the words of an index, which has those rows alone.
    waiting = "SELECT number FROM actions WHERE is_visit = 0 AND (begun_index IS NULL OR ended_index IS NULL)"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM actions WHERE number IN ({waiting}) AND is_erased = 0 "  # noqa: S608
        "AND (begun_index IS NULL OR outcome IS NOT NULL) ORDER BY number LIMIT ?",
        (limit,),
    )
    return [_kept(row, frozenset()) for row in rows]


def mark_logged(connection: sqlite3.Connection, found: Sequence[tuple[str, bool, int]]) -> None:
    """Remember under which index the log has the beginning of an action (False), or its end (True)."""
    for action_id, is_end, index in found:
        column = "ended_index" if is_end else "begun_index"
        connection.execute(f"UPDATE actions SET {column} = ? WHERE id = ?", (index, action_id))  # noqa: S608


def read_all(connection: sqlite3.Connection) -> list[Kept]:
    """Every action and visit, oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM actions ORDER BY number")  # noqa: S608  (constants)
    return [_kept(row, frozenset()) for row in rows]


def prune(connection: sqlite3.Connection, before_s: float, max_actions: int, max_visits: int) -> int:
    """Forget those that began before a time, and the oldest changes and visits beyond a number of each; how many."""
    num = connection.execute("DELETE FROM actions WHERE begun_s < ?", (before_s,)).rowcount
    for is_visit, most in ((False, max_actions), (True, max_visits)):
        last = "SELECT number FROM actions WHERE is_visit = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
        num += connection.execute(
            f"DELETE FROM actions WHERE is_visit = ? AND number <= ({last})",  # noqa: S608
            (is_visit, is_visit, most),
        ).rowcount
    return num


def erase(connection: sqlite3.Connection, tenant: str, keys: Sequence[str]) -> int:
    """Forget who acted on what, and what was asked, in all actions of a tenant and all that name it, its users or its
    keys; in how many. That something was done, and what the log commits to, stays."""
    names = {tenant, f"tenant:{tenant}", *keys, *(f"key:{key}" for key in keys)}
    erased = 0
    for kept in read_all(connection):
        begun = kept.action.begun
        said = {begun.actor.tenant, begun.actor.key or "", begun.actor.subject, begun.target, *_texts(begun.asked)}
        if not kept.action.is_erased and (names & said or any(one.startswith(f"user:{tenant}/") for one in said)):
            erased += connection.execute(
                "UPDATE actions SET tenant = '', key = NULL, subject = '', target = '', asked = '{}', request_id = '', "
                "nonce = x'', is_erased = 1 WHERE number = ?",
                (kept.action.number,),
            ).rowcount
    return erased


def _texts(value: object) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set().union(*map(_texts, value.values()))
    return set().union(*map(_texts, value)) if isinstance(value, list) else set()


def _kept(row: Sequence[object], going_on: frozenset[str]) -> Kept:
    number, action_id, begun_s, tenant, key, subject, through, name, target, asked, request_id = row[:11]
    outcome, code, ended_s, begun_index, ended_index, is_erased, nonce, is_visit = row[11:]
    unended = Outcome.BEGUN if action_id in going_on else Outcome.UNKNOWN
    found = unended if outcome is None else Outcome(str(outcome))
    assert isinstance(number, int) and isinstance(begun_s, float) and isinstance(nonce, bytes)
    actor = Actor(
        tenant=str(tenant), subject=str(subject), key=None if key is None else str(key), through=Through(str(through))
    )
    return Kept(
        AdminAction(
            number=number,
            id=str(action_id),
            begun=Begun(
                actor=actor,
                name=str(name),
                target=str(target),
                asked=json.loads(str(asked)),
                request_id=str(request_id),
            ),
            begun_s=begun_s,
            outcome=found,
            ended_s=ended_s if isinstance(ended_s, float) else None,
            code=None if code is None else str(code),
            begun_index=begun_index if isinstance(begun_index, int) else None,
            ended_index=ended_index if isinstance(ended_index, int) else None,
            is_erased=bool(is_erased),
        ),
        str(asked),
        nonce,
        bool(is_visit),
    )
