"""The seal of the console's sessions, from a key file of the state directory, and which of them were signed out, in a
file beside it. Made when somebody first signs in, and out: until then no cipher is imported and no key kept.

Anybody can send a cookie, so that what is wrong with the files is told to the log, and callers only where to look.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from headrace.memory.ended_sessions import EndedSessions
    from headrace.trust.identity.session_seal import AesSeal

_ENDED: Final = ".ended"

_logger = logging.getLogger("headrace.console")


class KeptSeal:
    """Implements `core.sessions.SessionSeal`. A restarted server opens what it sealed; without the file, as in a copy
    of a state directory, everybody signs in again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seal: AesSeal | None = None
        self._list: EndedSessions | None = None
        self._told = ""  # what is wrong, told once and not at every request

    def seal(self, content: bytes) -> str:
        """See `SessionSeal`."""
        with self._discreet():
            return self._opened().seal(content)

    def open(self, text: str) -> bytes | None:
        """See `SessionSeal`. Where nobody has signed in yet, a cookie is no reason to make a key."""
        with self._discreet():
            if self._seal is None and not self._path.exists():
                return None
            return self._opened().open(text)

    def look_ended(self) -> Mapping[str, float] | None:
        """See `SessionSeal`."""
        with self._discreet():
            return self._ended().look()

    def add_ended(self, ended: Mapping[str, float], now_s: float) -> None:
        """See `SessionSeal`."""
        with self._discreet():
            self._ended().add(ended, now_s)

    @contextmanager
    def _discreet(self) -> Iterator[None]:
        from headrace.core.errors import Unavailable

        try:
            yield
        except (Unavailable, OSError) as error:
            said = str(error).rstrip(".")
            if said != self._told:
                self._told = said
                _logger.error(  # noqa: TRY400  (the reason is all there is to say)
                    "nobody is signed in at the console: %s; if it cannot be mended, delete %s and %s, restart, and "
                    "everybody signs in again.",
                    said,
                    self._path,
                    self._path.with_suffix(_ENDED).name,
                )
            raise Unavailable(
                "the console's sessions cannot be judged now; the server's log says why. A key or token in "
                "'authorization' is good as ever.",
                code="key_unavailable",
            ) from error

    def _ended(self) -> "EndedSessions":
        if self._list is None:
            from headrace.memory.ended_sessions import EndedSessions

            self._list = EndedSessions(self._path.with_suffix(_ENDED))
        return self._list

    def _opened(self) -> "AesSeal":
        if self._seal is None:
            import secrets

            from headrace.core.errors import Unavailable
            from headrace.memory.key_files import read_or_make
            from headrace.trust.identity.session_seal import KEY_BYTES, AesSeal

            key = read_or_make(self._path, lambda: secrets.token_bytes(KEY_BYTES))
            if len(key) != KEY_BYTES:
                raise Unavailable(f"the key file {self._path} has {len(key)} bytes and not {KEY_BYTES}")
            self._seal = AesSeal(key, secrets.token_bytes)
        return self._seal
