"""Pins: named references on paths of the prefix tree, which keep pages from being evicted for as long as they last.

A pin has an owner (a tenant) and a name, may expire, and replaces the pin of the same owner and name. A page that many
pins of a tenant hold counts once; of too many names the one that was pinned longest ago ends. Quotas bound what one
tenant and all of them together can pin, below the pool and so that the largest possible request still fits beside all
pins (`quota_for`): pins can make others slower, never stuck. Where the quota ends a path is pinned from its beginning
as far as it reaches, which is the part that most others share.

Knows no sequences and no clock; times are seconds on the caller's.
"""

import heapq
import math
from dataclasses import dataclass

from headrace.engine.kv.prefix import Node, PrefixTree, path_to, root_of

TOTAL_SHARE = 4  # all pins together: this fraction (1/4) of a pool
TENANT_SHARE = 8  # those of one tenant
MAX_NAMES = 1024  # of one tenant: they may all name the same pages, which the quota would count once


@dataclass(frozen=True, slots=True)
class PinQuota:
    """Pages that pins may hold: of one tenant, and of all together."""

    tenant_pages: int
    total_pages: int


def quota_for(num_pages: int, most_pages: int) -> PinQuota:
    """The quota for a pool of `num_pages` whose largest request takes `most_pages`, both of them pages."""
    spare = max(0, num_pages - most_pages)
    return PinQuota(min(spare, num_pages // TENANT_SHARE), min(spare, num_pages // TOTAL_SHARE))


@dataclass(slots=True)
class _Pin:
    path: list[Node]
    expires: float


class Pins:
    """All pins on one tree. `used` is pages by tenant, those without pins left out."""

    def __init__(self, tree: PrefixTree, quota: PinQuota) -> None:
        self._tree = tree
        self._quota = quota
        self._pins: dict[str, dict[str, _Pin]] = {}  # by tenant and name
        self._by_expiry: list[tuple[float, tuple[str, str]]] = []
        self.used: dict[str, int] = {}

    def pin(self, name: str, node: Node, now: float, expires: float = math.inf) -> int:
        """Pin the path to a cached node that the caller holds, for its root's tenant; returns pages that are pinned."""
        tenant = root_of(node).salt.tenant
        self.unpin(tenant, name)
        self.expire(now)
        used = self.used.get(tenant, 0)
        room = max(0, min(self._quota.tenant_pages - used, self._quota.total_pages - self._tree.num_pinned))
        path = path_to(node)
        # Pins begin at the root, so what is pinned already is the path's beginning.
        num_pinned = sum(node.pins > 0 for node in path)
        path = path[: num_pinned + room]
        if not path or expires <= now:
            return 0
        added = max(0, len(path) - num_pinned)
        self._tree.pin(path)
        if used + added:
            self.used[tenant] = used + added
        named = self._pins.setdefault(tenant, {})
        named[name] = _Pin(path, expires)
        if len(named) > MAX_NAMES:
            self.unpin(tenant, next(iter(named)))
        if expires < math.inf:
            heapq.heappush(self._by_expiry, (expires, (tenant, name)))
            self._compact()
        return len(path)

    def unpin(self, tenant: str, name: str) -> None:
        """End a pin; one that is not there is no error."""
        named = self._pins.get(tenant, {})
        pin = named.pop(name, None)
        if pin is None:
            return
        if not named:
            del self._pins[tenant]
        before = self._tree.num_pinned
        self._tree.unpin(pin.path)
        left = self.used[tenant] - (before - self._tree.num_pinned)
        if left:
            self.used[tenant] = left
        else:
            del self.used[tenant]

    def expire(self, now: float) -> None:
        """End the pins whose time has passed."""
        while self._by_expiry and self._by_expiry[0][0] <= now:
            expires, (tenant, name) = heapq.heappop(self._by_expiry)
            pin = self._pins.get(tenant, {}).get(name)
            if pin is not None and pin.expires == expires:
                self.unpin(tenant, name)

    def clear(self) -> None:
        """End all pins."""
        for tenant, name, _ in self._all():
            self.unpin(tenant, name)

    def check(self) -> None:
        """Assert that names, quotas and the tree agree."""
        held: dict[str, set[int]] = {}
        for tenant, _, pin in self._all():
            assert pin.path and all(node.page >= 0 and node.pins > 0 for node in pin.path), "a pinned page was evicted"
            assert root_of(pin.path[0]).salt.tenant == tenant, "a pin belongs to another tenant"
            held.setdefault(tenant, set()).update(id(node) for node in pin.path)
        counts = {tenant: len(nodes) for tenant, nodes in held.items()}
        assert counts == self.used, "pinned pages are counted wrong"
        assert sum(counts.values()) == self._tree.num_pinned <= self._quota.total_pages, "pins exceed the pool's quota"
        assert max(counts.values(), default=0) <= self._quota.tenant_pages, "pins exceed a tenant's quota"

    def _all(self) -> list[tuple[str, str, _Pin]]:
        return [(tenant, name, pin) for tenant, named in self._pins.items() for name, pin in named.items()]

    def _compact(self) -> None:
        pins = sum(map(len, self._pins.values()))
        if len(self._by_expiry) > 2 * pins + 64:
            self._by_expiry = sorted(
                (pin.expires, (tenant, name)) for tenant, name, pin in self._all() if pin.expires < math.inf
            )
