"""Trees and proofs, held to the recursive definitions of RFC 9162 2.1, which say what is meant and not how."""

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_log import Files

from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import EMPTY_ROOT, hash_leaf, verify_consistency, verify_inclusion
from headrace.trust.log.reading import Reader
from headrace.trust.log.tree import Tree

SIZES = st.integers(1, 600)


def mth(entries: Sequence[bytes]) -> bytes:
    """RFC 9162 2.1.1"""
    if not entries:
        return sha256().digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = largest_power_below(len(entries))
    return sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """RFC 9162 2.1.3.1"""
    if len(entries) == 1:
        return []
    k = largest_power_below(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def subproof(m: int, entries: Sequence[bytes], is_whole: bool) -> list[bytes]:
    """RFC 9162 2.1.4.1"""
    if m == len(entries):
        return [] if is_whole else [mth(entries)]
    k = largest_power_below(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], is_whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


def largest_power_below(size: int) -> int:
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def entries_of(size: int) -> list[bytes]:
    return [b"entry %d" % index for index in range(size)]


def log_of(entries: Sequence[bytes], cuts: Sequence[int] = ()) -> tuple[Tree, Files]:
    """A log that grew in batches which ended at these sizes."""
    tree, files = Tree(), Files()
    for stop in (*sorted(cuts), len(entries)):
        for tile, data in tree.append(entries[tree.size : stop]):
            files[tile.path] = data
    return tree, files


@settings(deadline=None, max_examples=60)
@given(size=st.integers(0, 600), cuts=st.lists(st.integers(0, 600), max_size=4))
def test_however_it_grew_a_tree_has_the_root_that_the_definition_gives(size: int, cuts: list[int]) -> None:
    entries = entries_of(size)
    tree, files = log_of(entries, [min(one, size) for one in cuts])
    assert tree.root() == mth(entries) == Reader(files, size).root()
    again = Tree.of(Reader(files, size))
    assert again == tree or (again.size, again.entries, again.root()) == (size, tree.entries, tree.root())
    # It goes on as if it had never been put down.
    for one in (again, tree):
        one.append([b"more"] * 300)
    assert again.root() == tree.root() == mth([*entries, *[b"more"] * 300])


@settings(deadline=None, max_examples=80)
@given(size=SIZES, data=st.data())
def test_proofs_of_inclusion_are_those_of_the_definition_and_verify(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    entries = entries_of(size)
    tree, files = log_of(entries)
    proof = Reader(files, size).inclusion(index)
    assert proof == path(index, entries)
    verify_inclusion(index, size, hash_leaf(entries[index]), proof, tree.root())
    for wrong in (index ^ 1, index + 1, index - 1, size):
        with pytest.raises(LogFault):
            verify_inclusion(wrong, size, hash_leaf(entries[index]), proof, tree.root())


@settings(deadline=None, max_examples=80)
@given(second=SIZES, data=st.data())
def test_proofs_of_consistency_are_those_of_the_definition_and_verify(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second))
    entries = entries_of(second)
    _, files = log_of(entries)
    proof = Reader(files, second).consistency(first)
    assert proof == subproof(first, entries, True)
    verify_consistency(first, second, proof, mth(entries[:first]), mth(entries))
    with pytest.raises(LogFault):
        verify_consistency(first, second, proof, mth([*entries[: first - 1], b"another"]), mth(entries))


def test_every_proof_of_every_small_tree_is_that_of_the_definition() -> None:
    for size in range(1, 34):
        entries = entries_of(size)
        _, files = log_of(entries)
        reader = Reader(files, size)
        for index in range(size):
            assert reader.inclusion(index) == path(index, entries)
            assert reader.consistency(index + 1) == subproof(index + 1, entries, True)


LEAVES = [hash_leaf(one) for one in entries_of(7)]
ROOT = mth(entries_of(7))
PROOF = path(2, entries_of(7))


@pytest.mark.parametrize(
    ("index", "size", "leaf", "proof", "root"),
    [
        (2, 7, LEAVES[2], [*PROOF, PROOF[0]], ROOT),  # a node too many
        (2, 7, LEAVES[2], [PROOF[0], *PROOF], ROOT),
        (2, 7, LEAVES[2], PROOF[:-1], ROOT),  # a node missing
        (2, 7, LEAVES[2], [], ROOT),
        (2, 7, LEAVES[2], PROOF[::-1], ROOT),
        (2, 7, LEAVES[2], [bytes(32), *PROOF[1:]], ROOT),
        (7, 7, LEAVES[2], PROOF, ROOT),  # index >= size
        (8, 7, LEAVES[2], PROOF, ROOT),
        (-1, 7, LEAVES[2], PROOF, ROOT),
        (2, 7, LEAVES[2][:31], PROOF, ROOT),  # hashes of 31 bytes
        (2, 7, LEAVES[2], [PROOF[0][:31], *PROOF[1:]], ROOT),
        (2, 7, LEAVES[2], PROOF, ROOT[:31]),
        (2, 7, b"", PROOF, ROOT),  # empty hashes
        (2, 7, LEAVES[2], PROOF, b""),
        (0, 0, LEAVES[0], [], LEAVES[0]),  # nothing is in an empty tree
        (0, 0, EMPTY_ROOT, [], EMPTY_ROOT),
        (0, 1, b"", [], b""),
        (2, 9, LEAVES[2], PROOF, ROOT),  # the size of a tree of another shape
        (2, 3, LEAVES[2], PROOF, ROOT),
    ],
)
def test_what_is_wrong_with_a_proof_of_inclusion_is_refused(
    index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes
) -> None:
    verify_inclusion(2, 7, LEAVES[2], PROOF, ROOT)
    with pytest.raises(LogFault):
        verify_inclusion(index, size, leaf, proof, root)


OLD_ROOT = mth(entries_of(3))
GROWTH = subproof(3, entries_of(7), True)


@pytest.mark.parametrize(
    ("first", "second", "proof", "first_root", "second_root"),
    [
        (3, 7, [*GROWTH, GROWTH[0]], OLD_ROOT, ROOT),
        (3, 7, GROWTH[:-1], OLD_ROOT, ROOT),
        (3, 7, [], OLD_ROOT, ROOT),
        (3, 7, GROWTH, ROOT, OLD_ROOT),
        (3, 7, GROWTH, OLD_ROOT[:31], ROOT),
        (3, 7, [GROWTH[0][:31], *GROWTH[1:]], OLD_ROOT, ROOT),
        (7, 3, GROWTH, ROOT, OLD_ROOT),  # it shrank
        (0, 7, [], EMPTY_ROOT, ROOT),  # from nothing: nobody can show or doubt it
        (0, 7, GROWTH, EMPTY_ROOT, ROOT),
        (0, 0, [], ROOT, ROOT),  # size 0 with a root that is not empty
        (0, 0, [GROWTH[0]], EMPTY_ROOT, EMPTY_ROOT),
        (7, 7, [GROWTH[0]], ROOT, ROOT),
        (7, 7, [], ROOT, OLD_ROOT),  # two trees of one size
        (4, 7, GROWTH, OLD_ROOT, ROOT),
        (3, 9, GROWTH, OLD_ROOT, ROOT),
    ],
)
def test_what_is_wrong_with_a_proof_of_consistency_is_refused(
    first: int, second: int, proof: list[bytes], first_root: bytes, second_root: bytes
) -> None:
    verify_consistency(3, 7, GROWTH, OLD_ROOT, ROOT)
    verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    verify_consistency(7, 7, [], ROOT, ROOT)
    with pytest.raises(LogFault):
        verify_consistency(first, second, proof, first_root, second_root)
