"""Merkle trees as RFC 9162 has them, section 2.1: hashes, proofs of inclusion and of consistency, made and verified.

What makes a proof asks for `node(height, index)`: the hash of the complete subtree over the leaves from
`index * 2**height` on. Where those come from (`reading.py`) is not known here.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from headrace.trust.log.fault import LogFault

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
"""RFC 9162 2.1.1: the hash of an empty list is the hash of an empty string."""

Node = Callable[[int, int], bytes]


def hash_leaf(entry: bytes) -> bytes:
    """RFC 9162 2.1.1: MTH({d[0]}) = HASH(0x00 || d[0])."""
    return sha256(b"\x00" + entry).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """RFC 9162 2.1.1: HASH(0x01 || MTH(D[0:k]) || MTH(D[k:n]))."""
    return sha256(b"\x01" + left + right).digest()


def hash_perfect(hashes: Sequence[bytes]) -> bytes:
    """The hash over a complete subtree's nodes of one level, of which there are a power of two."""
    level = hashes
    while len(level) > 1:
        # Two names for one thing cost less than a call for each pair, of which an audit makes millions.
        level = [sha256(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level), 2)]
    return level[0]


def split(size: int) -> int:
    """RFC 9162 2.1.1: the largest power of two smaller than a size of at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def hash_range(start: int, stop: int, node: Node) -> bytes:
    """MTH(D[start:stop]) of a range that begins where a subtree does; of a whole tree with `start` 0."""
    if start == stop:
        return EMPTY_ROOT
    size = stop - start
    if size & (size - 1) == 0:
        height = size.bit_length() - 1
        return node(height, start >> height)
    middle = start + split(size)
    return hash_children(hash_range(start, middle, node), hash_range(middle, stop, node))


def hash_edge(edge: Sequence[Sequence[bytes]]) -> bytes:
    """The root of a tree by its right edge: of each level of tiles, from the leaves up, the hashes that fill no tile.
    Each is a row of ever smaller complete subtrees, which are joined from the tree's right foot."""
    root: bytes | None = None
    for hashes in edge:
        stop = len(hashes)
        while stop:
            width = stop & -stop
            subtree = hash_perfect(hashes[stop - width : stop])
            root = subtree if root is None else hash_children(subtree, root)
            stop -= width
    return EMPTY_ROOT if root is None else root


def prove_inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """RFC 9162 2.1.3.1, PATH(m, D_n): from the leaf's sibling up to the root's child. Raises LogFault."""
    if not 0 <= index < size:
        raise LogFault(f"index {index} is not in a tree of {size} entries.", param="index")
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + split(stop - start)
        if index < middle:
            path.append(hash_range(middle, stop, node))
            stop = middle
        else:
            path.append(hash_range(start, middle, node))
            start = middle
    return path[::-1]


def prove_consistency(first: int, second: int, node: Node) -> list[bytes]:
    """RFC 9162 2.1.4.1, PROOF(m, D_n) for 0 < m <= n, which is empty for m = n. Raises LogFault."""
    if not 0 < first <= second:
        raise LogFault(f"a tree of {first} entries has no proof that it is the beginning of one of {second}.")
    path: list[bytes] = []
    start, stop = 0, second
    is_known = True  # SUBPROOF's b: the subtree is the whole first tree, whose hash a verifier has
    while first != stop:
        middle = start + split(stop - start)
        if first <= middle:
            path.append(hash_range(middle, stop, node))
            stop = middle
        else:
            path.append(hash_range(start, middle, node))
            start, is_known = middle, False
    if not is_known:
        path.append(hash_range(start, stop, node))
    return path[::-1]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 2.1.3.2: that `leaf`, a leaf's hash, stands at `index` of the tree. Raises LogFault."""
    _check_hashes((leaf, root, *proof))
    # 1. Compare leaf_index against tree_size; if leaf_index is greater or equal, fail.
    if not 0 <= index < size:
        raise LogFault(f"index {index} is not in a tree of {size} entries.", param="index")
    # 2., 3. Set fn to leaf_index, sn to tree_size - 1 and r to hash.
    fn, sn, r = index, size - 1, leaf
    # 4. For each value p in the inclusion_path array:
    for p in proof:
        # a. If sn is 0, fail.
        if sn == 0:
            raise LogFault(f"the proof has more hashes than a tree of {size} entries needs.")
        # b. If LSB(fn) is set, or if fn equals sn: r = HASH(0x01 || p || r); then if LSB(fn) is not set, shift both
        #    right until it is or fn is 0.
        if fn & 1 or fn == sn:
            r = hash_children(p, r)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hash_children(r, p)
        # c. Shift both right one time.
        fn, sn = fn >> 1, sn >> 1
    # 5. Compare sn to 0 and r against the root_hash; if they are not both equal, fail.
    if sn != 0:
        raise LogFault(f"the proof has fewer hashes than a tree of {size} entries needs.")
    if r != root:
        raise LogFault(f"the proof of entry {index} does not lead to the root of the tree of {size} entries.")


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    """RFC 9162 2.1.4.2: that the first tree is the beginning of the second; for 0 < first <= second, and for two empty
    trees. Raises LogFault."""
    _check_hashes((first_root, second_root, *proof))
    if first == second:
        _check_same(first, proof, first_root, second_root)
        return
    if not 0 < first < second:
        raise LogFault(f"a tree of {first} entries cannot be shown to be the beginning of one of {second}.")
    # 1. If consistency_path is an empty array, fail.
    if not proof:
        raise LogFault("the proof of consistency is empty.")
    # 2. If first is an exact power of 2, prepend first_hash to the consistency_path array.
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    # 3., 4. fn = first - 1, sn = second - 1; if LSB(fn) is set, shift both right until it is not.
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    # 5. Set both fr and sr to the first value in the array.
    fr = sr = path[0]
    # 6. For each subsequent value c:
    for c in path[1:]:
        # a. If sn is 0, fail.
        if sn == 0:
            raise LogFault("the proof of consistency has more hashes than these sizes need.")
        # b. If LSB(fn) is set, or if fn is equal to sn: fr = HASH(0x01 || c || fr), sr = HASH(0x01 || c || sr); if
        #    LSB(fn) is not set, shift both right until it is or fn is 0.
        if fn & 1 or fn == sn:
            fr, sr = hash_children(c, fr), hash_children(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = hash_children(sr, c)
        # c. Shift both right one time.
        fn, sn = fn >> 1, sn >> 1
    # 7. fr is first_hash, sr is second_hash, and sn is 0.
    if sn != 0:
        raise LogFault("the proof of consistency has fewer hashes than these sizes need.")
    if fr != first_root:
        raise LogFault(f"the proof does not lead to the root of the first tree, of {first} entries.")
    if sr != second_root:
        raise LogFault(f"the proof does not lead to the root of the second tree, of {second} entries.")


def _check_same(size: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    if proof:
        raise LogFault("two trees of one size need no proof, and one was given.")
    if first_root != second_root:
        raise LogFault(f"two different trees have {size} entries: the log was forked.")
    if size == 0 and first_root != EMPTY_ROOT:
        raise LogFault("an empty tree has the hash of nothing as its root, and this is another.")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for one in hashes:
        if len(one) != HASH_BYTES:
            raise LogFault(f"a hash has {len(one)} bytes; SHA-256's have {HASH_BYTES}.")
