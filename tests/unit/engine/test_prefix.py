"""The prefix tree, case by case; `tests/property/test_prefix_tree.py` walks it at random."""

import numpy as np
import pytest

from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import NO_PAGE, PrefixTree, path_to
from headrace.engine.kv.salt import Salt

S = Salt("s")


def make(num_pages: int = 8) -> tuple[PagePool, PrefixTree]:
    pool = PagePool.over(np.zeros((num_pages, 1, 1, 2, 8), np.uint16))
    return pool, PrefixTree(pool)


def cache(pool: PagePool, tree: PrefixTree, salt: Salt, *keys: bytes) -> list[int]:
    node, pages = tree.match(salt, keys)
    for key in keys[len(pages) :]:
        node = tree.insert(node, key, pool.take())
        pages.append(node.page)
    tree.release(node)
    return pages


def test_what_was_cached_is_found_by_its_tokens_and_stops_where_they_differ() -> None:
    pool, tree = make()
    pages = cache(pool, tree, S, b"a", b"b", b"c")
    node, found = tree.match(S, [b"a", b"b", b"x"])
    assert found == pages[:2]
    assert node.page == pages[1]


def test_another_salt_finds_nothing() -> None:
    pool, tree = make()
    cache(pool, tree, Salt("one tenant"), b"a")
    assert tree.match(Salt("another tenant"), [b"a"])[1] == []


def test_the_second_of_two_equal_pages_goes_back_to_the_pool() -> None:
    pool, tree = make()
    one, _ = tree.match(S, [])
    two, _ = tree.match(S, [])
    kept = tree.insert(one, b"a", pool.take()).page
    duplicate = pool.take()
    node = tree.insert(two, b"a", duplicate)
    assert node.page == kept
    assert duplicate in pool.free
    assert pool.refs[kept] == 3


def test_a_page_in_use_is_never_evicted() -> None:
    pool, tree = make(3)
    cache(pool, tree, S, b"a", b"b", b"c")
    _, held = tree.match(S, [b"a", b"b"])
    assert tree.evict(3) == 1
    assert all(pool.refs[page] == 2 for page in held)
    tree.check()


def test_the_path_used_longest_ago_goes_first_and_from_its_end() -> None:
    pool, tree = make()
    old = cache(pool, tree, S, b"a", b"b")
    new = cache(pool, tree, S, b"x", b"y")
    tree.release(tree.match(S, [b"a", b"b"])[0])
    for page in (*reversed(new), *reversed(old)):
        assert tree.evict(1) == 1
        assert pool.free[-1] == page


def test_an_empty_root_is_dropped_so_that_old_tenants_cost_nothing() -> None:
    pool, tree = make()
    for tenant in range(50):
        cache(pool, tree, Salt(str(tenant)), b"a")
        tree.release(tree.match(Salt("200"), [])[0])
        tree.evict(1)
    assert tree._roots == {}
    tree.check()


def test_the_eviction_queue_stays_small_however_often_a_path_is_used() -> None:
    pool, tree = make()
    for _ in range(1000):
        cache(pool, tree, S, b"a", b"b")
    assert len(tree._ordinary) <= 2 * tree.num_nodes + 65


def test_doubtful_pages_are_forgotten_but_not_what_others_use() -> None:
    pool, tree = make()
    pages = cache(pool, tree, S, b"a", b"b", b"c")
    other, _ = tree.match(S, [b"a"])
    node, _ = tree.match(S, [b"a", b"b", b"c"])
    tree.release(node)
    tree.forget(node)
    assert set(pages[1:]) <= set(pool.free)
    assert tree.match(S, [b"a", b"b"])[1] == pages[:1]
    tree.release(other)
    pool.check()


def test_check_finds_a_reference_that_was_lost() -> None:
    pool, tree = make()
    cache(pool, tree, S, b"a", b"b")
    tree._retain(tree.match(S, [b"a", b"b"])[0])
    with pytest.raises(AssertionError, match="outlives"):
        tree.check()


def test_what_is_to_be_kept_goes_after_what_is_not_and_before_nothing() -> None:
    pool, tree = make()
    kept = cache(pool, tree, S, b"a", b"b")
    keep(tree, [b"a", b"b"], ttl_s=10, now=0)
    plain = cache(pool, tree, S, b"x", b"y")
    for page in (*reversed(plain), *reversed(kept)):
        assert tree.evict(1, now=5) == 1
        assert pool.free[-1] == page


def test_what_has_expired_goes_first_although_it_was_used_last() -> None:
    pool, tree = make()
    cache(pool, tree, S, b"x")
    kept = cache(pool, tree, S, b"a", b"b")
    keep(tree, [b"a", b"b"], ttl_s=10, now=0)
    tree.evict(1, now=10)
    assert pool.free[-1] == kept[1]


def test_every_use_keeps_a_page_for_its_time_again() -> None:
    pool, tree = make()
    kept = cache(pool, tree, S, b"a")
    keep(tree, [b"a"], ttl_s=10, now=0)
    plain = cache(pool, tree, S, b"x")
    tree.release(tree.match(S, [b"a"], now=9)[0])
    tree.evict(1, now=18)
    assert pool.free[-1] == plain[0]
    tree.release(tree.match(S, [b"a"], now=18.5)[0])
    tree.evict(1, now=28.5)
    assert pool.free[-1] == kept[0]


def test_a_use_after_its_time_makes_a_page_an_ordinary_one() -> None:
    pool, tree = make()
    cache(pool, tree, S, b"a")
    keep(tree, [b"a"], ttl_s=10, now=0)
    plain = cache(pool, tree, S, b"x")
    tree.release(tree.match(S, [b"a"], now=11)[0])
    tree.evict(1, now=12)
    assert pool.free[-1] == plain[0]


def keep(tree: PrefixTree, keys: list[bytes], ttl_s: float, now: float) -> None:
    node, _ = tree.match(S, keys, now)
    for one in path_to(node):
        assert tree.keep(one, ttl_s, now)
    tree.release(node)


def test_whoever_copies_a_page_sees_that_it_was_evicted_meanwhile() -> None:
    pool, tree = make()
    cache(pool, tree, S, b"a")
    node, _ = tree.match(S, [b"a"])
    tree.release(node)
    page = node.page
    cache(pool, tree, S, b"b")
    assert node.page == page
    tree.evict(2)
    assert node.page == NO_PAGE


def test_the_queues_of_kept_pages_stay_small_too() -> None:
    pool, tree = make()
    cache(pool, tree, S, b"a", b"b")
    for turn in range(1000):
        node, _ = tree.match(S, [b"a", b"b"], now=turn)
        tree.keep(node, 5.0, now=turn)
        tree.release(node)
    assert max(len(tree._kept), len(tree._expiring)) <= 2 * tree.num_nodes + 65


def test_what_is_remembered_of_lost_pages_is_bounded() -> None:
    pool, tree = make()
    for number in range(3000):
        cache(pool, tree, S, number.to_bytes(2, "little"))
        tree.evict(1)
    assert len(tree.lost) == 1024
