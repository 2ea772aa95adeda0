"""Windows: the last inputs of each account, compared with what is usual on their route.

What is usual is a reservoir of inputs, a few of each account, and how far the windows of accounts before lay from it.
An account's own taste puts each of its windows at some distance, so the question is not whether a window differs from
the reservoir (all do) but whether it differs more than nearly all windows of others did: its place among theirs is the
p-value (conformal prediction, Vovk et al. 2005). Before enough windows were seen nothing is said. Of one account only
one window counts among them, so that nobody moves what is usual alone; an unusual one does not count.

An account whose windows are tested day after day is found unusual some day by chance: one unusual window is only noted,
and what the settings want follows where two of its last three are. Values only; random numbers come in.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.trust.monitors.theft.discrepancy import discrepancy
from headrace.trust.monitors.theft.embedding import DIMENSIONS, embed
from headrace.trust.monitors.theft.settings import TheftSettings

MAX_ACCOUNTS: Final = 512
"""Accounts whose window is kept, the latest: half a kilobyte an input."""
MAX_ROUTES: Final = 16
RESERVOIR: Final = 1024
COMPARED: Final = 400
"""Inputs of the reservoir that a window is compared with."""
PER_WINDOW: Final = 8
"""Inputs of one window that may enter the reservoir."""
MAX_DISTANCES: Final = 1000
_HALF = np.float16


@dataclass(frozen=True, slots=True)
class Seen:
    """A window that was full: how far it lay, what share of usual windows lies as far, and whether the account's
    windows keep being unusual. `share` None: not enough is known of what is usual."""

    account: str
    tenant: str
    route: str
    distance: float
    share: float | None
    is_unusual: bool = False
    is_lasting: bool = False


@dataclass(slots=True)
class _Account:
    vectors: NDArray[np.float16]
    num: int = 0
    verdicts: deque[bool] = field(default_factory=lambda: deque(maxlen=3))
    has_counted: bool = False


@dataclass(slots=True)
class _Usual:
    """What is usual on one route."""

    vectors: NDArray[np.float16] = field(default_factory=lambda: np.zeros((RESERVOIR, DIMENSIONS), _HALF))
    num_offered: int = 0
    distances: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_DISTANCES))

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

    @property
    def num_needed(self) -> int:
        """Windows of accounts that must have been seen before one can be called unusual."""
        return int(np.ceil(1.0 / self._false_share)) - 1

    def add(self, account: str, tenant: str, route: str, text: str) -> Seen | None:
        """One more input; what is said of the window that it fills, if it does."""
        key = (account, route)
        mine = self._accounts.get(key)
        if mine is None:
            mine = self._accounts[key] = _Account(np.zeros((self._size, DIMENSIONS), _HALF))
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(key)
        mine.vectors[mine.num] = embed(text)
        mine.num += 1
        if mine.num < self._size:
            return None
        mine.num = 0
        return self._test(Seen(account, tenant, route, 0.0, None), mine)

    def forget(self, account: str) -> None:
        """Begin anew with an account."""
        for key in [key for key in self._accounts if key[0] == account]:
            del self._accounts[key]

    def _test(self, seen: Seen, mine: _Account) -> Seen:
        usual = self._usual_on(seen.route)
        if usual.num < 2 * PER_WINDOW:
            usual.offer(self._some(mine), self._random)
            mine.has_counted = True
            return seen
        picked = self._random.permutation(usual.num)[:COMPARED]
        distance = discrepancy(mine.vectors.astype(np.float32), usual.vectors[picked].astype(np.float32))
        share = None
        if len(usual.distances) >= self.num_needed:
            share = (1 + sum(one >= distance for one in usual.distances)) / (1 + len(usual.distances))
        is_unusual = share is not None and share <= self._false_share
        mine.verdicts.append(is_unusual)
        if not is_unusual and not mine.has_counted:
            mine.has_counted = True
            usual.distances.append(distance)
            usual.offer(self._some(mine), self._random)
        is_lasting = sum(mine.verdicts) >= 2
        return replace(seen, distance=distance, share=share, is_unusual=is_unusual, is_lasting=is_lasting)

    def _usual_on(self, route: str) -> _Usual:
        usual = self._usual.setdefault(route, _Usual())
        self._usual.move_to_end(route)
        if len(self._usual) > MAX_ROUTES:
            self._usual.popitem(last=False)
        return usual

    def _some(self, mine: _Account) -> Iterable[NDArray[np.float16]]:
        return (mine.vectors[one] for one in self._random.permutation(self._size)[:PER_WINDOW])
