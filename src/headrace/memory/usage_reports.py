"""Reading usage: single records by page, sums by group, and what stands in budgets' windows. Changes nothing.

Functions over a connection. Names of columns never come from outside: what is not in a table here is refused.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from headrace.core.accounts import UsageFilter, UsagePage, UsageQuery, UsageSum
from headrace.core.errors import InvalidRequest
from headrace.core.usage import UsageRecord
from headrace.memory.usage import COLUMNS, DAY_S, Mark

GROUPS: Final = ("tenant", "key", "user", "tag", "route", "model", "backend", "day")
"""What sums can be grouped by."""

FILTERS: Final = ("tenant", "key", "user", "route", "model", "backend")
"""What records and sums can be picked by, beside a tag and times."""

RECORD_FILTERS: Final = (*FILTERS, "outcome", "request_id", "asked_model")
"""What single records can be picked by."""

MAX_GROUPS: Final = 10_000

_SUMS: Final = tuple(field.name for field in fields(UsageSum) if field.name != "group")


def find_records(connection: sqlite3.Connection, query: UsageQuery) -> UsagePage:
    """A page of single records, newest first."""
    conditions, given = _conditions(query.which, RECORD_FILTERS, "usage_records", "started_s")
    if query.after is not None:
        conditions.append("number < ?")
        given.append(query.after)
    rows = connection.execute(
        f"SELECT number, {', '.join(COLUMNS)} FROM usage_records {_where(conditions)} "  # noqa: S608  (constants)
        "ORDER BY number DESC LIMIT ?",
        (*given, query.limit + 1),
    ).fetchall()
    return UsagePage(tuple((row[0], _record(row[1:])) for row in rows[: query.limit]), len(rows) > query.limit)


def find_sums(connection: sqlite3.Connection, by: Sequence[str], which: UsageFilter) -> tuple[UsageSum, ...]:
    """Sums by group. With `tag` a request counts for each of its tags, and for none ("") if it has no tag."""
    conditions, given = _conditions(which, FILTERS, "usage_days", "day_s")
    names = {"day": "day_s", "tag": "COALESCE(tag.value, '')"}
    columns = [names.get(name, f"usage_days.{name}") for name in by]
    source = "usage_days LEFT JOIN json_each(usage_days.tags) AS tag" if "tag" in by else "usage_days"
    sums = ", ".join(f"SUM({name})" for name in _SUMS)
    grouped = f"GROUP BY {', '.join(columns)}" if columns else "HAVING COUNT(*) > 0"
    order = "ORDER BY " + ", ".join(
        [*(["day_s"] if "day" in by else []), "SUM(cost_nanos) DESC", "SUM(num_requests) DESC"]
    )
    rows = connection.execute(
        f"SELECT {', '.join([*columns, sums])} FROM {source} {_where(conditions)} {grouped} {order} "  # noqa: S608  (constants)
        f"LIMIT {MAX_GROUPS}",
        given,
    ).fetchall()
    return tuple(
        UsageSum(
            group={name: _shown(name, row[index]) for index, name in enumerate(by)},
            **dict(zip(_SUMS, row[len(by) :], strict=True)),
        )
        for row in rows
    )


def find_periods(
    connection: sqlite3.Connection, kind: str, window: str, start_s: int, limit: int
) -> list[tuple[Mark, tuple[int, int]]]:
    """What was spent in the windows of all subjects of a kind that began at a moment, most first."""
    rows = connection.execute(
        "SELECT subject, window, start_s, nanos, tokens FROM budget_periods "
        "WHERE window = ? AND start_s = ? AND subject >= ? AND subject < ? ORDER BY nanos DESC, tokens DESC LIMIT ?",
        (window, start_s, f"{kind}:", f"{kind};", limit),
    )
    return [((subject, one, start), (nanos, tokens)) for subject, one, start, nanos, tokens in rows]


def find_spent(connection: sqlite3.Connection, marks: Iterable[Mark]) -> list[tuple[int, int]]:
    """What was spent in periods: billionths and tokens."""
    sql = "SELECT nanos, tokens FROM budget_periods WHERE subject = ? AND window = ? AND start_s = ?"
    return [connection.execute(sql, mark).fetchone() or (0, 0) for mark in marks]


def check_names(given: Iterable[str], known: Sequence[str], param: str) -> None:
    """Raise InvalidRequest for a name that is none of those known."""
    for name in given:
        if name not in known:
            raise InvalidRequest(f"{param}: {name[:100]!r} is none of {', '.join(known)}.", param=param)


def _conditions(which: UsageFilter, known: Sequence[str], table: str, time: str) -> tuple[list[str], list[Any]]:
    check_names(which.equals, known, "filter")
    # Named with their table, because the elements of a list of tags have a column `key` too.
    conditions = [f"{table}.{name} = ?" for name in which.equals]
    given: list[Any] = list(which.equals.values())
    if which.tag is not None:
        conditions.append(f"EXISTS (SELECT 1 FROM json_each({table}.tags) AS one WHERE one.value = ?)")  # noqa: S608
        given.append(which.tag)
    if which.since_s is not None:
        conditions.append(f"{time} >= ?")
        given.append(which.since_s if time != "day_s" else which.since_s // DAY_S * DAY_S)
    if which.until_s is not None:
        conditions.append(f"{time} < ?")
        given.append(which.until_s)
    return conditions, given


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _record(values: Sequence[Any]) -> UsageRecord:
    found: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
    return UsageRecord(
        **found | {"tags": tuple(json.loads(found["tags"])), "is_estimated": bool(found["is_estimated"])}
    )


def _shown(name: str, value: Any) -> str:
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}" if name == "day" else str(value)
