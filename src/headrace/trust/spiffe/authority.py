"""The keys of an embedded issuer: made, used and let go, each beside the next for long enough that none is missed.

    new            in the bundle, signs nothing yet, until every holder of the bundle has had time to learn of it
    in force       the newest that is not new any more: signs
    before         in the bundle until it expires, because what it signed is still shown

A value and functions of it: the clock's reading and the random numbers come in, and whoever keeps the value keeps it
before it is used. Knows no files.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from headrace.trust.spiffe.bundle import Bundle, key_id, read_object
from headrace.trust.spiffe.ids import InvalidSvid, SpiffeId, parse_trust_domain
from headrace.trust.spiffe.rhythm import BACKDATE_S, Rhythm

# The order of P-256's group (SEC 2, 2.4.2): private keys are from 1 to one less.
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SERIAL_BITS: Final = 159  # RFC 5280, 4.1.2.2: positive, at most 20 octets


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key (PKCS#8 DER) with its time. `certificate` (DER) of one that signs certificates; `kid` of one that
    signs tokens. Unix seconds."""

    private_key: bytes = field(repr=False)
    made_s: float
    expires_s: float
    certificate: bytes = b""
    kid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """All keys of a trust domain, oldest first. `sequence` grows with every change (4.1.1 of the bundle's standard)."""

    trust_domain: str
    x509_keys: tuple[SigningKey, ...] = ()
    jwt_keys: tuple[SigningKey, ...] = ()
    sequence: int = 0


_Keys = Sequence[SigningKey]


def rotate(authorities: Authorities, rhythm: Rhythm, *, now_s: float, random: Random) -> Authorities:
    """The keys as they are to be now; the same object if nothing is to change."""
    x509_keys, jwt_keys = (
        [key for key in keys if now_s < key.expires_s] for keys in (authorities.x509_keys, authorities.jwt_keys)
    )
    if _needs_next(x509_keys, rhythm, now_s):
        x509_keys.append(_make_authority(authorities.trust_domain, rhythm, now_s, random))
    if _needs_next(jwt_keys, rhythm, now_s):
        jwt_keys.append(_make_jwt_key(rhythm, now_s, random))
    after = replace(authorities, x509_keys=tuple(x509_keys), jwt_keys=tuple(jwt_keys))
    return authorities if after == authorities else replace(after, sequence=authorities.sequence + 1)


def in_force(keys: _Keys, rhythm: Rhythm, *, now_s: float) -> SigningKey:
    """The key that signs now. Raises InvalidSvid if there is none, which `rotate` sees to."""
    alive = [key for key in keys if key.made_s <= now_s < key.expires_s]
    if not alive:
        raise InvalidSvid("the issuer has no key that is valid now")
    settled = [key for key in alive if now_s >= key.made_s + rhythm.settle_s]
    return settled[-1] if settled else alive[0]


def next_change_s(authorities: Authorities, rhythm: Rhythm) -> float:
    """When `rotate` or `in_force` next has something else to say, Unix time; -inf for keys that are not made."""
    times: list[float] = []
    for keys in (authorities.x509_keys, authorities.jwt_keys):
        if not keys:
            return float("-inf")
        times += [key.expires_s for key in keys]
        times.append(keys[-1].made_s + rhythm.life_s / 2)
    return min(times)


def bundle_of(authorities: Authorities, *, refresh_hint_s: int | None = None) -> Bundle:
    """What others may know of the keys."""
    public = {key.kid: load_key(key.private_key).public_key() for key in authorities.jwt_keys}
    return Bundle(
        trust_domain=authorities.trust_domain,
        x509_authorities=tuple(key.certificate for key in authorities.x509_keys),
        jwt_authorities=public,
        sequence=authorities.sequence,
        refresh_hint_s=refresh_hint_s,
    )


def new_key(random: Random) -> ec.EllipticCurvePrivateKey:
    """A private key of P-256."""
    return ec.derive_private_key(random.randrange(1, _P256_ORDER), ec.SECP256R1())


def new_serial(random: Random) -> int:
    """A number for a certificate."""
    return random.getrandbits(_SERIAL_BITS) | 1


def load_key(private_key: bytes) -> ec.EllipticCurvePrivateKey:
    """A key from its PKCS#8 DER. Raises InvalidSvid."""
    try:
        key = load_der_private_key(private_key, password=None)
    except (ValueError, TypeError):
        raise InvalidSvid("this is no private key in PKCS#8") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidSvid("this is no private key of P-256")
    return key


def dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 DER, unencrypted."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def at(time_s: float) -> datetime:
    """A time as certificates have it: whole seconds, UTC."""
    return datetime.fromtimestamp(int(time_s), UTC)


def write_authorities(authorities: Authorities) -> bytes:
    """As a text for a file that nobody else may read: it has the private keys."""

    def entry(key: SigningKey) -> dict[str, Any]:
        found: dict[str, Any] = {"made_s": key.made_s, "expires_s": key.expires_s}
        found["private_key"] = base64.b64encode(key.private_key).decode()
        if key.certificate:
            found["certificate"] = base64.b64encode(key.certificate).decode()
        return found

    document = {
        "trust_domain": authorities.trust_domain,
        "sequence": authorities.sequence,
        "x509": [entry(key) for key in authorities.x509_keys],
        "jwt": [entry(key) for key in authorities.jwt_keys],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def read_authorities(text: bytes) -> Authorities:
    """What `write_authorities` wrote. Raises InvalidSvid."""
    document = read_object(text, "the issuer's file of keys")
    try:
        return Authorities(
            trust_domain=parse_trust_domain(document["trust_domain"]),
            sequence=int(document["sequence"]),
            x509_keys=tuple(_read_key(one, is_jwt=False) for one in document["x509"]),
            jwt_keys=tuple(_read_key(one, is_jwt=True) for one in document["jwt"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidSvid(f"the issuer's file of keys is not as it was written ({error})") from None


def _read_key(entry: Mapping[str, Any], *, is_jwt: bool) -> SigningKey:
    private_key = base64.b64decode(entry["private_key"], validate=True)
    public = load_key(private_key).public_key()
    certificate = b"" if is_jwt else base64.b64decode(entry["certificate"], validate=True)
    if certificate and x509.load_der_x509_certificate(certificate).public_key() != public:
        raise InvalidSvid("an authority's certificate is not that of its key")
    return SigningKey(
        private_key=private_key,
        made_s=float(entry["made_s"]),
        expires_s=float(entry["expires_s"]),
        certificate=certificate,
        kid=key_id(public) if is_jwt else "",
    )


def _needs_next(keys: _Keys, rhythm: Rhythm, now_s: float) -> bool:
    # A key of the future was made while the clock stood wrong: it is as good as none.
    return not any(key.made_s <= now_s < key.made_s + rhythm.life_s / 2 for key in keys)


def _make_authority(trust_domain: str, rhythm: Rhythm, now_s: float, random: Random) -> SigningKey:
    """A root that signs itself (X509-SVID.md 3.2): it has the trust domain's own ID, and may sign leaves only. It has
    no name constraints: too many libraries refuse them for URIs (4.2)."""
    key = new_key(random)
    serial = new_serial(random)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),  # each root has a name of its own
        ]
    )
    expires_s = float(int(now_s + rhythm.life_s))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(at(now_s - BACKDATE_S))
        .not_valid_after(at(expires_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(is_authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SpiffeId(trust_domain)))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return SigningKey(
        private_key=dump_key(key),
        made_s=now_s,
        expires_s=expires_s,
        certificate=certificate.public_bytes(Encoding.DER),
    )


def _make_jwt_key(rhythm: Rhythm, now_s: float, random: Random) -> SigningKey:
    key = new_key(random)
    return SigningKey(
        private_key=dump_key(key),
        made_s=now_s,
        expires_s=float(int(now_s + rhythm.life_s)),
        kid=key_id(key.public_key()),
    )


def key_usage(*, is_authority: bool) -> x509.KeyUsage:
    """X509-SVID.md 4.3."""
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
