"""What a browser's session needs of whoever keeps secrets: text that this server sealed, and can open again; and which
sessions were signed out, here or at another process of the same state. And the error of a session that is none any
more.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from headrace.core.errors import Unauthenticated

MAX_ENDED: Final = 10_000


class SessionSeal(Protocol):
    """Seals what cookies hold, and keeps what was signed out. What it raises is fit for whoever is not signed in."""

    def seal(self, content: bytes) -> str:
        """A text of letters, digits, `-` and `_` that only this server can read, and nobody can change. Raises
        Unavailable."""
        ...

    def open(self, text: str) -> bytes | None:
        """What was sealed; None for what was not sealed here, or was changed. Raises Unavailable."""
        ...

    def look_ended(self) -> Mapping[str, float] | None:
        """Sessions that were signed out, by whatever process of this state, each with when it would end, Unix time.
        None if none came since this was last asked: all that costs is a look at a file's date. Raises Unavailable."""
        ...

    def add_ended(self, ended: Mapping[str, float], now_s: float) -> None:
        """Keep these, too, for every process of this state; forget those that have ended by `now_s`. May wait for a
        disk. Raises Unavailable."""
        ...


def bound_ended(ended: Mapping[str, float], now_s: float) -> dict[str, float]:
    """Of sessions that were signed out those that would go on at `now_s`, at most MAX_ENDED: those that would go on
    longest. Whatever the order in which processes learn of them, they come to the same."""
    going = {session_id: until_s for session_id, until_s in ended.items() if until_s > now_s}
    if len(going) <= MAX_ENDED:
        return going
    kept = sorted(going.items(), key=lambda one: (one[1], one[0]))[-MAX_ENDED:]
    return dict(kept)


class SessionEnded(Unauthenticated):
    """A session was shown that is none any more."""

    def __init__(self) -> None:
        super().__init__(
            "the sign-in of this page has ended: it expired, was signed out, or its key was taken back; sign in again.",
            code="session_ended",
        )
