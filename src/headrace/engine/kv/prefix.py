"""The prefix tree: which pages already hold the keys and values of which tokens.

A node is one full page; a child is found by the token ids of its page (as bytes), so a path from a root spells a
prompt. Roots are told apart by a salt, so nothing is ever shared across it. Whoever uses a path holds a reference on
every page of it, hence references never grow from parent to child, and a page nobody uses has only unused pages below.
Eviction takes unused leaves, least recently used first (a heap whose outdated entries are skipped when met).

    reference held by    on                        taken by           given back by
    the tree             every page with a node    insert             evict, forget
    a sequence           every page up to `node`   match, extend,     release(node)
                                                   insert, share

`published` holds a chain hash per node. Other threads may test membership at any time (a set lookup is atomic); that
is all they may touch. This file knows neither tokens' meaning nor sequences nor time.
"""

import heapq
from collections.abc import Sequence

from headrace.engine.kv.pool import PagePool


class Node:
    """A cached page, or a root (page -1). `users` counts sequences inside a root's tree; only roots use it."""

    __slots__ = ("chain", "children", "key", "page", "parent", "stamp", "users")

    def __init__(self, parent: "Node | None", key: bytes, page: int) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.children: dict[bytes, Node] = {}
        self.stamp = 0
        self.users = 0
        self.chain: int = chain_hash(0 if parent is None else parent.chain, key)


def chain_hash(parent: int, key: bytes) -> int:
    """The published name of a page below `parent`; a root is `chain_hash(0, salt)`."""
    return hash((parent, key))


class PrefixTree:
    """The tree over one pool. `num_idle` pages are cached and used by nobody: they can be evicted."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[bytes, Node] = {}
        self._heap: list[tuple[int, int, Node]] = []
        self._stamp = 0
        self._pushes = 0
        self.num_nodes = 0
        self.num_idle = 0
        self.published: set[int] = set()

    def match(self, salt: bytes, keys: Sequence[bytes]) -> tuple[Node, list[int]]:
        """The deepest cached node along `keys` and the pages up to it, now referenced by the caller."""
        node = self._roots.get(salt)
        if node is None:
            node = self._roots[salt] = Node(None, salt, -1)
        node.users += 1
        pages = []
        for key in keys:
            child = node.children.get(key)
            if child is None:
                break
            self._retain(child)
            pages.append(child.page)
            node = child
        return node, pages

    def extend(self, node: Node, key: bytes) -> Node | None:
        """The child of a node the caller holds, referenced too; None if that page is not cached."""
        child = node.children.get(key)
        if child is not None:
            self._retain(child)
        return child

    def share(self, node: Node) -> None:
        """One more holder of the whole path to a node that the caller holds."""
        while node.parent is not None:
            self._retain(node)
            node = node.parent
        node.users += 1

    def insert(self, node: Node, key: bytes, page: int) -> Node:
        """Cache `page` below a node the caller holds, and return the child that now holds it for the caller.

        If those tokens are cached already, the caller's duplicate goes back and its reference moves to the page that
        was first: read the page from the node that is returned.
        """
        child = node.children.get(key)
        if child is not None:
            self._retain(child)
            self._pool.release(page)
            return child
        child = node.children[key] = Node(node, key, page)
        self._pool.retain(page)
        self.num_nodes += 1
        self.published.add(child.chain)
        return child

    def release(self, node: Node) -> None:
        """Give back the caller's references on the whole path to `node`; the pages stay cached."""
        self._stamp += 1
        refs = self._pool.refs
        while node.parent is not None:
            node.stamp = self._stamp
            self._pool.release(node.page)
            if refs[node.page] == 1:
                self.num_idle += 1
                if not node.children:
                    self._push(node)
            node = node.parent
        node.users -= 1
        self._drop_empty_root(node)

    def forget(self, node: Node) -> None:
        """After `release`: uncache what only that path used, because its contents are in doubt."""
        while node.parent is not None and not node.children and self._pool.refs[node.page] == 1:
            parent = node.parent
            # A node that another release already evicted is no longer its parent's child.
            if parent.children.get(node.key) is not node:
                return
            self._remove(node)
            node = parent

    def evict(self, count: int) -> int:
        """Free up to `count` idle pages, least recently used leaves first; returns how many."""
        freed = 0
        while freed < count and self._heap:
            stamp, _, node = heapq.heappop(self._heap)
            if not self._is_evictable(node) or node.stamp != stamp:
                continue
            self._remove(node)
            freed += 1
        return freed

    def check(self) -> None:
        """Assert every invariant by walking the whole tree."""
        refs = self._pool.refs
        pages: set[int] = set()
        chains: set[int] = set()
        idle = 0
        queued = {id(node) for stamp, _, node in self._heap if node.stamp == stamp}
        stack = [root for root in self._roots.values() if root.children or root.users]
        assert len(stack) == len(self._roots), "an unused empty root was kept"
        while stack:
            node = stack.pop()
            for key, child in node.children.items():
                assert child.parent is node and child.key == key, "a link is broken"
                assert child.page not in pages, f"page {child.page} is cached twice"
                assert refs[child.page] >= 1, f"page {child.page} is cached and free"
                assert node.parent is None or refs[node.page] >= refs[child.page], "a child outlives its parent"
                assert child.children or refs[child.page] > 1 or id(child) in queued, "an idle leaf cannot be evicted"
                pages.add(child.page)
                chains.add(child.chain)
                idle += refs[child.page] == 1
                stack.append(child)
        assert len(pages) == self.num_nodes, "the number of nodes is wrong"
        assert idle == self.num_idle, "the number of idle pages is wrong"
        assert chains == self.published, "the published view is wrong"

    def _retain(self, node: Node) -> None:
        refs = self._pool.refs
        if refs[node.page] == 1:
            self.num_idle -= 1
        refs[node.page] += 1

    def _is_evictable(self, node: Node) -> bool:
        parent = node.parent
        return (
            parent is not None
            and parent.children.get(node.key) is node
            and not node.children
            and self._pool.refs[node.page] == 1
        )

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        del parent.children[node.key]
        self._pool.release(node.page)
        self.num_nodes -= 1
        self.num_idle -= 1
        self.published.discard(node.chain)
        if parent.parent is None:
            self._drop_empty_root(parent)
        elif self._is_evictable(parent):
            self._push(parent)

    def _push(self, node: Node) -> None:
        # The counter breaks ties, so that nodes are never compared.
        self._pushes += 1
        heapq.heappush(self._heap, (node.stamp, self._pushes, node))
        if len(self._heap) > 2 * self.num_nodes + 64:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].stamp and self._is_evictable(entry[2])]
            heapq.heapify(self._heap)

    def _drop_empty_root(self, root: Node) -> None:
        if root.users == 0 and not root.children:
            self._roots.pop(root.key, None)
