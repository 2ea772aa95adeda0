"""Proofs that whoever shows a token holds the key that it was issued to (DPoP, RFC 9449), clause by clause.

A proof is for one request and is taken once. Nonces are made of the time and a secret, so that none is kept. Judges
values: the time comes in. Knows no tokens but their text.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.core.identity import Shown
from headrace.trust.identity.jose import Jws, Profile, WrongToken, read_jws
from headrace.trust.identity.jwk import Key, read_key
from headrace.trust.identity.replay import Replays
from headrace.trust.identity.uri import normalize
from headrace.trust.strict import NotStrict, encode_base64url

ALGS: Final = ("ES256", "ES384", "EdDSA", "PS256", "RS256")
MAX_ID_CHARS: Final = 256
NONCE_S: Final = 300.0
_MAC_BYTES: Final = 16

_PROFILE: Final = Profile(algs=frozenset(ALGS), types=frozenset({"dpop+jwt"}), refused=frozenset({"jku", "x5u", "x5c"}))


class WrongProof(ValueError):
    """A proof that is not valid; the sentence goes on from `dpop: `. `nonce` is one that it must have."""

    def __init__(self, sentence: str, nonce: str | None = None) -> None:
        super().__init__(sentence)
        self.nonce = nonce


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that is valid, and was not looked up among those that were taken. `thumbprint` names its key."""

    thumbprint: str
    jti: str


class Proofs:
    """Judges proofs and remembers those that it took. `secret` makes nonces; `since_s` is when it begins, Unix time."""

    def __init__(self, max_age_s: float, max_proofs: int, secret: bytes, since_s: float = 0.0) -> None:
        self._secret = secret
        self._replays = Replays(max_age_s, max_proofs, since_s)

    def resize(self, max_age_s: float, max_proofs: int) -> None:
        """Go on with other bounds."""
        self._replays.resize(max_age_s, max_proofs)

    def read(self, shown: Shown, token: str, *, needs_nonce: bool = False) -> Proof:
        """The proof of a request that shows a token (section 4.3). Raises WrongProof."""
        now_s = shown.came_unix_s
        text = shown.headers.get(b"dpop")
        if text is None:
            raise WrongProof("is missing; the token is good only with a proof", self._nonce_if(needs_nonce, now_s))
        try:
            jws = read_jws(text.decode("latin-1"), _PROFILE)  # 1, 2, 4, 5: a second header is no part of a token
            key = _key_of(jws)
            claims = jws.claims()
        except (WrongToken, NotStrict) as error:
            raise WrongProof(str(error)) from error
        if not key.verify(jws.alg, jws.signed, jws.signature):  # 6
            raise WrongProof("has a signature that is not valid")
        jti = claims.get("jti")  # 3
        if not isinstance(jti, str) or not 0 < len(jti) <= MAX_ID_CHARS:
            raise WrongProof(f"has no id (jti) of 1 to {MAX_ID_CHARS} characters")
        if claims.get("htm") != shown.method:  # 8
            raise WrongProof("is for another method (htm)")
        self._check_target(claims, shown)  # 9
        self._check_nonce(claims, now_s, needs_nonce=needs_nonce)  # 10
        self._check_time(claims, now_s)  # 11
        digest = encode_base64url(hashlib.sha256(token.encode("latin-1", "replace")).digest())
        if not _is_same(claims.get("ath"), digest):  # 12
            raise WrongProof("is for another token (ath)")
        return Proof(key.thumbprint, jti)

    def take(self, proof: Proof, thumbprint: str, monotonic_s: float) -> None:
        """Let a proof for a token that is bound to a key be the one time that it is good (sections 6.1 and 11.1).
        Raises WrongProof for another key's and for one that was taken before, Overloaded when no more can be
        remembered."""
        if not hmac.compare_digest(proof.thumbprint.encode(), thumbprint.encode("utf-8", "replace")):
            raise WrongProof("is by another key than the token's (jkt)")
        if not self._replays.take(proof.thumbprint, proof.jti, monotonic_s):
            raise WrongProof("was shown before; make a new one for every request")

    def nonce(self, now_s: float) -> str:
        """A nonce of now (section 8): the period that it was made in, and a code that only we can make."""
        return self._nonce_of(int(now_s // NONCE_S))

    def _nonce_of(self, period: int) -> str:
        text = period.to_bytes(8, "big")
        return encode_base64url(text + hmac.digest(self._secret, b"dpop-nonce" + text, "sha256")[:_MAC_BYTES])

    def _nonce_if(self, needs_nonce: bool, now_s: float) -> str | None:
        return self.nonce(now_s) if needs_nonce else None

    def _check_target(self, claims: Mapping[str, Any], shown: Shown) -> None:
        if not shown.is_own_url:
            raise WrongProof("cannot be checked: the host is no name of this server; allowed_hosts must have it")
        htu = claims.get("htu")
        try:
            is_same = isinstance(htu, str) and normalize(htu) == normalize(shown.url)
        except NotStrict:
            is_same = False
        if not is_same:
            raise WrongProof("is for another URL (htu)")

    def _check_nonce(self, claims: Mapping[str, Any], now_s: float, *, needs_nonce: bool) -> None:
        nonce = claims.get("nonce")
        if not needs_nonce:
            return
        period = int(now_s // NONCE_S)
        if not any(_is_same(nonce, self._nonce_of(one)) for one in (period, period - 1)):
            raise WrongProof("needs a nonce of ours; use the one in the header dpop-nonce", self.nonce(now_s))

    def _check_time(self, claims: Mapping[str, Any], now_s: float) -> None:
        issued_s = claims.get("iat")
        if not isinstance(issued_s, int | float) or isinstance(issued_s, bool):
            raise WrongProof("does not say when it was made (iat)")
        if not self._replays.is_fresh(issued_s, now_s):
            raise WrongProof("was not made just now (iat); make a new one, and check the clock")


def _key_of(jws: Jws) -> Key:
    """The key in the header, which must be a public one (4.2, and 4.3, number 7)."""
    jwk = jws.header.get("jwk")
    if not isinstance(jwk, dict):
        raise NotStrict("has no key in its header (jwk)")
    return read_key(jwk)


def _is_same(given: Any, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
