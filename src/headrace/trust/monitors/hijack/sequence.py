"""What an agent's calls are compared with: its own calls before. Counts of short sequences, destinations, denials.

Surprise is that of a trigram model over (tool, whether trusted people asked), backed off to shorter sequences by
interpolation: how many bits the next call was worth, as a share of what one that was never seen is worth. Bounded in
agents, sequences and destinations; values in, values out.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

MAX_AGENTS: Final = 4096
MAX_SEQUENCES: Final = 2048
MAX_DESTINATIONS: Final = 4096
MIN_CALLS: Final = 50
"""Calls before an agent has habits."""
_RECENT: Final = 50
_SHARES: Final = (0.2, 0.3, 0.5)  # of sequences of one, two and three


@dataclass(slots=True)
class _Agent:
    last: deque[Hashable] = field(default_factory=lambda: deque(maxlen=2))
    counts: OrderedDict[tuple[Hashable, ...], int] = field(default_factory=OrderedDict)
    denials: deque[bool] = field(default_factory=lambda: deque(maxlen=_RECENT))
    destinations: OrderedDict[int, None] = field(default_factory=OrderedDict)
    num_calls: int = 0


class Habits:
    """What every agent did before."""

    def __init__(self) -> None:
        self._agents: OrderedDict[str, _Agent] = OrderedDict()

    def surprise(self, agent: str, call: Hashable) -> float:
        """How unlike an agent its next call is, in [0, 1]; 0 while it has no habits."""
        known = self._agents.get(agent)
        if known is None or known.num_calls < MIN_CALLS:
            return 0.0
        worst = known.num_calls + 1.0
        likely = 1.0 / worst
        last = tuple(known.last)
        for length, share in enumerate(_SHARES):
            before = last[len(last) - length :] if length else ()
            if len(before) < length:
                continue
            total = known.counts.get(("total", *before), 0)
            if total:
                likely += share * known.counts.get((*before, call), 0) / total
        return max(0.0, min(1.0, -math.log2(min(1.0, likely)) / math.log2(worst)))

    def saw(self, agent: str, call: Hashable, *, is_denied: bool) -> None:
        """A call was made, or denied."""
        known = self._agents.setdefault(agent, _Agent())
        self._agents.move_to_end(agent)
        if len(self._agents) > MAX_AGENTS:
            self._agents.popitem(last=False)
        known.denials.append(is_denied)
        if not is_denied:  # what was withheld is no habit
            last = tuple(known.last)
            for length in range(min(len(last), 2) + 1):
                before = last[len(last) - length :] if length else ()
                for key in ((*before, call), ("total", *before)):
                    known.counts[key] = known.counts.get(key, 0) + 1
                    known.counts.move_to_end(key)
            while len(known.counts) > MAX_SEQUENCES:
                known.counts.popitem(last=False)
            known.last.append(call)
            known.num_calls += 1

    def num_denied(self, agent: str) -> int:
        """How many of its latest calls were denied."""
        known = self._agents.get(agent)
        return 0 if known is None else sum(known.denials)

    def is_new_destination(self, agent: str, destination: str) -> bool:
        """Whether an agent with habits sends somewhere for the first time; remembered from then on."""
        known = self._agents.setdefault(agent, _Agent())
        key = hash(destination)
        is_new = key not in known.destinations
        known.destinations[key] = None
        known.destinations.move_to_end(key)
        if len(known.destinations) > MAX_DESTINATIONS:
            known.destinations.popitem(last=False)
        return is_new and known.num_calls >= MIN_CALLS
