"""SPIFFE bundles (SPIFFE_Trust_Domain_and_Bundle.md, section 4): the keys that vouch for the IDs of one trust domain.

A bundle does not say whose it is: whoever read it from a place that is known to be a trust domain's says so. Entries of
unknown kind are ignored, as the standard asks; an entry of a known kind that is broken is refused, because to go on
without it would hide a mistake. Knows no place where bundles come from.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from headrace.trust.spiffe.ids import InvalidSvid
from headrace.trust.strict import NotStrict, decode_base64url, encode_base64url, read_json_object

JwtKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MIN_RSA_BITS: Final = 2048
MAX_BUNDLE_BYTES: Final = 4 * 2**20
_MAX_AUTHORITIES: Final = 256
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The keys of `trust_domain`: authorities that sign certificates (DER), and keys that sign tokens by their key id.
    `refresh_hint_s`: how often to look for a newer one."""

    trust_domain: str
    x509_authorities: tuple[bytes, ...] = ()
    jwt_authorities: Mapping[str, JwtKey] = field(default_factory=dict)
    sequence: int | None = None
    refresh_hint_s: int | None = None


def parse_bundle(text: bytes, trust_domain: str) -> Bundle:
    """The bundle of a trust domain from its document. Raises InvalidSvid."""
    document = _parse_object(text, "the bundle")
    keys = document.get("keys")
    if not isinstance(keys, list):  # 4.1.3: `keys` MUST be present; it may be empty
        raise InvalidSvid("the bundle has no list keys")
    x509_authorities: list[bytes] = []
    jwt_authorities: dict[str, JwtKey] = {}
    for entry in keys[:_MAX_AUTHORITIES]:
        if not isinstance(entry, dict):
            raise InvalidSvid("an entry of keys is no object")
        # 4.2.1 and 4.2.2: an unknown kty or use, or none, is ignored with all of its entry
        if entry.get("kty") not in {"EC", "RSA"}:
            continue
        if entry.get("use") == "x509-svid":
            authority = _parse_x509_authority(entry)
            if authority is not None:
                x509_authorities.append(authority)
        elif entry.get("use") == "jwt-svid":
            _add_jwt_authority(jwt_authorities, entry)
    return Bundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(dict.fromkeys(x509_authorities)),
        jwt_authorities=jwt_authorities,
        sequence=_whole(document, "spiffe_sequence"),
        refresh_hint_s=_whole(document, "spiffe_refresh_hint"),
    )


def parse_jwt_authorities(text: bytes) -> dict[str, JwtKey]:
    """The keys of a plain JWK set, as the Workload API gives them (SPIFFE_Workload_API.md 6.2.2): all of them sign
    tokens, and `use` may be absent. Raises InvalidSvid."""
    document = _parse_object(text, "the JWK set")
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise InvalidSvid("the JWK set has no list keys")
    found: dict[str, JwtKey] = {}
    for entry in keys[:_MAX_AUTHORITIES]:
        is_ours = isinstance(entry, dict) and entry.get("kty") in {"EC", "RSA"}
        if is_ours and entry.get("use") in {None, "jwt-svid", "sig"}:
            _add_jwt_authority(found, entry)
    return found


def parse_x509_authorities(text: bytes) -> tuple[bytes, ...]:
    """DER certificates in a row, as the Workload API gives them. Raises InvalidSvid."""
    found: list[bytes] = []
    while text:
        one = text[: _der_len(text)]
        if len(found) == _MAX_AUTHORITIES:
            raise InvalidSvid(f"these are more than {_MAX_AUTHORITIES} certificates")
        _load_certificate(one)
        found.append(one)
        text = text[len(one) :]
    return tuple(dict.fromkeys(found))


def write_bundle(bundle: Bundle) -> bytes:
    """The document of a bundle."""
    document: dict[str, Any] = {}
    if bundle.sequence is not None:
        document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint_s is not None:
        document["spiffe_refresh_hint"] = bundle.refresh_hint_s
    document["keys"] = [
        # X509-SVID.md 6.1: use, no kid, x5c with exactly one certificate, and what RFC 7517 asks for the key
        {"use": "x509-svid", **_jwk(_load_certificate(one).public_key()), "x5c": [base64.b64encode(one).decode()]}
        for one in bundle.x509_authorities
    ] + [
        # JWT-SVID.md 6.1: use and kid
        {"use": "jwt-svid", "kid": kid, **_jwk(key)}
        for kid, key in bundle.jwt_authorities.items()
    ]
    return json.dumps(document, indent=2).encode() + b"\n"


def write_jwt_authorities(keys: Mapping[str, JwtKey]) -> bytes:
    """A plain JWK set, which validators that know no SPIFFE can read: without `use`."""
    return json.dumps({"keys": [{"kid": kid, **_jwk(key)} for kid, key in keys.items()]}).encode()


def key_id(key: JwtKey) -> str:
    """The key's thumbprint (RFC 7638) with SHA-256."""
    jwk = _jwk(key)
    needed = ("crv", "kty", "x", "y") if jwk["kty"] == "EC" else ("e", "kty", "n")
    text = json.dumps({name: jwk[name] for name in needed}, separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(text.encode()).digest())


def decode(text: str) -> bytes:
    """Bytes of base64url. Raises InvalidSvid."""
    try:
        return decode_base64url(text)
    except NotStrict as error:
        raise InvalidSvid(f"what should be base64url {error}") from None


def read_object(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object; `what` it is, for the sentence. Raises InvalidSvid, also for a name that is there twice (6.3)."""
    try:
        return read_json_object(text)
    except NotStrict as error:
        raise InvalidSvid(f"{what} {error}") from None


def _parse_object(text: bytes, what: str) -> dict[str, Any]:
    if len(text) > MAX_BUNDLE_BYTES:
        raise InvalidSvid(f"{what} is longer than {MAX_BUNDLE_BYTES} bytes")
    return read_object(text, what)


def _whole(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**63:  # 4.1.1, 4.1.2: integers of 64 bits
        raise InvalidSvid(f"{name} is no whole number from 0")
    return value


def _parse_x509_authority(entry: Mapping[str, Any]) -> bytes | None:
    chain = entry.get("x5c")
    if not chain:  # X509-SVID.md 6.2: without x5c it MUST be ignored
        return None
    first = chain[0] if isinstance(chain, list) else None  # all but the first MUST be ignored
    if not isinstance(first, str):
        raise InvalidSvid("x5c is no list of texts")
    try:
        der = base64.b64decode(first, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSvid("x5c has what is no base64") from None
    _load_certificate(der)
    return der


def _add_jwt_authority(found: dict[str, JwtKey], entry: Mapping[str, Any]) -> None:
    kid = entry.get("kid")
    if not isinstance(kid, str) or not kid:  # JWT-SVID.md 6.1: kid MUST be set
        raise InvalidSvid("a key for tokens has no kid")
    if kid in found:
        raise InvalidSvid(f"two keys for tokens have the kid {kid[:80]!r}")
    key = _parse_key(entry)
    if key is not None:
        found[kid] = key


def _parse_key(entry: Mapping[str, Any]) -> JwtKey | None:
    """A public key (RFC 7518, section 6); None for a curve that is unknown."""
    if "d" in entry:
        raise InvalidSvid("a bundle has a private key in it; take it out and make a new one")
    if entry["kty"] == "EC":
        curve = _CURVES.get(str(entry.get("crv")))
        if curve is None:
            return None
        size = (curve.key_size + 7) // 8
        x, y = _number(entry, "x", size), _number(entry, "y", size)
        try:
            return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
        except ValueError:
            raise InvalidSvid("x and y are no point of the curve") from None
    modulus, exponent = _number(entry, "n"), _number(entry, "e")
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidSvid("n and e are no RSA key") from None
    if key.key_size < MIN_RSA_BITS:
        raise InvalidSvid(f"an RSA key has {key.key_size} bits; at least {MIN_RSA_BITS}")
    return key


def _number(entry: Mapping[str, Any], name: str, num_bytes: int | None = None) -> int:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidSvid(f"a key has no {name}")
    data = decode(value)
    if num_bytes is not None and len(data) != num_bytes:  # RFC 7518, 6.2.1.2: the whole length of a coordinate
        raise InvalidSvid(f"{name} has {len(data)} bytes; a coordinate of this curve has {num_bytes}")
    return int.from_bytes(data, "big")


def _jwk(key: Any) -> dict[str, str]:
    if isinstance(key, ec.EllipticCurvePublicKey):
        size, point = (key.curve.key_size + 7) // 8, key.public_numbers()
        x, y = (encode_base64url(one.to_bytes(size, "big")) for one in (point.x, point.y))
        return {"kty": "EC", "crv": _NAMES[key.curve.name], "x": x, "y": y}
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        n, e = (encode_base64url(one.to_bytes((one.bit_length() + 7) // 8, "big")) for one in (public.n, public.e))
        return {"kty": "RSA", "n": n, "e": e}
    raise InvalidSvid("a bundle has keys of elliptic curves and RSA only")


def _load_certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)  # refuses bytes that follow
    except (ValueError, TypeError, x509.InvalidVersion):
        raise InvalidSvid("this is no DER certificate") from None


def _der_len(data: bytes) -> int:
    """How many bytes the value has that these begin with: a SEQUENCE with a definite length (X.690, 8.1.3)."""
    if len(data) < 2 or data[0] != 0x30:
        raise InvalidSvid("these are no DER certificates in a row")
    if data[1] < 0x80:
        return 2 + data[1]
    num_bytes = data[1] & 0x7F
    if not 1 <= num_bytes <= 4 or len(data) < 2 + num_bytes:
        raise InvalidSvid("these are no DER certificates in a row")
    return 2 + num_bytes + int.from_bytes(data[2 : 2 + num_bytes], "big")
