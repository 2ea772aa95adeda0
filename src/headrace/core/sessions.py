"""What a browser's session needs of whoever keeps secrets: text that this server sealed, and can open again; and which
sessions were signed out. And the error of a session that is none any more.
"""

from collections.abc import Mapping
from typing import Protocol

from headrace.core.errors import Unauthenticated


class SessionSeal(Protocol):
    """Seals what a cookie holds."""

    def seal(self, content: bytes) -> str:
        """A text of letters, digits, `-` and `_` that only this server can read, and nobody can change."""
        ...

    def open(self, text: str) -> bytes | None:
        """What was sealed; None for what was not sealed here, or was changed."""
        ...

    def load_ended(self) -> dict[str, float]:
        """Sessions that were signed out and would last longer, each with when it would end, Unix time."""
        ...

    def save_ended(self, ended: Mapping[str, float]) -> None:
        """Keep these in the place of those before. May wait for a disk. Raises Unavailable."""
        ...


class SessionEnded(Unauthenticated):
    """A session was shown that is none any more."""

    def __init__(self) -> None:
        super().__init__(
            "the sign-in of this page has ended: it expired, was signed out, or its key was taken back; sign in again.",
            code="session_ended",
        )
