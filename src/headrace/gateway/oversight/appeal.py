"""What becomes of a call that was denied: whether endorsements let it pass, and what would have to be endorsed.

    denied --> with endorsed values --> as an endorsed call --> as both --> the first that is allowed is spent
           --> none: would an endorsement of the call help? then it is offered

The judge has the last word every time: an endorsement only alters what it is asked, and what no endorsement lifts (a
changed tool, bounds of a delegation) stays denied. Knows no policies and no log.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from headrace.core.endorsing import Doubt, WithheldCall
from headrace.core.policy import Question
from headrace.core.request import Principal
from headrace.core.trust import Decision
from headrace.gateway.oversight.endorsing import EndorsementKeeper
from headrace.trust.flow.arguments import Vouch
from headrace.trust.flow.endorsement import Asked

MAX_SHOWN: Final = 16_384
"""Characters of a withheld call's arguments that are kept to be shown."""
MAX_DOUBTS: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

Weigh = Callable[[Question], Decision]
Ask = Callable[[Vouch | None, bool], Question]
"""The question about a call: with what is vouched for from beside, and whether the call itself is endorsed."""


@dataclass(frozen=True, slots=True)
class Appeals:
    """Where calls go that were denied. `weigh` decides like the judge, and tells nobody."""

    keeper: EndorsementKeeper
    weigh: Weigh


@dataclass(frozen=True, slots=True)
class Ruling:
    """What was decided with endorsements, by their ids."""

    decision: Decision
    endorsements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Appeal:
    """Of one call."""

    at: Appeals
    asked: Asked
    ask: Ask
    principal: Principal
    request_id: str

    def hear(self) -> Ruling | None:
        """Spend what lets the call pass; None if nothing does, and then nothing is spent."""
        if self.asked.call is None:
            return None
        fitting = self.at.keeper.fitting(self.asked)
        for with_values, with_call in ((True, False), (False, True), (True, True)):
            if (with_values and not fitting.of_values) or (with_call and fitting.of_call is None):
                continue
            used: set[str] = set()
            question = self.ask(fitting.vouching(used) if with_values else None, with_call)
            if with_values and not used:
                continue
            decision = self.at.weigh(question)
            if decision.is_allowed:
                ids = tuple(sorted(used)) + ((fitting.of_call,) if with_call and fitting.of_call else ())
                return Ruling(decision, ids) if self.at.keeper.use(self.principal, ids, self.request_id) else None
        return None

    def offer(self, call: WithheldCall) -> bool:
        """Whether an endorsement of the very call would let it pass; then it is remembered."""
        if self.asked.call is None or not self.at.weigh(self.ask(None, True)).is_allowed:
            return False
        shown = call if len(call.arguments) <= MAX_SHOWN else replace(call, arguments="")
        self.at.keeper.note_withheld(replace(shown, doubts=call.doubts[:MAX_DOUBTS]))
        return True


def offered(call: str, doubts: tuple[Doubt, ...]) -> str:
    """What a refusal says of it. Names only: values are a stranger's words, and so is a name that is no name."""
    names = dict.fromkeys(one.argument for one in doubts if _NAME.fullmatch(one.argument))
    of = f" (in doubt: {', '.join(list(names)[:8])})" if names else ""
    return f" An endorsement of call {call} lets it pass{of}."
