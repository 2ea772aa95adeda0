"""Users by the tokens of their issuers (OIDC and OAuth: RFC 7519, 9068), alone or bound to a key or a certificate.

    bearer or DPoP token -> its issuer's settings -> signature and claims -> bound to what was shown? -> principal

Key sets come from outside (`KeySets`), already here: nothing waits. What was verified once is not verified again while
the key set is the same. Raises what a caller can correct and says nothing of what would have been right.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from headrace.core.errors import Unauthenticated, Unavailable
from headrace.core.identity import Identity, Shown
from headrace.core.request import Principal
from headrace.trust.identity.dpop import ALGS, Proofs, WrongProof
from headrace.trust.identity.jose import (
    MAX_TOKEN_CHARS,
    Bounds,
    Profile,
    UnknownKey,
    WrongToken,
    check_claims,
    is_compact,
    read_jws,
    verify,
)
from headrace.trust.identity.jwk import ALGORITHMS, KeySet
from headrace.trust.identity.principal import principal_of
from headrace.trust.identity.settings import IssuerSettings
from headrace.trust.strict import encode_base64url

MAX_KEPT: Final = 4096
"""Tokens that are known to be good."""
# RFC 9068, section 2.1: at+jwt; most issuers write JWT or nothing. Never the types of other tokens of theirs.
_TYPES: Final = frozenset(("", "jwt", "at+jwt"))
_PEEK: Final = Profile(algs=frozenset(ALGORITHMS), types=_TYPES)


class KeySets(Protocol):
    """The key sets of issuers, by their names in the settings."""

    def find(self, name: str) -> KeySet | None:
        """The set as it is here; None where there is none, or only one that is too old."""
        ...

    def want(self, name: str) -> None:
        """A token names a key that is not in the set: fetch it anew, if that was not done just now."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was verified with a key set."""

    keys: KeySet
    claims: Mapping[str, Any]
    principal: Principal


class Users:
    """An `Authenticator`, and a `Challenger`."""

    def __init__(self, issuers: Iterable[IssuerSettings], key_sets: KeySets, proofs: Proofs) -> None:
        self._key_sets = key_sets
        self._proofs = proofs
        self.replace(issuers)

    def replace(self, issuers: Iterable[IssuerSettings]) -> None:
        """Go on with other issuers, whose key sets are there."""
        self._issuers = {one.issuer: one for one in issuers}
        self._profiles = {one.issuer: Profile(algs=one.algs, types=_TYPES) for one in self._issuers.values()}
        self._known: dict[bytes, _Known] = {}  # whom they name was said by the settings of then
        self._has_dpop = any(one.dpop != "off" for one in self._issuers.values())

    @property
    def challenges(self) -> tuple[str, ...]:
        """RFC 9449, section 7.1."""
        return (f'DPoP algs="{" ".join(ALGS)}"',) if self._has_dpop else ()

    def authenticate(self, shown: Shown) -> Identity | None:
        """See `Authenticator`. None for what is no token of a known issuer."""
        token = shown.token
        if token is None or shown.scheme not in ("bearer", "dpop") or not is_compact(token):
            return None
        settings = self._issuer_of(token)
        if settings is None:
            return None
        try:
            known = self._read(token, settings)
            ends_s = check_claims(known.claims, _bounds(settings), shown.came_unix_s)
        except WrongToken as error:
            raise _wrong_token(f"authorization: the token {error}; get a new one from its issuer.") from error
        self._check_binding(shown, known.claims, settings)
        # Logs name the issuer and no user: whoever may read them need not know who asked what.
        return Identity(known.principal, settings.name, ends_s, is_token=True)

    def _issuer_of(self, token: str) -> IssuerSettings | None:
        """Whose token it says it is; proves nothing."""
        if len(token) > MAX_TOKEN_CHARS:
            return None
        known = self._known.get(_digest(token))
        try:
            issuer = (read_jws(token, _PEEK).claims() if known is None else known.claims).get("iss")
        except WrongToken:
            return None
        return self._issuers.get(issuer) if isinstance(issuer, str) else None

    def _read(self, token: str, settings: IssuerSettings) -> _Known:
        """A token whose signature holds, and whom it names."""
        keys = self._key_sets.find(settings.name)
        if keys is None:
            self._key_sets.want(settings.name)
            raise Unavailable("the keys of the token's issuer are not here yet; try again.", retry_after_s=1.0)
        digest = _digest(token)
        known = self._known.get(digest)
        if known is not None and known.keys is keys:
            return known
        jws = read_jws(token, self._profiles[settings.issuer])
        try:
            verify(jws, keys)
        except UnknownKey:
            self._key_sets.want(settings.name)
            raise
        claims = jws.claims()
        known = _Known(keys, claims, principal_of(claims, settings))
        self._known.pop(digest, None)
        if len(self._known) >= MAX_KEPT:
            del self._known[next(iter(self._known))]
        self._known[digest] = known
        return known

    def _check_binding(self, shown: Shown, claims: Mapping[str, Any], settings: IssuerSettings) -> None:
        """A token that was issued to a key is good only with it (RFC 7800, section 3.1)."""
        bound = claims.get("cnf", {})
        if not isinstance(bound, dict) or not bound.keys() <= {"jkt", "x5t#S256"}:
            raise _wrong_token("authorization: the token is bound to something that is not understood here (cnf).")
        if "x5t#S256" in bound:  # RFC 8705, section 3.1
            leaf = shown.certificates[0] if shown.certificates else b""
            thumbprint = encode_base64url(hashlib.sha256(leaf).digest())
            if not leaf or not hmac.compare_digest(str(bound["x5t#S256"]).encode(), thumbprint.encode()):
                raise _wrong_token("authorization: the token is another certificate's; connect with its own.")
        if "jkt" in bound:
            if settings.dpop == "off":
                raise _wrong_token("authorization: the token needs a DPoP proof, which is not taken here.")
            self._check_proof(shown, str(bound["jkt"]), settings)
        elif settings.dpop == "required" and "x5t#S256" not in bound:
            raise _wrong_proof("authorization: the token is not bound to a key (cnf.jkt); ask its issuer for one.")
        elif shown.scheme == "dpop" or b"dpop" in shown.headers:
            # Section 7.1: such a token was not issued for this scheme, and a proof of it would prove nothing.
            raise _wrong_proof("authorization: the token is not bound to a key; show it as 'Bearer', without dpop.")

    def _check_proof(self, shown: Shown, thumbprint: str, settings: IssuerSettings) -> None:
        if shown.scheme != "dpop":  # section 7.1: a bound token is no bearer's
            nonce = self._proofs.nonce(shown.came_unix_s) if settings.nonce == "required" else None
            raise _wrong_proof("authorization: the token is bound to a key; show it as 'DPoP', with a proof.", nonce)
        token = shown.token or ""
        try:
            proof = self._proofs.read(shown, token, needs_nonce=settings.nonce == "required")
            self._proofs.take(proof, thumbprint, shown.came_s)
        except WrongProof as error:
            raise _wrong_proof(f"dpop: the proof {error}.", error.nonce) from error


def _bounds(settings: IssuerSettings) -> Bounds:
    return Bounds(
        issuer=settings.issuer,
        audiences=settings.audience,
        skew_s=settings.skew_s,
        max_age_s=settings.max_age_s,
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()


def _wrong_token(message: str) -> Unauthenticated:
    """RFC 6750, section 3.1."""
    return Unauthenticated(
        message,
        param="authorization",
        code="invalid_token",
        challenges=('Bearer realm="headrace", error="invalid_token"',),
    )


def _wrong_proof(message: str, nonce: str | None = None) -> Unauthenticated:
    """RFC 9449, sections 7.1 and 9."""
    code = "invalid_dpop_proof" if nonce is None else "use_dpop_nonce"
    challenge = f'DPoP error="{code}", algs="{" ".join(ALGS)}"'
    return Unauthenticated(message, param="dpop", code=code, challenges=(challenge,), nonce=nonce)
