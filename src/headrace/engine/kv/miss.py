"""Why a prefix was not found, or not to its end: asked for by those who want to know, and only then computed.

An answer is about the asking tenant's own pages: under its own salt first, then under salts of the same tenant that
differ in another part. Where it cannot be known (the memory of lost pages is bounded) the answer is the plainer one.
"""

from collections.abc import Sequence

from headrace.core.events import MissReason
from headrace.engine.kv.prefix import Node, PrefixTree, chain_hash
from headrace.engine.kv.salt import CHANGES, Salt


def explain(tree: PrefixTree, salt: Salt, keys: Sequence[bytes], num_found: int) -> MissReason:
    """Why a match of `keys`, all pages that could have been reused, ended after `num_found`."""
    if not keys:
        return MissReason.TOO_SHORT
    if num_found >= len(keys):
        return MissReason.NONE
    chain = chain_hash(0, salt)
    for key in keys[: num_found + 1]:
        chain = chain_hash(chain, key)
    if (lost := tree.lost.get(chain)) is not None:
        return lost
    if num_found == 0:
        return _changed_part(tree, salt, keys[0]) or MissReason.COLD
    node: Node | None = tree.find_root(salt)
    for key in keys[:num_found]:
        node = None if node is None else node.children.get(key)
    return MissReason.MESSAGES_CHANGED if node is not None and node.children else MissReason.EXTENDED


def _changed_part(tree: PrefixTree, salt: Salt, key: bytes) -> MissReason | None:
    """What differs from the nearest salt of the same tenant that knows the first page."""
    changes = [
        salt.changes_from(root.salt)
        for root in tree.roots_of(salt.tenant)
        if key in root.children and root.salt != salt
    ]
    return min(changes, key=lambda reasons: (len(reasons), CHANGES.index(reasons[0])))[0] if changes else None
