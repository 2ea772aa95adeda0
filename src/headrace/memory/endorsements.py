"""What is kept of endorsements over a restart. A database of its own, which a backup leaves out: what was withdrawn
since would hold again.

One that is not counted is here while it holds. One that is counted lies here only between two runs: it is taken out
when a server opens the file and put back, with the uses that are left, when that server ends in order. A process that
was killed has thereby spent them all, and none is used twice.

Functions over a connection, for `Store.call`. Knows no tools and no calls.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from headrace.core.endorsing import Endorsement

MIGRATIONS: Final = (
    """
    CREATE TABLE endorsements (
        id         TEXT PRIMARY KEY,
        tenant     TEXT NOT NULL,
        until_s    REAL NOT NULL,
        is_counted INTEGER NOT NULL,
        document   BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX endorsements_by_end ON endorsements (until_s)
    """,
)

_decode = msgspec.json.Decoder(Endorsement).decode


def save(connection: sqlite3.Connection, kept: Iterable[Endorsement], now_s: float) -> None:
    """Keep some, and let go of those that have ended."""
    connection.execute("DELETE FROM endorsements WHERE until_s <= ?", (now_s,))
    rows = [(one.id, one.tenant, one.until_s, one.uses is not None, msgspec.json.encode(one)) for one in kept]
    connection.executemany(
        "INSERT OR REPLACE INTO endorsements (id, tenant, until_s, is_counted, document) VALUES (?, ?, ?, ?, ?)", rows
    )


def take(connection: sqlite3.Connection, now_s: float) -> list[Endorsement]:
    """Those that hold, oldest first; the counted ones are the caller's alone from now on."""
    rows = connection.execute("SELECT document FROM endorsements WHERE until_s > ?", (now_s,)).fetchall()
    connection.execute("DELETE FROM endorsements WHERE until_s <= ? OR is_counted", (now_s,))
    return sorted((_decode(row[0]) for row in rows), key=lambda one: one.made_s)


def remove(connection: sqlite3.Connection, endorsement_id: str) -> None:
    """Forget one."""
    connection.execute("DELETE FROM endorsements WHERE id = ?", (endorsement_id,))


def erase(connection: sqlite3.Connection, tenant: str) -> int:
    """Forget a tenant's; how many there were."""
    return connection.execute("DELETE FROM endorsements WHERE tenant = ?", (tenant,)).rowcount
