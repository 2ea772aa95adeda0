"""A request that was submitted to the engine, as its caller holds it. The engine's thread owns what is in it."""

from typing import TYPE_CHECKING

from headrace.core.watching import ORIGIN
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Sequence

if TYPE_CHECKING:
    from headrace.engine.lane import Lane


class Ticket:
    """Opaque to callers, who pass it to `cancel`. `origin` is what it is done for, known where it was made."""

    __slots__ = ("begun", "lane", "mailbox", "origin", "sequences")

    def __init__(self, lane: "Lane", mailbox: Mailbox, members: list[Sequence]) -> None:
        self.lane = lane
        self.mailbox = mailbox
        self.origin = ORIGIN.get()
        self.sequences = members
        self.begun = False
