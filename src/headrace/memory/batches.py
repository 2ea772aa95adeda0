"""Batches and their lines in the state database: functions over a connection, for `Store.call`.

A line's end and what it adds to its batch are one transaction, and only the first end of a line counts, so that a line
is never lost and never counted twice, whenever the process dies. A batch's status changes as `core.batch.LIFE` allows
and in no other way. Knows no wire format: a line's result is bytes.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace.core.batch import LIFE, NO_USAGE, UNFINISHED, Batch, BatchOrder, BatchStatus, LineProblem
from headrace.core.errors import Conflict, NotFound, RateLimited
from headrace.core.events import Usage
from headrace.core.file import ListQuery, Page
from headrace.core.request import Principal
from headrace.core.trust import Delegation, Effect

_COLUMNS: Final = (
    "id, principal, dialect, endpoint, input_file_id, notes, status, created_s, expires_s, times_s, model, problems, "
    "num_lines, num_ended, num_failed, num_unrun, prompt_tokens, cached_tokens, output_tokens, thought_tokens, "
    "output_file_id, error_file_id"
)
_MARKS: Final = ", ".join("?" * len(UNFINISHED))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a batch: its number, counted from 1, its caller's name for it, and where its bytes are in the input."""

    number: int
    custom_id: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class LineEnd:
    """How a line ended: what goes into the results, and what it used. `is_failed` decides into which of them; a line
    that was not `is_run` failed because its batch ended."""

    result: bytes
    is_failed: bool
    is_run: bool = True
    usage: Usage | None = None


def insert_batch(connection: sqlite3.Connection, batch: Batch, max_unfinished: int) -> None:
    """Keep a new batch. Raises RateLimited if its tenant has too many that are not over."""
    order, principal = batch.order, batch.principal
    count = connection.execute(
        f"SELECT count(*) FROM batches WHERE tenant = ? AND status IN ({_MARKS})",  # noqa: S608
        (principal.tenant, *UNFINISHED),
    ).fetchone()[0]
    if count >= max_unfinished:
        raise RateLimited(
            f"{count} of your batches are not over, which is as many as there may be; wait for one, or cancel it.",
            retry_after_s=60.0,
        )
    notes = {
        "window": order.window,
        "window_s": order.window_s,
        "metadata": None if order.metadata is None else dict(order.metadata),
        "output_lifetime_s": order.output_lifetime_s,
    }
    connection.execute(
        "INSERT INTO batches (id, tenant, principal, dialect, endpoint, input_file_id, notes, status, created_s, "
        "expires_s, times_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            principal.tenant,
            json.dumps(asdict(principal), default=sorted),  # its sets, as lists
            order.dialect,
            order.endpoint,
            order.input_file_id,
            json.dumps(notes),
            batch.status.value,
            batch.created_s,
            batch.expires_s,
            json.dumps(batch.times_s),
        ),
    )


def find_batch(connection: sqlite3.Connection, tenant: str, batch_id: str) -> Batch:
    """A tenant's batch. Raises NotFound."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE id = ? AND tenant = ?",  # noqa: S608
        (batch_id, tenant),
    ).fetchone()
    if row is None:
        raise _no_batch(batch_id)
    return _batch(row)


def list_batches(connection: sqlite3.Connection, tenant: str, query: ListQuery, dialect: str) -> Page[Batch]:
    """A page of a tenant's batches of a dialect. Raises NotFound if `query.after` is none of them."""
    where, values = "tenant = ? AND dialect = ?", [tenant, dialect]
    if query.after is not None:
        found = connection.execute("SELECT number FROM batches WHERE id = ? AND tenant = ?", (query.after, tenant))
        if (row := found.fetchone()) is None:
            raise _no_batch(query.after)
        where += f" AND number {'<' if query.is_descending else '>'} ?"
        values.append(row[0])
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE {where} ORDER BY number {'DESC' if query.is_descending else 'ASC'} "  # noqa: S608
        "LIMIT ?",
        (*values, query.limit + 1),
    ).fetchall()
    return Page(tuple(map(_batch, rows[: query.limit])), has_more=len(rows) > query.limit)


def unfinished_batches(connection: sqlite3.Connection) -> list[Batch]:
    """Every tenant's batches that are not over, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM batches WHERE status IN ({_MARKS}) ORDER BY number",  # noqa: S608
        UNFINISHED,
    ).fetchall()
    return [_batch(row) for row in rows]


def move_batch(
    connection: sqlite3.Connection,
    batch_id: str,
    status: BatchStatus,
    now_s: int,
    *,
    problems: Iterable[LineProblem] = (),
    model: str | None = None,
) -> Batch | None:
    """Change a batch's status and note when; None if what it is now does not allow that.

    Its lines go when it is over: what they said is in its files then.
    """
    row = connection.execute("SELECT status, times_s FROM batches WHERE id = ?", (batch_id,)).fetchone()
    if row is None or status not in LIFE.get(BatchStatus(row[0]), frozenset()):
        return None
    times_s = json.loads(row[1]) | {status.value: now_s}
    connection.execute(
        "UPDATE batches SET status = ?, times_s = ?, problems = ?, model = coalesce(?, model) WHERE id = ?",
        (status.value, json.dumps(times_s), json.dumps([asdict(one) for one in problems]), model, batch_id),
    )
    if status not in LIFE:
        connection.execute("DELETE FROM batch_lines WHERE batch_id = ?", (batch_id,))
    return _reread(connection, batch_id)


def cancel_batch(connection: sqlite3.Connection, tenant: str, batch_id: str, now_s: int) -> Batch:
    """Have a batch stop. Raises NotFound, and Conflict if it is over or about to be."""
    batch = find_batch(connection, tenant, batch_id)
    if batch.status is BatchStatus.CANCELLING:
        return batch
    moved = move_batch(connection, batch_id, BatchStatus.CANCELLING, now_s)
    if moved is None:
        raise Conflict(f"the batch {batch_id} is {batch.status}; it cannot be cancelled any more.", param="batch_id")
    return moved


def clear_lines(connection: sqlite3.Connection, batch_id: str) -> None:
    """Forget what a validation that did not come to its end has noted."""
    connection.execute("DELETE FROM batch_lines WHERE batch_id = ?", (batch_id,))


def add_lines(connection: sqlite3.Connection, batch_id: str, lines: Iterable[Line]) -> None:
    """Note lines that are to run."""
    connection.executemany(
        "INSERT INTO batch_lines (batch_id, line, custom_id, offset, num_bytes) VALUES (?, ?, ?, ?, ?)",
        [(batch_id, line.number, line.custom_id, line.offset, line.num_bytes) for line in lines],
    )


def begin_batch(connection: sqlite3.Connection, batch_id: str, now_s: int, model: str | None) -> Batch | None:
    """Let the noted lines run; None if the batch was cancelled meanwhile."""
    connection.execute(
        "UPDATE batches SET num_lines = (SELECT count(*) FROM batch_lines WHERE batch_id = ?) WHERE id = ?",
        (batch_id, batch_id),
    )
    return move_batch(connection, batch_id, BatchStatus.IN_PROGRESS, now_s, model=model)


def waiting_lines(connection: sqlite3.Connection, batch_id: str, after: int, limit: int) -> list[Line]:
    """The next lines behind number `after` that have no end yet."""
    rows = connection.execute(
        "SELECT line, custom_id, offset, num_bytes FROM batch_lines "
        "WHERE batch_id = ? AND line > ? AND result IS NULL ORDER BY line LIMIT ?",
        (batch_id, after, limit),
    ).fetchall()
    return [Line(*row) for row in rows]


def end_lines(connection: sqlite3.Connection, batch_id: str, ends: Mapping[int, LineEnd]) -> None:
    """Note how lines ended, by number; those that had ended before stay as they are."""
    for number, end in ends.items():
        changed = connection.execute(
            "UPDATE batch_lines SET is_failed = ?, result = ? WHERE batch_id = ? AND line = ? AND result IS NULL",
            (int(end.is_failed), end.result, batch_id, number),
        ).rowcount
        if not changed:
            continue
        usage = end.usage or NO_USAGE
        added = {
            "num_ended": 1,
            "num_failed": int(end.is_failed),
            "num_unrun": int(not end.is_run),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
            "thought_tokens": usage.reasoning_tokens,
        }
        connection.execute(
            f"UPDATE batches SET {', '.join(f'{name} = {name} + :{name}' for name in added)} WHERE id = :id",  # noqa: S608
            added | {"id": batch_id},
        )


def results(
    connection: sqlite3.Connection, batch_id: str, after: int, limit: int, *, is_failed: bool | None
) -> list[tuple[int, bytes]]:
    """The next results behind line `after`, with their lines' numbers; None: failed or not."""
    return connection.execute(
        "SELECT line, result FROM batch_lines WHERE batch_id = ? AND line > ? AND result IS NOT NULL "
        "AND (? IS NULL OR is_failed = ?) ORDER BY line LIMIT ?",
        (batch_id, after, is_failed, is_failed, limit),
    ).fetchall()


def note_file(connection: sqlite3.Connection, batch_id: str, file_id: str, *, is_failed: bool) -> None:
    """Say which file holds a batch's results, or those that failed."""
    column = "error_file_id" if is_failed else "output_file_id"
    connection.execute(f"UPDATE batches SET {column} = ? WHERE id = ?", (file_id, batch_id))  # noqa: S608


def reread_batch(connection: sqlite3.Connection, batch_id: str) -> Batch:
    """A batch as it stands, whoever it belongs to."""
    return _reread(connection, batch_id)


def delete_batch(connection: sqlite3.Connection, tenant: str, batch_id: str) -> Batch:
    """Forget a batch that is over. Raises NotFound, and Conflict if it is not over."""
    batch = find_batch(connection, tenant, batch_id)
    if not batch.is_over:
        raise Conflict(f"the batch {batch_id} is {batch.status}; cancel it first.", param="batch_id")
    connection.execute("DELETE FROM batches WHERE id = ?", (batch_id,))
    return batch


def erase(connection: sqlite3.Connection, tenant: str) -> int:
    """Forget all batches of a tenant, those that run too, and count them."""
    connection.execute("DELETE FROM batch_lines WHERE batch_id IN (SELECT id FROM batches WHERE tenant = ?)", (tenant,))
    return connection.execute("DELETE FROM batches WHERE tenant = ?", (tenant,)).rowcount


def _reread(connection: sqlite3.Connection, batch_id: str) -> Batch:
    row = connection.execute(f"SELECT {_COLUMNS} FROM batches WHERE id = ?", (batch_id,)).fetchone()  # noqa: S608
    if row is None:
        raise _no_batch(batch_id)
    return _batch(row)


def _batch(row: tuple[Any, ...]) -> Batch:
    found: Mapping[str, Any] = dict(zip(_COLUMNS.split(", "), row, strict=True))
    notes = json.loads(found["notes"])
    plain = "id created_s expires_s model num_lines num_ended num_failed num_unrun output_file_id error_file_id"
    return Batch(
        principal=_principal(json.loads(found["principal"])),
        order=BatchOrder(
            dialect=found["dialect"],
            endpoint=found["endpoint"],
            input_file_id=found["input_file_id"],
            **notes,
        ),
        status=BatchStatus(found["status"]),
        times_s={BatchStatus(name): at_s for name, at_s in json.loads(found["times_s"]).items()},
        problems=tuple(LineProblem(**problem) for problem in json.loads(found["problems"])),
        usage=Usage(
            prompt_tokens=found["prompt_tokens"],
            completion_tokens=found["output_tokens"],
            cached_tokens=found["cached_tokens"],
            reasoning_tokens=found["thought_tokens"],
        ),
        **{name: found[name] for name in plain.split()},
    )


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"there is no batch {batch_id[:100]!r}; GET /v1/batches lists yours.", param="batch_id")


def _principal(found: dict[str, Any]) -> Principal:
    """One written by this or an older version, which knew fewer fields."""
    sets = {name: frozenset(found.get(name, ())) for name in ("scopes", "labels", "routes")}
    given = None if found.get("delegation") is None else _delegation(found["delegation"])
    return Principal(**found | sets | {"tags": tuple(found.get("tags", ())), "delegation": given})


def _delegation(found: dict[str, Any]) -> Delegation:
    """On whose authority a batch was ordered: its lines run within the same bounds."""
    sets = {name: None if found[name] is None else frozenset(found[name]) for name in ("models", "tools", "labels")}
    effects = None if found["effects"] is None else frozenset(map(Effect, found["effects"]))
    lists = {name: tuple(found[name]) for name in ("chain", "revocation_ids")}
    return Delegation(**found | sets | lists | {"effects": effects})
