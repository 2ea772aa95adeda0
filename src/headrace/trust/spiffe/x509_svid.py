"""X.509-SVIDs (X509-SVID.md): whether a chain of certificates shows a workload's name, and whose word that is.

The bundle that is asked is the one of the trust domain in the name, and no other (SPIFFE_Workload_API.md 4.6): an
authority of one trust domain vouches for nobody of another. Knows no connections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import InvalidSvid, SpiffeId, parse_id, parse_workload_id
from headrace.trust.spiffe.path import MAX_CHAIN, MAX_CHAIN_BYTES, Parsed, find_path, parse_certificate


class End(Enum):
    """Which end of TLS showed the certificate."""

    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class VerifiedSvid:
    """Whose it is, and when the first certificate of its path ends, Unix time."""

    spiffe_id: SpiffeId
    expires_s: float


def verify_x509_svid(
    chain: Sequence[bytes], bundles: Mapping[str, Bundle], *, now_s: float, end: End = End.CLIENT
) -> VerifiedSvid:
    """Whose the chain is (DER, leaf first); that its holder has the key is the handshake's to show. `bundles` by trust
    domain. Raises InvalidSvid."""
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise InvalidSvid(f"the chain has {len(chain)} certificates; from 1 to {MAX_CHAIN} are taken")
    if sum(map(len, chain)) > MAX_CHAIN_BYTES:
        raise InvalidSvid(f"the chain is longer than {MAX_CHAIN_BYTES} bytes")
    leaf, *others = map(parse_certificate, chain)
    spiffe_id = _check_leaf(leaf)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or not bundle.x509_authorities:
        raise InvalidSvid(f"the trust domain {spiffe_id.trust_domain} is not trusted here")
    anchors = [parse_certificate(one) for one in bundle.x509_authorities]
    path = find_path(leaf, others, anchors, now_s=now_s, usage=end.value)
    for authority in path[1:]:
        _check_signer(authority)
    return VerifiedSvid(spiffe_id, min(one.certificate.not_valid_after_utc.timestamp() for one in path))


def id_of_leaf(der: bytes) -> SpiffeId:
    """The ID that a leaf certificate claims, held to 2 to 4, with nobody's word for it. Raises InvalidSvid."""
    return _check_leaf(parse_certificate(der))


def _check_leaf(leaf: Parsed) -> SpiffeId:
    """Sections 2 to 4 and 5.2."""
    # 2 and 5.2: exactly one URI SAN, whatever else there is
    uris = [name.value for name in leaf.names if isinstance(name, x509.UniformResourceIdentifier)]
    if len(uris) != 1:
        raise InvalidSvid(f"the certificate has {len(uris)} URI names; an SVID has exactly one")
    # 3.1 and 5.2: its scheme is spiffe, and its path is not the root
    spiffe_id = parse_workload_id(uris[0])
    # 3.1: without a subject the SAN is critical
    san = leaf.find(x509.SubjectAlternativeName)
    assert san is not None
    if not list(leaf.certificate.subject) and not san.critical:
        raise InvalidSvid("the certificate has no subject, so its names must be critical")
    # 4.1 and 5.2: cA is false
    basic = leaf.find(x509.BasicConstraints)
    if basic is not None and basic.value.ca:
        raise InvalidSvid("the certificate is an authority's (CA:TRUE), which authenticates nobody")
    # 4.3: the key usage is there and critical, has digitalSignature, and neither keyCertSign nor cRLSign (5.2)
    usage = leaf.find(x509.KeyUsage)
    if usage is None or not usage.critical:
        raise InvalidSvid("the certificate has no key usage that is critical")
    if not usage.value.digital_signature:
        raise InvalidSvid("the certificate lacks the key usage digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise InvalidSvid("the certificate has the key usage keyCertSign or cRLSign, which a leaf must not")
    # 4.4: if there is an extended key usage, both ends of TLS are in it
    extended = leaf.find(x509.ExtendedKeyUsage)
    if extended is not None and not {one.value for one in End} <= set(extended.value):
        raise InvalidSvid("the extended key usage lacks serverAuth or clientAuth; an SVID has both")
    return spiffe_id


def _check_signer(authority: Parsed) -> None:
    """3.2: if a signing certificate has an ID, that is a trust domain's."""
    uris = [name.value for name in authority.names if isinstance(name, x509.UniformResourceIdentifier)]
    if not uris:
        return
    # 2: exactly one. The slash alone is how the standard's own example of a bundle writes it.
    if len(uris) > 1 or parse_id(uris[0].removesuffix("/")).path:
        raise InvalidSvid("an authority's certificate has the ID of a workload, or several")
