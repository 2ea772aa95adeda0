"""The prefix tree, case by case; `tests/property/test_prefix_tree.py` walks it at random."""

import numpy as np
import pytest

from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree


def make(num_pages: int = 8) -> tuple[PagePool, PrefixTree]:
    pool = PagePool.over(np.zeros((num_pages, 1, 1, 2, 8), np.uint16))
    return pool, PrefixTree(pool)


def cache(pool: PagePool, tree: PrefixTree, salt: bytes, *keys: bytes) -> list[int]:
    node, pages = tree.match(salt, keys)
    for key in keys[len(pages) :]:
        node = tree.insert(node, key, pool.take())
        pages.append(node.page)
    tree.release(node)
    return pages


def test_what_was_cached_is_found_by_its_tokens_and_stops_where_they_differ() -> None:
    pool, tree = make()
    pages = cache(pool, tree, b"s", b"a", b"b", b"c")
    node, found = tree.match(b"s", [b"a", b"b", b"x"])
    assert found == pages[:2]
    assert node.page == pages[1]


def test_another_salt_finds_nothing() -> None:
    pool, tree = make()
    cache(pool, tree, b"one tenant", b"a")
    assert tree.match(b"another tenant", [b"a"])[1] == []


def test_the_second_of_two_equal_pages_goes_back_to_the_pool() -> None:
    pool, tree = make()
    one, _ = tree.match(b"s", [])
    two, _ = tree.match(b"s", [])
    kept = tree.insert(one, b"a", pool.take()).page
    duplicate = pool.take()
    node = tree.insert(two, b"a", duplicate)
    assert node.page == kept
    assert duplicate in pool.free
    assert pool.refs[kept] == 3


def test_a_page_in_use_is_never_evicted() -> None:
    pool, tree = make(3)
    cache(pool, tree, b"s", b"a", b"b", b"c")
    _, held = tree.match(b"s", [b"a", b"b"])
    assert tree.evict(3) == 1
    assert all(pool.refs[page] == 2 for page in held)
    tree.check()


def test_the_path_used_longest_ago_goes_first_and_from_its_end() -> None:
    pool, tree = make()
    old = cache(pool, tree, b"s", b"a", b"b")
    new = cache(pool, tree, b"s", b"x", b"y")
    tree.release(tree.match(b"s", [b"a", b"b"])[0])
    for page in (*reversed(new), *reversed(old)):
        assert tree.evict(1) == 1
        assert pool.free[-1] == page


def test_an_empty_root_is_dropped_so_that_old_tenants_cost_nothing() -> None:
    pool, tree = make()
    for tenant in range(50):
        cache(pool, tree, bytes([tenant]), b"a")
        tree.release(tree.match(bytes([200]), [])[0])
        tree.evict(1)
    assert tree._roots == {}
    tree.check()


def test_the_eviction_queue_stays_small_however_often_a_path_is_used() -> None:
    pool, tree = make()
    for _ in range(1000):
        cache(pool, tree, b"s", b"a", b"b")
    assert len(tree._heap) <= 2 * tree.num_nodes + 65


def test_doubtful_pages_are_forgotten_but_not_what_others_use() -> None:
    pool, tree = make()
    pages = cache(pool, tree, b"s", b"a", b"b", b"c")
    other, _ = tree.match(b"s", [b"a"])
    node, _ = tree.match(b"s", [b"a", b"b", b"c"])
    tree.release(node)
    tree.forget(node)
    assert set(pages[1:]) <= set(pool.free)
    assert tree.match(b"s", [b"a", b"b"])[1] == pages[:1]
    tree.release(other)
    pool.check()


def test_check_finds_a_reference_that_was_lost() -> None:
    pool, tree = make()
    cache(pool, tree, b"s", b"a", b"b")
    tree._retain(tree.match(b"s", [b"a", b"b"])[0])
    with pytest.raises(AssertionError, match="outlives"):
        tree.check()
