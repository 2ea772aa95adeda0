"""Envelopes against securesystemslib, and everything about them that a strict reader refuses."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import CryptoSigner, Key

from headrace.core.errors import InvalidRequest
from headrace.trust.records import dsse
from headrace.trust.records.canonical import NotCanonical
from headrace.trust.records.keys import RecordKey, verifier
from headrace.trust.records.node_key import NodeKey, read_node_key

KEY = RecordKey(b"\3" * 32)
PAYLOAD = b'{"a":1}'
ENVELOPE = KEY.sign(PAYLOAD)


def test_the_signed_bytes_are_those_of_the_specifications_example() -> None:
    # secure-systems-lab/dsse, protocol.md, "Test Vectors".
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8"), max_size=20))
def test_securesystemslib_verifies_what_is_signed_here(payload: bytes, kind: str) -> None:
    theirs = TheirEnvelope.from_dict(json.loads(KEY.sign(payload, kind)))
    assert theirs.payload == payload
    assert theirs.pae() == dsse.pae(kind, payload)
    public = Key.from_dict(KEY.id, {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": KEY.public.hex()}})
    assert list(theirs.verify([public], 1)) == [KEY.id]


@given(st.binary(max_size=200))
def test_what_securesystemslib_signs_verifies_here(payload: bytes) -> None:
    signer = CryptoSigner(Ed25519PrivateKey.from_private_bytes(b"\3" * 32))
    theirs = TheirEnvelope(payload, dsse.IN_TOTO, {})
    signature = theirs.sign(signer)
    ours = dsse.read(json.dumps(theirs.to_dict()).encode())
    assert ours.payload == payload
    assert ours.signers({signature.keyid: verifier(KEY.public)}) == (signature.keyid,)


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    value = json.loads(ENVELOPE)
    made = change(value)
    return json.dumps(value if made is None else made).encode()


def test_an_envelope_reads_back_and_is_signed_by_its_key_alone() -> None:
    envelope = dsse.read(ENVELOPE)
    assert envelope.payload == PAYLOAD
    assert envelope.signers({KEY.id: verifier(KEY.public), "other": verifier(KEY.public)}) == (KEY.id,)
    assert envelope.signers({KEY.id: verifier(RecordKey(b"\4" * 32).public)}) == ()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (ENVELOPE + b"x", "JSON"),
        (ENVELOPE[:-1] + b',"payload":"e30="}', "twice"),
        (changed(lambda v: v.update(payloadType="application/json")), "payloadType"),
        (changed(lambda v: v.update(payloadType="application/vnd.in-toto+json ")), "payloadType"),
        (changed(lambda v: v.update(signatures=[])), "signatures"),
        (changed(lambda v: v.update(signatures={})), "signatures"),
        (changed(lambda v: v.update(signatures=v["signatures"] * 17)), "signatures"),
        (changed(lambda v: v.update(extra=1)), "nothing else"),
        (changed(lambda v: v.pop("payload") and None), "must have"),
        (changed(lambda v: [v]), "must have"),
        (changed(lambda v: v.update(payload=v["payload"].rstrip("="))), "base64"),
        (changed(lambda v: v.update(payload=v["payload"] + "\n")), "base64"),
        (changed(lambda v: v.update(payload=base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode())), "base64"),
        (changed(lambda v: v.update(payload="eyJhIjoxfR==")), "base64"),
        (changed(lambda v: v.update(payload=None)), "text"),
        (changed(lambda v: v["signatures"][0].update(sig="é")), "base64"),
        (changed(lambda v: v["signatures"][0].update(keyid=1)), "keyid"),
        (changed(lambda v: v["signatures"][0].update(cert="")), "nothing else"),
        (changed(lambda v: v["signatures"].append("x")), "signature must"),
    ],
)
def test_what_another_reader_could_take_otherwise_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(NotCanonical, match=says):
        dsse.read(data)


def test_a_payload_type_is_signed_with_its_payload() -> None:
    other = RecordKey(b"\3" * 32).sign(PAYLOAD, "application/json")
    swapped = json.loads(other) | {"payloadType": dsse.IN_TOTO}
    assert dsse.read(json.dumps(swapped).encode()).signers({KEY.id: verifier(KEY.public)}) == ()


@pytest.mark.parametrize(
    "private",
    [
        Ed25519PrivateKey.from_private_bytes(b"\5" * 32),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ed25519", "p256", "p384", "rsa"],
)
def test_a_nodes_key_of_any_kind_is_named_and_verifies_what_securesystemslib_signs(private: Any) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    signer = CryptoSigner(private)
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = read_node_key(NodeKey("example.com/node", spki).encode())
    assert key.spki == spki and key.name == "example.com/node"
    signature = bytes.fromhex(signer.sign(b"message").signature)
    assert key.verify(signature, b"message")
    assert not key.verify(signature, b"massage")
    assert not key.verify(signature[:-1], b"message")
    assert not key.verify(b"", b"message")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000+AQ==",
        "+8d1a0fc4+AQ==",
        NodeKey("n", b"\0" * 44).encode().replace("+", "+0", 1),
        NodeKey("n", bytes.fromhex("302a300506032b6570032100") + b"\1" * 32).encode()[:-4],
    ],
)
def test_a_damaged_verifier_key_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_node_key(text)


@pytest.mark.parametrize(
    "private",
    [rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())],
    ids=["rsa", "secp256k1"],
)
def test_a_nodes_key_that_is_short_or_of_another_kind_verifies_nothing(private: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(private, rsa.RSAPrivateKey):
        signature = private.sign(b"message", PSS(MGF1(SHA256()), PSS.MAX_LENGTH), SHA256())
    else:
        signature = private.sign(b"message", ec.ECDSA(SHA256()))
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert not NodeKey("n", spki).verify(signature, b"message")
