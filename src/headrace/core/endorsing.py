"""Endorsements while a server runs: somebody with the right to do so vouches for one call of a tool, or for one value
of one of its arguments. Values, and the protocol of who keeps them; knows no judge and no log.
"""

from dataclasses import dataclass
from typing import Protocol

from headrace.core.request import Principal

SCOPE = "endorse"
"""What a caller needs to make, see and withdraw them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndorsementOrder:
    """What is to be endorsed: calls of `tool` whose digest is `call`, or else `value` (a text or a number) as the
    argument at the path `argument`. It holds for `lifetime_s` and so many `uses` (None: any number), for requests of
    one `session` and of one `subject` alone where those are named."""

    tool: str
    lifetime_s: float
    call: str | None = None
    argument: str | None = None
    value: str | int | float | None = None
    session: str | None = None
    subject: str | None = None
    uses: int | None = 1
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsement:
    """One that was made, `by` whom. `value` is in canonical JSON; `uses` are left, None: any number. Times are Unix
    time. `under`: the blocks of the delegation by which it was made, if by any: it holds for requests under that
    alone."""

    id: str
    tenant: str
    by: str
    tool: str
    made_s: float
    until_s: float
    call: str | None = None
    argument: str | None = None
    value: str | None = None
    session: str | None = None
    subject: str | None = None
    uses: int | None = 1
    num_used: int = 0
    under: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An argument of a withheld call that nobody trusted has said: its path, and its value in canonical JSON. None: too
    long to be shown, or there is no single one."""

    argument: str
    value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WithheldCall:
    """A call that was withheld and that an endorsement of `call`, its digest, would have let pass. `arguments` are its
    JSON text, empty where that is too long to be shown; `policies` and `reason` are those of the denial."""

    tenant: str
    tool: str
    call: str
    arguments: str
    doubts: tuple[Doubt, ...]
    request_id: str
    subject: str
    at_s: float
    session: str | None = None
    under: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    reason: str = ""


class Endorsing(Protocol):
    """The endorsements of a running server. Everybody sees those of the own tenant alone, and who acts on a delegation
    those under that alone."""

    async def endorse(self, principal: Principal, order: EndorsementOrder) -> Endorsement:
        """Make one, in force and written down when the call returns. Raises InvalidRequest, Forbidden for what a
        delegation does not have, Overloaded if there are too many, Unavailable if it cannot be written down."""
        ...

    def endorsements(self, principal: Principal) -> tuple[Endorsement, ...]:
        """Those that hold, oldest first."""
        ...

    async def withdraw(self, principal: Principal, endorsement_id: str) -> Endorsement:
        """End one at once; as it was. Raises NotFound, and Unavailable if that could not be written down: it has ended
        nevertheless."""
        ...

    def withheld(self, principal: Principal) -> tuple[WithheldCall, ...]:
        """Calls that were withheld a while ago and could be endorsed, the latest last."""
        ...
