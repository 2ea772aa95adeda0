"""Windows: the last inputs of each account, compared with what is usual on their route, in two ways.

*Distance*: how far the window lies from a reservoir of everybody's inputs, a few of each account. *Sameness*: how many
of its inputs share a template, which shows a crawl that hides among other inputs.

An account's own taste puts each of its windows at some distance, so the question is not whether a window differs from
the reservoir (all do) but whether it differs more than nearly all windows of others did. Those others may have crawls
among them, so only their bulk is believed: up to the ninth decile a p-value is a rank, beyond it a tail as wide as the
bulk is (peaks over threshold, Davison and Smith 1990), so that one crawl in ten windows hides no other that has a long
template (others it does). The p-value of a window is twice the smaller of its two (Bonferroni). Before enough windows
were seen nothing is said. Of an account one window counts, of a tenant a few, so that nobody moves what is usual alone.

An account whose windows are tested day after day is found unusual some day by chance: one unusual window is only noted,
and what the settings want follows where two of its last three are. Values only; random numbers come in.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.trust.monitors.theft.discrepancy import discrepancy
from headrace.trust.monitors.theft.embedding import DIMENSIONS, embed, spread_of, weighed
from headrace.trust.monitors.theft.sameness import MAX_GRAMS, grams_at_ends, sameness
from headrace.trust.monitors.theft.settings import TheftSettings

MAX_ACCOUNTS: Final = 256
"""Accounts whose window is kept, the latest: a kilobyte an input."""
MAX_ROUTES: Final = 16
RESERVOIR: Final = 1024
COMPARED: Final = 400
"""Inputs of the reservoir that a window is compared with."""
PER_WINDOW: Final = 8
"""Inputs of one window that may enter the reservoir."""
MIN_RESERVOIR: Final = 64
"""Inputs in the reservoir from which on distances to it count."""
PER_TENANT: Final = 10
"""Windows of one tenant that count as usual."""
MIN_WINDOWS, MAX_WINDOWS = 60, 1000
"""Windows that must have counted before one can be called unusual, and that are remembered."""
_HALF = np.float16
_LEAST_INPUTS: Final = 2.0
"""By which samenesses of usual windows differ at least: else three equal inputs stood out where nobody has two."""
_TAIL, _SAMPLE = 6.0, 8.0
"""How heavy a tail is for good, and how much it is for a window that was seen (see `tail_share`)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A window that was full: how far it lay, what share of its inputs is by one template, what share of usual windows
    is as unusual, and whether the account's windows keep being so. `share` None: not enough is known of what is
    usual."""

    account: str
    tenant: str
    route: str
    distance: float = 0.0
    sameness: float = 0.0
    share: float | None = None
    is_unusual: bool = False
    is_lasting: bool = False


@dataclass(slots=True)
class _Account:
    vectors: NDArray[np.float16]
    grams: NDArray[np.uint32]
    num: int = 0
    verdicts: deque[bool] = field(default_factory=lambda: deque(maxlen=3))
    has_counted: bool = False


@dataclass(slots=True)
class _Usual:
    """What is usual on one route."""

    vectors: NDArray[np.float16] = field(default_factory=lambda: np.zeros((RESERVOIR, DIMENSIONS), _HALF))
    num_offered: int = 0
    distances: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_WINDOWS))
    samenesses: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_WINDOWS))
    tenants: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_WINDOWS))

    def share(self, distance: float, sameness: float, least_step: float) -> float | None:
        """What share of usual windows is as unusual, in one way or the other; None: not enough is known."""
        if len(self.distances) < MIN_WINDOWS:
            return None
        by_distance = tail_share(self.distances, distance)
        return min(1.0, 2 * min(by_distance, tail_share(self.samenesses, sameness, least_step)))

    @property
    def num(self) -> int:
        """Inputs in the reservoir."""
        return min(self.num_offered, RESERVOIR)

    def offer(self, vectors: Iterable[NDArray[np.float16]], random: np.random.Generator) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R)."""
        for vector in vectors:
            place = self.num_offered if self.num_offered < RESERVOIR else int(random.integers(self.num_offered + 1))
            self.num_offered += 1
            if place < RESERVOIR:
                self.vectors[place] = vector


class WindowWatch:
    """The windows of all accounts."""

    def __init__(self, settings: TheftSettings, random: np.random.Generator) -> None:
        self._size = settings.window_size
        self._false_share = settings.window_false_share
        self._random = random
        self._accounts: OrderedDict[tuple[str, str], _Account] = OrderedDict()
        self._usual: OrderedDict[str, _Usual] = OrderedDict()

    def add(self, account: str, tenant: str, route: str, text: str) -> Seen | None:
        """One more input; what is said of the window that it fills, if it does."""
        key = (account, route)
        mine = self._accounts.get(key)
        if mine is None:
            grams = np.zeros((self._size, MAX_GRAMS), np.uint32)
            mine = self._accounts[key] = _Account(np.zeros((self._size, DIMENSIONS), _HALF), grams)
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(key)
        mine.vectors[mine.num] = embed(text)
        mine.grams[mine.num] = grams_at_ends(text.split())
        mine.num += 1
        if mine.num < self._size:
            return None
        seen = self._test(Seen(account, tenant, route), mine)
        mine.num = 0
        return seen

    def forget(self, account: str) -> None:
        """Begin anew with an account."""
        for key in [key for key in self._accounts if key[0] == account]:
            del self._accounts[key]

    def _test(self, seen: Seen, mine: _Account) -> Seen:
        usual = self._usual_on(seen.route)
        may_count = not mine.has_counted and usual.tenants.count(seen.tenant) < PER_TENANT
        mine.has_counted = True
        if usual.num >= MIN_RESERVOIR:
            others = usual.vectors[self._random.permutation(usual.num)[:COMPARED]].astype(np.float32)
            spread = spread_of(others)
            distance = discrepancy(weighed(mine.vectors.astype(np.float32), spread), weighed(others, spread))
            same = sameness(mine.grams)
            share = usual.share(distance, same, _LEAST_INPUTS / self._size)
            is_unusual = share is not None and share <= self._false_share
            mine.verdicts.append(is_unusual)
            seen = replace(seen, distance=distance, sameness=same, share=share)
            seen = replace(seen, is_unusual=is_unusual, is_lasting=sum(mine.verdicts) >= 2)
            if may_count:
                usual.distances.append(distance)
                usual.samenesses.append(same)
                usual.tenants.append(seen.tenant)
        if may_count:
            usual.offer(self._some(mine), self._random)
        return seen

    def _usual_on(self, route: str) -> _Usual:
        usual = self._usual.setdefault(route, _Usual())
        self._usual.move_to_end(route)
        if len(self._usual) > MAX_ROUTES:
            self._usual.popitem(last=False)
        return usual

    def _some(self, mine: _Account) -> Iterable[NDArray[np.float16]]:
        return (mine.vectors[one] for one in self._random.permutation(self._size)[:PER_WINDOW])


def tail_share(known: Iterable[float], value: float, least_width: float = 1e-9) -> float:
    """What share of values like those known is as large as this one: a rank among them with itself, and beyond their
    ninth decile a generalised Pareto tail (Pickands 1975) that has their median and ninth decile as an exponential one
    would. Its shape is 1 / `_TAIL` for tails that are heavier than that, and `_SAMPLE` over their number for what so
    few know of its width, with which an exponential tail is kept to at any number from 60 on."""
    values = np.asarray(list(known))
    middle, high = (float(one) for one in np.quantile(values, (0.5, 0.9)))
    if value <= high:
        return float(np.count_nonzero(values >= value) + 1) / (len(values) + 1)
    width = max((high - middle) / math.log(5.0), least_width)
    shape = 1 / _TAIL + _SAMPLE / len(values)
    return float(0.1 * (1 + shape * (value - high) / width) ** (-1 / shape))
