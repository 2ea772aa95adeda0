"""The file of an issuer's keys: read, and written whole or not at all, by the one process that holds its lock.

Readable by its owner only. Knows bytes: what they say is `trust/spiffe/authority.py`'s.
"""

import os
from pathlib import Path
from typing import Final

from headrace.core.errors import DiskFull, Unavailable
from headrace.memory.claim import Claim

NAME: Final = "authorities.json"
_MAX_BYTES: Final = 4 * 2**20


class AuthorityFile:
    """The file in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._claim = Claim(folder / "lock")

    def open(self) -> None:
        """Make the folder and hold it alone. Raises Unavailable if another process issues from it."""
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{folder} cannot be made ({error.strerror or error}); check its permissions.") from error
        if not self._claim.take(alone=True):
            raise Unavailable(
                f"another process issues identities from {folder}; use its socket, or another home.",
                code="issuer_is_running",
            )

    def close(self) -> None:
        """Let go of it."""
        self._claim.close()

    def load(self) -> bytes | None:
        """What is in it; None if there is none yet. Raises Unavailable if it cannot be read or others could."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise Unavailable(f"{self.path} can be read by others; make it 0600 and its keys new ones.")
                return file.read(_MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(
                f"{self.path} cannot be read ({error.strerror or error}); check its permissions."
            ) from error

    def save(self, text: bytes) -> None:
        """Put it in place; on disk when this returns. Raises DiskFull, and then the one before is there."""
        scratch = self.path.with_name(f"{NAME}.{os.getpid()}.new")
        try:
            scratch.unlink(missing_ok=True)
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise DiskFull(
                f"{self.path} cannot be written ({error.strerror or error}); the keys before stay in force."
            ) from error
