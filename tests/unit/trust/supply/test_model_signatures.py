"""Signatures over models: those of the reference implementation hold, and nothing that differs from what was signed."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from headrace.trust.records.dsse import IN_TOTO, pae
from headrace.trust.supply.signer import Trusted, check_signer, hint_of, read_key, read_private_key, sign
from headrace.trust.supply.statement import (
    BadSignature,
    is_plain,
    read_manifest,
    read_signature,
    write_signature,
    write_statement,
)

VECTORS = json.loads((Path(__file__).parent / "model_signatures.json").read_text("utf-8"))
CASES = {case["name"]: case for case in VECTORS["cases"]}
KEY = ec.generate_private_key(ec.SECP256R1())
FILES = {"a.safetensors": "00" * 32, "sub/b.json": "11" * 32}


def bundle(name: str) -> bytes:
    return json.dumps(CASES[name]["signature"]).encode()


def trusted(name: str, **more: Any) -> Trusted:
    case = CASES[name]
    if "key" in case:
        return Trusted(keys=(read_key(case["key"].encode()),), **more)
    return Trusted(authorities=(x509.load_pem_x509_certificate(case["authority"].encode()),), **more)


def signed(payload: bytes | None = None, key: ec.EllipticCurvePrivateKey = KEY) -> dict[str, Any]:
    statement = write_statement("model", FILES, ["model.sig"]) if payload is None else payload
    made: dict[str, Any] = json.loads(
        write_signature(statement, sign(key, pae(IN_TOTO, statement)), hint_of(key.public_key()))
    )
    return made


def statement(**changes: Any) -> bytes:
    made = json.loads(write_statement("model", FILES, []))
    for path, value in changes.items():
        target, *rest = path.split("__")
        inner = made
        for step in rest:
            inner, target = inner[target], step
        inner[target] = value
    return json.dumps(made).encode()


def check(made: dict[str, Any] | bytes) -> str:
    text = made if isinstance(made, bytes) else json.dumps(made).encode()
    read = read_signature(text)
    signer = check_signer(read, Trusted(keys=(KEY.public_key(),)))
    read_manifest(read.payload)
    return signer


@pytest.mark.parametrize("name", list(CASES))
def test_a_signature_of_the_reference_implementation_holds(name: str) -> None:
    read = read_signature(bundle(name))
    assert check_signer(read, trusted(name))
    manifest = read_manifest(read.payload)
    assert set(manifest.files) == set(VECTORS["files"])


@pytest.mark.parametrize("name", ["p256", "p384", "p521"])
def test_a_key_that_nobody_trusts_signs_nothing(name: str) -> None:
    other = next(one for one in ("p256", "p384") if one != name)
    with pytest.raises(BadSignature, match="none of the keys"):
        check_signer(read_signature(bundle(name)), trusted(other))


def test_a_certificate_counts_for_the_names_that_are_trusted_and_for_no_others() -> None:
    read = read_signature(bundle("certificate"))
    assert "publisher@example.com" in check_signer(
        read, trusted("certificate", signers=frozenset({"publisher@example.com"}))
    )
    with pytest.raises(BadSignature, match="none of the signers"):
        check_signer(read, trusted("certificate", signers=frozenset({"somebody@example.com"})))


def test_a_certificate_of_another_authority_counts_for_nothing() -> None:
    with pytest.raises(BadSignature, match="none of the authorities"):
        check_signer(read_signature(bundle("certificate")), Trusted(keys=(KEY.public_key(),)))


def test_a_leaf_is_no_authority_for_another() -> None:
    case = CASES["certificate"]
    chain = case["signature"]["verificationMaterial"]["x509CertificateChain"]["certificates"]
    leaf = x509.load_der_x509_certificate(base64.b64decode(chain[0]["rawBytes"]))
    # The leaf itself is trusted by mistake as an authority: it may sign nothing that way.
    with pytest.raises(BadSignature):
        check_signer(read_signature(bundle("certificate")), Trusted(authorities=(leaf,)))


def test_what_we_sign_is_read_again() -> None:
    assert check(signed()) == f"key {hint_of(KEY.public_key())[:16]}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"), "mediaType"),
        (lambda b: b["dsseEnvelope"].update(payloadType="application/json"), "payloadType"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "exactly one signature"),
        (lambda b: b["dsseEnvelope"].update(signatures=b["dsseEnvelope"]["signatures"] * 2), "exactly one signature"),
        (lambda b: b["verificationMaterial"].update(x509CertificateChain={"certificates": []}), "one of them"),
        (lambda b: b["verificationMaterial"].pop("publicKey"), "one of them"),
        (lambda b: b["verificationMaterial"].update(certificate={"rawBytes": ""}), "keyless"),
        (lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"] + "="), "base64"),
        (lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"].replace("e", "-", 1)), "base64"),
        (lambda b: b["dsseEnvelope"].update(payload=base64.b64encode(statement(subject=[])).decode()), "fit"),
        (lambda b: b["verificationMaterial"].update(publicKey={"hint": "0" * 64}), "none of the keys"),
        (lambda b: b.update(dsseEnvelope=[]), "no object"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(change: Callable[[dict[str, Any]], Any], says: str) -> None:
    made = signed()
    change(made)
    with pytest.raises(BadSignature, match=says):
        check(made)


def test_a_name_that_stands_twice_is_refused() -> None:
    text = json.dumps(signed()).replace('"mediaType"', '"mediaType": "x", "mediaType"', 1).encode()
    with pytest.raises(BadSignature, match="twice"):
        check(text)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"null", b'"x"'])
def test_what_is_no_bundle_is_refused(text: bytes) -> None:
    with pytest.raises(BadSignature):
        read_signature(text)


ROOT = "predicate__serialization"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (statement(_type="https://in-toto.io/Statement/v0.1"), "statement is of type"),
        (statement(predicateType="https://slsa.dev/provenance/v1"), "predicateType"),
        (statement(subject=[]), "exactly one subject"),
        (statement(subject=[{"name": "m", "digest": {"sha256": "00" * 32}}]), "root digest"),
        (statement(**{f"{ROOT}__method": "shards"}), "sign the model again"),
        (statement(**{f"{ROOT}__hash_type": "md5"}), "sign the model again"),
        (statement(**{f"{ROOT}__ignore_paths": "model.sig"}), "no list of paths"),
        (statement(predicate__resources=[]), "one to"),
        (statement(predicate__resources=[{"name": "a", "algorithm": "sha256", "digest": "0" * 63}]), "no SHA-256"),
        (statement(predicate__resources=[{"name": "a", "algorithm": "md5", "digest": "0" * 64}]), "no SHA-256"),
        (statement(predicate__resources=[{"name": "a", "algorithm": "sha256", "digest": "A" * 64}]), "no SHA-256"),
        (b"{}", "statement is of type"),
    ],
)
def test_a_statement_that_says_something_else_is_refused_whoever_signed_it(payload: bytes, says: str) -> None:
    with pytest.raises(BadSignature, match=says):
        check(signed(payload))


@pytest.mark.parametrize("pair", [("A.json", "a.json"), ("\u00e9.json", "e\u0301.json"), ("x", "x")])
def test_two_files_of_one_name_are_refused(pair: tuple[str, str]) -> None:
    listed = [{"name": name, "algorithm": "sha256", "digest": "0" * 64} for name in pair]
    with pytest.raises(BadSignature, match=r"twice|one name"):
        check(signed(statement(predicate__resources=listed)))


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/../b", "../a", "./a", "a/", "a\\b", "a\0b", "a\nb", "a/.", ".."])
def test_a_name_that_leads_out_of_the_folder_is_none(name: str) -> None:
    assert not is_plain(name)
    with pytest.raises(BadSignature, match="no path"):
        listed = [{"name": name, "algorithm": "sha256", "digest": "0" * 64}]
        check(signed(statement(predicate__resources=listed)))


def test_any_byte_of_a_signature_or_of_what_it_is_over_that_changes_is_noticed() -> None:
    text = json.dumps(signed()).encode()
    rng = random.Random(8)
    outcome = check(text)
    for _ in range(1000):
        at = rng.randrange(len(text))
        changed = bytearray(text)
        changed[at] ^= 1 << rng.randrange(7)
        try:
            same = check(bytes(changed)) == outcome and read_signature(bytes(changed)) == read_signature(text)
        except BadSignature:
            continue
        # What is left are spaces and fields that nobody reads: keyid and tlogEntries.
        assert same
        around = text[max(0, at - 20) : at + 20]
        assert any(word in around for word in (b"keyid", b"tlogEntries", b", ", b": ")), around


def test_a_key_of_another_kind_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    other = Ed25519PrivateKey.generate()
    with pytest.raises(ValueError, match="P-256"):
        read_key(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ValueError, match="P-256"):
        read_private_key(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for text in (b"", b"not PEM"):
        with pytest.raises(ValueError, match="holds no"):
            read_key(text)
        with pytest.raises(ValueError, match="holds no"):
            read_private_key(text)
