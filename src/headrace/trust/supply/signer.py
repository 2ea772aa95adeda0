"""Whose signature it is: a trusted key's, or that of a certificate that a trusted authority issued.

As OpenSSF Model Signing 1.0 has it: ECDSA over P-256, P-384 or P-521 with SHA-256, -384 or -512. Keys and certificates
are given; knows no files.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from headrace.trust.supply.statement import BadSignature, ModelSignature

_HASHES: Final = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
MAX_CHAIN: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """Who may sign; see `SupplySettings`."""

    keys: tuple[EllipticCurvePublicKey, ...] = ()
    authorities: tuple[x509.Certificate, ...] = ()
    signers: frozenset[str] = frozenset()


def read_key(pem: bytes) -> EllipticCurvePublicKey:
    """A public key. Raises ValueError."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise ValueError("holds no public key in PEM") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ValueError("is no key on P-256, P-384 or P-521, which alone can sign models")
    return key


def read_private_key(pem: bytes) -> EllipticCurvePrivateKey:
    """A key to sign with. Raises ValueError."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ValueError("holds no private key in PEM without a password") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise ValueError("is no key on P-256, P-384 or P-521, which alone can sign models")
    return key


def hint_of(key: EllipticCurvePublicKey) -> str:
    """How a signature names a key: the SHA-256 of its PEM."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sign(key: EllipticCurvePrivateKey, signed: bytes) -> bytes:
    """A signature over the bytes of `ModelSignature.signed`."""
    return key.sign(signed, ECDSA(_HASHES[key.curve.name]))


def check_signer(signature: ModelSignature, trusted: Trusted) -> str:
    """Who signed, in words. Raises BadSignature if that is nobody who is trusted, or the signature is not valid."""
    if signature.certificates:
        return _check_certificate(signature, trusted)
    for key in trusted.keys:
        if signature.hint in ("", hint_of(key)) and _is_valid(signature, key):
            return f"key {hint_of(key)[:16]}"
    if signature.hint in map(hint_of, trusted.keys):
        raise BadSignature("it does not fit what it signs; it, or what it is over, was changed")
    shown = f"of the key {signature.hint[:16]}" if signature.hint else "of a key that it does not name"
    raise BadSignature(f"it is {shown}, which is none of the keys that may sign models here")


def _is_valid(signature: ModelSignature, key: EllipticCurvePublicKey) -> bool:
    try:
        key.verify(signature.signature, signature.signed, ECDSA(_HASHES[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def _check_certificate(signature: ModelSignature, trusted: Trusted) -> str:
    try:
        chain = [x509.load_der_x509_certificate(each) for each in signature.certificates]
        leaf = chain[0]
        key, names = leaf.public_key(), _names(leaf)
        # OMS 1.0 has no trusted time in a signature of a certificate: what counts is when the certificate began.
        _check_chain(chain, trusted.authorities, leaf.not_valid_before_utc)
        _check_signs(leaf)
    except (ValueError, TypeError, x509.DuplicateExtension) as error:
        if isinstance(error, BadSignature):
            raise
        raise BadSignature(f"its certificates cannot be read ({error})") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise BadSignature("its certificate is for no key on P-256, P-384 or P-521")
    if trusted.signers and trusted.signers.isdisjoint(names):
        shown = ", ".join(sorted(names)) or "nobody"
        raise BadSignature(f"its certificate names {shown}, who is none of the signers that are trusted here")
    if not _is_valid(signature, key):
        raise BadSignature("it does not fit what it signs; it, or what it is over, was changed")
    return f"certificate of {', '.join(sorted(names)) or leaf.subject.rfc4514_string()}"


def _names(leaf: x509.Certificate) -> frozenset[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return frozenset(one.value for one in names if isinstance(one, kinds))


def _check_chain(chain: Sequence[x509.Certificate], authorities: Iterable[x509.Certificate], at: datetime) -> None:
    """RFC 5280 6.1, for what a signer needs: issued by, valid at one time, authorities that may issue."""
    roots = tuple(authorities)
    now, rest = chain[0], list(chain[1:])
    for depth in range(MAX_CHAIN):
        if not now.not_valid_before_utc <= at <= now.not_valid_after_utc:
            raise BadSignature("a certificate in its chain was not valid when the signer's began")
        if any(now == root for root in roots) and depth:
            return
        issuer = next((one for one in (*roots, *rest) if _issued(now, one)), None)
        if issuer is None:
            raise BadSignature("its certificate was issued by none of the authorities that are trusted here")
        _check_authority(issuer, depth)
        rest = [one for one in rest if one != issuer]
        now = issuer
    raise BadSignature("its chain of certificates is too long")


def _issued(one: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_authority(one: x509.Certificate, num_below: int) -> None:
    try:
        basic = one.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise BadSignature("a certificate in its chain may not issue others") from error
    if not basic.ca or (basic.path_length is not None and num_below > basic.path_length):
        raise BadSignature("a certificate in its chain may not issue others")
    try:
        if not one.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            raise BadSignature("a certificate in its chain may not issue others")
    except x509.ExtensionNotFound:
        pass


def _check_signs(leaf: x509.Certificate) -> None:
    """OMS 1.0: the key's usage must be digital signatures, or the extended one code signing."""
    extensions = leaf.extensions
    for found in extensions:
        if isinstance(found.value, x509.KeyUsage) and found.value.digital_signature:
            return
        if isinstance(found.value, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CODE_SIGNING in found.value:
            return
    raise BadSignature("its certificate is not for signing")
