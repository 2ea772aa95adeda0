"""Tokens as issuers and clients make them, good and bad: keys, JSON Web Key Sets, JWTs, DPoP proofs.

Made with the library's own signatures but with texts of our own, so that a test can say any nonsense it likes.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER = "https://id.example"
AUDIENCE = "https://api.example"
NOW_S = 1_700_000_100


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key(kind: str = "ES256", kid: str | None = "one") -> Any:
    """A private key, the same one each time."""
    return _key(kind, kid)


@functools.cache
def _key(kind: str, kid: str | None) -> Any:
    parameters: Any = {} if kid is None else {"kid": kid}
    if kind.startswith(("RS", "PS")):
        return RSAKey.generate_key(2048, parameters)
    if kind.startswith("Ed"):
        return OKPKey.generate_key("Ed25519", parameters)
    curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[kind]
    return ECKey.generate_key(curve, parameters)


def public(one: Any, **more: Any) -> dict[str, Any]:
    """A key as others may see it."""
    return {**one.as_dict(private=False), **more}


def key_set(*keys: Any) -> bytes:
    return json.dumps({"keys": [one if isinstance(one, dict) else public(one) for one in keys]}).encode()


def sign(header: Mapping[str, Any] | str, claims: Mapping[str, Any] | str | bytes, by: Any, alg: str = "ES256") -> str:
    """A token; header and claims may be texts."""
    head = header if isinstance(header, str) else json.dumps(header)
    body = claims if isinstance(claims, str | bytes) else json.dumps(claims)
    data = body.encode() if isinstance(body, str) else body
    signed = f"{encode(head.encode())}.{encode(data)}"
    return f"{signed}.{encode(JWSRegistry.algorithms[alg].sign(signed.encode(), by))}"


def claims(**changed: Any) -> dict[str, Any]:
    """What a good token says; None takes a claim out."""
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "iat": NOW_S - 10, "exp": NOW_S + 290} | changed
    return {name: value for name, value in given.items() if value is not None}


def token(by: Any = None, alg: str = "ES256", header: Mapping[str, Any] | None = None, **changed: Any) -> str:
    """A token of the issuer's."""
    one = key(alg) if by is None else by
    return sign({"alg": alg, "kid": one.kid, "typ": "at+jwt"} | dict(header or {}), claims(**changed), one, alg)


def proof(
    by: Any,
    bound: str,
    method: str = "POST",
    url: str = "http://localhost:8000/v1/chat/completions",
    header: Mapping[str, Any] | None = None,
    alg: str = "ES256",
    **changed: Any,
) -> str:
    """A DPoP proof for a token."""
    given = {
        "jti": "1",
        "htm": method,
        "htu": url,
        "iat": NOW_S,
        "ath": encode(hashlib.sha256(bound.encode()).digest()),
    } | changed
    jwk = {name: value for name, value in public(by).items() if name != "kid"}
    head = {"typ": "dpop+jwt", "alg": alg, "jwk": jwk} | dict(header or {})
    kept = {name: value for name, value in given.items() if value is not None}
    return sign({name: value for name, value in head.items() if value is not None}, kept, by, alg)
