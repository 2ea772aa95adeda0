"""What is kept of delegations: revocations stay, counts are those of last time."""

import math
import sqlite3
from pathlib import Path

from headrace.memory.database import Database
from headrace.memory.delegations import (
    MIGRATIONS,
    forget_counts,
    read_counts,
    read_revocations,
    revoke,
    save_counts,
)


def database(folder: Path) -> Database:
    return Database(folder / "delegations.db", MIGRATIONS)


def test_a_revocation_stays_what_it_was_when_it_is_said_again(tmp_path: Path) -> None:
    with database(tmp_path) as opened:
        opened.transact(revoke, ["a", "b"], 1.0, "stolen")
        opened.transact(revoke, ["b", "c"], 2.0, "again")
    with database(tmp_path) as opened:
        assert opened.read(read_revocations) == {"a": (1.0, "stolen"), "b": (1.0, "stolen"), "c": (2.0, "again")}


def test_counts_are_those_of_the_last_time_until_no_token_needs_them(tmp_path: Path) -> None:
    with database(tmp_path) as opened:
        opened.transact(save_counts, {"a": (1, 10, math.inf), "b": (2, 2**62, 5.0)})
        opened.transact(save_counts, {"a": (3, 30, math.inf)})
        assert opened.read(read_counts) == {"a": (3, 30, math.inf), "b": (2, 2**62, 5.0)}
        opened.transact(forget_counts, 4.9)
        assert len(opened.read(read_counts)) == 2
        opened.transact(forget_counts, 5.0)
        assert opened.read(read_counts) == {"a": (3, 30, math.inf)}


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with database(tmp_path) as opened:
        assert isinstance(opened.read(lambda connection: connection), sqlite3.Connection)
    assert (tmp_path / "delegations.db").stat().st_mode & 0o077 == 0
