"""Secret keys in files of their own, which nobody but their owner may read: made once, and read again.

Knows nothing of what is in one.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace.core.errors import Unavailable

LOG_KEYS: Final = "log.keys"
"""The transparency log's, of which there must be one: no copy of a state directory has it."""


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes of a key file; if there is none, those that `make` returns, which are there for good afterwards. Of
    two processes that make one at once, both get the same.

    Raises Unavailable if it cannot be read or made, or if others than its owner may read it.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)  # fails if another was quicker, unlike a rename
        finally:
            beside.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return _read(path)
    except OSError as error:
        raise Unavailable(
            f"the key file {path} cannot be used ({error.strerror or error}); check the folder's permissions.",
            code="key_unavailable",
        ) from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise Unavailable(
                f"others may read the key file {path}; forbid it (chmod 600), or replace the key if they did.",
                code="key_unavailable",
            )
        return file.read()
