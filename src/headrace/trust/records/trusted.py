"""What a trust file (`trust/log/trust_file.py`) says to a verifier of records: nodes, revoked keys, a policy for logs.

A file that names nodes alone is enough for the level "signed", and needs no `quorum` line.
"""

from dataclasses import replace
from typing import Final

from headrace.core.errors import InvalidRequest
from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.proof import parse_proof
from headrace.trust.log.trust_file import NONE, Node, TrustFile, parse_trust_file
from headrace.trust.records.node_key import NodeKey, read_node_key
from headrace.trust.records.verification import Included, Level, Trusted

MAX_SENTENCE: Final = 1000
_OF_LOGS: Final = (b"log", b"witness", b"group", b"quorum")


def read_trusted(data: bytes) -> Trusted:
    """A trust file. Raises InvalidRequest, with the line."""
    words = (line.split(None, 1) for line in data.splitlines())
    has_policy = any(word and word[0] in _OF_LOGS for word in words)
    try:
        policy = parse_trust_file(data if has_policy else data + b"\nquorum none\n")
        nodes = tuple(map(_node, policy.nodes))
    except InvalidRequest as error:
        told = error.message.encode("utf-8", "backslashreplace").decode()  # names in such a file are octets
        raise InvalidRequest(f"trust file: {told[:MAX_SENTENCE]}", param="trust") from error
    if not policy.logs:
        return Trusted(nodes=nodes, revoked=policy.revoked, wanted=Level.SIGNED)
    return Trusted(
        nodes=nodes,
        prove=lambda proof, entry: _prove(policy, proof, entry),
        revoked=policy.revoked,
        wanted=Level.LOGGED if policy.quorum == NONE else Level.WITNESSED,
    )


def _node(node: Node) -> NodeKey:
    key = read_node_key(node.vkey)
    if key.name != node.name:
        raise InvalidRequest(f"the node {node.name!r} is given the key of {key.name!r}; copy the node's own line.")
    return key


def _prove(policy: TrustFile, proof: bytes, entry: bytes) -> Included:
    parsed = parse_proof(proof)
    try:
        opened = parsed.verify(hash_leaf(entry), policy)
    except LogFault as error:
        if error.param != "quorum":
            raise
        # Witnesses are asked later than the log answers: what is shown without them is told as what it is.
        opened = parsed.verify(hash_leaf(entry), replace(policy, quorum=NONE))
    return Included(opened.checkpoint.origin, parsed.index, opened.is_witnessed)
