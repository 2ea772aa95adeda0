"""The pages that hold keys and values: a fixed number, counted references, nothing copied.

Pages are anonymous memory, so they start at zero and cost nothing before they are first written; the free list is a
stack, so that memory once committed is used again first. Everything is O(1). This file does not know what a page
contains or who holds a reference (`prefix.py` holds one per cached page, each sequence one per page it uses).
"""

import contextlib
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.plan import CacheShape, KvKind


@dataclass(slots=True)
class PagePool:
    """`num_pages` pages of one model. `array` is what kernels read and write; `refs[page]` is 0 when it is free."""

    array: NDArray[Any]
    refs: list[int]
    free: list[int]

    @classmethod
    def allocate(cls, shape: CacheShape, num_pages: int, kind: KvKind = KvKind.HALF) -> "PagePool":
        """Reserve the address space of a pool of this kind; memory follows use."""
        flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        memory = mmap.mmap(-1, num_pages * shape.page_bytes(kind), **flags)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Attention visits keys and values in pieces of a few KiB: with the system's small pages nearly each of them
            # costs address translations of its own, 4 % of a step with 32 streams of 150 tokens, 7 % with 1,000.
            with contextlib.suppress(OSError):  # a kernel built without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        return cls.over(np.frombuffer(memory, kind.dtype).reshape(shape.pool_shape(kind, num_pages)))

    @classmethod
    def over(cls, array: NDArray[Any]) -> "PagePool":
        """A pool over memory of the caller's, all pages free."""
        num_pages = array.shape[0]
        return cls(array, [0] * num_pages, list(range(num_pages - 1, -1, -1)))

    @property
    def num_pages(self) -> int:
        """All pages, free or not."""
        return len(self.refs)

    def take(self) -> int:
        """A free page with one reference; the caller has made sure that there is one."""
        page = self.free.pop()
        self.refs[page] = 1
        return page

    def retain(self, page: int) -> None:
        """One more reference to a page that is in use."""
        assert self.refs[page] > 0, f"page {page} is free and cannot be shared"
        self.refs[page] += 1

    def release(self, page: int) -> None:
        """One reference less; the last one frees the page."""
        assert self.refs[page] > 0, f"page {page} is released more often than it was taken"
        self.refs[page] -= 1
        if self.refs[page] == 0:
            self.free.append(page)

    def check(self) -> None:
        """Assert that the free list is exactly the pages without references, each once."""
        free = set(self.free)
        assert len(free) == len(self.free), "a page is in the free list twice"
        assert free == {page for page, refs in enumerate(self.refs) if refs == 0}, "free list and counts disagree"
        assert min(self.refs, default=0) >= 0, "a count is negative"
