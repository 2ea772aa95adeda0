"""Who may call with a token or a signature of its own, as an operator says it. Values; knows no files and no tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

ALGS: Final = ("ES256", "ES384", "ES512", "EdDSA", "Ed25519", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
DPOP: Final = ("off", "optional", "required")
NONCE: Final = ("off", "required")
DEFAULT_ALGS: Final = frozenset(("ES256", "EdDSA", "PS256", "RS256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What callers of one kind are let do. `tenant` None: a claim says it."""

    tenant: str | None = None
    scopes: frozenset[str] = frozenset({"generate"})
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings(Grant):
    """Whose tokens name users. `issuer` is `iss`, to the letter. `jwks` is an https URL or a file; None: where the
    issuer's discovery document says. `ca` holds the authorities of that place (None: the system's); `is_private`: it
    may be on a private network, or on this machine. Claims are named in full, or as a path with dots. Times in seconds.
    """

    name: str
    issuer: str
    audience: frozenset[str]
    jwks: str | None = None
    algs: frozenset[str] = DEFAULT_ALGS
    tenant_claim: str | None = None
    tenants: frozenset[str] = frozenset()
    user_claim: str = "sub"
    scope_claim: str | None = None
    scope_map: Mapping[str, frozenset[str]] = field(default_factory=dict)
    max_age_s: float | None = None
    skew_s: float = 30.0
    dpop: str = "optional"
    nonce: str = "off"
    refresh_s: float = 3600.0
    stale_s: float = 86_400.0
    is_private: bool = False
    ca: Path | None = None

    def __post_init__(self) -> None:
        if not self.audience:
            raise ValueError("audience is empty; name what its tokens must be for, such as this server's URL.")
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("give either tenant, or tenant_claim with the tenants that it may name.")
        if self.tenant_claim is not None and not self.tenants:
            raise ValueError("tenant_claim needs tenants: the issuer could name any tenant otherwise; list them.")
        if self.scope_map and self.scope_claim is None:
            raise ValueError("scope_map needs scope_claim: the claim whose values it maps.")
        if self.dpop not in DPOP:
            raise ValueError(f"dpop: {self.dpop!r} is none of {', '.join(DPOP)}.")
        if self.nonce != "off" and self.dpop == "off":
            raise ValueError("nonce is of proofs, which dpop = off does not ask for; take one of them out.")
        if self.jwks is None and urlsplit(self.issuer).scheme not in ("https", "http"):
            raise ValueError("jwks is missing, and the issuer is no URL to find it at; name a file or an https URL.")

    @property
    def url(self) -> str | None:
        """Where keys, or the document that says where they are, are fetched; None: they are in a file."""
        if self.jwks is None:
            return self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        return self.jwks if self.jwks.startswith(("https://", "http://")) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSettings(Grant):
    """Whose requests are signed with a key that is registered here (RFC 9421). `key` is a PEM file of the public key;
    `keyid` is the signer's name. `components` must be covered beside what makes a request one of ours. `with_key` names
    an API key: then both must be shown, and neither is good alone."""

    name: str
    key: Path
    components: tuple[str, ...] = ()
    tag: str | None = None
    with_key: str | None = None
    max_age_s: float = 60.0
    nonce: str = "required"

    def __post_init__(self) -> None:
        if self.tenant is None:
            raise ValueError("tenant is missing; say whose requests these are.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """Whole answers are signed (RFC 9421) with the Ed25519 key in a PEM file, which callers know as `keyid`."""

    key: Path
    keyid: str = "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """`max_proofs` bounds how many proofs and signatures are remembered, so that none is taken twice; `proof_age_s` is
    how old a DPoP proof may be."""

    issuers: Mapping[str, IssuerSettings] = field(default_factory=dict)
    signers: Mapping[str, SignerSettings] = field(default_factory=dict)
    proof_age_s: float = 60.0
    max_proofs: int = 200_000

    @property
    def tenants(self) -> frozenset[str]:
        """Those that a caller may be of."""
        listed = [one.tenants | {one.tenant} for one in self.issuers.values()]
        listed += [frozenset({one.tenant}) for one in self.signers.values()]
        return frozenset(tenant for some in listed for tenant in some if tenant is not None)

    @property
    def names_callers(self) -> bool:
        """Whether it says of anybody who that is."""
        return bool(self.issuers or self.signers)
