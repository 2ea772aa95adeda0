"""The disk tier of the prefix tree: finished pages are written behind the engine's back and read when a prompt returns.

    engine's thread   find (which pages are known), load, store     -> two queues, loads first
    disk thread       reads and writes files, one page at a time    -> `Load.deliver`, called on the disk thread

Nothing is copied and no page is held for a write: the disk thread copies a page when its turn comes and looks
afterwards whether the node still has it, because pages in the tree never change and a node that leaves it says so. So
waiting writes cost no memory and can make nobody wait for pages. What cannot be done is dropped and counted: the tier
may lose a page at any time, and gives either the right bytes or none.

A write that fails (disk full, read-only, no permission) stops writing with one warning, for a time that doubles until
a write succeeds; reading goes on. Time comes from the clock that is given. Knows no sequence, no scheduler, no prompt.
"""

import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.clock import Clock
from headrace.core.watching import LiveDisk
from headrace.engine.kv.disk_index import DiskIndex, IndexEntry
from headrace.engine.kv.page_file import (
    Cipher,
    Flaw,
    PageId,
    PageLayout,
    Unusable,
    check_header,
    child_name,
    decode,
    encode,
    root_name,
)
from headrace.engine.kv.page_folder import FORGOTTEN_PARTIAL_S, PageFolder
from headrace.engine.kv.prefix import Node
from headrace.engine.kv.salt import Salt
from headrace.observe.metrics import DiskMetrics

DAY_S = 86_400.0
FRESH_S = 3600.0
"""A page of the tree is not handed over again for so long; after that its use is worth recording on disk."""

_PIECE_BYTES = 32 * 2**20  # handed over at once, so that a long prompt neither fills memory nor stops a step
_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 600.0
_SMOOTHING = 0.3  # of a new load in the measured rate
_DOUBT = 1.05  # a rate at which nothing is read any more could not be corrected by a measurement

_log = logging.getLogger("headrace.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskConfig:
    """Where pages are kept and how much of them. Bytes and seconds; ValueError for what is out of range."""

    root: Path
    max_bytes: int = 4 * 2**30
    max_age_s: float = 7 * DAY_S
    max_queued_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_age_s", "max_queued_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is below 1; give a positive number.")


@dataclass(frozen=True, slots=True)
class Load:
    """Pages to be read, one below the other. `deliver` gets those that could be, in order and from the first on, in
    pieces; the last one, perhaps empty, comes with True, whatever happens. What nobody wants any more is not read."""

    pages: Sequence[PageId]
    deliver: Callable[[list[memoryview], bool], None]
    is_wanted: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class Store:
    """The path of a finished sequence; `fresh` are those of its pages that the disk is not known to have."""

    salt: Salt
    layout: PageLayout
    array: NDArray[Any]
    path: Sequence[Node]
    fresh: frozenset[int]

    @property
    def num_bytes(self) -> int:
        """What is to be written at most."""
        return len(self.fresh) * self.layout.page_bytes


class DiskTier:
    """See the file's head. `counts` are pages by what became of them."""

    def __init__(
        self,
        config: DiskConfig,
        clock: Clock,
        *,
        cipher: Cipher | None = None,
        folder: PageFolder | None = None,
        metrics: DiskMetrics | None = None,
    ) -> None:
        self.config = config
        self.index = DiskIndex()
        self.counts: Counter[str] = Counter()
        self.read_bytes_per_s = 0.0  # measured; 0: not yet
        self._clock = clock
        self._cipher = cipher
        self._folder = folder or PageFolder(config.root)
        self._metrics = metrics
        self._loads: deque[Load] = deque()
        self._stores: deque[Store] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._counting = threading.Lock()
        self._is_open = True
        self._is_scanned = False
        self._flush_until = 0.0
        self._pause_s = 0.0
        self._paused_until = 0.0
        self._thread = threading.Thread(target=self._serve, name="headrace-disk", daemon=True)

    # -- any thread -------------------------------------------------------------------------------------------------

    def live(self) -> LiveDisk:
        """What it holds now, for whoever watches; from any thread."""
        return LiveDisk(len(self.index), self.index.num_bytes, self.config.max_bytes)

    def start(self) -> None:
        """Start the disk thread; it first looks at what is there."""
        self._thread.start()

    def close(self, flush_s: float = 5.0) -> None:
        """Write what is still queued for at most so long, then stop. Closing twice is no error."""
        with self._changed:
            self._flush_until = self._clock.monotonic_s() + flush_s
            self._is_open = False
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._finish()

    def find(self, salt: Salt, layout: PageLayout, keys: Sequence[bytes], start: int) -> list[PageId]:
        """The pages from `keys[start]` on that are on disk, as far as they go without a gap."""
        if not len(self.index):
            return []
        name = root_name(salt, layout, self._cipher)
        found = []
        for number, key in enumerate(keys):
            name = child_name(name, key)
            if number >= start:
                if name not in self.index:
                    break
                found.append(PageId(salt.tenant, layout, name, key))
        return found

    def is_faster(self, pages: Sequence[PageId], compute_s: float) -> bool:
        """Whether reading these pages should take less time than computing them, by the rate measured so far."""
        rate = self.read_bytes_per_s
        num_bytes = sum(page.layout.page_bytes for page in pages)
        if rate == 0 or num_bytes / rate < compute_s:
            return True
        self.read_bytes_per_s = rate * _DOUBT
        return False

    def load(self, load: Load) -> bool:
        """Queue a load; false if the tier is closed, so that nothing will be delivered."""
        with self._changed:
            if not self._is_open:
                return False
            self._loads.append(load)
            self._changed.notify()
        return True

    def store(self, store: Store) -> bool:
        """Queue pages to be written; false if the queue is full or closed, which is counted."""
        with self._changed:
            accepted = self._is_open and self._queued_bytes + store.num_bytes <= self.config.max_queued_bytes
            if accepted:
                self._stores.append(store)
                self._queued_bytes += store.num_bytes
                self._changed.notify()
        if not accepted:
            self._count("dropped", len(store.fresh))
        return accepted

    # -- the disk thread --------------------------------------------------------------------------------------------

    def run_pending(self) -> None:
        """Do everything that is queued, here and now; what the disk thread does when there is something to do."""
        if not self._is_scanned:
            self.scan()
        while True:
            with self._changed:
                load = self._loads.popleft() if self._loads else None
                store = self._stores.popleft() if load is None and self._stores else None
            if load is not None:
                self._read(load)
            elif store is not None:
                self._write(store)
                with self._changed:
                    self._queued_bytes -= store.num_bytes
            else:
                return

    def scan(self) -> None:
        """Look at what is there: index it, remove what is damaged or too old, count and report what is not ours."""
        self._is_scanned = True
        with contextlib.suppress(OSError):
            self._folder.remove_partials(self._clock.unix_s() - FORGOTTEN_PARTIAL_S)
        now_ns = self._now_ns()
        flaws: Counter[Flaw] = Counter()
        for found in sorted(self._folder.scan(), key=lambda found: found.used_ns):
            flaw = self._flaw(found.path) if found.name else Flaw.FOREIGN
            if flaw is not None:
                flaws[flaw] += 1
                self._count(flaw.value)
            if flaw is Flaw.DAMAGED:
                self._remove(found.path)
            elif flaw in {None, Flaw.OTHER_KEY, Flaw.OTHER_VERSION}:
                # A time in the future would never be the oldest.
                self.index.add(found.name, IndexEntry(found.path, found.size, min(found.used_ns, now_ns)))
        self._trim(0)
        if flaws:
            shown = ", ".join(f"{number} {flaw.value}" for flaw, number in sorted(flaws.items()))
            _log.warning("Files in the disk cache %s that cannot be used: %s.", self.config.root, shown)
        self._tell_size()

    def _flaw(self, path: Path) -> Flaw | None:
        try:
            check_header(self._folder.read_start(path), self._cipher)
        except Unusable as error:
            return error.flaw
        except OSError:
            return Flaw.UNREADABLE
        return None

    def _serve(self) -> None:
        try:
            while True:
                self.run_pending()
                with self._changed:
                    if not (self._loads or self._stores):
                        if not self._is_open:
                            return
                        self._changed.wait()
        finally:
            self._finish()

    def _finish(self) -> None:
        with self._changed:
            self._is_open = False
            loads, stores = list(self._loads), list(self._stores)
            self._loads.clear()
            self._stores.clear()
        for load in loads:
            load.deliver([], True)
        self._count("dropped", sum(len(store.fresh) for store in stores))

    def _read(self, load: Load) -> None:
        piece: list[memoryview] = []
        num_read = num_bytes = 0
        started = self._clock.monotonic_s()
        for page in load.pages:
            data = self._read_page(page) if load.is_wanted() else None
            if data is None:
                break
            piece.append(data)
            num_read += 1
            num_bytes += data.nbytes
            if num_read % max(1, _PIECE_BYTES // data.nbytes) == 0:
                load.deliver(piece, False)
                piece = []
        seconds = self._clock.monotonic_s() - started
        load.deliver(piece, True)
        if num_read and seconds > 0:
            rate, known = num_bytes / seconds, self.read_bytes_per_s
            self.read_bytes_per_s = rate if known == 0 else known + _SMOOTHING * (rate - known)
        used_ns = self._now_ns()
        # From the end to the beginning: a page without those before it is worth nothing, so they go last.
        for number in range(num_read - 1, -1, -1):
            self._touch(load.pages[number].name, used_ns - number)
        self._count("read", num_read)

    def _read_page(self, page: PageId) -> memoryview | None:
        entry = self.index.get(page.name)
        if entry is None:
            return None
        try:
            return decode(page, self._folder.read(entry.path), self._cipher)
        except FileNotFoundError:
            self._count("gone")
        except OSError as error:
            self._count(Flaw.UNREADABLE.value)
            _log.warning("A page of the disk cache cannot be read (%s); its tokens are computed again.", error)
        except Unusable as error:
            self._count(error.flaw.value)
            _log.warning("%s cannot be used (%s); its tokens are computed again.", entry.path, error.flaw.value)
            if error.flaw is Flaw.DAMAGED:
                self._remove(entry.path)
        self.index.remove(page.name)
        return None

    def _write(self, store: Store) -> None:
        if not self._may_write():
            self._drop(store, store.path)
            return
        names = []
        name = root_name(store.salt, store.layout, self._cipher)
        for node in store.path:
            name = child_name(name, node.key)
            names.append(name)
        used_ns = self._now_ns()
        for number in range(len(names) - 1, -1, -1):
            if names[number] in self.index:
                self._touch(names[number], used_ns - number)
        for number, node in enumerate(store.path):
            if number not in store.fresh or names[number] in self.index:
                continue
            page = PageId(store.salt.tenant, store.layout, names[number], node.key)
            if not self._write_page(page, node, store.array, used_ns - number):
                self._drop(store, store.path[number:])
                break
            self._serve_loads()
        for number in range(len(names) - 1, -1, -1):
            self.index.touch(names[number], used_ns - number)
        self._tell_size()

    def _serve_loads(self) -> None:
        """Whoever waits for a page goes before what can wait."""
        while True:
            with self._changed:
                load = self._loads.popleft() if self._loads else None
            if load is None:
                return
            self._read(load)

    def _write_page(self, page: PageId, node: Node, array: NDArray[Any], used_ns: int) -> bool:
        """False if it, and what lies below it, is not to be written."""
        place = node.page
        if place < 0:
            return False
        data = np.array(array[place]).view(np.uint8).reshape(-1)
        if node.page != place:  # evicted, and perhaps overwritten, while it was copied
            return False
        parts = encode(page, data.data, self._cipher)
        size = sum(memoryview(part).nbytes for part in parts)
        if size > self.config.max_bytes:
            return False
        self._trim(size)
        path = self._folder.path(page.tenant, page.layout.model, page.name)
        try:
            self._folder.write(path, parts, used_ns)
        except FileNotFoundError:  # erased in this very moment
            return False
        except OSError as error:
            self._pause(error)
            return False
        self.index.add(page.name, IndexEntry(path, size, used_ns))
        self._count("written")
        self._resume()
        return True

    def _may_write(self) -> bool:
        now = self._clock.monotonic_s()
        return now >= self._paused_until and (self._is_open or now < self._flush_until)

    def _pause(self, error: OSError) -> None:
        if self._pause_s == 0:
            _log.warning(
                "The disk cache %s cannot be written (%s); serving goes on, and writing is tried again later.",
                self.config.root,
                error,
            )
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._paused_until = self._clock.monotonic_s() + self._pause_s

    def _resume(self) -> None:
        if self._pause_s:
            self._pause_s = 0.0
            _log.warning("The disk cache %s can be written again.", self.config.root)

    def _drop(self, store: Store, path: Sequence[Node]) -> None:
        """Count what is not written, and let it be handed over again."""
        first = len(store.path) - len(path)
        dropped = [node for number, node in enumerate(path, first) if number in store.fresh]
        for node in dropped:
            node.stored_s = float("-inf")
        self._count("dropped", len(dropped))

    def _trim(self, coming_bytes: int) -> None:
        oldest_ns = self._now_ns() - int(self.config.max_age_s * 1e9)
        for entry in self.index.pop_surplus(self.config.max_bytes - coming_bytes, oldest_ns):
            self._remove(entry.path)
            self._count("evicted")

    def _touch(self, name: bytes, used_ns: int) -> None:
        entry = self.index.get(name)
        if entry is not None:
            self.index.touch(name, used_ns)
            with contextlib.suppress(OSError):  # erased, or on a disk that is not written any more
                self._folder.touch(entry.path, used_ns)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._folder.remove(path)

    def _now_ns(self) -> int:
        return int(self._clock.unix_s() * 1e9)

    def _count(self, what: str, number: int = 1) -> None:
        if number:
            with self._counting:
                self.counts[what] += number
            if self._metrics is not None:
                self._metrics.pages.labels(what).inc(number)

    def _tell_size(self) -> None:
        if self._metrics is not None:
            self._metrics.num_bytes.set(self.index.num_bytes)
            self._metrics.num_pages.set(len(self.index))
