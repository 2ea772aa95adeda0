"""JWT-SVIDs (JWT-SVID.md): whether a token shows a workload's name to this audience, and how one is written.

Strict where the standard is: compact serialization, three header parameters and no other, signatures by RSA and ECDSA
alone, keys from the bundle of the trust domain in `sub`. What looks like JSON or base64url but has two readings is
refused before anything is believed. Knows no network: nothing in a token names a key to fetch.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from headrace.trust.spiffe.bundle import Bundle, JwtKey, decode, read_object
from headrace.trust.spiffe.ids import InvalidSvid, SpiffeId, parse_workload_id
from headrace.trust.strict import encode_base64url

MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_AUDIENCES: Final = 64
EARLY_S: Final = 60.0
"""How far ahead an issuer's clock may be for `nbf` and `iat`; `exp` gets no such leeway."""

# 2.1: RFC 7518, sections 3.3 to 3.5
_HASHES: Final = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_ALGORITHMS: Final = frozenset(f"{family}{size}" for family in ("RS", "ES", "PS") for size in _HASHES)
_HEADERS: Final = frozenset({"alg", "kid", "typ"})  # 2: any other MUST NOT be included


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """Whose it is, until when it is valid (Unix time), and all that it says."""

    spiffe_id: SpiffeId
    expires_s: float
    claims: Mapping[str, Any]


def verify_jwt_svid(
    token: str, bundles: Mapping[str, Bundle], *, audiences: Collection[str], now_s: float
) -> VerifiedToken:
    """Whose the token is. `audiences` are the names of who verifies, of which one must be among the token's. Raises
    InvalidSvid."""
    header, claims, signed, signature = _parse(token)
    algorithm = _check_header(header)
    spiffe_id, expires_s = _check_claims(claims, audiences, now_s)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or not bundle.jwt_authorities:
        raise InvalidSvid(f"the trust domain {spiffe_id.trust_domain} is not trusted here")
    _check_signature(_keys(bundle, header, algorithm), algorithm, signed, signature)
    return VerifiedToken(spiffe_id, expires_s, claims)


def claimed_trust_domain(token: str) -> str | None:
    """Whose word a token claims to be, with nobody's word for it; None if it looks like no JWT-SVID."""
    try:
        _, claims, _, _ = _parse(token)
        return parse_workload_id(str(claims.get("sub"))).trust_domain
    except InvalidSvid:
        return None


def sign_jwt_svid(claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    """A token with ES256 over a P-256 key."""
    header = {"alg": "ES256", "kid": kid, "typ": "JWT"}
    parts = [encode_base64url(json.dumps(one, separators=(",", ":")).encode()) for one in (header, claims)]
    signed = ".".join(parts)
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encode_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    # 5.1: compact serialization (RFC 7515, 3.1)
    if len(token) > MAX_TOKEN_CHARS:
        raise InvalidSvid(f"the token has {len(token)} characters; at most {MAX_TOKEN_CHARS}")
    parts = token.split(".")
    if len(parts) != 3:
        raise InvalidSvid("the token has not three parts, so it is no signed JWT in compact form")
    header, claims, signature = map(decode, parts)
    signed = ".".join(parts[:2]).encode("ascii")
    return read_object(header, "the token's header"), read_object(claims, "the token's payload"), signed, signature


def _check_header(header: Mapping[str, Any]) -> str:
    """Section 2."""
    if others := sorted(header.keys() - _HEADERS):
        raise InvalidSvid(f"the token's header has {others[0][:40]!r}; a JWT-SVID has alg, kid and typ only")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:  # 2.1
        raise InvalidSvid(f"the token's alg is {str(algorithm)[:40]!r}; a JWT-SVID is signed by RS, ES or PS")
    if "kid" in header and (not isinstance(header["kid"], str) or not header["kid"]):  # 2.2: optional
        raise InvalidSvid("the token's kid is no text")
    if "typ" in header and header["typ"] not in ("JWT", "JOSE"):  # 2.3: optional
        raise InvalidSvid(f"the token's typ is {str(header['typ'])[:40]!r}; a JWT-SVID's is JWT or JOSE")
    return algorithm


def _check_claims(claims: Mapping[str, Any], audiences: Collection[str], now_s: float) -> tuple[SpiffeId, float]:
    """Section 3."""
    subject = claims.get("sub")
    if not isinstance(subject, str):  # 3.1
        raise InvalidSvid("the token has no sub that is a text")
    spiffe_id = parse_workload_id(subject)
    given = claims.get("aud")  # 3.2; RFC 7519, 4.1.3: a text or a list of them
    named = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    if not 1 <= len(named) <= MAX_AUDIENCES or not all(isinstance(one, str) and one for one in named):
        raise InvalidSvid("the token has no aud that is a text or a list of texts")
    if not set(named) & set(audiences):
        raise InvalidSvid("the token is for another audience")
    expires_s = _time(claims, "exp")  # 3.3
    if expires_s is None:
        raise InvalidSvid("the token has no exp")
    if now_s >= expires_s:  # RFC 7519, 4.1.4: on or after it
        raise InvalidSvid("the token has expired")
    for name in ("nbf", "iat"):
        time_s = _time(claims, name)
        if time_s is not None and time_s > now_s + EARLY_S:
            raise InvalidSvid(f"the token's {name} lies in the future")
    return spiffe_id, expires_s


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2)."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidSvid(f"the token's {name} is no number")
    if not math.isfinite(value) or not 0 <= value < 2**53:
        raise InvalidSvid(f"the token's {name} is no time")
    return float(value)


def _keys(bundle: Bundle, header: Mapping[str, Any], algorithm: str) -> list[JwtKey]:
    """Section 6: the key of the kid; without one, every key that the algorithm fits."""
    if "kid" in header:
        found = bundle.jwt_authorities.get(header["kid"])
        candidates = [] if found is None else [found]
    else:
        candidates = list(bundle.jwt_authorities.values())[:8]
    fitting = [key for key in candidates if _fits(key, algorithm)]
    if not fitting:
        raise InvalidSvid(f"the bundle of {bundle.trust_domain} has no key that this token names and its alg fits")
    return fitting


def _fits(key: JwtKey, algorithm: str) -> bool:
    """An algorithm is bound to its kind of key (RFC 7518, 3.3 to 3.5), so that none is taken for another."""
    if isinstance(key, rsa.RSAPublicKey):
        return algorithm[:2] in {"RS", "PS"}
    return key.curve.name == _CURVES.get(algorithm)


def _check_signature(keys: list[JwtKey], algorithm: str, signed: bytes, signature: bytes) -> None:
    """RFC 7515, 5.2, step 8."""
    digest = _HASHES[algorithm[2:]]
    for key in keys:
        try:
            if isinstance(key, rsa.RSAPublicKey):
                is_pss = algorithm.startswith("PS")
                pad = padding.PSS(padding.MGF1(digest), digest.digest_size) if is_pss else padding.PKCS1v15()
                key.verify(signature, signed, pad, digest)
            else:
                size = (key.curve.key_size + 7) // 8
                if len(signature) != 2 * size:  # RFC 7518, 3.4: R and S, each in its whole length
                    continue
                r, s = (int.from_bytes(one, "big") for one in (signature[:size], signature[size:]))
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
        except InvalidSignature:
            continue
        return
    raise InvalidSvid("the token's signature is not that of its key")
