"""Which pages are on disk, least recently used first, and which of them must go when space or time is up.

Values in, values out: no file system and no clock. One thread changes it; others may ask whether a name is in it at any
time (one look-up in a dictionary), and learn the truth when they read the file.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class IndexEntry:
    """One file. `used_ns` is Unix time in nanoseconds."""

    path: Path
    size: int
    used_ns: int


class DiskIndex:
    """Entries by name. `num_bytes` is the sum of their sizes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, IndexEntry] = OrderedDict()
        self.num_bytes = 0

    def __contains__(self, name: bytes) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: bytes) -> IndexEntry | None:
        """The entry of that name, if there is one."""
        return self._entries.get(name)

    def add(self, name: bytes, entry: IndexEntry) -> None:
        """A file that was used later than all others; replaces one of the same name."""
        self.remove(name)
        self._entries[name] = entry
        self.num_bytes += entry.size

    def touch(self, name: bytes, used_ns: int) -> None:
        """Make it the one that was used last; an unknown name is no error."""
        if (entry := self._entries.get(name)) is not None:
            entry.used_ns = used_ns
            self._entries.move_to_end(name)

    def remove(self, name: bytes) -> None:
        """Forget it; an unknown name is no error."""
        if (entry := self._entries.pop(name, None)) is not None:
            self.num_bytes -= entry.size

    def pop_surplus(self, max_bytes: int, oldest_ns: int) -> Iterator[IndexEntry]:
        """Forget, and yield, what was last used before `oldest_ns` or is too much, least recently used first."""
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if self.num_bytes <= max_bytes and entry.used_ns >= oldest_ns:
                return
            self.remove(name)
            yield entry
