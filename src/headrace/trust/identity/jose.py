"""Signed tokens (JWS, RFC 7515, in its compact form) and their claims (JWT, RFC 7519), read as RFC 8725 advises.

    text -> sizes -> one canonical reading -> typ -> alg from a list -> key by id -> signature -> time, issuer, audience

A `Profile` says what one kind of token must be, so that no kind is taken for another. Nothing that a token says of its
own key is used (`jku`, `x5u`, `x5c`, `jwk`). Judges values: keys and the time come in. Knows nobody's tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.trust.identity.jwk import ALGORITHMS, KeySet
from headrace.trust.strict import NotStrict, decode_base64url, read_json_object

MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_HEADER_CHARS: Final = 8 * 1024
MAX_KEYS_TRIED: Final = 4
"""Of a token that names no key."""
_LAST_S: Final = 253_402_300_800  # 10000-01-01: what is later is no date


class WrongToken(ValueError):
    """A token that is not valid; the sentence goes on from what it is called and repeats nothing of it."""


class UnknownKey(WrongToken):
    """A token whose key is not in the set: it may be newer than the set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What tokens of one kind must be. `types` are values of `typ` in lower case, without `application/`; an empty one
    says that it may be missing (RFC 8725, section 3.11). `refused` are header parameters that must not be there."""

    algs: frozenset[str]
    types: frozenset[str]
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.algs or not self.algs <= ALGORITHMS.keys():
            raise ValueError(f"algs: {sorted(self.algs)} are not all of {', '.join(ALGORITHMS)}; name some of those.")


@dataclass(frozen=True, slots=True)
class Jws:
    """A token that was read, and of which nothing is proved. `signed` is what its signature is over."""

    header: Mapping[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes

    @property
    def alg(self) -> str:
        """The algorithm's name."""
        return str(self.header["alg"])

    def claims(self) -> dict[str, Any]:
        """The payload as JSON (RFC 7519, section 7.2). Raises WrongToken."""
        try:
            return read_json_object(self.payload)
        except NotStrict as error:
            raise WrongToken(f"has a payload that {error}") from error


def is_compact(text: str) -> bool:
    """Whether a text has the form of such a token; cheap, and says nothing of what is in it."""
    return text.count(".") == 2 and text.startswith("ey")  # base64url of {" and of {, a space or a line's end


def read_jws(text: str, profile: Profile) -> Jws:
    """The parts of a token. Raises WrongToken for one that is not of a profile, before anything is computed."""
    if len(text) > MAX_TOKEN_CHARS:
        raise WrongToken(f"is longer than {MAX_TOKEN_CHARS} characters")
    parts = text.split(".")
    if len(parts) != 3:
        raise WrongToken("has not three parts; give a signed token in its compact form")
    if len(parts[0]) > MAX_HEADER_CHARS:
        raise WrongToken(f"has a header of more than {MAX_HEADER_CHARS} characters")
    try:
        header = read_json_object(decode_base64url(parts[0]))
        payload, signature = decode_base64url(parts[1]), decode_base64url(parts[2])
    except NotStrict as error:
        raise WrongToken(f"has a part that {error}") from error
    _check_header(header, profile)
    return Jws(header, payload, f"{parts[0]}.{parts[1]}".encode("ascii"), signature)


def _check_header(header: Mapping[str, Any], profile: Profile) -> None:
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in profile.algs:  # RFC 8725, sections 3.1 and 3.2
        raise WrongToken("is signed in a way that is not allowed here")
    # RFC 7515, section 4.1.11: what must be understood and is not makes a token invalid; RFC 7797 must be in `crit`.
    if "crit" in header or "b64" in header:
        raise WrongToken("needs an extension that is not understood")
    if not profile.refused.isdisjoint(header):
        raise WrongToken("has a header parameter that has no place in it")
    typ = header.get("typ", "")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in profile.types:
        raise WrongToken("is of another type")
    if not isinstance(header.get("kid", ""), str):
        raise WrongToken("names its key with something that is no text")


def verify(jws: Jws, keys: KeySet) -> None:
    """Raise UnknownKey where no key of a set is meant, WrongToken for a signature that is not of one that is."""
    kid = jws.header.get("kid")
    found = keys.find(kid, jws.alg)
    if not found:
        raise UnknownKey("is signed with a key that is not known")
    if not any(key.verify(jws.alg, jws.signed, jws.signature) for key in found[:MAX_KEYS_TRIED]):
        raise WrongToken("has a signature that is not valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What claims must say. `issuer` None: whoever asks has looked. `audiences`: one of them must be meant. `skew_s` is
    how far clocks may differ; `max_age_s` is how long ago a token may have been issued at most, and it then has to say
    when."""

    issuer: str | None
    audiences: frozenset[str]
    skew_s: float = 30.0
    max_age_s: float | None = None


def check_claims(claims: Mapping[str, Any], bounds: Bounds, now_s: float) -> float:
    """From when on claims hold no more, Unix time. Raises WrongToken for those that do not hold now (RFC 7519, section
    4.1)."""
    if bounds.issuer is not None and claims.get("iss") != bounds.issuer:
        raise WrongToken("is of another issuer")
    # RFC 8725, section 3.9: a token that does not say whom it is for is for nobody.
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise WrongToken("says not for whom it is (aud)")
    if bounds.audiences.isdisjoint(named):
        raise WrongToken("is for somebody else (aud)")
    expires_s = _date(claims, "exp")
    if expires_s is None:
        raise WrongToken("says not until when it holds (exp)")
    if now_s >= expires_s + bounds.skew_s:
        raise WrongToken("has expired")
    begins_s = _date(claims, "nbf")
    if begins_s is not None and now_s < begins_s - bounds.skew_s:
        raise WrongToken("does not hold yet (nbf)")
    issued_s = _date(claims, "iat")
    if issued_s is not None and now_s < issued_s - bounds.skew_s:
        raise WrongToken("was issued in the future (iat)")
    ends_s = expires_s + bounds.skew_s
    if bounds.max_age_s is None:
        return ends_s
    if issued_s is None:
        raise WrongToken("says not when it was issued (iat)")
    if now_s >= issued_s + bounds.max_age_s + bounds.skew_s:
        raise WrongToken("was issued too long ago (iat)")
    return min(ends_s, issued_s + bounds.max_age_s + bounds.skew_s)


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2), which need not be whole."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise WrongToken(f"has no date in {name}")
    if not math.isfinite(value) or not 0 <= value < _LAST_S:
        raise WrongToken(f"has no date in {name}")
    return float(value)
