"""The state database: migrations, several processes, and what a person reads when the file is unusable."""

import multiprocessing
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.core.errors import Unavailable
from headrace.memory.database import Database, DatabaseError, ModelRecord
from headrace.memory.schema import MIGRATIONS

RECORD = ModelRecord(name="m", path="/x/m.gguf", sha256="ab", size=7, source="https://x", pulled_at=12.5)


def test_a_new_database_has_the_newest_schema_and_is_private(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as database:
        assert database.version == len(MIGRATIONS)
        assert database.models() == []
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600


def test_records_survive_closing_and_are_replaced_by_name(tmp_path: Path) -> None:
    newer = ModelRecord(name="m", path="/y", sha256="cd", size=8, source="s", pulled_at=13.0)
    with Database(tmp_path / "a.db") as database:
        database.save_model(RECORD)
    with Database(tmp_path / "a.db") as database:
        assert database.models() == [RECORD]
        database.save_model(newer)
        assert database.models() == [newer]
        database.remove_model("m")
        database.remove_model("never there")
        assert database.models() == []


def test_what_one_connection_of_two_writes_is_seen_by_a_process_that_comes_after_another_left(tmp_path: Path) -> None:
    # A server has two connections to a database, and commands open and close it meanwhile. Whoever closes last empties
    # the write-ahead log and deletes it: a server without locks would go on writing into a file that nobody finds.
    path = tmp_path / "a.db"
    with Database(path) as database, Database(path):
        for num in range(3):
            database.save_model(replace(RECORD, size=num))
            with multiprocessing.get_context("spawn").Pool(1) as command:
                assert [record.size for record in command.apply(_models, (path,))] == [num]


def _models(path: Path) -> list[ModelRecord]:
    with Database(path) as database:
        return database.models()


def test_an_old_database_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as database:
        database.save_model(RECORD)
    with Database(tmp_path / "a.db", [*MIGRATIONS, "CREATE TABLE more (x)"]) as database:
        assert database.version == len(MIGRATIONS) + 1
        assert database.models() == [RECORD]


def test_a_migration_that_fails_leaves_the_version_and_the_schema_as_they_were(tmp_path: Path) -> None:
    Database(tmp_path / "a.db").close()
    with pytest.raises(DatabaseError):
        Database(tmp_path / "a.db", [*MIGRATIONS, "CREATE TABLE more (x)", "CREATE NONSENSE"])
    with Database(tmp_path / "a.db", [*MIGRATIONS, "CREATE TABLE more (x)"]) as database:
        assert database.version == len(MIGRATIONS) + 1


def test_a_database_of_a_newer_headrace_is_refused_with_a_remedy_and_untouched(tmp_path: Path) -> None:
    Database(tmp_path / "a.db", [*MIGRATIONS, "CREATE TABLE more (x)"]).close()
    with pytest.raises(DatabaseError, match=rf"schema version {len(MIGRATIONS) + 1}.*newer.*Upgrade"):
        Database(tmp_path / "a.db")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    connection.close()


def test_a_file_that_is_no_database_is_named_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"this is a letter, not a database" * 100)
    with pytest.raises(DatabaseError, match=r"a\.db is damaged or no Headrace database.*move it away"):
        Database(tmp_path / "a.db")
    assert (tmp_path / "a.db").read_bytes().startswith(b"this is a letter")


def test_a_database_in_a_folder_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"cannot be opened.*--home"):
        Database(tmp_path / "nowhere" / "a.db")


def test_a_full_disk_is_said_to_be_one_and_the_database_goes_on(tmp_path: Path) -> None:
    with Database(tmp_path / "a.db") as database:
        pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
        database._connection.execute(f"PRAGMA max_page_count = {pages}")
        large = ModelRecord(name="big", path="/" + "x" * 100_000, sha256="", size=0, source="", pulled_at=0.0)
        with pytest.raises(Unavailable, match="disk is full"):
            database.save_model(large)
        assert database.models() == []


def _save(path: Path, start: "multiprocessing.synchronize.Barrier", name: str) -> None:
    start.wait(30)
    with Database(path) as database:
        database.save_model(ModelRecord(name=name, path="", sha256="", size=0, source="", pulled_at=0.0))


def test_processes_that_start_together_migrate_once_and_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    names = ["a", "b", "c"]
    processes = [context.Process(target=_save, args=(tmp_path / "a.db", start, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with Database(tmp_path / "a.db") as database:
        assert [record.name for record in database.models()] == names
