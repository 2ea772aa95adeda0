"""Accounts of several tenants that ask by one template: a crawl that was split over them.

A template is what most of an account's latest inputs share: word 3-grams that stand in half of them. Those of all
accounts are compared by MinHash (Broder 1997) and locality-sensitive hashing (Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, section 3.4): signatures in bands, of which one that is equal makes two accounts candidates; whether
they are alike is then decided by the 3-grams themselves. Accounts of one tenant share a program by right, so a group
needs several tenants. Values only.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.trust.monitors.theft.embedding import MAX_CHARS

LATEST: Final = 20
"""Inputs of an account that its template is read from: few, so that a split or a slow crawl has one, too."""
MIN_TENANTS: Final = 3
MAX_ACCOUNTS: Final = 10_000
_MIN_GRAMS: Final = 4
_MAX_WORDS: Final = 400  # of one input
_BANDS, _ROWS = 16, 4
_MERSENNE: Final = np.uint64((1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Group:
    """Accounts that ask by one template, and whose each is; `newest` joined it last."""

    tenants: Mapping[str, str]
    newest: str


@dataclass(frozen=True, slots=True)
class _Template:
    tenant: str
    grams: frozenset[int]
    bands: tuple[bytes, ...]


class LinkBook:
    """The templates of all accounts."""

    def __init__(self, likeness: float, random: np.random.Generator) -> None:
        self._likeness = likeness
        limit = int(_MERSENNE)
        self._factors = random.integers(1, limit, _BANDS * _ROWS, dtype=np.uint64)
        self._offsets = random.integers(0, limit, _BANDS * _ROWS, dtype=np.uint64)
        self._latest: OrderedDict[str, deque[frozenset[int]]] = OrderedDict()
        self._templates: OrderedDict[str, _Template] = OrderedDict()
        self._by_band: dict[tuple[int, bytes], set[str]] = {}
        self._group_of: dict[str, str] = {}

    def add(self, account: str, tenant: str, text: str) -> Group | None:
        """One more input; the group that its account has just joined, if it did."""
        latest = self._latest.setdefault(account, deque(maxlen=LATEST))
        self._latest.move_to_end(account)
        if len(self._latest) > MAX_ACCOUNTS:
            self.forget(next(iter(self._latest)))
        latest.append(grams_of(text[:MAX_CHARS].split()[:_MAX_WORDS]))
        if len(latest) < LATEST:
            return None
        grams = template_of(latest)
        latest.clear()
        known = self._templates.get(account)
        if len(grams) < _MIN_GRAMS:
            self._drop(account)
            return None
        if known is not None and known.grams == grams:
            return self._group(account)
        self._drop(account)
        return self._link(account, _Template(tenant, grams, self._bands_of(grams)))

    def forget(self, account: str) -> None:
        """Begin anew with an account."""
        self._latest.pop(account, None)
        self._drop(account)

    def _link(self, account: str, template: _Template) -> Group | None:
        near: set[str] = set()
        for place in enumerate(template.bands):
            near |= self._by_band.get(place, set())
        self._templates[account] = template
        for place in enumerate(template.bands):
            self._by_band.setdefault(place, set()).add(account)
        root = self._group_of[account] = account
        for other in sorted(near):
            if likeness(template.grams, self._templates[other].grams) >= self._likeness:
                root = self._join(root, self._group_of[other])
        return self._group(account)

    def _join(self, one: str, other: str) -> str:
        """Two groups are one from now on; its name."""
        root, gone = min(one, other), max(one, other)
        if root != gone:
            for account, mine in self._group_of.items():
                if mine == gone:
                    self._group_of[account] = root
        return root

    def _group(self, account: str) -> Group | None:
        root = self._group_of[account]
        tenants = {one: self._templates[one].tenant for one, mine in self._group_of.items() if mine == root}
        return Group(tenants, account) if len({*tenants.values()}) >= MIN_TENANTS else None

    def _drop(self, account: str) -> None:
        template = self._templates.pop(account, None)
        if template is None:
            return
        for place in enumerate(template.bands):
            self._by_band[place].discard(account)
            if not self._by_band[place]:
                del self._by_band[place]
        root = self._group_of.pop(account)
        left = sorted(one for one, mine in self._group_of.items() if mine == root)
        if root == account and left:
            for one in left:
                self._group_of[one] = left[0]

    def _bands_of(self, grams: Iterable[int]) -> tuple[bytes, ...]:
        signature = minhash(grams, self._factors, self._offsets)
        return tuple(signature[first : first + _ROWS].tobytes() for first in range(0, len(signature), _ROWS))


def minhash(grams: Iterable[int], factors: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The least value of a set under each of many hash functions (a x + b mod 2^31 - 1)."""
    values = np.fromiter(grams, np.uint64)
    signature: NDArray[np.uint64] = ((factors[:, None] * values[None, :] + offsets[:, None]) % _MERSENNE).min(axis=1)
    return signature


def likeness(one: frozenset[int], other: frozenset[int]) -> float:
    """Jaccard's: what share of all they have is common."""
    return len(one & other) / len(one | other)


def template_of(inputs: Iterable[frozenset[int]]) -> frozenset[int]:
    """The 3-grams that stand in at least half of some inputs."""
    every = list(inputs)
    counts = Counter(gram for grams in every for gram in grams)
    return frozenset(gram for gram, count in counts.items() if 2 * count >= len(every))


def grams_of(words: Sequence[str]) -> frozenset[int]:
    """The 3-grams of some words, hashed to 31 bits; case does not matter."""
    small = [word.lower() for word in words]
    triples = zip(small, small[1:], small[2:], strict=False)
    return frozenset(
        int.from_bytes(blake2b(" ".join(triple).encode("utf-8", "replace"), digest_size=4).digest()) >> 1
        for triple in triples
    )
