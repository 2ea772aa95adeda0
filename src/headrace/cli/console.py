"""The seal of the console's sessions, from a key file of the state directory. Made when somebody first signs in: until
then no cipher is imported and no key kept."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.core.sessions import SessionSeal


class KeptSeal:
    """Implements `core.sessions.SessionSeal`. A restarted server opens what it sealed; without the file, as in a copy
    of a state directory, everybody signs in again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seal: SessionSeal | None = None

    def seal(self, content: bytes) -> str:
        """See `SessionSeal`. Raises Unavailable if the key file cannot be used."""
        return self._opened().seal(content)

    def open(self, text: str) -> bytes | None:
        """See `SessionSeal`. Raises Unavailable if the key file cannot be used."""
        return self._opened().open(text)

    def _opened(self) -> "SessionSeal":
        if self._seal is None:
            import secrets

            from headrace.core.errors import Unavailable
            from headrace.memory.key_files import read_or_make
            from headrace.trust.identity.session_seal import KEY_BYTES, AesSeal

            key = read_or_make(self._path, lambda: secrets.token_bytes(KEY_BYTES))
            if len(key) != KEY_BYTES:
                raise Unavailable(
                    f"the key file {self._path} has {len(key)} bytes and not {KEY_BYTES}; delete it, and everybody "
                    "signs in at the console again.",
                    code="key_unavailable",
                )
            self._seal = AesSeal(key, secrets.token_bytes)
        return self._seal
