"""Why a prefix was not found, by cause; and that the answer is about the asking tenant alone."""

import numpy as np
import pytest

from headrace.core.events import MissReason
from headrace.engine.kv.miss import explain
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree, path_to
from headrace.engine.kv.salt import Salt

MINE = Salt("me", "model", "adapter", "template", "salt")


def make(*keys: bytes, salt: Salt = MINE, ttl_s: float = 0.0) -> PrefixTree:
    pool = PagePool.over(np.zeros((8, 1, 1, 2, 8), np.uint16))
    tree = PrefixTree(pool)
    node, _ = tree.match(salt, [])
    for key in keys:
        node = tree.insert(node, key, pool.take())
    for one in path_to(node):
        if ttl_s:
            tree.keep(one, ttl_s, 0.0)
    tree.release(node)
    return tree


def why(tree: PrefixTree, *keys: bytes, salt: Salt = MINE) -> MissReason:
    node, pages = tree.match(salt, keys)
    tree.release(node)
    return explain(tree, salt, keys, len(pages))


def test_nothing_to_look_for_and_everything_found() -> None:
    tree = make(b"a", b"b")
    assert why(tree) is MissReason.TOO_SHORT
    assert why(tree, b"a", b"b") is MissReason.NONE


def test_what_nobody_has_seen_is_cold() -> None:
    assert why(make(b"a"), b"x") is MissReason.COLD


def test_a_longer_conversation_is_extended_and_another_one_has_changed_messages() -> None:
    tree = make(b"a", b"b")
    assert why(tree, b"a", b"b", b"c") is MissReason.EXTENDED
    assert why(tree, b"a", b"x") is MissReason.MESSAGES_CHANGED


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("model", MissReason.MODEL_CHANGED),
        ("adapter", MissReason.ADAPTER_CHANGED),
        ("template", MissReason.TEMPLATE_CHANGED),
        ("caller", MissReason.SALT_CHANGED),
    ],
)
def test_the_part_of_the_salt_that_changed_is_named(part: str, reason: MissReason) -> None:
    assert why(make(b"a"), b"a", salt=MINE._replace(**{part: "other"})) is reason


def test_of_several_parts_the_weightiest_is_named() -> None:
    assert why(make(b"a"), b"a", salt=Salt("me", "other", "adapter", "other", "other")) is MissReason.MODEL_CHANGED


def test_another_tenants_pages_explain_nothing() -> None:
    assert why(make(b"a"), b"a", salt=MINE._replace(tenant="you")) is MissReason.COLD
    assert why(make(b"a"), b"a", salt=MINE._replace(tenant="you", model="other")) is MissReason.COLD


def test_evicted_and_expired_pages_are_told_apart_and_forgotten_when_they_return() -> None:
    evicted, expired = make(b"a", b"b"), make(b"a", b"b", ttl_s=5.0)
    evicted.evict(1)
    expired.evict(1, now=6.0)
    assert why(evicted, b"a", b"b") is MissReason.EVICTED
    assert why(expired, b"a", b"b") is MissReason.EXPIRED
    node, _ = evicted.match(MINE, [b"a"])
    evicted.release(evicted.insert(node, b"b", evicted._pool.take()))
    evicted.evict(0)
    assert why(evicted, b"a", b"b") is MissReason.NONE
