"""A disk that fails as told, and a tree with pages to keep on it. Nothing here starts a thread."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.doubles import ManualClock

from headrace.engine.kv.disk import DiskConfig, DiskTier, Load, Store
from headrace.engine.kv.page_file import HEADER_BYTES, Cipher, PageLayout
from headrace.engine.kv.page_folder import FoundFile, PageFolder
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree, path_to
from headrace.engine.kv.salt import Salt
from headrace.observe.metrics import DiskMetrics

PAGE_SHAPE = (2, 1, 40)
PAGE_BYTES = 80
LAYOUT = PageLayout("sha256:model", "plan", "int8", "avx512", PAGE_SHAPE, 4, PAGE_BYTES)
FILE_BYTES = HEADER_BYTES + 16 + PAGE_BYTES


class FaultyFolder(PageFolder):
    """The real directory, which counts what is asked of it and raises what a test puts into `faults`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: Counter[str] = Counter()
        self.calls_by_tenant: dict[str, Counter[str]] = {}
        self.faults: dict[str, OSError] = {}

    def meet(self, name: str, path: Path) -> None:
        self.calls[name] += 1
        self.calls_by_tenant.setdefault(path.parent.parent.name, Counter())[name] += 1
        if name in self.faults:
            raise self.faults[name]

    def read(self, path: Path) -> bytes:
        self.meet("read", path)
        return super().read(path)

    def read_start(self, path: Path) -> bytes:
        self.meet("read_start", path)
        return super().read_start(path)

    def write(self, path: Path, parts: Any, used_ns: int) -> None:
        self.meet("write", path)
        super().write(path, parts, used_ns)

    def touch(self, path: Path, used_ns: int) -> None:
        self.meet("touch", path)
        super().touch(path, used_ns)

    def remove(self, path: Path) -> None:
        self.meet("remove", path)
        super().remove(path)

    def scan(self, tenant: str | None = None, model: str | None = None) -> Iterator[FoundFile]:
        yield from super().scan(tenant, model)


def key(number: int) -> bytes:
    """The token ids of a page."""
    return np.arange(number, number + 4, dtype=np.int32).tobytes()


@dataclass
class Rig:
    """A pool of 16 pages, its tree, and a disk tier whose work is done when a test says so."""

    root: Path
    config: dict[str, Any] = field(default_factory=dict)
    cipher: Cipher | None = None
    layout: PageLayout = LAYOUT
    clock: ManualClock = field(default_factory=ManualClock)
    metrics: DiskMetrics | None = None

    def __post_init__(self) -> None:
        array = np.zeros((16, *PAGE_SHAPE), np.uint8)
        self.pool = PagePool.over(array)
        self.tree = PrefixTree(self.pool)
        self.folder = FaultyFolder(self.root)
        config = DiskConfig(root=self.root, **self.config)
        self.tier = DiskTier(config, self.clock, cipher=self.cipher, folder=self.folder, metrics=self.metrics)
        self.random = np.random.default_rng(1)

    def compute(self, salt: Salt, *keys: bytes) -> Store:
        """Cache pages with random contents, as a finished sequence leaves them, and say what is to be stored."""
        node, pages = self.tree.match(salt, keys)
        for one in keys[len(pages) :]:
            page = self.pool.take()
            self.pool.array[page] = self.random.integers(0, 256, PAGE_SHAPE)
            node = self.tree.insert(node, one, page)
        self.tree.release(node)
        path = path_to(node)
        fresh = frozenset(number for number, one in enumerate(path) if one.stored_s < 0)
        for one in path:
            one.stored_s = 0.0
        return Store(salt, self.layout, self.pool.array, path, fresh)

    def keep(self, salt: Salt, *keys: bytes) -> list[bytes]:
        """Compute, store and write pages; returns their contents."""
        store = self.compute(salt, *keys)
        self.tier.store(store)
        self.tier.run_pending()
        return [self.pool.array[node.page].tobytes() for node in store.path]

    def read(self, salt: Salt, *keys: bytes, start: int = 0) -> list[bytes]:
        """What the disk gives for pages from `start` on."""
        self.tier.run_pending()
        found: list[bytes] = []
        ended = []

        def deliver(piece: list[memoryview], is_last: bool) -> None:
            found.extend(map(bytes, piece))
            if is_last:
                ended.append(1)

        pages = self.tier.find(salt, self.layout, keys, start)
        if pages:
            assert self.tier.load(Load(pages, deliver))
            self.tier.run_pending()
            assert ended == [1]
        return found

    def restarted(self, **changes: Any) -> "Rig":
        """Another process on the same directory."""
        values = {"root": self.root, "config": self.config, "cipher": self.cipher, "layout": self.layout}
        again = Rig(**(values | changes), clock=self.clock)
        again.tier.run_pending()
        return again

    def files(self) -> list[Path]:
        """All page files, oldest first."""
        return sorted(self.root.rglob("*.page"), key=lambda path: path.stat().st_mtime_ns)
