"""Paths of certificates (RFC 5280, section 6): from a leaf up to an authority that is trusted, each step checked.

The chain that a stranger sends is material to build a path from, never an order to follow: it may be short, shuffled or
full of what does not belong. Work is bounded by MAX_CHAIN and MAX_SIGNATURES. What a certificate asks and this does not
understand is refused: unknown critical extensions, critical policies, constraints on kinds of names that are not read.
Knows no SPIFFE IDs beyond that they are URIs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from headrace.trust.spiffe.bundle import MIN_RSA_BITS
from headrace.trust.spiffe.ids import InvalidSvid

MAX_CHAIN: Final = 8
"""Certificates that a peer may send, and of one path."""
MAX_CHAIN_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 32
"""Signatures that are checked while one path is looked for."""

_READ: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
    }
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
    CryptographyDeprecationWarning,  # where warnings are errors
)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A certificate with its extensions read."""

    certificate: x509.Certificate
    extensions: x509.Extensions

    def find(self, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
        """The extension of a kind."""
        try:
            return self.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None

    @property
    def names(self) -> tuple[x509.GeneralName, ...]:
        """Its subject alternative names."""
        found = self.find(x509.SubjectAlternativeName)
        return () if found is None else tuple(found.value)

    @property
    def is_self_issued(self) -> bool:
        """RFC 5280, 6.1: the same name in subject and issuer."""
        return self.certificate.subject == self.certificate.issuer


def parse_certificate(der: bytes) -> Parsed:
    """Read one certificate. Raises InvalidSvid."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions  # raises for one that comes twice (4.2)
        _ = certificate.not_valid_after_utc, certificate.subject, certificate.issuer
        key = certificate.public_key()
    except _UNREADABLE:
        raise InvalidSvid("a certificate cannot be read") from None
    # X.690, 11.2: a signature of whole octets, so that a certificate has one spelling. RFC 5280, 4.1.2.2: above zero.
    if not der.endswith(b"\x00" + certificate.signature) or certificate.serial_number <= 0:
        raise InvalidSvid("a certificate is not written as DER has it")
    if certificate.version is not x509.Version.v3:
        raise InvalidSvid("a certificate is not of version 3, so it says nothing of what it is for")
    is_strong = (
        (isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES))
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if not is_strong:
        raise InvalidSvid("a certificate has a key that is too weak, or of a kind that is not taken")
    for extension in extensions:  # 6.1.4 (o), 6.1.5 (f)
        if extension.critical and extension.oid not in _READ:
            raise InvalidSvid(f"a certificate has the critical extension {extension.oid.dotted_string}, unknown here")
    return Parsed(certificate, extensions)


def find_path(
    leaf: Parsed, others: Sequence[Parsed], anchors: Sequence[Parsed], *, now_s: float, usage: x509.ObjectIdentifier
) -> tuple[Parsed, ...]:
    """A valid path, leaf first and anchor last. `usage` is what the leaf's key is used for (4.2.1.12). Raises
    InvalidSvid with what is wrong with the best path that there is."""
    now = datetime.fromtimestamp(now_s, UTC)
    wrong: InvalidSvid | None = None
    for path in _Search(others, anchors).paths(leaf):
        try:
            _check_path(path, now, usage)
        except InvalidSvid as error:
            wrong = wrong or error
        else:
            return path
    raise wrong or InvalidSvid("no authority of the trust domain's bundle has signed it")


@dataclass(slots=True)
class _Search:
    """Looks for paths, depth first."""

    others: Sequence[Parsed]
    anchors: Sequence[Parsed]
    num_signatures: int = field(default=0)

    def paths(self, leaf: Parsed) -> Iterator[tuple[Parsed, ...]]:
        yield from self._continue((leaf,))

    def _continue(self, path: tuple[Parsed, ...]) -> Iterator[tuple[Parsed, ...]]:
        last = path[-1]
        for anchor in self.anchors:
            if self._is_signed(last, anchor):
                yield (*path, anchor)
        if len(path) >= MAX_CHAIN:
            return
        for other in self.others:
            if all(other.certificate != one.certificate for one in path) and self._is_signed(last, other):
                yield from self._continue((*path, other))

    def _is_signed(self, by: Parsed, issuer: Parsed) -> bool:
        """6.1.3 (a) (1) and (4): the signature is the issuer's, whose name is the one that is named."""
        certificate = by.certificate
        if certificate.issuer != issuer.certificate.subject:
            return False
        if not _is_safe(certificate):
            return False
        self.num_signatures += 1
        if self.num_signatures > MAX_SIGNATURES:
            raise InvalidSvid("the certificates lead to too many paths")
        try:
            certificate.verify_directly_issued_by(issuer.certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


def _is_safe(certificate: x509.Certificate) -> bool:
    """Whether it is signed with an algorithm that is still believed."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return isinstance(algorithm, _HASHES) or (
        algorithm is None and certificate.signature_algorithm_oid == x509.SignatureAlgorithmOID.ED25519
    )


def _check_path(path: Sequence[Parsed], now: datetime, usage: x509.ObjectIdentifier) -> None:
    """6.1.3 to 6.1.5, from the anchor down to the leaf."""
    downward = list(reversed(path))
    constraints: list[x509.NameConstraints] = []
    max_len = len(path)
    for index, one in enumerate(downward):
        _check_time(one.certificate, now)  # 6.1.3 (a) (2)
        is_leaf = index == len(downward) - 1
        # 6.1.3 (b), (c): the names of a self-issued certificate in between are free
        if index and (is_leaf or not one.is_self_issued):
            for constraint in constraints:
                _check_names(one, constraint)
        _check_usage(one, usage)
        if is_leaf:
            break
        _check_authority(one)
        if index and not one.is_self_issued:  # 6.1.4 (l)
            if max_len <= 0:
                raise InvalidSvid("the path is longer than an authority's pathLenConstraint allows")
            max_len -= 1
        basic = one.find(x509.BasicConstraints)
        if basic is not None and basic.value.path_length is not None:  # 6.1.4 (m)
            max_len = min(max_len, basic.value.path_length)
        named = one.find(x509.NameConstraints)
        if named is not None:  # 6.1.4 (g)
            constraints.append(named.value)


def _check_time(certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise InvalidSvid(f"a certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    if now > certificate.not_valid_after_utc:
        raise InvalidSvid(f"a certificate was valid until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


def _check_authority(one: Parsed) -> None:
    basic = one.find(x509.BasicConstraints)
    if basic is None or not basic.value.ca:  # 6.1.4 (k); X509-SVID.md 4.1
        raise InvalidSvid("a certificate above the leaf is no authority's (CA:FALSE)")
    usage = one.find(x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:  # 6.1.4 (n); X509-SVID.md 4.3 wants it on every signing one
        raise InvalidSvid("an authority's certificate lacks the key usage keyCertSign")


def _check_usage(one: Parsed, usage: x509.ObjectIdentifier) -> None:
    """4.2.1.12; an authority that is bound to usages binds what it signs, as TLS libraries have it."""
    extended = one.find(x509.ExtendedKeyUsage)
    if extended is None:
        return
    if usage not in extended.value and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in extended.value:
        raise InvalidSvid("the extended key usage of a certificate does not allow this end of TLS")


# Name constraints (4.2.1.10)


def _check_names(one: Parsed, constraint: x509.NameConstraints) -> None:
    permitted, excluded = constraint.permitted_subtrees or (), constraint.excluded_subtrees or ()
    names: list[x509.GeneralName] = list(one.names)
    if list(one.certificate.subject):
        names.append(x509.DirectoryName(one.certificate.subject))
    for name in names:
        allowed = [tree for tree in permitted if type(tree) is type(name)]
        denied = [tree for tree in excluded if type(tree) is type(name)]
        if not allowed and not denied:
            continue
        within = _WITHIN.get(type(name))
        if within is None:
            # "the application MUST either process the constraint or reject the certificate"
            raise InvalidSvid("an authority constrains a kind of name that is not read here")
        if (allowed and not any(within(name, tree) for tree in allowed)) or any(within(name, tree) for tree in denied):
            raise InvalidSvid("a name lies outside an authority's name constraints")


def _is_uri_within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    """The constraint is a host, or with a dot before it any host below."""
    _, mark, rest = str(name.value).partition("://")
    host = rest.partition("/")[0].rpartition("@")[2].partition(":")[0].lower()
    bound = str(tree.value).lower()
    if not mark or not host:
        raise InvalidSvid("a URI without a host stands under a name constraint")
    return host.endswith(bound) and host != bound if bound.startswith(".") else host == bound


def _is_dns_within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    host, bound = str(name.value).lower(), str(tree.value).lower().removeprefix(".")
    return not bound or host == bound or host.endswith(f".{bound}")


_WITHIN: Final[dict[type, Callable[[x509.GeneralName, x509.GeneralName], bool]]] = {
    x509.UniformResourceIdentifier: _is_uri_within,
    x509.DNSName: _is_dns_within,
}
