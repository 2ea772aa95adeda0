"""Kept answers, bounded: by bytes (least recently used first out), by age, and by how many questions share one frame.

A pure state machine: the time is passed in, and nothing here waits. What an answer weighs is measured when it is kept.
"""

import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from headrace.core.events import Event
from headrace.gateway.answer_cache.identity import Identity, Owner
from headrace.gateway.settings import Target

MAX_QUESTIONS: Final = 256
"""Of one frame; they are compared one by one."""
MAX_SHARE: Final = 8
"""One answer may take so small a part of the room: one in so many."""
_ENTRY_BYTES: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A kept answer. `vector` is the meaning of its question, None where nobody asked for it."""

    identity: Identity
    target: Target
    events: tuple[Event, ...]
    num_bytes: int
    kept_s: float
    vector: bytes | None = None

    @property
    def key(self) -> tuple[Owner, bytes]:
        """What it is found by."""
        return self.identity.owner, self.identity.digest


class AnswerStore:
    """Entries by what they answer."""

    def __init__(self, *, max_bytes: int, ttl_s: float) -> None:
        self.max_bytes = max_bytes
        self.ttl_s = ttl_s
        self._entries: OrderedDict[tuple[Owner, bytes], Entry] = OrderedDict()
        self._frames: dict[tuple[Owner, bytes], OrderedDict[bytes, Entry]] = {}
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """What all entries weigh."""
        return self._num_bytes

    @property
    def max_entry_bytes(self) -> int:
        """What one answer may weigh."""
        return self.max_bytes // MAX_SHARE - _ENTRY_BYTES

    def find(self, identity: Identity, now_s: float) -> Entry | None:
        """The answer to just this, which thereby is used."""
        entry = self._entries.get((identity.owner, identity.digest))
        if entry is None or self._is_gone(entry, now_s):
            return None
        self._entries.move_to_end(entry.key)
        return entry

    def alike(self, identity: Identity, now_s: float) -> Iterator[Entry]:
        """Answers to other questions in the same frame whose meaning is known."""
        for entry in list(self._frames.get((identity.owner, identity.frame), {}).values()):
            if entry.vector is not None and not self._is_gone(entry, now_s):
                yield entry

    def use(self, entry: Entry) -> None:
        """An answer was given again."""
        if entry.key in self._entries:
            self._entries.move_to_end(entry.key)

    def keep(self, entry: Entry) -> None:
        """Keep an answer, and drop others until there is room. One that is too large for that is not kept."""
        if entry.num_bytes > self.max_entry_bytes:
            return
        before = self._entries.get(entry.key)
        if before is not None:
            self._drop(before)
        self._entries[entry.key] = entry
        self._num_bytes += entry.num_bytes + _ENTRY_BYTES
        if entry.vector is not None:
            questions = self._frames.setdefault((entry.identity.owner, entry.identity.frame), OrderedDict())
            questions[entry.identity.digest] = entry
            if len(questions) > MAX_QUESTIONS:
                self._drop(next(iter(questions.values())))
        while self._num_bytes > self.max_bytes:
            self._drop(next(iter(self._entries.values())))

    def keep_only(self, tenants: Collection[str]) -> int:
        """Drop the answers of all others; how many there were."""
        found = [entry for entry in self._entries.values() if entry.identity.owner.tenant not in tenants]
        for entry in found:
            self._drop(entry)
        return len(found)

    def _is_gone(self, entry: Entry, now_s: float) -> bool:
        if now_s - entry.kept_s < self.ttl_s:
            return False
        self._drop(entry)
        return True

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._num_bytes -= entry.num_bytes + _ENTRY_BYTES
        place = (entry.identity.owner, entry.identity.frame)
        questions = self._frames.get(place)
        if questions is not None and questions.pop(entry.identity.digest, None) is not None and not questions:
            del self._frames[place]


def num_bytes_of(value: Any) -> int:
    """What a value weighs in memory with all that it holds; what is shared is counted each time."""
    size = sys.getsizeof(value)
    if isinstance(value, (tuple, list)):
        return size + sum(map(num_bytes_of, value))
    if isinstance(value, Mapping):
        return size + sum(num_bytes_of(key) + num_bytes_of(one) for key, one in value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return size + sum(num_bytes_of(getattr(value, one.name)) for one in fields(value))
    return size
