"""Which sessions were signed out, in a file that several processes of one state directory share.

    look    its date and size, and what it holds if they are others than last time
    add     under a lock: read what is there, add, forget what is over, put in its place as a whole

A file that is damaged is an error until somebody mends it, since it may name the very session that is asked about. One
that has gone is told once: whoever asks knows what it held. Knows nothing of what a session is.
"""

import fcntl
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from headrace.core.errors import Unavailable
from headrace.core.sessions import bound_ended
from headrace.memory.monitor_state import save_state

MAX_BYTES: Final = 4 * 2**20
"""Five times what as many as are kept can take."""

_logger = logging.getLogger("headrace.memory")


class EndedSessions:
    """Those of one file, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def look(self) -> dict[str, float] | None:
        """Sessions and when they would end, Unix time; None if the file is as it was. Raises Unavailable for one that
        cannot be read or is damaged, however often it is asked."""
        seen = self._stamp()
        if seen == self._seen:
            return None
        if seen is None:
            self._seen = None
            _logger.warning(
                "%s is gone: what was signed out is still known here, and is written down again at the next sign-out; "
                "a server that starts before does not know it.",
                self._path,
            )
            return None
        found = self._read()
        self._seen = seen  # looked at before it was read: what came meanwhile is found by the next look
        return found

    def add(self, ended: Mapping[str, float], now_s: float) -> None:
        """Keep these, too. Raises Unavailable, and the file is as it was."""
        with self._locked():
            save_state(self._path, msgspec.json.encode(bound_ended({**self._read(), **ended}, now_s)))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be looked at ({error.strerror or error}); check it.") from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> dict[str, float]:
        try:
            with self._path.open("rb") as file:
                return _parse(file.read(MAX_BYTES + 1))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read ({error.strerror or error}); check it.") from error
        except ValueError as error:
            raise Unavailable(f"{self._path} is damaged ({error})") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among processes. A file of its own: what is locked must not be put in another's place."""
        try:
            lock = os.open(
                self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise Unavailable(
                f"{self._path} cannot be locked ({error.strerror or error}); check its folder."
            ) from error


def _parse(data: bytes) -> dict[str, float]:
    """Raises ValueError for what is no such list."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    found = msgspec.json.decode(data, type=dict[str, float])  # its errors are ValueErrors
    if not all(map(math.isfinite, found.values())):
        raise ValueError("a time is none")
    return found
