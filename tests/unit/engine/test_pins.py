"""Pins, case by case: they keep pages, end by name or time, and stay below a quota that leaves room for any request."""

import numpy as np
import pytest

from headrace.engine.kv.pins import PinQuota, Pins, quota_for
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree
from headrace.engine.kv.salt import Salt

ONE, TWO = Salt("one"), Salt("two")


def make(quota: PinQuota, num_pages: int = 10) -> tuple[PagePool, PrefixTree, Pins]:
    pool = PagePool.over(np.zeros((num_pages, 1, 1, 2, 8), np.uint16))
    tree = PrefixTree(pool)
    return pool, tree, Pins(tree, quota)


def pin(pool: PagePool, tree: PrefixTree, pins: Pins, salt: Salt, *keys: bytes, name: str = "n", **times: float) -> int:
    node, pages = tree.match(salt, keys)
    for key in keys[len(pages) :]:
        node = tree.insert(node, key, pool.take())
    count = pins.pin(name, node, times.get("now", 0.0), times.get("expires", 1e9))
    tree.release(node)
    pins.check()
    tree.check()
    return count


def test_a_pinned_path_is_not_evicted_until_it_is_unpinned() -> None:
    pool, tree, pins = make(PinQuota(5, 5))
    assert pin(pool, tree, pins, ONE, b"a", b"b") == 2
    assert tree.evict(10) == 0
    pins.unpin("two", "n")
    assert tree.evict(10) == 0
    pins.unpin("one", "n")
    assert tree.evict(10) == 2
    assert pins.used == {}


def test_a_quota_that_ends_pins_the_beginning_of_a_path() -> None:
    pool, tree, pins = make(PinQuota(3, 5))
    assert pin(pool, tree, pins, ONE, b"a", b"b", b"c", b"d") == 3
    assert tree.evict(10) == 1
    assert tree.match(ONE, [b"a", b"b", b"c", b"d"])[1] != []


def test_a_page_that_two_pins_share_counts_once_and_stays_until_both_end() -> None:
    pool, tree, pins = make(PinQuota(3, 5))
    assert pin(pool, tree, pins, ONE, b"a", b"b", name="p") == 2
    assert pin(pool, tree, pins, ONE, b"a", b"x", name="q") == 2
    assert pins.used == {"one": 3}
    pins.unpin("one", "p")
    assert pins.used == {"one": 2}
    assert tree.evict(10) == 1


def test_a_new_pin_of_a_name_replaces_the_former_one_within_the_quota() -> None:
    pool, tree, pins = make(PinQuota(3, 3))
    assert pin(pool, tree, pins, ONE, b"a", b"b") == 2
    assert pin(pool, tree, pins, ONE, b"a", b"b", b"c") == 3
    assert pin(pool, tree, pins, ONE, b"x") == 1
    assert tree.evict(10) == 3


def test_one_tenant_cannot_use_up_the_quota_of_another() -> None:
    pool, tree, pins = make(PinQuota(3, 5))
    for number in range(4):
        pin(pool, tree, pins, ONE, bytes([number]), name=str(number))
    assert pins.used == {"one": 3}
    assert pin(pool, tree, pins, TWO, b"a", b"b", b"c") == 2
    assert pins.used == {"one": 3, "two": 2}


def test_a_pin_ends_by_itself_when_its_time_has_passed() -> None:
    pool, tree, pins = make(PinQuota(5, 5))
    pin(pool, tree, pins, ONE, b"a", expires=10.0)
    pin(pool, tree, pins, ONE, b"a", expires=20.0)
    pins.expire(10.0)
    assert tree.evict(10) == 0
    pins.expire(20.0)
    assert tree.evict(10) == 1
    assert pin(pool, tree, pins, ONE, b"a", now=5.0, expires=5.0) == 0


def test_the_memory_for_expiries_stays_small_however_often_a_session_is_pinned() -> None:
    pool, tree, pins = make(PinQuota(5, 5))
    for turn in range(1000):
        pin(pool, tree, pins, ONE, b"a", expires=1e6 + turn)
    assert len(pins._by_expiry) <= 66


def test_names_of_one_tenant_are_bounded_although_they_may_share_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.engine.kv.pins.MAX_NAMES", 8)
    pool, tree, pins = make(PinQuota(5, 5))
    for number in range(11):
        assert pin(pool, tree, pins, ONE, b"a", b"b", name=str(number)) == 2
    assert len(pins._all()) == 8
    for number in range(3, 11):
        pins.unpin("one", str(number))
    assert pins.used == {}
    assert tree.num_pinned == 0


@pytest.mark.parametrize(
    ("num_pages", "most_pages", "quota"),
    [
        (1000, 100, PinQuota(125, 250)),
        (120, 100, PinQuota(15, 20)),
        (100, 100, PinQuota(0, 0)),
        (50, 80, PinQuota(0, 0)),
    ],
)
def test_the_largest_request_fits_beside_all_pins(num_pages: int, most_pages: int, quota: PinQuota) -> None:
    assert quota_for(num_pages, most_pages) == quota
    assert quota.total_pages == 0 or num_pages - quota.total_pages >= most_pages
