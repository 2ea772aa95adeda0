"""Public keys of others as JSON (RFC 7517, 7518, 8037): read strictly, found by id and algorithm, named by thumbprint.

A set that holds a private or symmetric key, or one id twice, is refused whole: whoever published it does not know what
it says. What is only not for us (another use, an unknown type) is left out, as RFC 7517, section 5 has it. Knows no
tokens, and not where sets come from.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from headrace.trust.strict import NotStrict, decode_base64url, read_json_object

MAX_SET_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 128
MAX_ID_CHARS: Final = 512
_RSA_BITS: Final = range(2048, 8193)
_MAX_EXPONENT_BYTES: Final = 4
# CVE-2017-15361: the moduli that broken chips made are powers of 65537 modulo every small prime.
_SMALL_PRIMES: Final = tuple(p for p in range(3, 168, 2) if all(p % q for q in range(3, p, 2)))
_POWERS: Final = tuple((p, frozenset(pow(65537, i, p) for i in range(p))) for p in _SMALL_PRIMES)

ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""Signatures by name (RFC 7518, section 3.1; RFC 8037; RFC 9864), each with the type and curve of its keys. No `none`,
and none with a shared secret: whoever could check such a signature could make it."""

_KINDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "RSA": RSAKey.import_key,
    "EC": ECKey.import_key,
    "OKP": OKPKey.import_key,
}
# RFC 7638, section 3.2, and RFC 8037, section 2: the members that make a key, in order.
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
}
# RFC 7518, sections 6.2.2, 6.3.2 and 6.4.
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A public key. `algs` are the signatures that it may check; `native` is the library's."""

    kid: str | None
    algs: frozenset[str]
    thumbprint: str
    native: Any = field(repr=False)

    def verify(self, alg: str, signed: bytes, signature: bytes) -> bool:
        """Whether a signature is this key's. False for an algorithm that the key is not for."""
        if alg not in self.algs:
            return False
        try:
            return bool(JWSRegistry.algorithms[alg].verify(signed, signature, self.native))
        except (JoseError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one issuer."""

    keys: tuple[Key, ...] = ()

    def names(self) -> list[tuple[Any, ...]]:
        """What makes the set this set and no other."""
        return [(one.kid, one.algs, one.thumbprint) for one in self.keys]

    def find(self, kid: str | None, alg: str) -> Sequence[Key]:
        """Those that a signature may be checked with: the one that it names, or all that fit where it names none."""
        return [one for one in self.keys if alg in one.algs and (kid is None or one.kid == kid)]


def read_key(jwk: Mapping[str, Any]) -> Key:
    """One public key. Raises NotStrict for what is none, or is more than one."""
    if not _PRIVATE.isdisjoint(jwk):
        raise NotStrict("the key is a private or symmetric one")
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _KINDS:
        raise NotStrict("the key is of a type that is not supported")
    members = {name: jwk.get(name) for name in _REQUIRED[kty]}
    for name, value in members.items():
        if not isinstance(value, str):
            raise NotStrict(f"the key has no {name}")
        if name not in ("kty", "crv"):
            data = decode_base64url(value)  # one text a key, so that a thumbprint is one, too
            if name == "n":
                _check_modulus(int.from_bytes(data, "big"))
            elif name == "e" and len(data) > _MAX_EXPONENT_BYTES:
                raise NotStrict("the RSA key has an exponent that only costs time")
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_ID_CHARS):
        raise NotStrict("the key's id is no short text")
    algs = _algs(jwk)
    if not algs:
        raise NotStrict("the key is on a curve that is not supported")
    if (alg := jwk.get("alg")) is not None:  # RFC 7517, section 4.4
        algs &= {alg} if isinstance(alg, str) else set()
    try:
        # Only what makes the key: what it is for was read here.
        native = _KINDS[kty](members)
    except (JoseError, ValueError, TypeError) as error:
        raise NotStrict("the key cannot be read") from error
    return Key(kid, frozenset(algs), thumbprint(members), native)


def _check_modulus(modulus: int) -> None:
    if modulus.bit_length() not in _RSA_BITS:
        raise NotStrict(f"the RSA key has not {_RSA_BITS.start} to {_RSA_BITS.stop - 1} bits")
    if all(modulus % prime in powers for prime, powers in _POWERS):
        raise NotStrict("the RSA key was made by a chip whose keys can be broken")


def thumbprint(members: Mapping[str, Any]) -> str:
    """RFC 7638, with SHA-256, of a key's required members."""
    text = json.dumps({name: members[name] for name in sorted(members)}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def read_key_set(data: bytes) -> KeySet:
    """The keys of a set that check signatures. Raises NotStrict, whose sentence goes on from the set's name."""
    if len(data) > MAX_SET_BYTES:
        raise NotStrict(f"is longer than {MAX_SET_BYTES} bytes")
    listed = read_json_object(data).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise NotStrict(f"has no list `keys` of at most {MAX_KEYS}")
    keys: list[Key] = []
    for jwk in listed:
        if not isinstance(jwk, dict):
            raise NotStrict("has a key that is no object")
        if jwk.get("kty") == "oct" or not _PRIVATE.isdisjoint(jwk):
            raise NotStrict("holds a private or symmetric key, which nobody must publish")
        if not _checks_signatures(jwk) or not _algs(jwk):
            continue
        key = read_key(jwk)
        if key.kid is not None and any(one.kid == key.kid for one in keys):
            raise NotStrict(f"has two keys with the id {key.kid!r}")
        if key.algs:
            keys.append(key)
    return KeySet(tuple(keys))


def _algs(jwk: Mapping[str, Any]) -> set[str]:
    """What a key's type and curve are for; nothing for what is not supported."""
    kty, curve = jwk.get("kty"), jwk.get("crv")
    return {alg for alg, (kind, needed) in ALGORITHMS.items() if kind == kty and needed in (None, curve)}


def _checks_signatures(jwk: Mapping[str, Any]) -> bool:
    """RFC 7517, sections 4.2 and 4.3."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
