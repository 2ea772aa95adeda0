"""The database of what was logged, `provenance.db`: every entry of the log for ever, and beside it what can be erased.

An item is acknowledged when `put` has committed durably (`Database.transact_durably`): this database is the log's
write-ahead log, tiles and bundles are made from it. Leaves count from 0 without a gap. One process puts (`log_files.py`
holds its lock); any may read and erase. Functions over a connection, to be run by `Database.transact…`, `Database.read`
or `Store.call…`, `Store.read` opened with `MIGRATIONS` of this file. Knows nothing of hashes, tiles and checkpoints.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.errors import Conflict
from headrace.core.provenance import LogItem

MIGRATIONS: Final = (
    # `entries` is never changed. `kept` loses rows or parts of them when something is erased.
    """
    CREATE TABLE entries (
        leaf   INTEGER PRIMARY KEY,
        id     TEXT NOT NULL UNIQUE,
        kind   TEXT NOT NULL,
        tenant TEXT NOT NULL,
        time_s REAL NOT NULL,
        entry  BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entries_by_tenant ON entries (tenant, leaf);
    CREATE TABLE kept (
        leaf     INTEGER PRIMARY KEY,
        envelope BLOB NOT NULL,
        secrets  BLOB NOT NULL,
        content  BLOB NOT NULL
    ) STRICT
    """,
)
PARTS: Final = ("envelope", "secrets", "content")
_SELECT: Final = (
    "SELECT e.leaf, e.id, e.kind, e.tenant, e.time_s, e.entry, k.envelope, k.secrets, k.content"
    " FROM entries e LEFT JOIN kept k USING (leaf) "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An item as the database has it. `index` is its leaf, which a checkpoint of at least `index + 1` entries covers;
    `time_s` is when it was taken in, Unix time. Erased parts are empty; `is_erased`: its envelope is."""

    item: LogItem
    index: int
    time_s: float
    is_erased: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What is erased: of one item, of one tenant, of what was taken in before a time, or of what all of these given
    say. `parts` are some of envelope, secrets, content."""

    id: str | None = None
    tenant: str | None = None
    before_s: float | None = None
    parts: Sequence[str] = PARTS

    def __post_init__(self) -> None:
        """Refuse what would erase everything, and parts that there are not."""
        if self.id is None and self.tenant is None and self.before_s is None:
            raise ValueError("an erasure needs an id, a tenant or a time; nothing was given")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ValueError(f"parts: {self.parts!r} are not some of {', '.join(PARTS)}")


def put(connection: sqlite3.Connection, items: Sequence[LogItem], time_s: float) -> int:
    """Add items behind all others, in their order; the index of the first. Raises Conflict, with nothing added, if an
    id is there already or comes twice."""
    first = num_logged(connection)
    rows = [(first + at, one.id, one.kind, one.tenant, time_s, one.entry) for at, one in enumerate(items)]
    kept = [(first + at, one.envelope, one.secrets, one.content) for at, one in enumerate(items)]
    try:
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
    except sqlite3.IntegrityError as error:
        raise Conflict(f"an item of this batch is logged already ({error}); ids are given once.", param="id") from error
    connection.executemany("INSERT INTO kept VALUES (?, ?, ?, ?)", kept)
    return first


def num_logged(connection: sqlite3.Connection) -> int:
    """How many items there are: the index of the next."""
    return int(connection.execute("SELECT coalesce(max(leaf), -1) + 1 FROM entries").fetchone()[0])


def by_id(connection: sqlite3.Connection, item_id: str) -> Kept | None:
    """The item of an id."""
    row = connection.execute(_SELECT + "WHERE e.id = ?", (item_id,)).fetchone()
    return None if row is None else _kept(row)


def in_range(connection: sqlite3.Connection, start: int, stop: int) -> list[Kept]:
    """The items of indexes from `start` up to `stop`, without it, as far as there are any."""
    rows = connection.execute(_SELECT + "WHERE e.leaf >= ? AND e.leaf < ? ORDER BY e.leaf", (start, stop))
    return [_kept(row) for row in rows]


def of_tenant(
    connection: sqlite3.Connection, tenant: str, *, start: int = 0, limit: int = 1000, kind: str | None = None
) -> list[Kept]:
    """A tenant's items from an index on, in order, at most `limit`; of one kind if that is given."""
    rows = connection.execute(
        _SELECT + "WHERE e.tenant = ?1 AND e.leaf >= ?2 AND (?3 IS NULL OR e.kind = ?3) ORDER BY e.leaf LIMIT ?4",
        (tenant, start, kind, limit),
    )
    return [_kept(row) for row in rows]


def of_kind(connection: sqlite3.Connection, kind: str, *, start: int = 0, limit: int = 1000) -> list[Kept]:
    """Everybody's items of one kind from an index on, in order, at most `limit`. Reads every entry behind `start`."""
    rows = connection.execute(
        _SELECT + "WHERE e.kind = ? AND e.leaf >= ? ORDER BY e.leaf LIMIT ?", (kind, start, limit)
    )
    return [_kept(row) for row in rows]


def entries(connection: sqlite3.Connection, start: int, stop: int) -> list[bytes]:
    """The entries alone, of indexes from `start` up to `stop`, without it."""
    rows = connection.execute("SELECT entry FROM entries WHERE leaf >= ? AND leaf < ? ORDER BY leaf", (start, stop))
    return [row[0] for row in rows]


def erase(connection: sqlite3.Connection, erasure: Erasure, limit: int = 1000) -> int:
    """Erase parts of at most `limit` items; of how many it did. Call again until it returns 0, each time in a
    transaction of its own, so that the log goes on between; then `Database.empty_log`. Entries stay."""
    wanted = {"e.id = ?": erasure.id, "e.tenant = ?": erasure.tenant, "e.time_s < ?": erasure.before_s}
    clauses = [clause for clause, value in wanted.items() if value is not None]
    clauses.append("(" + " OR ".join(f"length(k.{part}) > 0" for part in erasure.parts) + ")")
    changes = ", ".join(f"{part} = x''" for part in erasure.parts)
    values = [value for value in wanted.values() if value is not None]
    found = (
        "SELECT e.leaf FROM entries e JOIN kept k USING (leaf) WHERE " + " AND ".join(clauses) + " LIMIT ?"  # noqa: S608
    )
    statement = f"UPDATE kept SET {changes} WHERE leaf IN ({found})"  # noqa: S608 - of names that stand in this file
    return connection.execute(statement, (*values, limit)).rowcount


def forget_tenant(connection: sqlite3.Connection, tenant: str, limit: int = 1000) -> int:
    """Take a tenant's name off at most `limit` items, which are nobody's then; off how many. To be called as `erase`,
    and behind it: what is nobody's is found under no tenant."""
    found = "SELECT leaf FROM entries WHERE tenant = ? LIMIT ?"
    return connection.execute(f"UPDATE entries SET tenant = '' WHERE leaf IN ({found})", (tenant, limit)).rowcount  # noqa: S608 - as above


def _kept(row: Sequence[object]) -> Kept:
    leaf, item_id, kind, tenant, time_s, entry, envelope, secrets, content = row
    item = LogItem(
        id=str(item_id),
        kind=str(kind),
        tenant=str(tenant),
        entry=_bytes(entry),
        envelope=_bytes(envelope),
        secrets=_bytes(secrets),
        content=_bytes(content),
    )
    assert isinstance(leaf, int) and isinstance(time_s, float)
    return Kept(item=item, index=leaf, time_s=time_s, is_erased=not item.envelope)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
