"""Taking delegations back while a server runs. The protocol of who does it; knows no tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Revoked:
    """A block that is void, and every delegation with it. `revoked_s` is Unix time."""

    id: str
    revoked_s: float
    reason: str = ""


class Delegating(Protocol):
    """Delegations of a running server."""

    async def revoke(self, ids: Sequence[str], reason: str) -> tuple[Revoked, ...]:
        """Void every delegation that has one of these blocks, now and after a restart. Raises Unavailable."""
        ...

    async def revoked(self) -> tuple[Revoked, ...]:
        """All that are, oldest first."""
        ...
