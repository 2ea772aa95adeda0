"""Digests are remembered while a file is unchanged, and never longer."""

import hashlib
import os
from pathlib import Path

import pytest

from headrace.models.digest import DigestMemory, sha256_of


class Counting:
    """The real hasher, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> str:
        self.calls += 1
        return sha256_of(path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def expected(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_an_unchanged_file_is_hashed_once_even_by_another_process(model: Path, tmp_path: Path) -> None:
    hasher = Counting()
    for _ in range(3):
        assert DigestMemory(tmp_path / "cache", hasher)(model) == expected(b"weights")
    assert hasher.calls == 1


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_hashed_again(model: Path, tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "cache")
    memory(model)
    before = model.stat()
    other = tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(model)
    assert memory(model) == expected(b"WEIGHTS")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"source": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_memory_only_means_hashing_again(damage: bytes, model: Path, tmp_path: Path) -> None:
    memory = DigestMemory(tmp_path / "cache")
    memory(model)
    [note] = (tmp_path / "cache").iterdir()
    note.write_bytes(damage)
    assert memory(model) == expected(b"weights")
    hasher = Counting()
    assert DigestMemory(tmp_path / "cache", hasher)(model) == expected(b"weights")
    assert hasher.calls == 0


def test_a_memory_that_cannot_be_written_is_no_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert DigestMemory(tmp_path / "cache")(model) == expected(b"weights")


def test_what_a_killed_process_left_half_written_is_replaced(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    memory = DigestMemory(tmp_path / "cache")
    digest = memory(source)
    (note,) = (tmp_path / "cache").iterdir()
    note.rename(note.with_name(f"{note.name}.partial"))
    assert memory(source) == digest
    assert list((tmp_path / "cache").iterdir()) == [note]
