"""What is kept of delegations: which are revoked, and what was done under each block. A database of its own, because it
is written by the command line, too, while a server runs.

Functions over a connection, for `Store.call`. Knows no tokens: a block is known by its revocation id.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE revocations (
        id         TEXT PRIMARY KEY,
        revoked_s  REAL NOT NULL,
        reason     TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE counts (
        id      TEXT PRIMARY KEY,
        calls   INTEGER NOT NULL,
        nanos   INTEGER NOT NULL,
        until_s REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX counts_by_end ON counts (until_s)
    """,
)


def revoke(connection: sqlite3.Connection, ids: Iterable[str], now_s: float, reason: str = "") -> None:
    """Remember that blocks are void; those that were stay so since then."""
    rows = [(one, now_s, reason) for one in ids]
    connection.executemany("INSERT OR IGNORE INTO revocations (id, revoked_s, reason) VALUES (?, ?, ?)", rows)


def read_revocations(connection: sqlite3.Connection) -> dict[str, tuple[float, str]]:
    """When, and why, each was revoked."""
    rows = connection.execute("SELECT id, revoked_s, reason FROM revocations ORDER BY revoked_s")
    return {str(row[0]): (float(row[1]), str(row[2])) for row in rows}


def save_counts(connection: sqlite3.Connection, counts: Mapping[str, tuple[int, int, float]]) -> None:
    """Requests and billionths under each block, as they are now, and until when they count."""
    connection.executemany(
        "INSERT INTO counts (id, calls, nanos, until_s) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET calls = excluded.calls, nanos = excluded.nanos, until_s = excluded.until_s",
        [(name, *count) for name, count in counts.items()],
    )


def read_counts(connection: sqlite3.Connection) -> dict[str, tuple[int, int, float]]:
    """All of them."""
    rows = connection.execute("SELECT id, calls, nanos, until_s FROM counts ORDER BY until_s")
    return {str(row[0]): (int(row[1]), int(row[2]), float(row[3])) for row in rows}


def forget_counts(connection: sqlite3.Connection, now_s: float) -> None:
    """Drop those that no token needs any more."""
    connection.execute("DELETE FROM counts WHERE until_s <= ?", (now_s,))
