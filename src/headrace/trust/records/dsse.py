"""DSSE envelopes (secure-systems-lab/dsse, v1.0.2): a payload, its type, and signatures over both together.

Written here because it is on the way of every answer; `securesystemslib` is what tests hold it to. Reads strictly:
what another reader could take otherwise is refused. Knows no statements and no kinds of keys.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.trust.records import canonical
from headrace.trust.records.canonical import NotCanonical

IN_TOTO: Final = "application/vnd.in-toto+json"
MAX_SIGNATURES: Final = 16

Verify = Callable[[bytes, bytes], bool]
"""Whether a signature (first) over a message (second) is a key's."""


@dataclass(frozen=True, slots=True)
class Signature:
    """By whom, as far as a signature can say it itself: `keyid` is a hint and proves nothing."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its signatures."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def signers(self, keys: Mapping[str, Verify]) -> tuple[str, ...]:
        """Which of some keys, by their ids, have signed. Signatures of others say nothing, for or against."""
        message = pae(self.payload_type, self.payload)
        found = []
        for one in self.signatures:
            verify = keys.get(one.keyid)
            if verify is not None and one.keyid not in found and verify(one.sig, message):
                found.append(one.keyid)
        return tuple(found)


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed (protocol.md, "Signature Definition"): no other pair has the same."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(payload_type: str, payload: bytes, signatures: Iterable[Signature]) -> bytes:
    """An envelope as one line of JSON, names in canonical order."""
    signed = b",".join(
        b'{"keyid":%b,"sig":"%b"}' % (canonical.fast_text(one.keyid), base64.b64encode(one.sig)) for one in signatures
    )
    kind = canonical.fast_text(payload_type)
    return b'{"payload":"%b","payloadType":%b,"signatures":[%b]}' % (base64.b64encode(payload), kind, signed)


def read(data: bytes, payload_type: str = IN_TOTO) -> Envelope:
    """An envelope. Raises NotCanonical: for another payload type, too, because a payload that is read as something else
    than what was signed is how signatures are abused."""
    found = canonical.read(data, "the envelope")
    if not isinstance(found, dict) or found.keys() != {"payload", "payloadType", "signatures"}:
        raise NotCanonical("the envelope must have payload, payloadType and signatures, and nothing else.")
    if found["payloadType"] != payload_type:
        raise NotCanonical(f"the envelope's payloadType is {found['payloadType']!r:.100}, not {payload_type!r}.")
    signatures = found["signatures"]
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise NotCanonical(f"the envelope must have 1 to {MAX_SIGNATURES} signatures.")
    return Envelope(payload_type, from_base64(found["payload"], "payload"), tuple(map(_signature, signatures)))


def _signature(value: Any) -> Signature:
    if not isinstance(value, dict) or not value.keys() <= {"keyid", "sig"} or "sig" not in value:
        raise NotCanonical("a signature must have sig, may have keyid, and nothing else.")
    keyid = value.get("keyid", "")
    if not isinstance(keyid, str):
        raise NotCanonical("a signature's keyid must be a text.")
    return Signature(keyid, from_base64(value["sig"], "sig"))


def from_base64(text: Any, what: str) -> bytes:
    """Standard base64 in the one way that it is written: RFC 4648 4 with its padding, 3.5 with its spare bits zero."""
    if not isinstance(text, str):
        raise NotCanonical(f"{what} must be a text in base64.")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotCanonical(f"{what} is not in standard base64 (RFC 4648 4; base64url is another).") from error
    if base64.b64encode(data).decode() != text:
        raise NotCanonical(f"{what} is base64 that is not written canonically (RFC 4648 3.5).")
    return data
