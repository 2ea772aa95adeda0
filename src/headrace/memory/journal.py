"""The journal: small records that survive the process, each appended by one write to a file, and read again at start.

    folder/00000007.journal     frames: length (4 bytes), CRC-32 of what follows (4 bytes), payload

A file is a *generation*. When one has grown, a next is begun with whatever of the old ones still matters, and once
nothing in the old ones does, they are deleted. What a killed process wrote stays (it lies with the operating system);
what a machine without power had written may not, and is not promised. A frame that is cut short or does not match its
sum ends its generation: what a process wrote last may be missing in part, and whoever reads is told. One process
writes to a folder at a time, which holds its lock; a full disk is an error to whoever appends, and what was written of
the frame is taken back. Knows nothing of what is in a record.
"""

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from headrace.core.errors import DiskFull, HeadraceError, Unavailable

_HEAD: Final = struct.Struct("<II")
_LOCK: Final = "lock"
_SUFFIX: Final = ".journal"
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Replay:
    """What was found in a folder: payloads in order; `num_torn_bytes` at the end of its last generation, as a kill may
    leave them; `is_damaged`: something before that cannot be read, so records are missing."""

    payloads: tuple[bytes, ...]
    num_torn_bytes: int = 0
    is_damaged: bool = False


class Journal:
    """A folder's journal, open for writing. `take` one, read what it `found`, `begin`, and `close` or `remove` it."""

    def __init__(self, folder: Path, lock: int, write: Callable[[int, bytes], int]) -> None:
        self._folder = folder
        self._lock = lock
        self._write = write
        self._descriptor = -1
        self._generation = max(_generations(folder), default=0)
        self.num_bytes = 0
        """Of the generation that is written to now."""

    @classmethod
    def take(cls, folder: Path, write: Callable[[int, bytes], int] = os.write) -> Self | None:
        """The journal of a folder, which is made if need be; None while another process has it. Raises Unavailable."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _sentence(folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return cls(folder, lock, write)

    def found(self) -> Replay:
        """Everything in the folder. Raises Unavailable if a file cannot be read at all."""
        payloads: list[bytes] = []
        num_torn, is_damaged = 0, False
        for generation in sorted(_generations(self._folder)):
            # Only the last generation was being written to when the process ended.
            is_damaged = is_damaged or num_torn > 0
            path = self._path(generation)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise _sentence(path, error) from error
            num_read = _read(data, payloads)
            num_torn = len(data) - num_read
            is_damaged = is_damaged or _holds_frame(data, num_read)
        return Replay(tuple(payloads), num_torn, is_damaged)

    def begin(self, payloads: Iterable[bytes]) -> int:
        """Write to a new generation from now on, which opens with these; its number. Raises DiskFull, Unavailable, and
        then goes on writing to the old one."""
        generation = self._generation + 1
        path, data = self._path(generation), b"".join(map(_frame, payloads))
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
            _write_whole(self._write, descriptor, data)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise _sentence(path, error) from error
        self._close_file()
        self._descriptor, self._generation, self.num_bytes = descriptor, generation, len(data)
        return generation

    def append(self, payload: bytes) -> None:
        """Add a record: when this returns, it survives the process. Raises DiskFull or Unavailable; then nothing of it
        is there."""
        frame = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            _write_whole(self._write, self._descriptor, frame)
        except OSError as error:
            # Nothing may follow half a frame, because nobody would find it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.num_bytes)
            raise _sentence(self._folder, error) from error
        self.num_bytes += len(frame)

    def drop_before(self, generation: int) -> None:
        """Delete the generations before one. What cannot be deleted is read again at the next start."""
        for old in _generations(self._folder):
            if old < generation:
                with contextlib.suppress(OSError):
                    self._path(old).unlink()

    def sync(self) -> None:
        """Have everything on the disk itself, so that it survives a loss of power. Raises DiskFull, Unavailable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _sentence(self._folder, error) from error

    def close(self) -> None:
        """Leave what was written for whoever comes next."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete everything that was written, because it is kept elsewhere, and close."""
        self._close_file()
        self.drop_before(self._generation + 1)
        self.close()

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _path(self, generation: int) -> Path:
        return self._folder / f"{generation:08}{_SUFFIX}"


def _generations(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdigit()]


def _frame(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _read(data: bytes, payloads: list[bytes]) -> int:
    """Add the frames of a file until one is not whole; how many bytes they were."""
    at = 0
    while len(data) - at >= _HEAD.size:
        length, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        # A frame has a payload: zeros, which a file system may leave behind after a loss of power, are none.
        if not length or len(payload) != length or zlib.crc32(payload) != checksum:
            break
        payloads.append(payload)
        at += _HEAD.size + length
    return at


def _holds_frame(data: bytes, at: int) -> bool:
    """Whether a whole frame stands behind bytes that are none: then those are not the end that a kill left."""
    if len(data) - at < _HEAD.size:
        return False
    length, _ = _HEAD.unpack_from(data, at)
    behind = at + _HEAD.size + length
    return length > 0 and behind < len(data) and _read(data[behind:], []) > 0


def _write_whole(write: Callable[[int, bytes], int], descriptor: int, data: bytes) -> None:
    while data:
        written = write(descriptor, data)
        if not written:
            raise OSError(errno.ENOSPC, "nothing more can be written")
        data = data[written:]


def _sentence(path: Path, error: OSError) -> HeadraceError:
    reason = error.strerror or error
    if error.errno in _NO_ROOM:
        return DiskFull(
            f"{path} cannot grow ({reason}), and nothing is answered that could not be accounted for; free some space."
        )
    return Unavailable(
        f"{path} cannot be used ({reason}); check the folder's permissions and the disk.", code="journal_unavailable"
    )
