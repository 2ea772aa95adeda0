"""What a start finds decides whether it goes on: after a kill anywhere yes, with an older state put back no."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_log import Disk, Log, item, log_keys, open_writer

from headrace.core.errors import DiskFull, Unavailable
from headrace.gateway.notary.writer import LogInconsistent, LogWriter
from headrace.memory import provenance
from headrace.memory.log_files import LogFolder
from headrace.trust.log.audit import audit
from headrace.trust.log.note import parse_note


def opened(home: Path) -> LogWriter:
    writer = open_writer(home)
    try:
        writer.open()
    except BaseException:
        writer.close()
        raise
    return writer


def grow(home: Path, num: int) -> bytes:
    """A log that has so many items more; its root."""
    writer = opened(home)
    try:
        first = writer.num_durable
        for start in range(first, first + num, 100):
            writer.take([item(number) for number in range(start, min(start + 100, first + num))])
            writer.publish()
        return writer.latest.checkpoint.root
    finally:
        writer.close()


def size_and_root(home: Path) -> tuple[int, bytes]:
    writer = opened(home)
    writer.close()
    checkpoint = writer.latest.checkpoint
    assert audit(LogFolder(home / "log"), checkpoint).is_clean
    return checkpoint.size, checkpoint.root


def test_an_empty_log_has_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    assert size_and_root(tmp_path)[0] == 0
    assert (tmp_path / "log" / "checkpoint").exists()


def test_killed_between_database_and_tiles_the_entries_are_tiled_at_the_next_start(tmp_path: Path) -> None:
    grow(tmp_path, 300)
    writer = opened(tmp_path)
    writer.take([item(number) for number in range(300, 700)])
    writer.close()  # as a kill does: nothing was published
    size, root = size_and_root(tmp_path)
    assert size == 700
    assert root == grow(tmp_path / "other", 700)


def test_a_checkpoint_that_is_lost_is_signed_again_over_the_same_tree(tmp_path: Path) -> None:
    root = grow(tmp_path, 300)
    (tmp_path / "log" / "checkpoint").unlink()
    assert size_and_root(tmp_path) == (300, root)


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [_remove, _empty, _zero])
@pytest.mark.parametrize("file", ["tile/0/001.p/44", "tile/entries/001.p/44", "tile/0/000", "tile/1/000.p/1"])
def test_files_that_a_loss_of_power_damaged_are_made_again(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    root = grow(tmp_path, 300)
    damage(tmp_path / "log" / file)
    assert size_and_root(tmp_path) == (300, root)


def test_the_whole_folder_of_tiles_is_made_again_from_the_database(tmp_path: Path) -> None:
    root = grow(tmp_path, 1000)
    shutil.rmtree(tmp_path / "log" / "tile")
    assert size_and_root(tmp_path) == (1000, root)


def test_partial_tiles_go_when_the_full_one_is_there(tmp_path: Path) -> None:
    grow(tmp_path, 250)
    assert (tmp_path / "log" / "tile" / "0" / "000.p").exists()
    grow(tmp_path, 10)
    assert not (tmp_path / "log" / "tile" / "0" / "000.p").exists()
    assert not (tmp_path / "log" / "tile" / "entries" / "000.p").exists()


def test_an_older_database_put_back_under_a_newer_checkpoint_is_refused(tmp_path: Path) -> None:
    grow(tmp_path, 300)
    shutil.copytree(tmp_path, tmp_path.parent / "backup")
    grow(tmp_path, 100)
    for old in (tmp_path.parent / "backup").glob("provenance.db*"):
        shutil.copy(old, tmp_path / old.name)
    with pytest.raises(LogInconsistent, match="older"):
        opened(tmp_path)
    # Nothing was written: with the newest database it goes on.
    assert parse_note((tmp_path / "log" / "checkpoint").read_bytes()).text.split(b"\n")[1] == b"400"


def test_a_checkpoint_one_entry_ahead_of_the_database_is_refused(tmp_path: Path) -> None:
    grow(tmp_path, 300)
    with sqlite3.connect(tmp_path / "provenance.db") as connection:
        connection.execute("DELETE FROM entries WHERE leaf = 299")
    connection.close()
    with pytest.raises(LogInconsistent, match="299"):
        opened(tmp_path)


@pytest.mark.parametrize("leaf", [0, 299])
def test_an_entry_that_was_altered_is_refused_and_the_files_stay_as_they_were(tmp_path: Path, leaf: int) -> None:
    grow(tmp_path, 300)
    before = {path: path.read_bytes() for path in (tmp_path / "log" / "tile").rglob("*") if path.is_file()}
    with sqlite3.connect(tmp_path / "provenance.db") as connection:
        connection.execute("UPDATE entries SET entry = CAST('another' AS BLOB) WHERE leaf = ?", (leaf,))
    connection.close()
    with pytest.raises(LogInconsistent, match="another root"):
        opened(tmp_path)
    assert before == {path: path.read_bytes() for path in (tmp_path / "log" / "tile").rglob("*") if path.is_file()}


def test_a_checkpoint_of_other_keys_is_refused(tmp_path: Path) -> None:
    grow(tmp_path, 3)
    writer = open_writer(tmp_path, log_keys(seed="another"))
    with pytest.raises(LogInconsistent, match="not a checkpoint that this log's keys signed"):
        writer.open()
    writer.close()


def test_a_damaged_checkpoint_is_refused_and_not_replaced(tmp_path: Path) -> None:
    grow(tmp_path, 3)
    path = tmp_path / "log" / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n3\n", b"\n2\n"))
    with pytest.raises(LogInconsistent):
        opened(tmp_path)


def test_a_tree_smaller_than_witnesses_have_seen_is_refused(tmp_path: Path) -> None:
    grow(tmp_path, 300)
    writer = opened(tmp_path)
    writer.add_cosignatures(writer.latest.note, is_witnessed=True)
    writer.close()
    kept = (tmp_path / "log" / "checkpoint.witnessed").read_bytes()
    shutil.rmtree(tmp_path / "log")
    for path in tmp_path.glob("provenance.db*"):
        path.unlink()
    grow(tmp_path, 299)
    (tmp_path / "log" / "checkpoint.witnessed").write_bytes(kept)
    with pytest.raises(LogInconsistent):
        opened(tmp_path)


def test_a_log_that_does_not_continue_what_witnesses_have_seen_is_refused(tmp_path: Path) -> None:
    grow(tmp_path, 300)
    other = Log()
    other.grow(7)
    (tmp_path / "log" / "checkpoint.witnessed").write_bytes(other.note().encode())
    with pytest.raises(LogInconsistent, match="cosigned by witnesses"):
        opened(tmp_path)


def test_erasing_what_was_kept_changes_nothing_of_the_log(tmp_path: Path) -> None:
    root = grow(tmp_path, 300)
    writer = opened(tmp_path)
    writer._database.transact_durably(provenance.erase, provenance.Erasure(tenant="acme"))
    writer.close()
    shutil.rmtree(tmp_path / "log" / "tile")
    assert size_and_root(tmp_path) == (300, root)


def test_a_batch_that_was_committed_though_its_writer_was_told_otherwise_is_in_the_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = grow(tmp_path / "other", 30)
    writer = opened(tmp_path)
    commit = writer._database.transact_durably

    def lost(*given: Any) -> Any:
        commit(*given)
        raise Unavailable("the disk did not answer")

    writer.take([item(number) for number in range(10)])
    batch = [item(number) for number in range(10, 20)]
    with monkeypatch.context() as broken:
        broken.setattr(writer._database, "transact_durably", lost)
        with pytest.raises(Unavailable):
            writer.take(batch)
    assert writer.take(batch) == frozenset()
    assert writer.take([item(3)]) == {item(3).id}
    writer.take([item(number) for number in range(20, 30)])
    assert writer.publish().checkpoint.root == root
    writer.close()
    assert size_and_root(tmp_path) == (30, root)


def test_a_disk_that_has_no_room_for_the_database_is_told_as_full_and_outlived(tmp_path: Path) -> None:
    grow(tmp_path, 10)
    writer = opened(tmp_path)
    pages = writer._database.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    writer._database.transact(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(DiskFull):
        writer.take([item(number) for number in range(10, 3000)])
    assert writer.num_durable == 10 and writer.publish().checkpoint.size == 10
    writer._database.transact(lambda connection: connection.execute("PRAGMA max_page_count = 100000"))
    writer.take([item(number) for number in range(10, 3000)])
    assert writer.publish().checkpoint.size == 3000
    writer.close()
    assert size_and_root(tmp_path)[0] == 3000


def test_a_disk_that_fills_up_at_any_write_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    """At each write of a batch that fills a tile, the disk is full."""
    num_failed = 0
    while True:
        home, disk = tmp_path / str(num_failed), Disk()
        grow(home, 100)
        writer = open_writer(home, disk=disk)
        writer.open()
        writer.take([item(number) for number in range(100, 400)])
        disk.num_left = num_failed
        try:
            writer.publish()
        except DiskFull:
            num_failed += 1
        else:
            break
        finally:
            disk.num_left = None
            size = writer.latest.checkpoint.size
            assert writer.publish().checkpoint.size == 400
            writer.close()
            assert size_and_root(home)[0] == 400
        assert size == 100
    assert num_failed == 6  # a full tile and bundle, three partial ones, the checkpoint
