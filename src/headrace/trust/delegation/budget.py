"""What is done under delegations, counted for each block by itself: a sub-agent's ten requests are ten of its parent's,
too, and not the other way round.

What a request could cost is set aside before it goes anywhere and becomes what it cost at its end, so that requests at
once cannot spend what is there for one. Decides without I/O; who keeps counts is told by `take_changes`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.trust.delegation.grant import Block

MAX_COUNTS: Final = 100_000
MAX_COUNTS_OF_ONE: Final = 10_000
"""Those of one tenant: whoever holds a token can make any number of others of it."""


@dataclass(slots=True)
class Count:
    """Under one block: what was done, and what is set aside for what is under way. It is needed until `until_s`;
    `tenant` is empty of those that were there at the start."""

    num_calls: int = 0
    nanos: int = 0
    until_s: float = math.inf
    held_nanos: int = 0
    num_running: int = 0
    tenant: str = ""


class Reservation:
    """What is set aside for one request, settled once."""

    __slots__ = ("_blocks", "_budgets", "_is_settled", "nanos")

    def __init__(self, budgets: "DelegationBudgets", blocks: Sequence[Block]) -> None:
        self.nanos = 0
        self._budgets = budgets
        self._blocks = blocks
        self._is_settled = False

    def covers(self, nanos: int) -> bool:
        """Set aside so much at least, if it is there under every block; else nothing changes."""
        more = nanos - self.nanos
        if more <= 0:
            return True
        if any((left := self._budgets.left_nanos(one)) is not None and left < more for one in self._blocks):
            return False
        self._add(more)
        return True

    def settle(self, nanos: int, *, is_call: bool) -> None:
        """It is over and has cost so much; `is_call`: it reached somebody. A second time changes nothing."""
        if self._is_settled:
            return
        self._is_settled = True
        self._add(-self.nanos)
        self._budgets.end(self._blocks, nanos, is_call=is_call)

    def _add(self, nanos: int) -> None:
        self.nanos += nanos
        for one in self._blocks:
            self._budgets.count(one).held_nanos += nanos


class DelegationBudgets:
    """All counts of a process."""

    def __init__(self, counts: Mapping[str, tuple[int, int, float]] | None = None) -> None:
        """`counts` are calls, billionths and until when they count, by revocation id, as they were before."""
        self._counts = {name: Count(*kept) for name, kept in (counts or {}).items()}
        self._changed: set[str] = set()
        self._num_of: Counter[str] = Counter()
        self._forgot_s = -math.inf

    def count(self, block: Block) -> Count:
        """What was done under a block."""
        return self._counts.setdefault(block.revocation_id, Count(until_s=block.until_s))

    def left_nanos(self, block: Block) -> int | None:
        """What may still be spent under a block, None without a bound; below 0 where something cost more than its
        bound."""
        if block.bounds.max_cost_nanos is None:
            return None
        count = self._counts.get(block.revocation_id, _NOTHING)
        return block.bounds.max_cost_nanos - count.nanos - count.held_nanos

    def left_calls(self, block: Block) -> int | None:
        """How many requests may still begin under a block."""
        if block.bounds.max_calls is None:
            return None
        count = self._counts.get(block.revocation_id, _NOTHING)
        return block.bounds.max_calls - count.num_calls

    def begin(self, blocks: Sequence[Block], now_s: float, tenant: str = "") -> Reservation | str:
        """One more request under these blocks, or why there may be none."""
        for one in blocks:
            if (calls := self.left_calls(one)) is not None and calls <= 0:
                return f"the delegation's {one.bounds.max_calls} requests are used up"
            if (nanos := self.left_nanos(one)) is not None and nanos <= 0:
                return "the delegation's budget is used up, or set aside for what is under way"
        bounded = _bounded(blocks)
        if why := self._make_room(bounded, now_s, tenant):
            return why
        for one in bounded:
            count = self.count(one)
            count.num_calls += 1
            count.num_running += 1
        return Reservation(self, bounded)

    def end(self, blocks: Sequence[Block], nanos: int, *, is_call: bool) -> None:
        """What a reservation came to."""
        for one in blocks:
            count = self.count(one)
            count.num_running -= 1
            count.nanos += nanos
            count.num_calls -= 0 if is_call else 1
            self._changed.add(one.revocation_id)

    def left(self, blocks: Iterable[Block]) -> dict[str, int]:
        """What policies may know: `left_nanos` and `left_calls`, where they are bounded."""
        blocks = list(blocks)
        given = {
            "left_nanos": [left for one in blocks if (left := self.left_nanos(one)) is not None],
            "left_calls": [left for one in blocks if (left := self.left_calls(one)) is not None],
        }
        return {name: max(0, min(values)) for name, values in given.items() if values}

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would give any."""
        return bool(self._changed)

    def take_changes(self) -> dict[str, tuple[int, int, float]]:
        """Counts that changed since the last time, to be kept, as they are given at the start."""
        changed, self._changed = self._changed, set()
        return {
            name: (one.num_calls, one.nanos, one.until_s)
            for name in changed
            if (one := self._counts.get(name)) is not None
        }

    def _make_room(self, bounded: Sequence[Block], now_s: float, tenant: str) -> str:
        """Why these blocks cannot be counted. A count that is forgotten is a budget that begins anew: only those that
        no token needs any more go, and a tenant that has ever more tokens in use is refused."""
        new = [one for one in bounded if one.revocation_id not in self._counts]
        if not new:
            return ""
        if self._is_full(len(new), tenant):
            self._forget(now_s)
            if self._is_full(len(new), tenant):
                return "too many delegations are in use at once"
        for one in new:
            self._counts[one.revocation_id] = Count(until_s=one.until_s, tenant=tenant)
        self._num_of[tenant] += len(new)
        return ""

    def _is_full(self, num_new: int, tenant: str) -> bool:
        return len(self._counts) + num_new > MAX_COUNTS or self._num_of[tenant] + num_new > MAX_COUNTS_OF_ONE

    def _forget(self, now_s: float) -> None:
        if now_s < self._forgot_s + 1:
            return  # looking through all of them takes a moment, which a tenant that is full must not take each time
        self._forgot_s = now_s
        over = [name for name, one in self._counts.items() if one.until_s <= now_s and not one.num_running]
        for name in over:
            self._num_of[self._counts.pop(name).tenant] -= 1


def _bounded(blocks: Iterable[Block]) -> tuple[Block, ...]:
    return tuple(one for one in blocks if one.bounds.max_calls is not None or one.bounds.max_cost_nanos is not None)


_NOTHING: Final = Count()
