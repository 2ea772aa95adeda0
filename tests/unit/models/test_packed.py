"""Packed weights: what is written comes back as views; what cannot be trusted or written is built again."""

import contextlib
import fcntl
import logging
import resource
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.kernels.grouped import GroupedMatrix, pack, unpack
from headrace.models import packed
from headrace.models.packed import (
    Extra,
    Item,
    Pack,
    PackedMatrix,
    PackedVector,
    PackError,
    PackKey,
    discard,
    open_or_build,
    packed_matrix,
    read_pack,
)

KEY = PackKey("sha256:" + "ab" * 32, "cd" * 32)


def grouped(rows: int, cols: int, bits: int, *, has_minimum: bool) -> GroupedMatrix:
    rng = np.random.default_rng(rows)
    width = -(-cols // 32) * 32
    if bits == 4:
        codes: np.ndarray = rng.integers(0, 16, (rows, width), dtype=np.uint8)
    else:
        codes = rng.integers(-127, 128, (rows, width), dtype=np.int8)
    scale = rng.normal(size=(rows, width // 32)).astype(np.float16)
    return GroupedMatrix(rows, cols, bits, codes, scale, scale * 2 if has_minimum else None)


MATRICES = {
    "four": grouped(35, 96, 4, has_minimum=True),
    "eight": grouped(16, 40, 8, has_minimum=False),
    "five": grouped(3, 64, 8, has_minimum=True),
}
TABLE = np.arange(15, dtype=np.float32).reshape(3, 5)


class Builder:
    """Gives the same items every time, and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Iterator[Item]:
        self.calls += 1
        yield Extra("tokenizer", b"opaque")
        yield PackedVector("table", TABLE)
        for name, matrix in MATRICES.items():
            yield packed_matrix(name, matrix)


def assert_complete(opened: Pack) -> None:
    assert [matrix.name for matrix in opened.matrices] == list(MATRICES)
    for matrix in opened.matrices:
        assert np.array_equal(matrix.tiles, pack(MATRICES[matrix.name]))
        assert matrix.tiles.ctypes.data % 64 == 0
        back = unpack(matrix.tiles, matrix.rows, matrix.cols, matrix.bits, has_minimum=matrix.has_minimum)
        assert np.array_equal(back.dequantize(), MATRICES[matrix.name].dequantize())
    assert np.array_equal(opened.vectors["table"], TABLE)
    assert opened.extras == {"tokenizer": b"opaque"}


def test_the_second_opening_builds_nothing_and_copies_nothing(tmp_path: Path) -> None:
    builder = Builder()
    first = open_or_build(tmp_path, KEY, builder)
    second = open_or_build(tmp_path, KEY, builder)
    assert (builder.calls, first.is_cached, second.is_cached) == (1, False, True)
    for opened in (first, second):
        assert_complete(opened)
        assert not any(matrix.tiles.flags.owndata or matrix.tiles.flags.writeable for matrix in opened.matrices)
        assert opened.matrix_bytes == sum(len(pack(matrix)) for matrix in MATRICES.values())
    assert [path.name for path in tmp_path.iterdir()] == [KEY.file_name]


def test_without_a_folder_everything_stays_in_memory() -> None:
    opened = open_or_build(None, KEY, Builder())
    assert_complete(opened)
    assert not opened.is_cached


def test_a_matrix_of_many_rows_is_packed_like_one_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_CHUNK_ROWS", 16)
    for matrix in MATRICES.values():
        assert np.array_equal(packed.tiles_of(matrix), pack(matrix))


def test_another_source_gets_a_file_of_its_own(tmp_path: Path) -> None:
    builder = Builder()
    for key in (KEY, PackKey("sha256:" + "00" * 32, KEY.plan)):
        open_or_build(tmp_path, key, builder)
    assert (builder.calls, len(list(tmp_path.iterdir()))) == (2, 2)


def at(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:offset] + value + content[offset + len(value) :]


def in_vector(content: bytes) -> bytes:
    raw = TABLE.tobytes()
    return content.replace(raw, raw[:-1] + b"\x7f")


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "has only 0 bytes"),
    "a stub": (lambda content: content[:63], "has only 63 bytes"),
    "cut in half": (lambda content: content[: len(content) // 2], "is truncated"),
    "longer": (lambda content: content + b"\0", "is truncated"),
    "foreign": (lambda content: b"GGUF" * 100, "is not a Headrace pack"),
    "of another format": (at(8, struct.pack("<I", packed.FORMAT + 1)), "has format"),
    "with an absurd index": (at(24, b"\xff" * 8), "is truncated"),
    "with a changed index": (lambda content: content.replace(b'"four"', b'"4our"'), "has a corrupt index"),
    "with a changed vector": (in_vector, "holds corrupt bytes for 'table'"),
    "with a changed extra": (lambda content: content.replace(b"opaque", b"Opaque"), "corrupt bytes for 'tokenizer'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_pack_is_reported_and_built_again(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    builder = Builder()
    open_or_build(tmp_path, KEY, builder)
    path = tmp_path / KEY.file_name
    change, says = DAMAGE[case]
    path.write_bytes(change(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert_complete(open_or_build(tmp_path, KEY, builder))
    assert builder.calls == 2
    assert says in caplog.text
    assert open_or_build(tmp_path, KEY, builder).is_cached


def test_a_pack_of_another_source_under_this_name_is_stale(tmp_path: Path) -> None:
    open_or_build(tmp_path, KEY, Builder())
    # Same beginning, so the same file name.
    other = PackKey(KEY.digest[:-1] + "0", KEY.plan)
    assert other.file_name == KEY.file_name
    with pytest.raises(PackError, match="belongs to"):
        read_pack(tmp_path / KEY.file_name, other)


def test_a_new_pack_replaces_those_of_another_plan_or_format_of_the_same_source(tmp_path: Path) -> None:
    open_or_build(tmp_path, PackKey(KEY.digest, "ef" * 32), Builder())
    older_format = tmp_path / KEY.file_name.replace(f".v{packed.FORMAT}.", ".v0.")
    older_format.write_bytes(b"")
    other_source = PackKey("sha256:" + "12" * 32, KEY.plan)
    open_or_build(tmp_path, other_source, Builder())
    assert len(list(tmp_path.glob("*.pack"))) == 3
    open_or_build(tmp_path, KEY, Builder())
    assert {path.name for path in tmp_path.glob("*.pack")} == {KEY.file_name, other_source.file_name}


def test_verify_names_the_matrix_whose_bytes_changed(tmp_path: Path) -> None:
    assert open_or_build(tmp_path, KEY, Builder()).verify() == []
    path = tmp_path / KEY.file_name
    tiles = pack(MATRICES["eight"]).tobytes()
    path.write_bytes(path.read_bytes().replace(tiles, tiles[:-1] + bytes([tiles[-1] ^ 1])))
    assert open_or_build(tmp_path, KEY, Builder()).verify() == ["eight"]


def test_a_large_table_is_not_read_at_the_start_and_verify_names_it_where_its_bytes_changed(tmp_path: Path) -> None:
    table = np.arange(1 << 19, dtype=np.float32).reshape(-1, 64)
    items = [PackedVector("small", TABLE), PackedVector("large", table)]
    opened = open_or_build(tmp_path, KEY, lambda: items)
    assert opened.verify() == [] and np.array_equal(opened.vectors["large"], table)
    path = tmp_path / KEY.file_name
    good = path.read_bytes()
    path.write_bytes(good.replace(table[-1].tobytes(), bytes(256)))
    assert open_or_build(tmp_path, KEY, lambda: items).verify() == ["large"]
    path.write_bytes(good.replace(TABLE.tobytes(), bytes(60)))
    with pytest.raises(PackError, match="corrupt bytes for 'small'"):
        read_pack(path, KEY)


def test_a_folder_that_cannot_exist_means_memory_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        opened = open_or_build(tmp_path / "file" / "packed", KEY, Builder())
    assert_complete(opened)
    assert not opened.is_cached
    assert "cannot be stored" in caplog.text


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """Files of this process cannot grow beyond 4 KiB, as on a full disk.

    No fixture, because pytest reports before a fixture ends: its own output would fail when it goes to a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_means_memory_a_warning_and_no_remains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    big = PackedMatrix("big", 1024, 32, 8, False, pack(grouped(1024, 32, 8, has_minimum=False)))
    with caplog.at_level(logging.WARNING), small_disk():
        opened = open_or_build(tmp_path, KEY, lambda: [big])
    assert opened.matrices == (big,)
    assert "cannot be stored" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_building_comes_out_and_leaves_nothing(tmp_path: Path) -> None:
    def build() -> Iterator[Item]:
        yield Extra("tokenizer", b"opaque")
        raise RuntimeError("a corrupt tensor")

    with pytest.raises(RuntimeError, match="a corrupt tensor"):
        open_or_build(tmp_path, KEY, build)
    assert list(tmp_path.iterdir()) == []


def test_starts_at_the_same_moment_do_not_disturb_each_other(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=5)
    opened: list[Pack] = []

    def build() -> Iterator[Item]:
        together.wait()  # all four are writing now
        yield from Builder()()

    def start() -> None:
        opened.append(open_or_build(tmp_path, KEY, build))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(opened) == 4
    for each in opened:
        assert_complete(each)
    assert [path.name for path in tmp_path.iterdir()] == [KEY.file_name]


def test_what_a_killed_start_left_behind_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    dead = tmp_path / f"{KEY.file_name}.dead.partial"
    dead.write_bytes(b"half of a pack")
    with packed._create_locked(tmp_path / KEY.file_name) as live:
        open_or_build(tmp_path, KEY, Builder())
        assert Path(live.name).exists()
    assert not dead.exists()


def test_a_file_that_was_taken_for_an_orphan_is_begun_again_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []
    lock = fcntl.flock

    def lock_late(file: Any, how: int) -> None:
        if not taken and file.name.endswith(".partial"):
            taken.append(Path(file.name))
            taken[0].unlink()  # by another start, which may delete whatever has that name once more
        lock(file, how)

    monkeypatch.setattr("headrace.models.packed.fcntl.flock", lock_late)
    with packed._create_locked(tmp_path / KEY.file_name) as live:
        assert Path(live.name).exists()
        assert Path(live.name) != taken[0]


def test_a_discarded_pack_is_built_again(tmp_path: Path) -> None:
    builder = Builder()
    open_or_build(tmp_path, KEY, builder)
    discard(tmp_path, KEY)
    discard(tmp_path, KEY)
    assert not open_or_build(tmp_path, KEY, builder).is_cached
