"""The prefix tree against a dictionary: it finds what was cached, evicts in the stated order and only what nobody uses,
keeps pins within their quota, explains misses, and loses no page. Time moves only when the machine says so.
"""

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.core.events import MissReason
from headrace.engine.kv.miss import explain
from headrace.engine.kv.pins import PinQuota, Pins
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import Node, PrefixTree, chain_hash, path_to
from headrace.engine.kv.salt import Salt

NUM_PAGES = 12
QUOTA = PinQuota(tenant_pages=3, total_pages=5)
KEYS = [b"a", b"b"]
SALTS = [Salt("one"), Salt("one", model="new"), Salt("one", caller="x"), Salt("two"), Salt("three")]
paths = st.lists(st.sampled_from(KEYS), max_size=6)
salts = st.sampled_from(SALTS)

Path = tuple[Salt, tuple[bytes, ...]]


@dataclass
class Record:
    """What is known of a cached page: when it was last given back, and until when it is to be kept."""

    page: int
    stamp: int = 0
    ttl_s: float = 0.0
    expires: float = -math.inf


@dataclass
class Holder:
    """Somebody who uses a path, as a sequence does."""

    salt: Salt
    keys: tuple[bytes, ...]
    node: Node


def beginnings(keys: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    return [keys[:depth] for depth in range(1, len(keys) + 1)]


class TreeMachine(RuleBasedStateMachine):
    """The model: `cached` maps (salt, keys) to the page that must be found there, `lost` to why it is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool.over(np.zeros((NUM_PAGES, 1, 1, 2, 8), np.uint16))
        self.tree = PrefixTree(self.pool)
        self.pins = Pins(self.tree, QUOTA)
        self.cached: dict[Path, Record] = {}
        self.lost: dict[Path, MissReason] = {}
        self.pinned: dict[tuple[str, str], tuple[Salt, tuple[bytes, ...], float]] = {}
        self.holders: list[Holder] = []
        self.now = 0.0
        self.stamps = 0

    @rule(salt=salts, keys=paths)
    def match(self, salt: Salt, keys: list[bytes]) -> None:
        node, pages = self.tree.match(salt, keys, self.now)
        expected = []
        for beginning in beginnings(tuple(keys)):
            record = self.cached.get((salt, beginning))
            if record is None:
                break
            self.use(record)
            expected.append(record.page)
        assert pages == expected
        assert explain(self.tree, salt, keys, len(pages)) == self.reason(salt, tuple(keys), len(pages))
        self.holders.append(Holder(salt, tuple(keys[: len(pages)]), node))

    def use(self, record: Record) -> None:
        if record.ttl_s and record.expires > self.now:
            record.expires = self.now + record.ttl_s
        else:
            record.ttl_s, record.expires = 0.0, -math.inf

    def reason(self, salt: Salt, keys: tuple[bytes, ...], num_found: int) -> MissReason:
        if not keys:
            return MissReason.TOO_SHORT
        if num_found == len(keys):
            return MissReason.NONE
        missing = (salt, keys[: num_found + 1])
        if missing in self.lost:
            return self.lost[missing]
        if num_found == 0:
            elsewhere = {other for other, path in self.cached if path == keys[:1]}
            if salt.tenant == "one":
                changes = {
                    SALTS[0]: {SALTS[1]: MissReason.MODEL_CHANGED, SALTS[2]: MissReason.SALT_CHANGED},
                    SALTS[1]: {SALTS[0]: MissReason.MODEL_CHANGED, SALTS[2]: MissReason.MODEL_CHANGED},
                    SALTS[2]: {SALTS[0]: MissReason.SALT_CHANGED, SALTS[1]: MissReason.MODEL_CHANGED},
                }[salt]
                nearest = [other for other in (SALTS[0], SALTS[1], SALTS[2]) if other in changes and other in elsewhere]
                if nearest:
                    # The one with no part of its own is one part away from both others, which are two parts apart.
                    best = SALTS[0] if SALTS[0] in nearest else nearest[0]
                    return changes[best] if salt != SALTS[0] or len(nearest) == 1 else MissReason.MODEL_CHANGED
            return MissReason.COLD
        siblings = any(other == salt and path[:-1] == keys[:num_found] for other, path in self.cached)
        return MissReason.MESSAGES_CHANGED if siblings else MissReason.EXTENDED

    @rule(salt=salts, keys=paths, ttl_s=st.sampled_from([0.0, 0.0, 2.0, 5.0]), stays=st.booleans())
    def compute(self, salt: Salt, keys: list[bytes], ttl_s: float, stays: bool) -> None:
        """What a sequence does: find, compute the rest, keep it if asked to, go or stay."""
        self.match(salt, keys)
        holder = self.holders[-1]
        for key in keys[len(holder.keys) :]:
            if not self.insert(holder, key):
                break
        if ttl_s:
            self.keep(holder, ttl_s)
        if not stays or len(self.holders) > 3:
            self.let_go(holder)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), key=st.sampled_from(KEYS))
    def decode(self, data: st.DataObject, key: bytes) -> None:
        self.insert(data.draw(st.sampled_from(self.holders)), key)

    def insert(self, holder: Holder, key: bytes) -> bool:
        if not self.pool.free:
            self.evict(1)
        if not self.pool.free:
            return False
        keys = (*holder.keys, key)
        page = self.pool.take()
        holder.node = self.tree.insert(holder.node, key, page)
        holder.keys = keys
        record = self.cached.setdefault((holder.salt, keys), Record(page))
        self.lost.pop((holder.salt, keys), None)
        assert holder.node.page == record.page, "the first page must be kept"
        return True

    def keep(self, holder: Holder, ttl_s: float) -> None:
        for node, beginning in zip(path_to(holder.node), beginnings(holder.keys), strict=True):
            record = self.cached[holder.salt, beginning]
            is_new = record.expires <= self.now
            assert self.tree.keep(node, ttl_s, self.now) == is_new
            record.ttl_s = ttl_s if is_new else max(record.ttl_s, ttl_s)
            record.expires = max(record.expires, self.now + ttl_s)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.let_go(holder)

    def let_go(self, holder: Holder) -> None:
        self.holders.remove(holder)
        self.tree.release(holder.node)
        self.stamps += 1
        for beginning in beginnings(holder.keys):
            self.cached[holder.salt, beginning].stamp = self.stamps

    @rule(seconds=st.sampled_from([1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), name=st.sampled_from(["p", "q"]), ttl_s=st.sampled_from([2.0, math.inf]))
    def pin(self, data: st.DataObject, name: str, ttl_s: float) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        tenant = holder.salt.tenant
        self.drop_pin(tenant, name)
        self.drop_expired_pins()
        granted = self.pins.pin(name, holder.node, self.now, self.now + ttl_s)
        held = self.pinned_pages()
        room = min(QUOTA.tenant_pages - len(self.pinned_pages(tenant)), QUOTA.total_pages - len(held))
        expected = 0
        for beginning in beginnings(holder.keys):
            if (holder.salt, beginning) not in held:
                room -= 1
            if room < 0:
                break
            expected += 1
        assert granted == expected
        if granted:
            self.pinned[tenant, name] = (holder.salt, holder.keys[:granted], self.now + ttl_s)

    @rule(tenant=st.sampled_from(["one", "two"]), name=st.sampled_from(["p", "q"]))
    def unpin(self, tenant: str, name: str) -> None:
        self.pins.unpin(tenant, name)
        self.drop_pin(tenant, name)

    @rule()
    def expire_pins(self) -> None:
        self.pins.expire(self.now)
        self.drop_expired_pins()

    def drop_expired_pins(self) -> None:
        due = sorted((expires, key) for key, (_, _, expires) in self.pinned.items() if expires <= self.now)
        for _, (tenant, name) in due:
            self.drop_pin(tenant, name)

    def drop_pin(self, tenant: str, name: str) -> None:
        if (tenant, name) not in self.pinned:
            return
        salt, keys, _ = self.pinned.pop((tenant, name))
        self.stamps += 1
        left = self.pinned_pages()
        for beginning in beginnings(keys):
            if (salt, beginning) not in left:
                self.cached[salt, beginning].stamp = self.stamps

    def pinned_pages(self, tenant: str | None = None) -> set[Path]:
        return {
            (salt, beginning)
            for (owner, _), (salt, keys, _) in self.pinned.items()
            for beginning in beginnings(keys)
            if tenant in (None, owner)
        }

    @rule(count=st.integers(1, 4))
    def evict(self, count: int) -> None:
        used = self.pinned_pages() | {
            (holder.salt, beginning) for holder in self.holders for beginning in beginnings(holder.keys)
        }
        assert self.tree.num_idle == len(self.cached.keys() - used)
        for _ in range(count):
            candidates = {path: self.rank(path) for path in self.leaves() - used}
            best = min(candidates.values(), default=None)
            before = set(self.pool.free)
            assert self.tree.evict(1, self.now) == bool(candidates)
            if best is None:
                return
            (freed,) = set(self.pool.free) - before
            (path,) = [path for path, record in self.cached.items() if record.page == freed]
            assert candidates[path] == best, "not the page whose turn it was"
            self.lost[path] = MissReason.EXPIRED if best[0] == 0 else MissReason.EVICTED
            del self.cached[path]

    def leaves(self) -> set[Path]:
        parents = {(salt, keys[:-1]) for salt, keys in self.cached}
        return self.cached.keys() - parents

    def rank(self, path: Path) -> tuple[int, float]:
        record = self.cached[path]
        if not record.ttl_s:
            return 1, record.stamp
        return (0, record.expires) if record.expires <= self.now else (2, record.stamp)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def doubt(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.let_go(holder)
        self.tree.forget(holder.node)
        free = set(self.pool.free)
        self.cached = {path: record for path, record in self.cached.items() if record.page not in free}

    @invariant()
    def what_is_held_or_pinned_is_cached(self) -> None:
        for holder in self.holders:
            assert all((holder.salt, beginning) in self.cached for beginning in beginnings(holder.keys))
        assert self.pinned_pages() <= self.cached.keys()

    @invariant()
    def checks_pass_and_the_published_view_is_true(self) -> None:
        self.pool.check()
        self.tree.check()
        self.pins.check()
        assert len(self.cached) == self.tree.num_nodes
        for salt, keys in self.cached:
            chain = chain_hash(0, salt)
            for key in keys:
                chain = chain_hash(chain, key)
            assert chain in self.tree.published

    def teardown(self) -> None:
        for holder in self.holders:
            self.tree.release(holder.node)
        self.pins.clear()
        self.tree.evict(NUM_PAGES, self.now)
        assert len(self.pool.free) == NUM_PAGES
        self.tree.check()


TestPrefixTree = TreeMachine.TestCase
TestPrefixTree.settings = settings(max_examples=200, stateful_step_count=50, deadline=None, derandomize=True)
