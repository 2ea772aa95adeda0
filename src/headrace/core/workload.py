"""Which process calls, and what names it gets: values, and the protocol of whoever issues them.

Knows no socket and no certificate: `server/workload_api.py` attests and speaks, `trust/spiffe/issuer.py` issues.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """A process as the kernel tells of it: its numbers, the path of the program that it runs, and the SHA-256 of that
    program's bytes in lower-case hexadecimal."""

    pid: int
    uid: int
    gid: int
    exe: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A name with a key: `certificates` are DER, leaf first; `private_key` is PKCS#8 DER. Unix seconds."""

    spiffe_id: str
    certificates: tuple[bytes, ...]
    private_key: bytes = field(repr=False)
    issued_s: float
    expires_s: float
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """A name as a token in compact form. Unix seconds."""

    spiffe_id: str
    token: str = field(repr=False)
    issued_s: float
    expires_s: float
    hint: str = ""


class WorkloadIssuer(Protocol):
    """Who gives processes their names. Never waits. Raises ValueError where it cannot now: no key is valid."""

    def x509_svids(self, attested: Attested) -> tuple[X509Svid, ...]:
        """All names of this process, newly issued, the default first; none if it has none."""
        ...

    def jwt_svids(
        self, attested: Attested, audience: tuple[str, ...], spiffe_id: str | None = None
    ) -> tuple[JwtSvid, ...]:
        """Tokens for an audience, of all names or of one; none if it has none."""
        ...

    def has_names(self, attested: Attested) -> bool:
        """Whether this process has any name."""
        ...

    def x509_bundles(self) -> Mapping[str, bytes]:
        """Authorities by the SPIFFE ID of their trust domain, the own one first: DER certificates in a row."""
        ...

    def jwt_bundles(self) -> Mapping[str, bytes]:
        """The same for tokens: a JWK set each (RFC 7517)."""
        ...

    def validate(self, token: str, audience: str) -> tuple[str, Mapping[str, Any]]:
        """The SPIFFE ID and the claims of a token. Raises ValueError, which says what is wrong with it."""
        ...
