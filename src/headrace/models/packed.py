"""Packed weights on disk: one file per source digest, format and plan, mapped read-only for a quick second start.

Owns the file format and what happens when a file cannot be trusted or written: it is rebuilt, or kept in memory, with a
warning. Knows nothing of where weights come from (`load`) nor what tiles mean (`kernels.grouped`).

    64 bytes   magic, format, offset and length of the index, SHA-256 of the index
    blobs      each at a multiple of 64: tiles, float32 vectors, opaque extras
    index      JSON: the key, and name, form, offset and CRC-32 of every blob

A file is written beside its final name and renamed when it is complete and on disk, so readers never see half of one,
and concurrent starts each write their own; the last rename wins and all of them hold the same bytes. A new file
replaces those that other versions made of the same source. Opening checks:
the index, that every blob lies inside the file and has the size its form asks for, and the CRC of vectors and extras.
Matrices and large tables are checked by `Pack.verify` (`headrace doctor`), because reading them all would undo the
point of mapping: what a run does not touch costs it no memory.
"""

import contextlib
import fcntl
import hashlib
import logging
import math
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix, pack, tile_bytes
from headrace.kernels.plan import GROUP, TILE_ROWS, padded

FORMAT = 1
"""Raise it whenever the same source and plan would give other bytes: layout, rounding, tile form."""

_MAGIC = b"HDRCPACK"
_PREFIX = struct.Struct("<8sIIQQ32s")  # magic, format, 0, index offset, index length, SHA-256 of the index
_ALIGN = 64
_MAX_INDEX_BYTES = 1 << 28
_CHUNK_ROWS = 1 << 12  # a multiple of TILE_ROWS; keeps temporaries of `pack` small
_EAGER_BYTES = 1 << 20  # vectors up to this size are checked when a pack is opened; larger ones are tables
_TOUCHED_PAGES = 1 << 12  # at once
_PARTIAL = ".partial"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """Tiles of one matrix with what `native.Matrix` needs to know of them."""

    name: str
    rows: int
    cols: int
    bits: int
    has_minimum: bool
    tiles: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PackedVector:
    """One float32 vector (or table)."""

    name: str
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Extra:
    """Bytes that somebody else understands, such as a serialised tokenizer."""

    name: str
    data: bytes


Item = PackedMatrix | PackedVector | Extra


@dataclass(frozen=True, slots=True)
class PackKey:
    """What a pack is made from: the source's `sha256:...` and the fingerprint of the plan's matrices and vectors."""

    digest: str
    plan: str

    @property
    def file_name(self) -> str:
        """Short enough for every file system; the index holds the key in full."""
        return f"{self.digest.removeprefix('sha256:')[:20]}-{self.plan[:12]}.v{FORMAT}.pack"


@dataclass(frozen=True, slots=True)
class Pack:
    """Opened weights; arrays are views of the file (or of memory, if it could not be written)."""

    matrices: tuple[PackedMatrix, ...]
    vectors: Mapping[str, NDArray[np.float32]]
    extras: Mapping[str, bytes]
    checksums: Mapping[str, int]
    is_cached: bool = False

    @property
    def matrix_bytes(self) -> int:
        """Bytes of all tiles."""
        return sum(matrix.tiles.nbytes for matrix in self.matrices)

    def verify(self) -> list[str]:
        """Names of matrices and tables whose bytes are not those that were written (reads everything)."""
        blobs = {matrix.name: matrix.tiles for matrix in self.matrices} | {
            name: values.reshape(-1).view(np.uint8) for name, values in self.vectors.items()
        }
        return [name for name, crc in self.checksums.items() if zlib.crc32(blobs[name].data) != crc]

    def touch(self) -> None:
        """Look at every page of memory once, so that it is there and mapped; other threads go on meanwhile."""
        blobs = [matrix.tiles for matrix in self.matrices]
        blobs += [values.reshape(-1).view(np.uint8) for values in self.vectors.values()]
        for blob in blobs:
            every_page = blob[:: mmap.PAGESIZE]
            for start in range(0, len(every_page), _TOUCHED_PAGES):
                every_page[start : start + _TOUCHED_PAGES].max()


class PackError(Exception):
    """A file that cannot be used; the message is a phrase that completes "the pack ..."."""


class _Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    rows: int
    cols: int
    bits: int
    has_minimum: bool
    offset: int
    crc: int


class _Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    shape: tuple[int, ...]
    offset: int
    crc: int


class _Extra(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    length: int
    offset: int
    crc: int


class _Index(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    plan: str
    matrices: list[_Matrix] = []
    vectors: list[_Vector] = []
    extras: list[_Extra] = []


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """Memory that begins where vector loads like it."""
    memory = np.empty(size + _ALIGN, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGN
    return memory[start : start + size]


def tiles_of(matrix: GroupedMatrix) -> NDArray[np.uint8]:
    """`grouped.pack`, some thousand rows at a time and into memory aligned for vector loads."""
    per_block = tile_bytes(matrix.bits, matrix.minimum is not None) * matrix.scale.shape[1]
    size = padded(matrix.rows, TILE_ROWS) // TILE_ROWS * per_block
    tiles = aligned_bytes(size)
    for first in range(0, matrix.rows, _CHUNK_ROWS):
        some = slice(first, first + _CHUNK_ROWS)
        minimum = None if matrix.minimum is None else matrix.minimum[some]
        codes = matrix.codes[some]
        piece = pack(GroupedMatrix(len(codes), matrix.cols, matrix.bits, codes, matrix.scale[some], minimum))
        at = first // TILE_ROWS * per_block
        tiles[at : at + len(piece)] = piece
    return tiles


def packed_matrix(name: str, matrix: GroupedMatrix) -> PackedMatrix:
    """A matrix in tiles, with its form."""
    has_minimum = matrix.minimum is not None
    return PackedMatrix(name, matrix.rows, matrix.cols, matrix.bits, has_minimum, tiles_of(matrix))


def discard(folder: Path, key: PackKey) -> None:
    """Forget a pack whose content turned out to be of no use, so that the next `open_or_build` builds it."""
    with contextlib.suppress(OSError):
        (folder / key.file_name).unlink()


def open_or_build(folder: Path | None, key: PackKey, build: Callable[[], Iterable[Item]]) -> Pack:
    """The pack of this key from `folder`, or built and stored there; in memory if there is no folder or it fails.

    `build` gives the items one after the other, so that only one of them needs to be in memory; it may be called twice.
    """
    if folder is None:
        return _in_memory(build())
    path = folder / key.file_name
    try:
        return read_pack(path, key)
    except FileNotFoundError:
        pass
    except (OSError, PackError) as error:
        _log.warning("packed weights %s: the pack %s; building it again", path, error)
    # What `build` raises comes out unchanged, except that an OSError of its own would be taken for the disk's: readers
    # turn theirs into ModelFileError.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_orphans(folder)
        _write_pack(path, key, build())
        pack_on_disk = read_pack(path, key)
        _remove_replaced(path)
    except (OSError, PackError) as error:
        _log.warning("packed weights %s: cannot be stored (%s); kept in memory, so the next start is slow", path, error)
        return _in_memory(build())
    return Pack(pack_on_disk.matrices, pack_on_disk.vectors, pack_on_disk.extras, pack_on_disk.checksums)


def read_pack(path: Path, key: PackKey) -> Pack:
    """Map a pack. Raises OSError, or PackError if it is truncated, corrupt, foreign or stale."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _PREFIX.size:
            raise PackError(f"has only {size} bytes")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    index = _read_index(data)
    if (index.digest, index.plan) != (key.digest, key.plan):
        raise PackError(f"belongs to {index.digest} and plan {index.plan}")
    matrices = tuple(_matrix_view(data, entry) for entry in index.matrices)
    checksums = {entry.name: entry.crc for entry in index.matrices}
    vectors = {}
    for vector in index.vectors:
        num_bytes = 4 * math.prod(vector.shape)
        is_table = num_bytes > _EAGER_BYTES
        if is_table:
            checksums[vector.name] = vector.crc
        raw = _blob(data, vector.name, vector.offset, num_bytes, None if is_table else vector.crc)
        vectors[vector.name] = raw.view(np.float32).reshape(vector.shape)
    extras = {
        extra.name: _blob(data, extra.name, extra.offset, extra.length, extra.crc).tobytes() for extra in index.extras
    }
    if hasattr(mmap, "MADV_WILLNEED"):
        data.madvise(mmap.MADV_WILLNEED)
    return Pack(matrices, vectors, extras, checksums, is_cached=True)


def _read_index(data: mmap.mmap) -> _Index:
    magic, version, _, offset, length, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise PackError("is not a Headrace pack")
    if version != FORMAT:
        raise PackError(f"has format {version}, this version writes {FORMAT}")
    if length > _MAX_INDEX_BYTES or offset + length != len(data):
        raise PackError(f"is truncated: {len(data)} bytes instead of {offset + length}")
    index = data[offset : offset + length]
    if hashlib.sha256(index).digest() != checksum:
        raise PackError("has a corrupt index")
    try:
        return msgspec.json.decode(index, type=_Index)
    except msgspec.DecodeError as error:
        raise PackError(f"has an index of another kind ({error})") from error


def _blob(data: mmap.mmap, name: str, offset: int, num_bytes: int, crc: int | None) -> NDArray[np.uint8]:
    if offset < 0 or offset % _ALIGN or num_bytes < 0 or num_bytes > len(data) - offset:
        raise PackError(f"places {name!r} ({num_bytes} bytes at {offset}) outside its {len(data)} bytes")
    raw = np.frombuffer(data, dtype=np.uint8, count=num_bytes, offset=offset)
    if crc is not None and zlib.crc32(raw.data) != crc:
        raise PackError(f"holds corrupt bytes for {name!r}")
    return raw


def _matrix_view(data: mmap.mmap, entry: _Matrix) -> PackedMatrix:
    if min(entry.rows, entry.cols) < 1 or entry.bits not in (4, 8):
        raise PackError(f"gives {entry.name!r} the form {entry.rows} x {entry.cols} in {entry.bits} bits")
    blocks, groups = padded(entry.rows, TILE_ROWS) // TILE_ROWS, padded(entry.cols) // GROUP
    num_bytes = blocks * groups * tile_bytes(entry.bits, entry.has_minimum)
    tiles = _blob(data, entry.name, entry.offset, num_bytes, None)
    return PackedMatrix(entry.name, entry.rows, entry.cols, entry.bits, entry.has_minimum, tiles)


def _in_memory(items: Iterable[Item]) -> Pack:
    kept = list(items)
    return Pack(
        tuple(item for item in kept if isinstance(item, PackedMatrix)),
        {item.name: item.values for item in kept if isinstance(item, PackedVector)},
        {item.name: item.data for item in kept if isinstance(item, Extra)},
        {},
    )


def _write_pack(path: Path, key: PackKey, items: Iterable[Item]) -> None:
    """Write beside `path`, make sure it is on disk, rename. Raises OSError and leaves nothing behind."""
    file = _create_locked(path)
    partial = Path(file.name)
    try:
        with file:
            index = _Index(key.digest, key.plan)
            file.write(bytes(_PREFIX.size))
            for item in items:
                _append(file.write, index, item, file.tell())
            offset = file.tell()
            encoded = msgspec.json.encode(index)
            file.write(encoded)
            file.seek(0)
            checksum = hashlib.sha256(encoded).digest()
            file.write(_PREFIX.pack(_MAGIC, FORMAT, 0, offset, len(encoded), checksum))
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _create_locked(path: Path) -> BinaryIO:
    """A new file beside `path` whose lock, held until it is closed, tells `_remove_orphans` that somebody writes it."""
    while True:
        # A name of its own each time: who took the last one for an orphan may be about to delete what has that name.
        file = path.with_name(f"{path.name}.{secrets.token_hex(6)}{_PARTIAL}").open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        # Another start took it for an orphan between its creation and the lock.
        file.close()


def _append(write: Callable[[bytes | memoryview], int], index: _Index, item: Item, position: int) -> None:
    offset = padded(position, _ALIGN)
    write(bytes(offset - position))
    data: bytes | memoryview
    if isinstance(item, PackedMatrix):
        data = item.tiles.data
        entry = _Matrix(item.name, item.rows, item.cols, item.bits, item.has_minimum, offset, zlib.crc32(data))
        index.matrices.append(entry)
    elif isinstance(item, PackedVector):
        data = np.ascontiguousarray(item.values, dtype=np.float32).reshape(-1).view(np.uint8).data
        index.vectors.append(_Vector(item.name, item.values.shape, offset, zlib.crc32(data)))
    else:
        data = item.data
        index.extras.append(_Extra(item.name, len(data), offset, zlib.crc32(data)))
    write(data)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; file systems that cannot sync a folder lose nothing but time.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_orphans(folder: Path) -> None:
    """Delete partial files whose writer died: those that nobody holds a lock on."""
    for partial in _partials(folder):
        with contextlib.suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def _remove_replaced(path: Path) -> None:
    """Delete packs of the same source that another version wrote; who has one mapped keeps what it mapped."""
    source = path.name.partition("-")[0]
    for other in path.parent.glob(f"{source}-*.pack"):
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()


def _partials(folder: Path) -> Iterator[Path]:
    return folder.glob(f"*.pack.*{_PARTIAL}")
