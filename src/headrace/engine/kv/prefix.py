"""The prefix tree: which pages already hold the keys and values of which tokens.

A node is one full page; a child is found by the token ids of its page (as bytes), so a path from a root spells a
prompt. Roots are told apart by a salt, so nothing is ever shared across it. Whoever uses a path holds a reference on
every page of it, hence references never grow from parent to child, and a page nobody uses has only unused pages below.

    reference held by    on                        taken by           given back by
    the tree             every page with a node    insert             evict, forget
    a sequence           every page up to `node`   match, extend,     release(node)
                                                   insert, share
    all pins of a page   every page of their paths pin                unpin

Eviction takes unused leaves: those whose time has passed, then ordinary ones, least recently used first, then those
that were to be kept for a time that has not passed yet, least recently used first (heaps whose outdated entries are
skipped when met). A wish to keep a page (`keep`) is thus an order and never a claim; only a pin is, and `pins.py`
bounds pins.

`published` holds a chain hash per node. Other threads may test membership at any time (a set lookup is atomic), and
see from `Node.page` that a page has left the tree; that is all they may touch. Times are seconds on the caller's clock.
This file knows neither tokens' meaning nor sequences, and `lost` is only there for explanations (`miss.py`).
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from headrace.core.events import MissReason
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.salt import Salt

NO_PAGE = -1
_Queue = list[tuple[float, int, "Node"]]


class Node:
    """A cached page, or a root. `page` is NO_PAGE for a root, and as soon as the node has left the tree.

    `ttl_s` 0: nobody asked to keep it; else that was asked for until `expires`, and every use asks again. `stored_s` is
    when it was last handed to the disk tier. It was found `num_uses` times, and last used at `used_s`.
    """

    __slots__ = (
        "chain",
        "children",
        "expires",
        "key",
        "num_uses",
        "page",
        "parent",
        "pins",
        "stamp",
        "stored_s",
        "ttl_s",
        "used_s",
    )

    def __init__(self, parent: "Node | None", key: bytes, page: int, chain: int) -> None:
        self.parent = parent
        self.key = key
        self.page = page
        self.children: dict[bytes, Node] = {}
        self.stamp = 0
        self.pins = 0
        self.ttl_s = 0.0
        self.expires = -math.inf
        self.stored_s = -math.inf
        self.num_uses = 0
        self.used_s = 0.0
        self.chain = chain


class Root(Node):
    """Where one salt's pages begin. `users` counts sequences inside."""

    __slots__ = ("salt", "users")

    def __init__(self, salt: Salt) -> None:
        super().__init__(None, b"", NO_PAGE, chain_hash(0, salt))
        self.salt = salt
        self.users = 0


def chain_hash(parent: int, key: bytes | Salt) -> int:
    """The published name of a page below `parent`; a root is `chain_hash(0, salt)`."""
    return hash((parent, key))


def root_of(node: Node) -> Root:
    """The root above a node that is in the tree."""
    while node.parent is not None:
        node = node.parent
    assert isinstance(node, Root)
    return node


def path_to(node: Node) -> list[Node]:
    """The pages from the root down to `node`, without the root."""
    path = []
    while node.parent is not None:
        path.append(node)
        node = node.parent
    return path[::-1]


class PrefixTree:
    """The tree over one pool. `num_idle` pages are cached and used by nobody: they can be evicted.

    `num_pinned` pages are held by pins. `lost` remembers chain hashes of the last pages that left, and why. `now` is
    the time of the step, which uses are dated by.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[str, dict[Salt, Root]] = {}  # by tenant, so that no look-up meets another tenant's
        self._ordinary: _Queue = []  # by stamp
        self._kept: _Queue = []  # by stamp
        self._expiring: _Queue = []  # the same pages as in `_kept`, by expiry
        self._stamp = 0
        self._pushes = 0
        self._max_lost = max(1024, 4 * pool.num_pages)
        self.now = 0.0
        self.num_nodes = 0
        self.num_idle = 0
        self.num_pinned = 0
        self.published: set[int] = set()
        self.lost: OrderedDict[int, MissReason] = OrderedDict()

    def match(self, salt: Salt, keys: Sequence[bytes], now: float = 0.0) -> tuple[Node, list[int]]:
        """The deepest cached node along `keys` and the pages up to it, now referenced by the caller."""
        root = self._open_root(salt)
        root.users += 1
        node: Node = root
        pages = []
        for key in keys:
            child = node.children.get(key)
            if child is None:
                break
            self._use(child, now)
            pages.append(child.page)
            node = child
        return node, pages

    def count(self, salt: Salt, keys: Sequence[bytes]) -> int:
        """How many pages along `keys` are cached; nothing is held and nothing counts as used."""
        node: Node | None = self.find_root(salt)
        for number, key in enumerate(keys):
            node = None if node is None else node.children.get(key)
            if node is None:
                return number
        return len(keys)

    def extend(self, node: Node, key: bytes, now: float = 0.0) -> Node | None:
        """The child of a node the caller holds, referenced too; None if that page is not cached."""
        child = node.children.get(key)
        if child is not None:
            self._use(child, now)
        return child

    def share(self, node: Node) -> None:
        """One more holder of the whole path to a node that the caller holds."""
        while node.parent is not None:
            self._retain(node)
            node = node.parent
        assert isinstance(node, Root)
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
        child = node.children[key] = Node(node, key, page, chain_hash(node.chain, key))
        child.used_s = self.now
        self._pool.retain(page)
        self.num_nodes += 1
        self.published.add(child.chain)
        if self.lost:
            self.lost.pop(child.chain, None)
        return child

    def release(self, node: Node) -> None:
        """Give back the caller's references on the whole path to `node`; the pages stay cached."""
        self._stamp += 1
        while node.parent is not None:
            node.stamp = self._stamp
            node.used_s = self.now
            self._let_go(node)
            node = node.parent
        assert isinstance(node, Root)
        node.users -= 1
        self._drop_empty_root(node)

    def forget(self, node: Node) -> None:
        """After `release`: uncache what only that path used, because its contents are in doubt."""
        while node.parent is not None and self._is_evictable(node):
            parent = node.parent
            self._remove(node)
            node = parent

    def keep(self, node: Node, ttl_s: float, now: float) -> bool:
        """Ask to keep a page that the caller holds for `ttl_s` after its last use; whether nobody had asked so far."""
        is_new = node.expires <= now
        node.ttl_s = ttl_s if is_new else max(node.ttl_s, ttl_s)
        node.expires = max(node.expires, now + ttl_s)
        return is_new

    def pin(self, path: Iterable[Node]) -> None:
        """One more pin on every page of a path that begins below its root and has been cached all along."""
        for node in path:
            if node.pins == 0:
                self._retain(node)
                self.num_pinned += 1
            node.pins += 1

    def unpin(self, path: Sequence[Node]) -> None:
        """Take one pin back from every page of a path; what nobody else uses counts as used just now."""
        self._stamp += 1
        for node in reversed(path):
            node.pins -= 1
            if node.pins == 0:
                self.num_pinned -= 1
                node.stamp = self._stamp
                self._let_go(node)

    def evict(self, count: int, now: float = 0.0) -> int:
        """Free up to `count` idle pages in the order that the file's head states; returns how many."""
        freed = 0
        while freed < count and (node := self._next_victim(now)) is not None:
            has_expired = node.ttl_s > 0 and node.expires <= now
            self.lost[node.chain] = MissReason.EXPIRED if has_expired else MissReason.EVICTED
            self._remove(node)
            freed += 1
        while len(self.lost) > self._max_lost:
            self.lost.popitem(last=False)
        return freed

    def find_root(self, salt: Salt) -> Root | None:
        """A salt's root if anything is cached or in use below it."""
        return self._roots.get(salt.tenant, {}).get(salt)

    def roots(self) -> Iterator[Root]:
        """All roots."""
        for roots in self._roots.values():
            yield from roots.values()

    def roots_of(self, tenant: str) -> Iterable[Root]:
        """All roots of one tenant."""
        return self._roots.get(tenant, {}).values()

    def check(self) -> None:
        """Assert every invariant by walking the whole tree."""
        refs = self._pool.refs
        pages: set[int] = set()
        chains: set[int] = set()
        idle = pinned = 0
        queued = self._queued()
        stack: list[Node] = [root for roots in self._roots.values() for root in roots.values()]
        assert all(self._roots.values()), "a tenant without roots was kept"
        assert all(root.children or root.users for root in stack if isinstance(root, Root)), "an empty root was kept"
        while stack:
            node = stack.pop()
            for key, child in node.children.items():
                assert child.parent is node and child.key == key, "a link is broken"
                assert child.page not in pages, f"page {child.page} is cached twice"
                assert refs[child.page] >= 1 + (child.pins > 0), f"page {child.page} is cached or pinned and not held"
                assert node.parent is None or refs[node.page] >= refs[child.page], "a child outlives its parent"
                assert node.parent is None or node.pins >= child.pins, "a pin hangs in the air"
                assert child.children or refs[child.page] > 1 or id(child) in queued, "an idle leaf cannot be evicted"
                pages.add(child.page)
                chains.add(child.chain)
                idle += refs[child.page] == 1
                pinned += child.pins > 0
                stack.append(child)
        assert len(pages) == self.num_nodes, "the number of nodes is wrong"
        assert idle == self.num_idle, "the number of idle pages is wrong"
        assert pinned == self.num_pinned, "the number of pinned pages is wrong"
        assert chains == self.published, "the published view is wrong"
        assert chains.isdisjoint(self.lost), "a cached page is remembered as lost"

    def _queued(self) -> set[int]:
        ordinary = {id(node) for stamp, _, node in self._ordinary if node.ttl_s == 0 and node.stamp == stamp}
        kept = {id(node) for stamp, _, node in self._kept if node.ttl_s > 0 and node.stamp == stamp}
        return ordinary | (kept & {id(node) for expires, _, node in self._expiring if node.expires == expires})

    def _open_root(self, salt: Salt) -> Root:
        roots = self._roots.setdefault(salt.tenant, {})
        root = roots.get(salt)
        if root is None:
            root = roots[salt] = Root(salt)
        return root

    def _drop_empty_root(self, root: Root) -> None:
        if root.users == 0 and not root.children:
            roots = self._roots[root.salt.tenant]
            roots.pop(root.salt, None)
            if not roots:
                del self._roots[root.salt.tenant]

    def _use(self, node: Node, now: float) -> None:
        if node.ttl_s > 0:
            if node.expires > now:
                node.expires = now + node.ttl_s
            else:
                node.ttl_s, node.expires = 0.0, -math.inf
        node.num_uses += 1
        node.used_s = self.now
        self._retain(node)

    def _retain(self, node: Node) -> None:
        refs = self._pool.refs
        if refs[node.page] == 1:
            self.num_idle -= 1
        refs[node.page] += 1

    def _let_go(self, node: Node) -> None:
        self._pool.release(node.page)
        if self._pool.refs[node.page] == 1:
            self.num_idle += 1
            if not node.children:
                self._push(node)

    def _is_evictable(self, node: Node) -> bool:
        return node.page >= 0 and not node.children and self._pool.refs[node.page] == 1

    def _next_victim(self, now: float) -> Node | None:
        queue = self._expiring
        while queue and queue[0][0] <= now:
            expires, _, node = heapq.heappop(queue)
            if node.expires == expires and self._is_evictable(node):
                return node
        for queue, is_kept in ((self._ordinary, False), (self._kept, True)):
            while queue:
                stamp, _, node = heapq.heappop(queue)
                if node.stamp == stamp and (node.ttl_s > 0) == is_kept and self._is_evictable(node):
                    return node
        return None

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        del parent.children[node.key]
        self._pool.release(node.page)
        # For whoever copies the page on another thread: what it has read so far may not be trusted.
        node.page = NO_PAGE
        self.num_nodes -= 1
        self.num_idle -= 1
        self.published.discard(node.chain)
        if isinstance(parent, Root):
            self._drop_empty_root(parent)
        elif self._is_evictable(parent):
            self._push(parent)

    def _push(self, node: Node) -> None:
        # The counter breaks ties, so that nodes are never compared.
        self._pushes += 1
        if node.ttl_s > 0:
            heapq.heappush(self._kept, (node.stamp, self._pushes, node))
            heapq.heappush(self._expiring, (node.expires, self._pushes, node))
        else:
            heapq.heappush(self._ordinary, (node.stamp, self._pushes, node))
        if max(len(self._ordinary), len(self._kept), len(self._expiring)) > 2 * self.num_nodes + 64:
            self._compact()

    def _compact(self) -> None:
        """Drop outdated entries; only idle leaves have current ones."""
        idle = {id(entry[2]): entry[2] for entry in (*self._ordinary, *self._kept) if self._is_evictable(entry[2])}
        self._ordinary, self._kept, self._expiring = [], [], []
        for node in sorted(idle.values(), key=lambda node: node.stamp):
            self._pushes += 1
            if node.ttl_s > 0:
                self._kept.append((node.stamp, self._pushes, node))
                self._expiring.append((node.expires, self._pushes, node))
            else:
                self._ordinary.append((node.stamp, self._pushes, node))
        heapq.heapify(self._expiring)
