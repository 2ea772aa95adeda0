"""The seal of the console's sessions, from a key file of the state directory, and which of them were signed out, beside
it. Made when somebody first signs in: until then no cipher is imported and no key kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from headrace.trust.identity.session_seal import AesSeal

_ENDED: Final = ".ended"


class KeptSeal:
    """Implements `core.sessions.SessionSeal`. A restarted server opens what it sealed; without the file, as in a copy
    of a state directory, everybody signs in again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seal: AesSeal | None = None

    def seal(self, content: bytes) -> str:
        """See `SessionSeal`. Raises Unavailable if the key file cannot be used."""
        return self._opened().seal(content)

    def open(self, text: str) -> bytes | None:
        """See `SessionSeal`. Raises Unavailable if the key file cannot be used."""
        return self._opened().open(text)

    def load_ended(self) -> dict[str, float]:
        """See `SessionSeal`. Raises Unavailable for a file that cannot be read or is damaged."""
        from headrace.core.errors import Unavailable
        from headrace.memory.monitor_state import load_state

        path = self._path.with_suffix(_ENDED)
        data = load_state(path)
        try:
            return {} if data is None else {str(name): float(until_s) for name, until_s in json.loads(data).items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise Unavailable(
                f"{path} is damaged ({error}); delete it and {self._path.name} beside it, and everybody signs in at "
                "the console again.",
                code="key_unavailable",
            ) from error

    def save_ended(self, ended: Mapping[str, float]) -> None:
        """See `SessionSeal`."""
        from headrace.memory.monitor_state import save_state

        save_state(self._path.with_suffix(_ENDED), json.dumps(dict(ended)).encode())

    def _opened(self) -> "AesSeal":
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
