"""A claim on a folder that several processes use: together with others, or alone. Held until it is closed or the
process ends, whatever ends it. Knows nothing of what is done under it."""

import fcntl
import os
from pathlib import Path

from headrace.core.errors import Unavailable


class Claim:
    """A lock file, not held yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self.is_alone: bool | None = None
        """None: it is not held."""

    def take(self, *, alone: bool) -> bool:
        """Hold it beside others, or alone; False, and held as before, if others are in the way. Raises Unavailable."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise Unavailable(
                    f"{self._path} cannot be locked ({error.strerror or error}); check the folder's permissions.",
                    code="ledger_unavailable",
                ) from error
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if self.is_alone is not None and not self._take_back():
                self.is_alone = None
            return False
        self.is_alone = alone
        return True

    def _take_back(self) -> bool:
        """A lock that could not be changed was given up for a moment: whoever else shares it is no hindrance, but
        somebody who took it alone in that moment is."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self.is_alone = -1, None
