"""Proof of what was answered: what is logged, and who takes it in, keeps it and gives it out. Values and protocols.

Knows neither what a record says (`trust/records`) nor how a log is made (`trust/log`).
"""

from dataclasses import dataclass
from typing import Protocol

from headrace.core.request import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class LogItem:
    """One thing for the log. `entry` is what the log holds for ever and everybody may read, 65,535 bytes at most: a
    commitment. What it commits to is kept beside it and can be erased: `envelope` (a signed statement), `secrets` (the
    nonces that open its commitments), `content` (what was asked and answered, where that is kept). `kind` is record,
    delegation, revocation, endorsement or evidence; `tenant` is whose it is."""

    id: str
    kind: str
    tenant: str
    entry: bytes
    envelope: bytes
    secrets: bytes = b""
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """An item as the log has it. `index` is its leaf, None while it is not in a checkpoint; erased parts are empty."""

    item: LogItem
    index: int | None = None


class Notary(Protocol):
    """Takes in what is to be logged."""

    def submit(self, item: LogItem) -> None:
        """Take one in. Never waits; what was taken in is durable and in a checkpoint within the log's merge delay.
        Raises Unavailable if it can take none now: its queue is full, or its disk is."""
        ...

    def check(self) -> None:
        """Raise what `submit` would raise now. Costs nothing: it is asked before each request that must be recorded."""
        ...


class Log(Notary, Protocol):
    """A notary, and what its log can show."""

    @property
    def origin(self) -> str:
        """The log's name, the first line of its checkpoints."""
        ...

    async def merged(self, item_id: str, *, hurries: bool = False) -> int:
        """The index of an item, as soon as a checkpoint covers it. Raises NotFound for an id that was never submitted,
        and what ended the log if it ends before. `hurries`: an answer is held until then, so the log gathers no longer,
        and what keeps it from being written is raised at once."""
        ...

    async def prove(self, index: int) -> bytes:
        """The text of a C2SP tlog-proof: that the entry of an index is in the tree of the newest checkpoint, which
        stands in it with all cosignatures that there are. Raises NotFound if no checkpoint covers it yet."""
        ...


class Receipt(Protocol):
    """The record of one answer, while the answer is on its way."""

    @property
    def id(self) -> str:
        """Under which the record is found: GET /v1/provenance/{id}. Letters, digits and underscores."""
        ...

    def seal(self, digest: bytes | None) -> bytes | None:
        """The answer's last byte is known: finish, sign and submit the record, once.

        `digest` is the SHA-256 of the bytes that were sent (of a stream, without its comments), None if nobody made
        any. The signed envelope, in JSON; None if it was sealed before.
        """
        ...

    @property
    def waits(self) -> bool:
        """Whether the end of the answer must not go out before the record is `kept`."""
        ...

    async def kept(self) -> None:
        """Return once the sealed record is durable and in the log. Raises the HeadraceError that says why it is not
        there; then the answer must not go out."""
        ...


class RecordBook(Protocol):
    """What a server gives out of the records."""

    @property
    def trusted(self) -> bytes:
        """The trust file by which the server would have itself verified (C2SP tlog-policy, with lines for nodes). It
        proves nothing of the server that tells it: whoever keeps it notices when another one is told."""
        ...

    async def bundle(self, record_id: str, principal: Principal, wait_s: float = 0.0) -> bytes:
        """A record with all that verifies it offline, in JSON: for its own tenant, and for the scope `audit`. Waits so
        long for its proof of inclusion. Raises NotFound."""
        ...

    async def erase(self, record_id: str, principal: Principal) -> None:
        """Forget what opens a record, and what was asked and answered; that it was, the log says for ever. For its own
        tenant, and for the scope `admin`. Raises NotFound, and Forbidden for who acts on a delegation."""
        ...
