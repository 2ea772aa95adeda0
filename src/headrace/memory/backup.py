"""A copy of what is remembered that can be put in its place, made while a server runs or without one.

Order makes it whole: journals first (what is written to the database later is read from there twice, which changes
nothing), then files, then the database as it is at one moment, then files that came between. A file that is not in the
database is left out, one that has gone meanwhile goes from the copy of the database too. Promises for the case of a
lost power are for the machine that made them, and are not in a copy. Models and pages of prompts are no memories.

Of the transparency log its checkpoints come first, then the database of what was logged, which so is never behind them;
tiles are made from it. The log's own keys stay where they are: a copy that went on beside the log, or after more was
logged, would be a fork, so it can be read and verified, and goes on only if somebody puts the keys there who knows.
"""

import contextlib
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from headrace.core.errors import Conflict, DiskFull, Unavailable
from headrace.memory.database import Database
from headrace.memory.key_files import LOG_KEYS
from headrace.memory.log_files import CHECKPOINT, WITNESSED


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie in a state directory; those of `source` and `target` are the same."""

    database: Path
    files: Path
    journals: Path
    keys: Path
    provenance: Path
    log: Path
    signing_keys: Path
    delegations: Path
    delegation_key: Path


@dataclass(frozen=True, slots=True)
class Copied:
    """How much was copied."""

    num_bytes: int
    num_files: int
    num_journals: int
    has_keys: bool
    has_records: bool


def copy_state(source: Places, target: Places) -> Copied:
    """Copy everything into a folder that is there and empty. Raises Conflict if it is not, DiskFull and Unavailable."""
    root = target.database.parent
    if any(root.iterdir()):
        raise Conflict(f"{root} is not empty; name a new folder, or empty it.")
    try:
        journals = _copy_journals(source.journals, target.journals)
        _copy_files(source.files, target.files)
        with Database(source.database):  # one of an older version is brought up to date first
            pass
        _copy_database(source.database, target.database)
        files = _match_files(source.files, target)
        if source.keys.exists():
            _copy(source.keys, target.keys)
        has_records = _copy_records(source, target)
        if source.delegations.exists():
            # Without it what was revoked would hold again.
            _copy_plain_database(source.delegations, target.delegations)
        if source.delegation_key.exists():
            _copy(source.delegation_key, target.delegation_key)
        num_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    except OSError as error:
        raise _sentence(root, error) from error
    return Copied(num_bytes, files, journals, source.keys.exists(), has_records)


def _copy_journals(source: Path, target: Path) -> int:
    copied = 0
    for path in sorted(source.glob("*/*.journal")):
        folder = target / path.parent.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One that goes meanwhile is in the database, which is copied later.
        with contextlib.suppress(FileNotFoundError):
            _copy(path, folder / path.name)
            copied += 1
    return copied


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in source.glob("*"):
        if path.is_file():
            with contextlib.suppress(FileNotFoundError):
                _copy(path, target / path.name)


def _copy_database(source: Path, target: Path) -> None:
    target.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("UPDATE budget_periods SET lease_nanos = NULL, lease_tokens = NULL")
        new.execute("UPDATE ledger_runs SET is_ended = 1")
        new.commit()


def _copy_plain_database(source: Path, target: Path) -> None:
    target.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _copy_records(source: Places, target: Places) -> bool:
    if not source.provenance.exists():
        return False
    target.log.mkdir(mode=0o755)
    for name in (CHECKPOINT, WITNESSED):
        with contextlib.suppress(FileNotFoundError):
            _copy(source.log / name, target.log / name)
    _copy_plain_database(source.provenance, target.provenance)
    target.signing_keys.mkdir(mode=0o700)
    for path in source.signing_keys.iterdir():
        if path.is_file() and path.name != LOG_KEYS and not path.name.startswith("."):
            _copy(path, target.signing_keys / path.name)
    return True


def _match_files(source: Path, target: Places) -> int:
    with contextlib.closing(sqlite3.connect(target.database)) as database:
        known = {row[0] for row in database.execute("SELECT id FROM files")}
        for name in known:
            if not (target.files / name).exists():
                try:
                    _copy(source / name, target.files / name)
                except FileNotFoundError:
                    database.execute("DELETE FROM files WHERE id = ?", (name,))
        database.commit()
    for path in target.files.iterdir():
        if path.name not in known:
            path.unlink()
    return len(list(target.files.iterdir()))


def _copy(source: Path, target: Path) -> None:
    # Opened first: of one that has gone nothing is left behind, as if it were an empty one.
    with source.open("rb") as old:
        target.touch(mode=0o600)
        with target.open("wb") as new:
            shutil.copyfileobj(old, new)


def _sentence(path: Path, error: OSError) -> Exception:
    reason = error.strerror or error
    if error.errno == 28:  # ENOSPC
        return DiskFull(f"{path} has no room for the copy ({reason}); choose another disk.")
    return Unavailable(f"{error.filename or path} cannot be copied ({reason}); check the folders' permissions.")
