"""What outlives a sequence in a model's cache: breakpoints' times, sessions' pins, pages that go to disk and return.

The scheduler calls it when pages were cached and when a sequence has finished, the engine when pages came from disk. It
holds no page itself but by a pin, and decides nothing about the order of work. The engine's thread only; time is a
value, and the disk does its work elsewhere (`kv/disk.py`).
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from headrace.core.events import MissReason
from headrace.engine.config import EngineConfig
from headrace.engine.kv.disk import FRESH_S, DiskTier, Store
from headrace.engine.kv.miss import explain
from headrace.engine.kv.page_file import PageId, PageLayout
from headrace.engine.kv.pins import PinQuota, Pins, quota_for
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree, path_to
from headrace.engine.kv.salt import Salt
from headrace.engine.sequence import Keep, Sequence
from headrace.kernels.plan import PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class DiskLink:
    """The disk tier, and what this model's pages mean there."""

    tier: DiskTier
    layout: PageLayout


class Retention:
    """See the file's head. `now` is the time of the step. Nothing is pinned before `limit_pins` says what must fit."""

    def __init__(self, config: EngineConfig, pool: PagePool, tree: PrefixTree) -> None:
        self._pool = pool
        self._tree = tree
        self._session_ttl_s = config.session_ttl_s
        self.pins = Pins(tree, PinQuota(0, 0))
        self.disk: DiskLink | None = None
        self.now = 0.0

    def limit_pins(self, most_pages: int) -> None:
        """Let pins take what leaves room for a request of `most_pages`."""
        self.pins = Pins(self._tree, quota_for(self._pool.num_pages, most_pages))

    def move_to(self, now: float) -> None:
        """Say what time it is; ends what was to last until then."""
        self.now = self._tree.now = now
        self.pins.expire(now)

    def keep(self, sequence: Sequence) -> None:
        """Give cached pages under the sequence's breakpoints their time, each once."""
        keeps = sequence.work.keeps
        if not keeps or sequence.node is None:
            return
        last = min(sequence.num_cached, max(one.num_tokens for one in keeps) // PAGE_TOKENS)
        if last <= sequence.num_kept:
            return
        path = path_to(sequence.node)
        for index in range(sequence.num_kept, last):
            ttl_s = _ttl_s(keeps, index)
            assert ttl_s is not None
            self._tree.keep(path[index], ttl_s, self.now)
        sequence.num_kept = last

    def finish(self, sequence: Sequence) -> None:
        """A sequence has got its last token and still holds its pages: pin them for its session, hand them to disk."""
        node = sequence.node
        if node is None or sequence.num_cached == 0:
            return
        # One answer of several goes on; which one only the next request tells, and all share the prompt.
        if sequence.work.session is not None and sequence.choice == 0:
            self.pins.pin(sequence.work.session, node, self.now, self.now + self._session_ttl_s)
        if self.disk is None:
            return
        path = path_to(node)
        fresh = frozenset(index for index, one in enumerate(path) if one.stored_s + FRESH_S <= self.now)
        if fresh:
            store = Store(sequence.work.salt, self.disk.layout, self._pool.array, path, fresh)
            if self.disk.tier.store(store):
                for index in fresh:
                    path[index].stored_s = self.now

    def find_on_disk(self, sequence: Sequence) -> list[PageId]:
        """The pages of its prompt that follow what the tree has and are on disk."""
        if self.disk is None:
            return []
        keys = sequence.reusable_keys()
        start = self._tree.count(sequence.work.salt, keys)
        return self.disk.tier.find(sequence.work.salt, self.disk.layout, keys, start) if start < len(keys) else []

    def restore(self, salt: Salt, keys: Many[bytes], start: int, pages: Many[memoryview], now: float) -> int:
        """Cache pages that were read, behind the first `start` of `keys`; returns how many are there.

        0 if what is before them was evicted meanwhile, fewer than were read if there is no room.
        """
        node, found = self._tree.match(salt, keys[:start], now)
        count = 0
        if len(found) == start:
            for key, data in zip(keys[start:], pages, strict=False):
                child = self._tree.extend(node, key, now)
                if child is None:
                    if not self._pool.free and not self._tree.evict(1, now):
                        break
                    page = self._pool.take()
                    target = self._pool.array[page]
                    target[...] = np.frombuffer(data, target.dtype).reshape(target.shape)
                    child = self._tree.insert(node, key, page)
                    child.stored_s = now
                node = child
                count += 1
        self._tree.release(node)
        return count

    def disk_tokens(self, sequence: Sequence) -> int:
        """How many of the prompt tokens that the sequence reuses came from disk for it."""
        pages = sequence.disk_pages
        return max(0, min(sequence.num_reused // PAGE_TOKENS, pages.stop) - pages.start) * PAGE_TOKENS

    def cache_writes(self, sequence: Sequence) -> tuple[tuple[float, int], ...]:
        """(ttl_s, tokens) that its breakpoints will keep and that it has to compute; longest time first."""
        keeps = sequence.work.keeps
        tokens: dict[float, int] = {}
        for index in range(sequence.num_reused // PAGE_TOKENS, sequence.num_prompt // PAGE_TOKENS):
            if (ttl_s := _ttl_s(keeps, index)) is not None:
                tokens[ttl_s] = tokens.get(ttl_s, 0) + PAGE_TOKENS
        return tuple(sorted(tokens.items(), reverse=True))

    def explain(self, sequence: Sequence) -> MissReason:
        """Why the reuse of a sequence that was just admitted ended where it did."""
        if sequence.num_to_score > 0:  # it has to be computed whole
            return MissReason.NONE
        num_found = sequence.num_reused // PAGE_TOKENS
        return explain(self._tree, sequence.work.salt, sequence.reusable_keys(), num_found)

    def check(self) -> None:
        """Assert that pins and tree agree."""
        self.pins.check()


def _ttl_s(keeps: Many[Keep], index: int) -> float | None:
    """How long a page is to be kept: the longest time of the breakpoints that it lies before."""
    return max((one.ttl_s for one in keeps if one.num_tokens >= (index + 1) * PAGE_TOKENS), default=None)
