"""Keys that sign records: the process's own, and the node's statement that it may (a delegation), or may no more.

A record key lives in memory and at most a day. The node's key, which may lie in a vault or a KMS and be slow, signs one
statement for it, which is logged before the first record of that key; so a signature is judged by its place in the log
and not by anybody's clock. Makes and reads values: files, vaults and clocks are the caller's.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headrace.trust.records import canonical, dsse
from headrace.trust.records.canonical import NotCanonical
from headrace.trust.records.statement import STATEMENT

DELEGATION: Final = "urn:headrace:delegation:v1"
REVOCATION: Final = "urn:headrace:revocation:v1"
PURPOSE: Final = "records"
SKEW_S: Final = 5
"""A record may be as much older than its delegation as two clocks of one machine may differ by."""
MAX_LIFE_S: Final = 86_400
# RFC 8410 4: what stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo.
SPKI_ED25519: Final = bytes.fromhex("302a300506032b6570032100")


def key_id(spki: bytes) -> str:
    """How signatures name a key: the SHA-256 of its SubjectPublicKeyInfo (RFC 5280 4.1), in hexadecimal."""
    return hashlib.sha256(spki).hexdigest()


class NodeSigner(Protocol):
    """Signs with the node's key, wherever that is."""

    @property
    def spki(self) -> bytes:
        """Its public half, DER."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature. May wait for a vault. Raises Unavailable."""
        ...


class RecordKey:
    """An Ed25519 key in memory."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 random bytes."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()
        self.id = key_id(SPKI_ED25519 + self.public)

    def sign(self, payload: bytes, payload_type: str = dsse.IN_TOTO) -> bytes:
        """A payload in an envelope with this key's signature."""
        signature = self._private.sign(dsse.pae(payload_type, payload))
        return dsse.encode(payload_type, payload, (dsse.Signature(self.id, signature),))


def verifier(public: bytes) -> dsse.Verify:
    """Who says whether a signature is an Ed25519 key's, given its 32 bytes."""
    key = Ed25519PublicKey.from_public_bytes(public)

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationGrant:
    """The node says: this key signs records for me, between these times (whole Unix seconds), and they are to be found
    in the log `log_origin` (empty: in none). `public` are the 32 bytes of an Ed25519 key."""

    node: str
    instance: str
    public: bytes
    not_before_s: int
    not_after_s: int
    log_origin: str = ""

    @property
    def key_id(self) -> str:
        """Of the key that may sign."""
        return key_id(SPKI_ED25519 + self.public)

    def encode(self) -> bytes:
        """As an in-toto statement."""
        predicate = {
            "purpose": PURPOSE,
            "node": self.node,
            "instance": self.instance,
            "key": {"keytype": "ed25519", "public": base64.b64encode(self.public).decode()},
            "not_before_s": self.not_before_s,
            "not_after_s": self.not_after_s,
            "log_origin": self.log_origin,
        }
        return _statement(self.key_id, DELEGATION, predicate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """The node says: what a key signed from `from_s` on (whole Unix seconds) is not to be believed."""

    node: str
    key_id: str
    from_s: int
    reason: str = ""

    def encode(self) -> bytes:
        """As an in-toto statement."""
        return _statement(self.key_id, REVOCATION, {"node": self.node, "from_s": self.from_s, "reason": self.reason})


def _statement(subject_id: str, kind: str, predicate: dict[str, Any]) -> bytes:
    return msgspec.json.encode(
        {
            "_type": STATEMENT,
            "subject": [{"name": "record-key", "digest": {"sha256": subject_id}}],
            "predicateType": kind,
            "predicate": predicate,
        }
    )


def sign_by_node(signer: NodeSigner, payload: bytes) -> bytes:
    """A statement of the node's own in an envelope. Raises Unavailable."""
    signature = signer.sign(dsse.pae(dsse.IN_TOTO, payload))
    return dsse.encode(dsse.IN_TOTO, payload, (dsse.Signature(key_id(signer.spki), signature),))


def read_grant(payload: bytes) -> DelegationGrant:
    """A delegation. Raises NotCanonical for anything else."""
    subject_id, predicate = _read(payload, DELEGATION)
    try:
        key = predicate["key"]
        if predicate["purpose"] != PURPOSE or key["keytype"] != "ed25519":
            raise NotCanonical("the delegation is for another purpose or kind of key.")
        grant = DelegationGrant(
            node=predicate["node"],
            instance=predicate["instance"],
            public=dsse.from_base64(key["public"], "the delegated key"),
            not_before_s=predicate["not_before_s"],
            not_after_s=predicate["not_after_s"],
            log_origin=predicate["log_origin"],
        )
    except (KeyError, TypeError) as error:
        raise NotCanonical(f"the delegation lacks {error}.") from error
    if not all(isinstance(name, str) for name in (grant.node, grant.instance, grant.log_origin)):
        raise NotCanonical("the delegation's names are no texts.")
    if not all(type(time_s) is int for time_s in (grant.not_before_s, grant.not_after_s)):
        raise NotCanonical("the delegation's times are not whole numbers.")
    if len(grant.public) != 32 or grant.key_id != subject_id or grant.encode() != payload:
        raise NotCanonical("the delegation is not in the form that nodes write it in, or about another key.")
    if not 0 <= grant.not_after_s - grant.not_before_s <= MAX_LIFE_S:
        raise NotCanonical(f"the delegation lasts longer than {MAX_LIFE_S} s.")
    return grant


def read_revocation(payload: bytes) -> Revocation:
    """A revocation. Raises NotCanonical for anything else."""
    subject_id, predicate = _read(payload, REVOCATION)
    try:
        found = Revocation(
            node=predicate["node"], key_id=subject_id, from_s=predicate["from_s"], reason=predicate["reason"]
        )
    except (KeyError, TypeError) as error:
        raise NotCanonical(f"the revocation lacks {error}.") from error
    if type(found.from_s) is not int or found.encode() != payload:
        raise NotCanonical("the revocation is not in the form that nodes write it in.")
    return found


def _read(payload: bytes, kind: str) -> tuple[str, dict[str, Any]]:
    found = canonical.read(payload, "the node's statement")
    try:
        if found["_type"] != STATEMENT or found["predicateType"] != kind or len(found["subject"]) != 1:
            raise NotCanonical(f"the node's statement is no {kind}.")
        subject_id, predicate = found["subject"][0]["digest"]["sha256"], found["predicate"]
    except (KeyError, TypeError) as error:
        raise NotCanonical(f"the node's statement lacks {error}.") from error
    if not isinstance(subject_id, str) or not isinstance(predicate, dict):
        raise NotCanonical("the node's statement is not in the form of one.")
    return subject_id, predicate


@dataclass(frozen=True, slots=True)
class Certified:
    """A record key with its delegation, in its envelope, and when it is to be replaced (Unix seconds)."""

    key: RecordKey
    grant: DelegationGrant
    envelope: bytes
    renews_s: float


def certify(
    signer: NodeSigner,
    *,
    node: str,
    instance: str,
    log_origin: str,
    now_s: float,
    life_s: int,
    random: Callable[[int], bytes],
) -> Certified:
    """A new record key, which the node vouches for from now on. It is due for another after half of its life, so that
    a node key that cannot be reached for hours stops nothing. Raises Unavailable."""
    key = RecordKey(random(32))
    grant = DelegationGrant(
        node=node,
        instance=instance,
        public=key.public,
        not_before_s=int(now_s),
        not_after_s=int(now_s) + min(life_s, MAX_LIFE_S),
        log_origin=log_origin,
    )
    return Certified(key, grant, sign_by_node(signer, grant.encode()), now_s + life_s / 2)
