"""Records of a real server, changed in one place each as somebody would who wants another to be believed."""

import base64
import json
from dataclasses import replace

from headrace.trust.records.bundle import Bundle


def flipped(text: bytes, at: int) -> bytes:
    """One character of base64 is another."""
    return text[:at] + (b"A" if text[at : at + 1] != b"A" else b"B") + text[at + 1 :]


def in_envelope(bundle: Bundle) -> Bundle:
    """Another byte in the statement's signature."""
    envelope = bundle.record.envelope
    return replace(bundle, record=replace(bundle.record, envelope=flipped(envelope, envelope.index(b'"sig":"') + 9)))


def in_statement(bundle: Bundle) -> Bundle:
    """Another model than the one that answered."""
    envelope = json.loads(bundle.record.envelope)
    payload = base64.b64decode(envelope["payload"]).replace(b"smollm2", b"smollm9")
    envelope["payload"] = base64.b64encode(payload).decode()
    return replace(bundle, record=replace(bundle.record, envelope=json.dumps(envelope).encode()))


def in_checkpoint(bundle: Bundle) -> Bundle:
    """Another byte in the log's signature."""
    proof = bundle.record.proof
    line = proof.index("\n— ".encode(), proof.index(b"\n\n"))
    return replace(bundle, record=replace(bundle.record, proof=flipped(proof, line + 60)))


def in_proof(bundle: Bundle) -> Bundle:
    """Another hash on the way to the root."""
    proof = bundle.record.proof
    start = proof.index(b"\n", proof.index(b"index ")) + 3
    return replace(bundle, record=replace(bundle.record, proof=flipped(proof, start)))


def in_nonce(bundle: Bundle) -> Bundle:
    """A nonce that opens nothing."""
    return replace(bundle, nonce=b"\0" * 16)


CHANGES = (
    (in_envelope, "signature"),
    (in_statement, "signature"),
    (in_nonce, "nonce"),
    (in_checkpoint, "log"),
    (in_proof, "log"),
)
"""Each change, and the clause that refuses it."""
