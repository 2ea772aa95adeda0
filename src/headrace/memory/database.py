"""The state database: one SQLite file in the state directory, with a schema version and migrations.

Several processes may open it at once: it is in WAL mode, waits for a busy writer, and migrates inside one exclusive
transaction, so that of two processes that start together one migrates and the other finds it done. A file written by a
newer Headrace is refused untouched. The tables are `schema.py`'s; what is in them is the affair of the files beside
this one, except the records of models. Holds no model bytes and no secrets; where the file lies is `models/store.py`'s
affair.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from headrace.core.errors import HeadraceError, Unavailable
from headrace.memory.schema import MIGRATIONS

BUSY_TIMEOUT_S = 10.0

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class DatabaseError(HeadraceError):
    """The state database cannot be used as it is; the message says what to do."""

    code = "database_error"
    status = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model that was pulled. `pulled_at` is Unix time in seconds."""

    name: str
    path: str
    sha256: str
    size: int
    source: str
    pulled_at: float


class Database:
    """An open state database. One object per thread; use as a context manager, or `close` it."""

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        with _alone(path):
            self._connection = _connect(path)
            try:
                with self._speaking():
                    self._prepare(migrations)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> "Database":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the object cannot be used afterwards."""
        self._connection.close()

    @property
    def version(self) -> int:
        """The schema version: how many migrations have been applied."""
        with self._speaking():
            return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def save_model(self, record: ModelRecord) -> None:
        """Add the record, or replace the one of the same name."""
        with self._speaking():
            self._connection.execute(
                "INSERT OR REPLACE INTO models (name, path, sha256, size, source, pulled_at) VALUES (?, ?, ?, ?, ?, ?)",
                (record.name, record.path, record.sha256, record.size, record.source, record.pulled_at),
            )

    def remove_model(self, name: str) -> None:
        """Forget the record; an unknown name is no error."""
        with self._speaking():
            self._connection.execute("DELETE FROM models WHERE name = ?", (name,))

    def models(self) -> list[ModelRecord]:
        """All records, by name."""
        with self._speaking():
            rows = self._connection.execute(
                "SELECT name, path, sha256, size, source, pulled_at FROM models ORDER BY name"
            ).fetchall()
        return [
            ModelRecord(name=name, path=path, sha256=sha256, size=size, source=source, pulled_at=pulled_at)
            for name, path, sha256, size, source, pulled_at in rows
        ]

    def transact(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        """What `function(connection, *given)` returns, in one transaction: all of what it changed, or nothing."""
        return self._transact(function, *given, **named)

    def transact_durably(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        """The same; when it returns, this and every transaction before it survive a loss of power."""
        with self._speaking():
            self._connection.execute("PRAGMA synchronous = FULL")
        try:
            return self._transact(function, *given, **named)
        finally:
            with self._speaking():
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def _transact(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        with self._speaking():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                made = function(self._connection, *given, **named)
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk has ended the transaction by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return made

    def read(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        """What `function(connection, *given)` returns, which changes nothing: it waits for no writer, and none for
        it."""
        with self._speaking():
            self._connection.execute("BEGIN DEFERRED")
            try:
                return function(self._connection, *given, **named)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def empty_log(self) -> None:
        """Move what was changed into the database's file and cut its log, in which erased text would linger."""
        with self._speaking():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _prepare(self, migrations: Sequence[str]) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        # What is deleted is overwritten with zeros: people's conversations are among it.
        self._connection.execute("PRAGMA secure_delete = ON")
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version < len(migrations):
            # Exclusive first, then read again: another process may have migrated while this one waited.
            self._connection.execute("BEGIN EXCLUSIVE")
            try:
                version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
                for migration in migrations[version:]:
                    # Not executescript, which would commit what came before it.
                    for statement in filter(str.strip, migration.split(";")):
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {max(version, len(migrations))}")
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
        if version > len(migrations):
            raise DatabaseError(
                f"{self.path} has schema version {version}, but this Headrace knows versions up to {len(migrations)}: "
                "it was written by a newer one. Upgrade Headrace, or use another state directory (--home)."
            )

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn SQLite's errors into sentences."""
        try:
            yield
        except sqlite3.Error as error:
            raise _sentence(self.path, error) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One at a time: SQLite does not wait its busy timeout when two switch a new file to WAL at once, and nobody of
    this process may hold locks on a file while `_connect` makes it.

    The lock is a file of its own, because closing a descriptor of the database would drop SQLite's locks on it.
    """
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be opened ({error.strerror or error}); check the permissions of its folder, or choose "
            "another state directory with --home.",
            code="database_unavailable",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # Created with 0600 before SQLite opens it, so that it is never readable by others, whatever the umask. One that
        # is there is not touched: to close a descriptor of it drops the locks that other connections of this process
        # have on it (fcntl(2)), and the next process that leaves takes the write-ahead log for nobody's and deletes it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be opened ({error.strerror or error}); check its permissions, or choose another state "
            "directory with --home.",
            code="database_unavailable",
        ) from error
    except sqlite3.Error as error:
        raise _sentence(path, error) from error


def _sentence(path: Path, error: sqlite3.Error) -> HeadraceError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DatabaseError(
            f"{path} is damaged or no Headrace database ({error}); move it away: models stay, "
            "`headrace pull NAME` records them again."
        )
    if name.startswith("SQLITE_FULL"):
        return Unavailable(f"The disk is full: {path} cannot grow; free some space.", code="disk_full")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")):
        return Unavailable(
            f"{path} cannot be read and written ({error}); check the folder's permissions and the disk.",
            code="database_unavailable",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable(
            f"{path} was locked by another process for {BUSY_TIMEOUT_S:.0f} s; stop that process or try again.",
            code="database_unavailable",
        )
    return DatabaseError(f"{path}: {error}; this database is not what this version of Headrace expects.")
