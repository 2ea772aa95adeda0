"""Commitments: a hash that tells nothing until it is opened, and the entry that the log holds of an envelope.

A bare hash of a short prompt can be guessed; a salted one cannot, and forgetting its nonce makes it mean nothing for
ever, which is how a record is erased. Values in, values out: nonces come from outside.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Final

from headrace.trust.records import canonical

NONCE_BYTES: Final = 16
DIGEST_BYTES: Final = 32
_BLOCK_BYTES: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


def commit(nonce: bytes, data: bytes) -> bytes:
    """SHA-256(nonce || data). The nonce has a fixed length, so no other pair gives the same bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    digest = hashlib.sha256(nonce)
    digest.update(data)
    return digest.digest()


def opens(digest: bytes, nonce: bytes, data: bytes) -> bool:
    """Whether a commitment is to these bytes."""
    return len(nonce) == NONCE_BYTES and hmac.compare_digest(digest, commit(nonce, data))


def derived_nonce(nonce: bytes, purpose: str) -> bytes:
    """One more nonce out of a record's own, so that a record has one secret however much it commits to."""
    return keyed_digest(nonce, purpose.encode())[:NONCE_BYTES]


def pseudonym(secret: bytes, tenant: str, name: str) -> str:
    """A name for somebody that only the node can tell is theirs: the same for one tenant's records, so that they can be
    told apart, and another for every other tenant (pairwise, OpenID Connect Core 8.1)."""
    message = canonical.encode(["pseudonym", tenant, name])
    return "anon:" + keyed_digest(secret, message)[:16].hex()


def keyed_digest(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104, 2), for a key of at most 64 bytes.

    In two plain hashes, because `hmac.digest` lets go of the interpreter for each: while the log's thread works, that
    takes milliseconds of an answer.
    """
    if len(key) > _BLOCK_BYTES:
        raise ValueError(f"a key has at most {_BLOCK_BYTES} bytes, not {len(key)}")
    padded = key.ljust(_BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(padded.translate(_INNER) + message).digest()
    return hashlib.sha256(padded.translate(_OUTER) + inner).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the log holds of something for ever: what it is, the SHA-256 of its envelope, and when it was made, in whole
    Unix seconds by the signer's clock."""

    kind: str
    digest: bytes
    time_s: int

    def encode(self) -> bytes:
        """As canonical JSON."""
        return b'{"digest":"sha256:%s","kind":%s,"time":%d}' % (
            self.digest.hex().encode(),
            canonical.fast_text(self.kind),
            self.time_s,
        )


def entry_of(kind: str, envelope: bytes, time_s: float) -> Entry:
    """The entry for an envelope."""
    return Entry(kind=kind, digest=hashlib.sha256(envelope).digest(), time_s=int(time_s))


def read_entry(data: bytes) -> Entry:
    """An entry as the log has it. Raises NotCanonical for any other bytes."""
    found: Any = canonical.read(data, "the log's entry")
    try:
        name, _, digits = found["digest"].partition(":")
        entry = Entry(kind=found["kind"], digest=bytes.fromhex(digits), time_s=found["time"])
        is_whole = type(entry.time_s) is int and type(entry.kind) is str  # and not 1e999, which reads as a number, too
        is_exact = is_whole and name == "sha256" and len(entry.digest) == DIGEST_BYTES and entry.encode() == data
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise canonical.NotCanonical("the log's entry is not {digest, kind, time}.") from error
    if not is_exact:
        raise canonical.NotCanonical("the log's entry is not in its canonical form.")
    return entry
