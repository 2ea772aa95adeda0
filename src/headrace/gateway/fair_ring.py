"""The newest entries of many holders in bounded room: what has to go is the oldest of whoever holds most.

So nobody is pushed out by somebody who has more: a holder with no more than an even share keeps all of it. Every step
takes the same time, however many holders there are. Knows no entries.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairRing(Generic[T]):
    """At most `max_len` entries."""

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self._num = 0
        self._queues: dict[str, deque[T]] = {}
        self._of_len: dict[int, dict[str, None]] = {}  # who holds so many
        self._most = 0

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[T]:
        """Those of one holder after the other, oldest first."""
        for queue in self._queues.values():
            yield from queue

    def push(self, holder: str, entry: T) -> T | None:
        """Take one in; the one that had to go for it, if one had to."""
        queue = self._queues.get(holder)
        if self._num >= self.max_len:
            if not self.max_len:
                return entry
            if queue is not None and len(queue) == self._most:
                gone = queue.popleft()
                queue.append(entry)
                return gone
            gone = self._pop()
            queue = self._queues.get(holder)
            self._add(holder, queue, entry)
            return gone
        self._add(holder, queue, entry)
        return None

    def resize(self, max_len: int) -> list[T]:
        """Have room for more or fewer; those that had to go."""
        self.max_len = max_len
        return [self._pop() for _ in range(self._num - max_len)]

    def _add(self, holder: str, queue: deque[T] | None, entry: T) -> None:
        if queue is None:
            queue = self._queues[holder] = deque()
        else:
            self._leave(len(queue), holder)
        queue.append(entry)
        self._num += 1
        self._join(len(queue), holder)

    def _pop(self) -> T:
        holder = next(iter(self._of_len[self._most]))
        queue = self._queues[holder]
        num = len(queue)
        self._leave(num, holder)
        gone = queue.popleft()
        self._num -= 1
        if num > 1:
            self._join(num - 1, holder)
        else:
            del self._queues[holder]
        if num not in self._of_len:
            self._most = num - 1  # whoever held most holds one less, so that this is somebody's
        return gone

    def _join(self, num: int, holder: str) -> None:
        self._of_len.setdefault(num, {})[holder] = None
        self._most = max(self._most, num)

    def _leave(self, num: int, holder: str) -> None:
        group = self._of_len[num]
        del group[holder]
        if not group:
            del self._of_len[num]
