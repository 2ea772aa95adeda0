"""The transparency log's files: tiles, bundles and checkpoints under one folder, each whole or not there.

A file is written beside its place, synced and renamed, and its folder synced, so that neither a kill nor a loss of
power leaves half of one. One process writes at a time, which holds the folder's lock; any may read, and may be a plain
web server. Paths are relative, and come from whoever knows their form. Knows nothing of what is in a file.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final, Self

from headrace.core.errors import Conflict, DiskFull, HeadraceError, Unavailable

CHECKPOINT: Final = "checkpoint"
WITNESSED: Final = "checkpoint.witnessed"
"""The newest checkpoint that a quorum of witnesses cosigned."""

_LOCK: Final = ".lock"
_BESIDE: Final = ".writing"
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SYNCED_AT_ONCE: Final = 8

Write = Callable[[int, bytes], int]


class LogFolder:
    """A log's folder, to read from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str) -> bytes | None:
        """A file; None if there is none. Raises Unavailable if it cannot be read."""
        try:
            return self._place(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise _sentence(self.folder / path, error) from error

    def _place(self, path: str) -> Path:
        parts = PurePosixPath(path).parts
        assert parts and not path.startswith("/") and ".." not in parts, path
        return self.folder.joinpath(*parts)


class LogFiles(LogFolder):
    """A log's folder, to write to as well: `take` it, and `close` it."""

    def __init__(self, folder: Path, lock: int, write: Write) -> None:
        super().__init__(folder)
        self._lock = lock
        self._write = write
        # Syncs of several files at once cost little more than one.
        self._syncing = ThreadPoolExecutor(_SYNCED_AT_ONCE, "headrace-log-sync")

    @classmethod
    def take(cls, folder: Path, write: Write = os.write) -> Self:
        """The files of a folder, which is made if need be. Raises Conflict while another process writes there, and
        Unavailable."""
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _sentence(folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Conflict(
                f"another process writes the log in {folder}, and a log has one writer; stop that process, or give "
                "this one another state directory (--home) or log.folder.",
                code="log_taken",
            ) from None
        files = cls(folder, lock, write)
        # What a killed process left beside its place.
        shutil.rmtree(folder / _BESIDE, ignore_errors=True)
        return files

    def write(self, files: Sequence[tuple[str, bytes]], passing: Sequence[tuple[str, bytes]] = ()) -> None:
        """Put files into their places. `passing` ones can be made again and are not synced: a loss of power may leave
        them empty. Raises DiskFull or Unavailable; some may be in their places then, whole, and writing them again is
        no harm."""
        if self._lock < 0:
            raise Unavailable(f"the log in {self.folder} is closed; nothing can be written.", code="log_unavailable")
        try:
            beside = self.folder / _BESIDE
            beside.mkdir(mode=0o700, exist_ok=True)
            for at, (_, data) in enumerate((*files, *passing)):
                self._write_beside(beside / str(at), data)
            list(self._syncing.map(_sync, (beside / str(at) for at in range(len(files)))))
            folders: set[Path] = set()
            for at, (path, _) in enumerate((*files, *passing)):
                place = self._place(path)
                self._make(place.parent, folders)
                (beside / str(at)).replace(place)
                if at < len(files):
                    folders.add(place.parent)
            list(self._syncing.map(_sync, folders))
        except OSError as error:
            raise _sentence(self.folder, error) from error

    def remove_folders(self, paths: Iterable[str]) -> None:
        """Delete folders with what is in them. What cannot be deleted stays, and is no harm."""
        for path in paths:
            shutil.rmtree(self._place(path), ignore_errors=True)

    def close(self) -> None:
        """Let others write."""
        self._syncing.shutdown()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write_beside(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            while data:
                num_written = self._write(descriptor, data)
                data = data[num_written:] if num_written else _no_room()
        finally:
            os.close(descriptor)

    def _make(self, folder: Path, made: set[Path]) -> None:
        """A folder and those above it; which were changed by that, so that they are synced."""
        if not folder.is_dir():
            self._make(folder.parent, made)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o755)
            made.add(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_room() -> bytes:
    raise OSError(errno.ENOSPC, "nothing more can be written")


def _sentence(path: Path, error: OSError) -> HeadraceError:
    reason = error.strerror or error
    if error.errno in _NO_ROOM:
        return DiskFull(f"{path} cannot grow ({reason}), and nothing can be logged; free some space.")
    return Unavailable(
        f"{path} cannot be used ({reason}); check the folder's permissions and the disk.", code="log_unavailable"
    )
