"""What a browser's session needs of whoever keeps secrets: text that this server sealed, and can open again. And the
error of a session that is none any more.
"""

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


class SessionEnded(Unauthenticated):
    """A session was shown that is none any more."""

    def __init__(self) -> None:
        super().__init__(
            "the sign-in of this page has ended: it expired, was signed out, or its key was taken back; sign in again.",
            code="session_ended",
        )
