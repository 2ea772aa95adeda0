"""Delegating and taking back while a server runs. The protocol of who does it; knows no tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.core.request import Principal
from headrace.core.trust import Effect


@dataclass(frozen=True, slots=True)
class Revoked:
    """A block that is void, and every delegation with it. `revoked_s` is Unix time."""

    id: str
    revoked_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationOrder:
    """What a caller hands on, `to` whom, for `lifetime_s`; None: not bounded by it. `max_cost_nanos` in billionths."""

    to: str
    lifetime_s: float
    models: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    effects: frozenset[Effect] | None = None
    labels: frozenset[str] | None = None
    max_cost_nanos: int | None = None
    max_calls: int | None = None
    max_depth: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """A token, told this once; `id` is that of its block, by which it is taken back. `expires_s` is Unix time."""

    id: str
    token: str
    expires_s: float


class Delegating(Protocol):
    """Delegations of a running server."""

    def delegate(self, principal: Principal, order: DelegationOrder) -> Delegated:
        """Hand on a part of a caller's own rights. Raises InvalidRequest for what cannot be, and Forbidden for a caller
        that acts on a delegation itself: it narrows its own."""
        ...

    async def revoke(self, ids: Sequence[str], reason: str) -> tuple[Revoked, ...]:
        """Void every delegation that has one of these blocks, now and after a restart. Raises Unavailable."""
        ...

    async def revoked(self) -> tuple[Revoked, ...]:
        """All that are, oldest first."""
        ...
