"""Usage records, the sums that outlive them, what was spent of each budget in each window, and leases on that.

    usage_records    one row a request that was accounted for, kept for some days
    usage_days       sums by day, tenant, key, user, tags, route, model and backend, kept
    budget_periods   what was spent by a subject in a window, and how much it may be by now (a lease)

A record's *number* is unique over all processes that ever ran here: writing one twice is the same as writing it once,
sums included. A lease is written before it is used and synced: after a loss of power, sums that were not yet are no
more than it says. Functions over a connection; knows no settings and decides nothing.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from headrace.core.usage import UsageRecord

COLUMNS: Final = tuple(field.name for field in fields(UsageRecord))
values_of = attrgetter(*COLUMNS)
"""A record's values in the order of COLUMNS."""

DAY_S: Final = 86_400
ERASED: Final = "(erased)"
"""Who sums are of whose tenant was erased; no tenant can be called so."""

_DAY_KEYS: Final = ("tenant", "key", "user", "tags", "route", "model", "backend")
_DAY_SUMS: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nanos", "saved_nanos")
_DAY_COUNTS: Final = ("num_requests", "num_failed", *_DAY_SUMS)
_at = {name: index for index, name in enumerate(COLUMNS)}
_TAGS: Final = COLUMNS.index("tags")
_ESTIMATED: Final = COLUMNS.index("is_estimated")
# Of many rows one statement is made, because each statement gives up the interpreter and has to wait for it again.
_CHUNKS: Final = (512, 64, 8, 1)

Mark = tuple[str, str, int]
"""Subject, window and the Unix time at which the window began: one row of `budget_periods`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to be written: its number, the periods that it is charged to, and its values in the order of COLUMNS."""

    number: int
    marks: Sequence[Mark]
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """A period for which a lease is wanted: `more` above what is used of each measure, within its limit (None: it has
    no limit, and needs no lease). `used` None: whatever the sums say."""

    mark: Mark
    used: tuple[int, int] | None
    more: tuple[int, int]
    limits: tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Leased:
    """What had been spent of a period, and what it may come to by now (None: without limit): billionths, tokens."""

    spent: tuple[int, int]
    ceilings: tuple[int | None, int | None]


def begin_run(connection: sqlite3.Connection, boot: str, now_s: float) -> int:
    """A number for a process that is about to write records."""
    made = connection.execute("INSERT INTO ledger_runs (boot, started_s) VALUES (?, ?)", (boot, now_s))
    assert made.lastrowid is not None
    return made.lastrowid


def end_run(connection: sqlite3.Connection, run: int, *, holds_leases: bool) -> None:
    """A process has written everything; with `holds_leases` it was the one that had them."""
    connection.execute("UPDATE ledger_runs SET is_ended = 1 WHERE run = ?", (run,))
    if holds_leases:
        drop_leases(connection)


def end_lost_runs(connection: sqlite3.Connection, boot: str, *, is_damaged: bool) -> list[Leased]:
    """Charge every lease if a process ended with its machine (another boot), or what it wrote is damaged; what was
    charged, for a log. Leases are gone afterwards: only a process that is alone may call this."""
    lost = connection.execute("SELECT count(*) FROM ledger_runs WHERE is_ended = 0 AND boot <> ?", (boot,)).fetchone()
    charged = []
    if lost[0] or is_damaged:
        above = "MAX(nanos, COALESCE(lease_nanos, nanos)), MAX(tokens, COALESCE(lease_tokens, tokens))"
        rows = connection.execute(
            f"SELECT nanos, tokens, {above} FROM budget_periods "  # noqa: S608  (constants)
            "WHERE lease_nanos > nanos OR lease_tokens > tokens"
        ).fetchall()
        charged = [Leased((nanos, tokens), (to_nanos, to_tokens)) for nanos, tokens, to_nanos, to_tokens in rows]
        connection.execute(f"UPDATE budget_periods SET (nanos, tokens) = ({above})")  # noqa: S608  (constants)
    connection.execute("UPDATE ledger_runs SET is_ended = 1 WHERE is_ended = 0 AND boot <> ?", (boot,))
    drop_leases(connection)
    return charged


def drop_leases(connection: sqlite3.Connection, marks: Iterable[Mark] | None = None) -> None:
    """Take back the leases of some periods, or of all."""
    clear = "UPDATE budget_periods SET lease_nanos = NULL, lease_tokens = NULL"
    if marks is None:
        connection.execute(f"{clear} WHERE lease_nanos IS NOT NULL OR lease_tokens IS NOT NULL")
    else:
        connection.executemany(f"{clear} WHERE subject = ? AND window = ? AND start_s = ?", marks)


def grant(connection: sqlite3.Connection, asks: Sequence[LeaseAsk]) -> list[Leased]:
    """Write leases; call it durably. In the order of what was asked for. One is never lowered while it may be used."""
    made = []
    for ask in asks:
        found = connection.execute(
            "SELECT nanos, tokens, lease_nanos, lease_tokens FROM budget_periods "
            "WHERE subject = ? AND window = ? AND start_s = ?",
            ask.mark,
        ).fetchone()
        spent, leased = ((0, 0), (0, 0)) if found is None else (found[:2], found[2:])
        used = ask.used or spent
        ceilings = [
            None if limit is None else max(leased[index] or 0, min(limit, used[index] + ask.more[index]))
            for index, limit in enumerate(ask.limits)
        ]
        connection.execute(
            "INSERT INTO budget_periods VALUES (?, ?, ?, 0, 0, ?, ?) ON CONFLICT DO UPDATE SET "
            "lease_nanos = excluded.lease_nanos, lease_tokens = excluded.lease_tokens",
            (*ask.mark, *ceilings),
        )
        made.append(Leased((spent[0], spent[1]), (ceilings[0], ceilings[1])))
    return made


def write(connection: sqlite3.Connection, entries: Sequence[Entry]) -> int:
    """Write records and add them to every sum, but for those that were written before; how many were new."""
    numbers = [entry.number for entry in entries]
    if not numbers:
        return 0
    old = {
        row[0]
        for row in connection.execute(
            "SELECT number FROM usage_records WHERE number BETWEEN ? AND ?", (min(numbers), max(numbers))
        )
    }
    # Of one number the first counts, also within what is written now.
    new = list({entry.number: entry for entry in reversed(entries) if entry.number not in old}.values())
    new.reverse()
    rows = [(entry.number, *_row(entry.values)) for entry in new]
    _insert(connection, "INSERT INTO usage_records VALUES", rows)
    _add_days(connection, [row[1:] for row in rows])
    _add_periods(connection, new)
    return len(new)


def delete_old(connection: sqlite3.Connection, before_s: float, periods_before_s: float, limit: int = 5000) -> int:
    """Delete records that began before a moment, oldest first and at most `limit`, and sums of windows that began
    before another and are over; how many records. `usage_days` stays."""
    done = connection.execute(
        "DELETE FROM usage_records WHERE started_s < ? AND number IN "
        "(SELECT number FROM usage_records ORDER BY number LIMIT ?)",
        (before_s, limit),
    )
    connection.execute("DELETE FROM budget_periods WHERE window <> 'total' AND start_s < ?", (periods_before_s,))
    return done.rowcount


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was erased of a tenant: records, days' sums that are anonymous now, and its budgets' sums."""

    num_records: int
    num_days: int
    num_periods: int


def erase(connection: sqlite3.Connection, tenant: str, keys: Sequence[str]) -> Erased:
    """Forget who a tenant's usage was of. `keys` are the names of its keys. Records and the sums of its own budgets go;
    the days' sums stay under a tenant named ERASED, without key, user and tags, so that totals stay what was spent."""
    records = connection.execute("DELETE FROM usage_records WHERE tenant = ?", (tenant,)).rowcount
    sums = ", ".join(f"SUM({name})" for name in _DAY_COUNTS)
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in _DAY_COUNTS)
    connection.execute(
        f"INSERT INTO usage_days SELECT day_s, ?, '', '', '[]', route, model, backend, {sums} FROM usage_days "  # noqa: S608  (constants)
        f"WHERE tenant = ? GROUP BY day_s, route, model, backend ON CONFLICT DO UPDATE SET {added}",
        (ERASED, tenant),
    )
    days = connection.execute("DELETE FROM usage_days WHERE tenant = ?", (tenant,)).rowcount
    periods = connection.execute(
        "DELETE FROM budget_periods WHERE subject = ? OR (subject >= ? AND subject < ?)",
        (f"tenant:{tenant}", f"user:{tenant}/", f"user:{tenant}0"),  # 0 follows / in ASCII
    ).rowcount
    for key in keys:
        periods += connection.execute("DELETE FROM budget_periods WHERE subject = ?", (f"key:{key}",)).rowcount
    return Erased(records, days, periods)


def _row(values: tuple[Any, ...]) -> tuple[Any, ...]:
    tags = values[_TAGS]
    return (*values[:_TAGS], json.dumps(tags) if tags else "[]", *values[_TAGS + 1 :])


def _insert(connection: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]], tail: str = "") -> None:
    at = 0
    for size in _CHUNKS:
        while len(rows) - at >= size:
            part = rows[at : at + size]
            marks = "(" + ", ".join("?" * len(part[0])) + ")"
            connection.execute(f"{head} {', '.join([marks] * size)} {tail}", tuple(chain.from_iterable(part)))
            at += size


def _add_days(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    started, outcome, asked = _at["started_s"], _at["outcome"], _at["asked_model"]
    keys, sums = [_at[name] for name in _DAY_KEYS], [_at[name] for name in _DAY_SUMS]
    model = _DAY_KEYS.index("model")
    days: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        parts = [row[index] or "" for index in keys]
        parts[model] = parts[model] or row[asked]  # it never came to a backend
        total = days.setdefault((int(row[started] // DAY_S) * DAY_S, *parts), [0] * len(_DAY_COUNTS))
        total[0] += 1
        total[1] += row[outcome] != "ok"
        for index, column in enumerate(sums, 2):
            total[index] += row[column]
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in _DAY_COUNTS)
    _insert(
        connection,
        "INSERT INTO usage_days VALUES",
        [(*key, *total) for key, total in days.items()],
        f"ON CONFLICT DO UPDATE SET {added}",
    )


def _add_periods(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    cost, prompt, completion = _at["cost_nanos"], _at["prompt_tokens"], _at["completion_tokens"]
    totals: dict[Mark, list[int]] = {}
    for entry in entries:
        for mark in entry.marks:
            total = totals.setdefault(mark, [0, 0])
            total[0] += entry.values[cost]
            total[1] += entry.values[prompt] + entry.values[completion]
    _insert(
        connection,
        "INSERT INTO budget_periods VALUES",
        [(*mark, *total, None, None) for mark, total in totals.items()],
        "ON CONFLICT DO UPDATE SET nanos = nanos + excluded.nanos, tokens = tokens + excluded.tokens",
    )
