"""Who waits, and who goes next: by priority, then the tenant with the least service, then arrival and choice.

Whoever has waited for `aging_s` counts as one priority higher, twice that as two, and so on: so nobody waits for ever,
whatever keeps arriving above. Within one tenant a program-aware order may put others first (`rank`, smaller first),
among the first few and until the oldest has waited for `aging_s`. Time and service come in as values. Knows no pages.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from headrace.engine.fairness import FairShare
from headrace.engine.sequence import Sequence, Work

MAX_RANKED = 64
"""Sequences of one tenant that a rank chooses among."""

_order = attrgetter("order")

Rank = Callable[[Work], float]


@dataclass(slots=True)
class _Offered:
    """Who of one list was offered, and how many of these lead it: a long queue is walked once, not once for each."""

    members: set[Sequence]
    num_leading: int = 0


class WaitingQueue:
    """Waiting sequences, in one list for each priority and tenant, sorted by arrival."""

    def __init__(self, shares: FairShare, aging_s: float, rank: Rank | None = None) -> None:
        self._shares = shares
        self._aging_s = aging_s
        self._rank = rank
        self._lists: dict[tuple[int, str], list[Sequence]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        """All of them; of one priority and tenant in order."""
        for key in sorted(self._lists, key=lambda key: -key[0]):
            yield from self._lists[key]

    def num_of(self, tenant: str) -> int:
        """How many a tenant has here."""
        return sum(len(members) for (_, name), members in self._lists.items() if name == tenant)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence where its priority, tenant and arrival say."""
        insort(self._lists.setdefault(_key(sequence), []), sequence, key=_order)
        self._length += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out that is here."""
        key = _key(sequence)
        members = self._lists[key]
        index = bisect_left(members, sequence.order, key=_order)
        assert members[index] is sequence, "a sequence is not where it should wait"
        del members[index]
        if not members:
            del self._lists[key]
        self._length -= 1

    def candidates(self, now: float) -> Iterator[Sequence]:
        """Everybody once, best first, by the service that tenants have had when asked; the last one may be removed."""
        offered: dict[tuple[int, str], _Offered] = {}
        while True:
            best: tuple[tuple[float, float, int, int], _Offered, Sequence] | None = None
            for key, members in self._lists.items():
                before = offered.setdefault(key, _Offered(set()))
                head = self._head(members, before, now)
                if head is None:
                    continue
                standing = self._standing(head, now)
                if best is None or standing < best[0]:
                    best = standing, before, head
            if best is None:
                return
            _, before, head = best
            before.members.add(head)
            yield head

    def _standing(self, sequence: Sequence, now: float) -> tuple[float, float, int, int]:
        work = sequence.work
        aged = work.priority + max(0.0, now - sequence.arrived) // self._aging_s
        return (-aged, self._shares.service(work.tenant), *sequence.order[1:])

    def _head(self, members: list[Sequence], offered: _Offered, now: float) -> Sequence | None:
        while offered.num_leading < len(members) and members[offered.num_leading] in offered.members:
            offered.num_leading += 1
        first = offered.num_leading
        if first == len(members):
            return None
        rank = self._rank
        if rank is None:
            return members[first]
        if now - members[0].arrived >= self._aging_s:
            return next((one for one in members[first:] if one not in offered.members), None)
        few = members[first : first + MAX_RANKED + len(offered.members)]
        rest = [one for one in few if one not in offered.members]
        return min(rest, key=lambda one: (rank(one.work), one.order), default=None)


def _key(sequence: Sequence) -> tuple[int, str]:
    return sequence.work.priority, sequence.work.tenant
