"""What a trust file says to a verifier of records: C2SP tlog-policy for the log, and two kinds of lines of ours.

    node NAME VKEY             whose keys vouch for the keys of records
    revoked KEYID UNIX_S       a record key that is not believed from a time on

Everything else is the policy for the log, read by `trust/log`. A file without a log is enough for the level "signed".
"""

from dataclasses import replace
from typing import Final

from headrace.core.errors import InvalidRequest
from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.proof import parse_proof
from headrace.trust.log.trust_file import NONE, TrustFile, parse_trust_file
from headrace.trust.records.node_key import NodeKey, read_node_key
from headrace.trust.records.verification import Included, Level, Trusted

_OURS: Final = {"node": 2, "revoked": 2}


def read_trusted(data: bytes) -> Trusted:
    """A trust file. Raises InvalidRequest, with the line."""
    nodes: list[NodeKey] = []
    revoked: dict[str, int] = {}
    others: list[bytes] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        words = line.decode("utf-8", "replace").split()
        if not words or words[0] not in _OURS:
            others.append(line)
            continue
        others.append(b"")  # lines keep their numbers
        try:
            _check_words(words)
            if words[0] == "node":
                nodes.append(_node(words[1], words[2], nodes))
            else:
                revoked[_key_id(words[1])] = _time(words[2])
        except InvalidRequest as error:
            raise InvalidRequest(f"trust file, line {number}: {error.message}") from error
    has_policy = any(line.strip() and not line.lstrip().startswith(b"#") for line in others)
    policy = parse_trust_file(b"\n".join(others)) if has_policy else None
    if policy is None or not policy.logs:
        return Trusted(nodes=tuple(nodes), revoked=revoked, wanted=Level.SIGNED)
    return Trusted(
        nodes=tuple(nodes),
        prove=lambda proof, entry: _prove(policy, proof, entry),
        revoked=revoked,
        wanted=Level.LOGGED if policy.quorum == NONE else Level.WITNESSED,
    )


def _check_words(words: list[str]) -> None:
    if len(words) != 1 + _OURS[words[0]]:
        raise InvalidRequest(f"{words[0]} has {len(words) - 1} words behind it, not {_OURS[words[0]]}.")


def _node(name: str, vkey: str, others: list[NodeKey]) -> NodeKey:
    key = read_node_key(vkey)
    if key.name != name:
        raise InvalidRequest(f"the node {name!r} is given the key of {key.name!r}; copy the node's own line.")
    if any(one.id == key.id for one in others):
        raise InvalidRequest(f"the key of node {name!r} is there twice.")
    return key


def _key_id(text: str) -> str:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise InvalidRequest(f"{text!r:.80} is no key's id; it has 64 lower-case hexadecimal digits.")
    return text


def _time(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise InvalidRequest(f"{text!r:.40} is no time in whole Unix seconds.")
    return int(text)


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
