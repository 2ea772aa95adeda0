"""The embedded issuer: gives attested processes their names, as certificates and tokens, by the operator's entries.

Signs with the keys that are in force (`authority.py`) and never for longer than they live. Deny by default: a process
that no entry fits has no name. Knows no socket and no file: who keeps the keys gives new ones to `adopt`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from headrace.core.clock import Clock
from headrace.core.workload import Attested, JwtSvid, X509Svid
from headrace.trust.spiffe.authority import (
    Authorities,
    at,
    bundle_of,
    dump_key,
    in_force,
    key_usage,
    load_key,
    new_key,
    new_serial,
)
from headrace.trust.spiffe.bundle import Bundle, write_jwt_authorities
from headrace.trust.spiffe.ids import InvalidSvid, SpiffeId
from headrace.trust.spiffe.jwt_svid import sign_jwt_svid, verify_jwt_svid
from headrace.trust.spiffe.rhythm import BACKDATE_S, Rhythm
from headrace.trust.spiffe.settings import EntrySettings

_JTI_BITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How an issuer issues: lives of what it signs in seconds, and of its keys."""

    x509_ttl_s: float = 3600.0
    jwt_ttl_s: float = 300.0
    rhythm: Rhythm = field(default_factory=Rhythm)


class Issuer:
    """One trust domain's; implements `core.workload.WorkloadIssuer`."""

    def __init__(self, authorities: Authorities, terms: Terms, clock: Clock, random: Random) -> None:
        """`random` makes keys: `random.SystemRandom()` outside of tests."""
        self._terms = terms
        self._clock = clock
        self._random = random
        self._entries: tuple[EntrySettings, ...] = ()
        self._federated: tuple[Bundle, ...] = ()
        self.adopt(authorities)

    @property
    def authorities(self) -> Authorities:
        """Its keys."""
        return self._authorities

    def adopt(self, authorities: Authorities) -> None:
        """Go on with these keys, which are kept already."""
        self._authorities = authorities
        self._bundle = bundle_of(authorities, refresh_hint_s=int(self._terms.rhythm.settle_s / 4) or None)
        self._join_bundles()

    def configure(self, entries: Sequence[EntrySettings], federated: Sequence[Bundle] = ()) -> None:
        """Who gets which name from now on, and which other trust domains are trusted. Raises InvalidSvid."""
        for entry in entries:
            if entry.id.trust_domain != self.trust_domain:
                raise InvalidSvid(f"{entry.id} is not of the trust domain {self.trust_domain}")
        if any(bundle.trust_domain == self.trust_domain for bundle in federated):
            raise InvalidSvid(f"{self.trust_domain} is this issuer's own trust domain")
        self._entries, self._federated = tuple(entries), tuple(federated)
        self._join_bundles()

    def _join_bundles(self) -> None:
        self._bundles = {one.trust_domain: one for one in (self._bundle, *self._federated)}

    @property
    def trust_domain(self) -> str:
        """Whose names it gives."""
        return self._authorities.trust_domain

    @property
    def bundle(self) -> Bundle:
        """The own trust domain's."""
        return self._bundle

    @property
    def bundles(self) -> Mapping[str, Bundle]:
        """All that are trusted, by trust domain, the own one first: another object after every change."""
        return self._bundles

    def entries_of(self, attested: Attested) -> tuple[EntrySettings, ...]:
        """Those that fit a process, each name once, in the order of the settings."""
        found: dict[SpiffeId, EntrySettings] = {}
        for entry in self._entries:
            if entry.fits(attested):
                found.setdefault(entry.id, entry)
        return tuple(found.values())

    def x509_svids(self, attested: Attested) -> tuple[X509Svid, ...]:
        """See `WorkloadIssuer`."""
        return tuple(
            self.mint_x509(entry.id, ttl_s=entry.x509_ttl_s, hint=hint)
            for entry, hint in _hinted(self.entries_of(attested))
        )

    def jwt_svids(
        self, attested: Attested, audience: tuple[str, ...], spiffe_id: str | None = None
    ) -> tuple[JwtSvid, ...]:
        """See `WorkloadIssuer`."""
        return tuple(
            self.mint_jwt(entry.id, audience, ttl_s=entry.jwt_ttl_s, hint=hint)
            for entry, hint in _hinted(self.entries_of(attested))
            if spiffe_id is None or spiffe_id == str(entry.id)
        )

    def mint_x509(self, spiffe_id: SpiffeId, *, ttl_s: float | None = None, hint: str = "") -> X509Svid:
        """A certificate with a new key for a name of this trust domain. Raises InvalidSvid."""
        self._check_own(spiffe_id)
        now_s = self._clock.unix_s()
        authority = in_force(self._authorities.x509_keys, self._terms.rhythm, now_s=now_s)
        signer = x509.load_der_x509_certificate(authority.certificate)
        expires_s = min(float(int(now_s + (ttl_s or self._terms.x509_ttl_s))), authority.expires_s)
        key = new_key(self._random)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(signer.subject)
            .public_key(key.public_key())
            .serial_number(new_serial(self._random))
            .not_valid_before(at(now_s - BACKDATE_S))
            .not_valid_after(at(expires_s))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(is_authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
            # 3.1: critical, because there is no subject
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))]), critical=True)
            .sign(load_key(authority.private_key), hashes.SHA256())
        )
        return X509Svid(
            spiffe_id=str(spiffe_id),
            certificates=(certificate.public_bytes(Encoding.DER),),
            private_key=dump_key(key),
            issued_s=now_s,
            expires_s=expires_s,
            hint=hint,
        )

    def mint_jwt(
        self, spiffe_id: SpiffeId, audience: tuple[str, ...], *, ttl_s: float | None = None, hint: str = ""
    ) -> JwtSvid:
        """A token for a name of this trust domain. Raises InvalidSvid."""
        self._check_own(spiffe_id)
        if not audience or not all(audience):
            raise InvalidSvid("a token needs an audience: say whom it is for")
        now_s = self._clock.unix_s()
        signer = in_force(self._authorities.jwt_keys, self._terms.rhythm, now_s=now_s)
        expires_s = min(float(int(now_s + (ttl_s or self._terms.jwt_ttl_s))), signer.expires_s)
        claims = {
            "sub": str(spiffe_id),
            "aud": list(audience),
            "exp": int(expires_s),
            "iat": int(now_s),
            "jti": f"{self._random.getrandbits(_JTI_BITS):032x}",
        }
        return JwtSvid(
            spiffe_id=str(spiffe_id),
            token=sign_jwt_svid(claims, load_key(signer.private_key), signer.kid),
            issued_s=now_s,
            expires_s=expires_s,
            hint=hint,
        )

    def has_names(self, attested: Attested) -> bool:
        """See `WorkloadIssuer`."""
        return any(entry.fits(attested) for entry in self._entries)

    def x509_bundles(self) -> Mapping[str, bytes]:
        """See `WorkloadIssuer`."""
        return {str(SpiffeId(name)): b"".join(one.x509_authorities) for name, one in self.bundles.items()}

    def jwt_bundles(self) -> Mapping[str, bytes]:
        """See `WorkloadIssuer`."""
        return {str(SpiffeId(name)): write_jwt_authorities(one.jwt_authorities) for name, one in self.bundles.items()}

    def validate(self, token: str, audience: str) -> tuple[str, Mapping[str, Any]]:
        """See `WorkloadIssuer`."""
        found = verify_jwt_svid(token, self.bundles, audiences=(audience,), now_s=self._clock.unix_s())
        return str(found.spiffe_id), found.claims

    def _check_own(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            raise InvalidSvid(f"{spiffe_id} is no workload of the trust domain {self.trust_domain}")


def _hinted(entries: Sequence[EntrySettings]) -> list[tuple[EntrySettings, str]]:
    """SPIFFE_Workload_API.md 5.2.1: a hint is unique in an answer; the first keeps it."""
    seen: set[str] = set()
    found = []
    for entry in entries:
        found.append((entry, "" if entry.hint in seen else entry.hint))
        seen.add(entry.hint)
    return found
