"""The prefix tree against a dictionary: it finds what was cached, evicts only what nobody uses, loses no page."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import Node, PrefixTree, chain_hash

NUM_PAGES = 12
paths = st.lists(st.sampled_from([b"a", b"b"]), max_size=6)
salts = st.sampled_from([b"one", b"two"])


class Holder:
    """Somebody who uses a path, as a sequence does."""

    def __init__(self, salt: bytes, keys: list[bytes], node: Node) -> None:
        self.salt, self.keys, self.node = salt, keys, node


class TreeMachine(RuleBasedStateMachine):
    """The model: `cached` maps (salt, keys...) to the page that must be found there."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool.over(np.zeros((NUM_PAGES, 1, 1, 2, 8), np.uint16))
        self.tree = PrefixTree(self.pool)
        self.cached: dict[tuple[bytes, ...], int] = {}
        self.holders: list[Holder] = []

    @rule(salt=salts, keys=paths)
    def match(self, salt: bytes, keys: list[bytes]) -> None:
        node, pages = self.tree.match(salt, keys)
        expected = []
        for depth in range(1, len(keys) + 1):
            page = self.cached.get((salt, *keys[:depth]))
            if page is None:
                break
            expected.append(page)
        assert pages == expected
        self.holders.append(Holder(salt, keys[: len(pages)], node))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), key=st.sampled_from([b"a", b"b"]))
    def insert(self, data: st.DataObject, key: bytes) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        if not self.pool.free:
            self.evict(1)
        if not self.pool.free:
            return
        path = (holder.salt, *holder.keys, key)
        page = self.pool.take()
        holder.node = self.tree.insert(holder.node, key, page)
        holder.keys = [*holder.keys, key]
        assert holder.node.page == self.cached.setdefault(path, page), "the first page must be kept"

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        self.tree.release(holder.node)

    @rule(count=st.integers(1, 4))
    def evict(self, count: int) -> None:
        idle = self.tree.num_idle
        free = len(self.pool.free)
        assert self.tree.evict(count) == min(count, idle)
        assert len(self.pool.free) == free + min(count, idle)
        self.forget_free_pages()

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def doubt(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        self.tree.release(holder.node)
        self.tree.forget(holder.node)
        self.forget_free_pages()

    def forget_free_pages(self) -> None:
        free = set(self.pool.free)
        self.cached = {path: page for path, page in self.cached.items() if page not in free}

    @invariant()
    def what_is_held_is_cached(self) -> None:
        for holder in self.holders:
            for depth in range(1, len(holder.keys) + 1):
                assert (holder.salt, *holder.keys[:depth]) in self.cached

    @invariant()
    def checks_pass_and_the_published_view_is_true(self) -> None:
        self.pool.check()
        self.tree.check()
        assert len(self.cached) == self.tree.num_nodes
        for salt, *keys in self.cached:
            chain = chain_hash(0, salt)
            for key in keys:
                chain = chain_hash(chain, key)
            assert chain in self.tree.published

    def teardown(self) -> None:
        for holder in self.holders:
            self.tree.release(holder.node)
        self.tree.evict(NUM_PAGES)
        assert len(self.pool.free) == NUM_PAGES
        self.tree.check()


TestPrefixTree = TreeMachine.TestCase
TestPrefixTree.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)
