"""Trust domains, certificates and tokens for tests: right ones by the issuer, wrong ones by hand, all at one time.

Whatever can be wrong with a certificate is a field of `Made`; what is not said is as the standard has it.
"""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace.core.workload import Attested
from headrace.trust.spiffe.authority import Authorities, new_key, rotate
from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import parse_id
from headrace.trust.spiffe.issuer import Issuer, Terms
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings
from headrace.trust.strict import encode_base64url

TD = "example.org"
NOW_S = 1_800_000_000.0
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
ME = Attested(pid=7, uid=1000, gid=1000, exe="/usr/bin/agent", sha256="a" * 64)


@dataclass
class SetClock:
    """A clock that stands until a test moves it."""

    unix: float = NOW_S

    def monotonic_s(self) -> float:
        return self.unix

    def unix_s(self) -> float:
        return self.unix


def make_issuer(
    clock: SetClock | None = None, *, trust_domain: str = TD, seed: int = 1, terms: Terms | None = None
) -> Issuer:
    """An issuer with keys and the entry of `ME`."""
    clock, random = clock or SetClock(), Random(seed)
    terms = terms or Terms()
    authorities = rotate(Authorities(trust_domain=trust_domain), terms.rhythm, now_s=clock.unix_s(), random=random)
    issuer = Issuer(authorities, terms, clock, random)
    issuer.configure([EntrySettings(id=parse_id(f"spiffe://{trust_domain}/agent/mail"), uid=ME.uid)])
    return issuer


def turn(issuer: Issuer, rhythm: Rhythm, now_s: float, *, seed: int = 2) -> None:
    """Let an issuer's keys change as they are to at a time."""
    issuer.adopt(rotate(issuer._authorities, rhythm, now_s=now_s, random=Random(seed)))


def usage(*names: str) -> x509.KeyUsage:
    """A key usage with some of its bits."""
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    return x509.KeyUsage(**{one: one in names for one in every.split()}, encipher_only=False, decipher_only=False)


@dataclass(kw_only=True)
class Made:
    """A certificate to make. Times are seconds from NOW_S; None for an extension: without it."""

    uris: tuple[str, ...] = (f"spiffe://{TD}/agent/mail",)
    dns: tuple[str, ...] = ()
    common_name: str | None = None
    ca: bool | None = False
    path_len: int | None = None
    usage: x509.KeyUsage | None = field(default_factory=lambda: usage("digital_signature"))
    is_usage_critical: bool = True
    extended: tuple[x509.ObjectIdentifier, ...] | None = BOTH
    is_san_critical: bool = True
    starts_s: int = -60
    ends_s: int = 3600
    permitted: tuple[x509.GeneralName, ...] | None = None
    excluded: tuple[x509.GeneralName, ...] | None = None
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    hash: Any = field(default_factory=hashes.SHA256)
    key: Any = None


def made_ca(name: str, **changes: Any) -> Made:
    """What an authority's certificate is like."""
    usual: dict[str, Any] = {
        "uris": (f"spiffe://{TD}",),
        "common_name": name,
        "ca": True,
        "usage": usage("key_cert_sign", "crl_sign"),
        "extended": None,
        "is_san_critical": False,
        "ends_s": 86_400,
    }
    return Made(**{**usual, **changes})


@dataclass
class Holder:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


_SERIALS = iter(range(1, 1_000_000))
_KEYS = Random(99)


def make(made: Made, by: Holder | None = None) -> Holder:
    """Make it, signed by another or by itself."""
    key = made.key or new_key(_KEYS)
    name = x509.Name([] if made.common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, made.common_name)])
    start = datetime.datetime.fromtimestamp(NOW_S, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if by is None else by.certificate.subject)
        .public_key(key.public_key())
        .serial_number(next(_SERIALS))
        .not_valid_before(start + datetime.timedelta(seconds=made.starts_s))
        .not_valid_after(start + datetime.timedelta(seconds=made.ends_s))
    )
    names = [*map(x509.UniformResourceIdentifier, made.uris), *map(x509.DNSName, made.dns)]
    extensions: list[tuple[x509.ExtensionType, bool]] = [*made.more]
    if names:
        extensions.append((x509.SubjectAlternativeName(names), made.is_san_critical))
    if made.ca is not None:
        extensions.append((x509.BasicConstraints(made.ca, made.path_len), True))
    if made.usage is not None:
        extensions.append((made.usage, made.is_usage_critical))
    if made.extended is not None:
        extensions.append((x509.ExtendedKeyUsage(made.extended), False))
    if made.permitted is not None or made.excluded is not None:
        extensions.append((x509.NameConstraints(made.permitted, made.excluded), True))
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    signer = key if by is None else by.key
    return Holder(builder.sign(signer, made.hash), key)


def make_ca(name: str) -> Holder:
    """An authority that signs itself."""
    return make(made_ca(name))


def bundle_of(*authorities: Holder, trust_domain: str = TD) -> dict[str, Bundle]:
    """A bundle map with one trust domain."""
    return {trust_domain: Bundle(trust_domain=trust_domain, x509_authorities=tuple(one.der for one in authorities))}


def sign(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """A token with whatever header, signed by ES256, ES384 or ES512 as its key has it."""
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in (header, claims)]
    signed = ".".join(map(encode_base64url, parts))
    size = (key.curve.key_size + 7) // 8
    digest = {32: hashes.SHA256(), 48: hashes.SHA384(), 66: hashes.SHA512()}[size]
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(digest)))
    return f"{signed}.{encode_base64url(r.to_bytes(size, 'big') + s.to_bytes(size, 'big'))}"
