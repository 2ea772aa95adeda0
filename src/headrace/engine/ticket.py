"""A request that was submitted to the engine, as its caller holds it. The engine's thread owns what is in it."""

from typing import TYPE_CHECKING

from headrace.core.gateway import EXCHANGE_ID
from headrace.core.watching import ORIGIN
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Sequence

if TYPE_CHECKING:
    from headrace.engine.batch import Batch
    from headrace.engine.lane import Lane


class Ticket:
    """Opaque to callers, who pass it to `cancel`. `origin` is what it is done for, known where it was made, and
    `exchange_id` what the log calls that."""

    __slots__ = ("begun", "exchange_id", "lane", "mailbox", "origin", "sequences")

    def __init__(self, lane: "Lane", mailbox: Mailbox, members: list[Sequence]) -> None:
        self.lane = lane
        self.mailbox = mailbox
        self.origin = ORIGIN.get()
        self.exchange_id = EXCHANGE_ID.get()
        self.sequences = members
        self.begun = False


def exchanges_of(batch: "Batch") -> list[str]:
    """What the log calls those for whom a step is run."""
    tickets = {id(one.owner): one.owner for one in batch.sequences}
    return sorted({ticket.exchange_id for ticket in tickets.values() if isinstance(ticket, Ticket)} - {""})
