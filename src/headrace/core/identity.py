"""Who calls: what was shown, and who that is. Values and the protocol of whoever tells one from the other.

Knows no kind of credential: keys are `server/keys.py`'s, tokens, certificates and signatures `trust/identity`'s.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from headrace.core.request import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a caller shows of itself with one request.

    `url` is the request's target as the caller addressed it (scheme, host, path, query). `headers` have lower-case
    names; one that came several times is joined by ", " (RFC 9110 5.3). `scheme` and `token` are those of
    `authorization`, scheme in lower case, or `bearer` and the text of `x-api-key`; None without one. `certificates` are
    what the connection's TLS was opened with, DER, leaf first. `is_own_url`: the host in `url` is a name that this
    server is called by, so that what somebody signed for another server is not taken for ours. `came_unix_s` and
    `came_s` are when it came, Unix and monotonic time: who judges it reads no clock.
    """

    method: str
    url: str
    headers: Mapping[bytes, bytes]
    scheme: str | None = None
    token: str | None = None
    certificates: tuple[bytes, ...] = ()
    is_own_url: bool = True
    came_unix_s: float = 0.0
    came_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that is known. `key` is what logs call its credential, None for the local user of a server without keys;
    it is not valid any more from `expires_s` on, Unix time. `body_digest`: a signature covers the body, which must have
    this SHA-256 (RFC 9530). `is_token`: the credential is `Shown.token`, which then is no API key."""

    principal: Principal
    key: str | None = None
    expires_s: float = math.inf
    body_digest: bytes | None = None
    is_token: bool = False


class Authenticator(Protocol):
    """One kind of credential."""

    def authenticate(self, shown: Shown) -> Identity | None:
        """Who shows this; None if nothing of this kind was shown. Raises Unauthenticated for what is not valid, in
        words that tell a caller what to correct and an attacker nothing. Never waits."""
        ...


class AnswerSigner(Protocol):
    """Signs whole answers for whoever asked."""

    def sign(
        self, asked: tuple[str, str, Mapping[bytes, bytes]], status: int, digest: bytes, now_s: float
    ) -> list[tuple[bytes, bytes]]:
        """Headers of a signature over an answer whose `content-digest` is given, bound to method, URL and headers of
        what was asked; none where that cannot be."""
        ...


@runtime_checkable
class Binder(Protocol):
    """An authenticator that is a second proof of who shows an API key."""

    @property
    def bound_keys(self) -> frozenset[str]:
        """Names of keys that are good only where both name the same subject, `key:NAME`."""
        ...


@runtime_checkable
class Challenger(Protocol):
    """An authenticator that a caller without credentials is told of."""

    @property
    def challenges(self) -> tuple[str, ...]:
        """Values of `WWW-Authenticate` (RFC 9110, section 11.6.1), beside the one for keys."""
        ...
