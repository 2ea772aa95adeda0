"""The file of an issuer's keys: nobody else's, whole or not at all, one process at a time."""

import os
import stat
from pathlib import Path

import pytest

from headrace.core.errors import DiskFull, Unavailable
from headrace.memory.authority_file import AuthorityFile


def test_it_is_read_as_it_was_written_by_its_owner_only(tmp_path: Path) -> None:
    file = AuthorityFile(tmp_path / "identity")
    file.open()
    assert file.load() is None
    file.save(b"one")
    file.save(b"two")
    assert file.load() == b"two"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert sorted(one.name for one in file.path.parent.iterdir()) == ["authorities.json", "lock"]
    file.close()


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = AuthorityFile(tmp_path)
    file.save(b"keys")
    file.path.chmod(0o640)
    with pytest.raises(Unavailable, match="can be read by others"):
        file.load()


def test_two_processes_do_not_issue_from_one_file(tmp_path: Path) -> None:
    first, second = AuthorityFile(tmp_path), AuthorityFile(tmp_path)
    first.open()
    with pytest.raises(Unavailable, match="another process issues"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AuthorityFile(tmp_path)
    file.save(b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="the keys before stay in force"):
            file.save(b"after")
    assert file.load() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["authorities.json"]
