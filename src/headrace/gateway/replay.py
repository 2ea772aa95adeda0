"""Kept answers on their way to a caller again: what they are charged. Knows no cache."""

import math

from headrace.core.events import Event, Usage
from headrace.core.gateway import EventReply
from headrace.gateway.answer import EventAnswer
from headrace.gateway.charging import NOTHING, Charge, Heard, estimated, told
from headrace.gateway.contract import Kept
from headrace.gateway.passage import Passage, hear


class Replay:
    """Counts a kept answer: a share of what it cost, as the settings say, and the rest was saved."""

    def __init__(self, passage: Passage, kept: Kept) -> None:
        self._passage = passage
        self._target = kept.target
        self._heard = Heard()
        self._is_over = False

    def hear(self, event: Event) -> None:
        """An event passes."""
        if hear(self._heard, event) and self._passage.first_s is None:
            self._passage.first_s = self._passage.clock.monotonic_s()

    def end(self, usage: Usage | None, error: BaseException | None) -> None:
        """It is over; one that its reader left is charged for what was heard of it."""
        if self._is_over:
            return
        self._is_over = True
        passage = self._passage
        model = passage.parts.tariffs.model(self._target)
        charge = None if usage is None else told(usage, model.prices)
        if charge is None:
            candidate = passage.candidates[0]
            charge = estimated(passage.ask.shape, candidate, model, self._heard, is_whole=False)
        passage.charge = shared(charge, passage.parts.settings.cache.price_share)


def shared(charge: Charge, share: float) -> Charge:
    """What is charged of an answer that was given before. Tokens are charged by the same share, rounded up."""
    if share == 0.0:
        return Charge(saved_nanos=charge.cost_nanos + charge.saved_nanos) if charge is not NOTHING else NOTHING
    cost = math.ceil(charge.cost_nanos * share)
    return Charge(
        math.ceil(charge.prompt_tokens * share),
        math.ceil(charge.completion_tokens * share),
        cost_nanos=cost,
        saved_nanos=charge.saved_nanos + charge.cost_nanos - cost,
        is_estimated=charge.is_estimated,
    )


def replay(passage: Passage, kept: Kept) -> EventReply:
    """A kept answer for the caller."""
    taken = passage.taken
    taken.cache, taken.source = kept.kind, kept.source
    taken.backend, taken.model = kept.target.backend, kept.target.model
    if passage.chain is not None:
        passage.chain.case.target = kept.target
    passage.note_overhead()
    return EventReply(events=EventAnswer(passage, Replay(passage, kept), kept.events), taken=taken)
