"""Callers by the signatures of their requests (HTTP Message Signatures, RFC 9421), with keys that are registered here.

    signature-input -> the one by a key of ours -> what it covers -> when -> the library's check -> once -> principal

A signature must cover what makes a request that request: method, URL, and the body by its digest (RFC 9530), which is
held to it when the body is read. The library parses and checks; which signature counts, and what it must say, is
decided here. Judges values: the time comes in. Knows no files.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import http_sf
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import (
    ECDSA_P256_SHA256,
    ECDSA_P384_SHA384,
    ED25519,
    RSA_PSS_SHA512,
    HTTPSignatureAlgorithm,
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from headrace.core.errors import Unauthenticated
from headrace.core.identity import Identity, Shown
from headrace.core.request import SCOPES, Principal
from headrace.trust.identity.replay import Replays
from headrace.trust.identity.settings import SignerSettings

MAX_HEADER_BYTES: Final = 8 * 1024
MAX_COMPONENTS: Final = 64
MAX_NONCE_CHARS: Final = 256
_SHA256: Final = "sha-256"
_DIGEST_BYTES: Final = 32
_BODILESS: Final = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"dpop", b"x-headrace-delegation")
_MIN_RSA_BITS: Final = 2048

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class WrongSignature(ValueError):
    """A signature that is not valid; the sentence says what is wrong and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose key it is, and the one algorithm that it is for: what a message says of that decides nothing."""

    settings: SignerSettings
    key: PublicKey
    algorithm: type[HTTPSignatureAlgorithm]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The signature of a message that counts: its label, by whom, what it covers and says (section 2.3)."""

    label: str
    signer: Signer
    components: tuple[str, ...]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Message:
    """A request as the library wants it."""

    method: str
    url: str
    headers: Mapping[str, str]


class _Verifier(HTTPMessageVerifier):
    """The library's, which would ask the clock by itself."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """`_check_time` has done that."""


class _OneKey(HTTPSignatureKeyResolver):
    def __init__(self, key: PublicKey) -> None:
        self._key = key

    def resolve_public_key(self, key_id: str) -> PublicKey:
        """The key of the signer that was chosen by that very id."""
        return self._key


class Signatures:
    """An `Authenticator`, and a `Binder`."""

    def __init__(self, signers: Iterable[Signer], max_ids: int, since_s: float = 0.0) -> None:
        """`since_s` is when it begins, Unix time."""
        self._replays = Replays(0.0, max_ids, since_s)
        self.replace(signers, max_ids)

    def replace(self, signers: Iterable[Signer], max_ids: int) -> None:
        """Go on with other signers; what was taken is not taken again."""
        self._signers = {one.settings.name: one for one in signers}
        longest_s = max((one.settings.max_age_s for one in self._signers.values()), default=0.0)
        self._replays.resize(longest_s, max_ids)
        self.bound_keys = frozenset(one.settings.with_key for one in self._signers.values() if one.settings.with_key)
        self._verifiers = {
            name: _Verifier(signature_algorithm=one.algorithm, key_resolver=_OneKey(one.key))
            for name, one in self._signers.items()
        }

    def authenticate(self, shown: Shown) -> Identity | None:
        """See `Authenticator`. None where no signature is by a key of ours."""
        headers = shown.headers
        if not self._signers or (b"signature-input" not in headers and b"signature" not in headers):
            return None
        try:
            chosen = choose(headers, self._signers)
            if chosen is None:
                return None
            digest = check_coverage(shown, chosen)
            self._check_time(chosen, shown.came_unix_s)
            text = self._verify(shown, chosen)
            self._take(chosen, text, shown.came_s)
        except WrongSignature as error:
            raise Unauthenticated(f"signature: {error}.", param="signature", code="invalid_signature") from error
        settings = chosen.signer.settings
        return Identity(_principal(settings), settings.name, body_digest=digest)

    def _check_time(self, chosen: Chosen, now_s: float) -> None:
        """Section 3.2, and 7.2.2 on replays."""
        created, expires = chosen.parameters.get("created"), chosen.parameters.get("expires")
        if type(created) is not int:
            raise WrongSignature("it does not say when it was made; give created, in whole seconds")
        if not self._replays.is_fresh(created, now_s, chosen.signer.settings.max_age_s):
            raise WrongSignature("it was not made just now; sign every request anew, and check the clock")
        if expires is not None and (type(expires) is not int or expires <= now_s):
            raise WrongSignature("it has expired")

    def _verify(self, shown: Shown, chosen: Chosen) -> str:
        """What was signed (section 2.5), if the signature is that of it."""
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in shown.headers.items()}
        message = _Message(shown.method, shown.url, headers)
        verifier = self._verifiers[chosen.signer.settings.name]
        tag = chosen.parameters.get("tag")
        label = None if tag is None else chosen.label  # without a tag it is the only one
        try:
            found = verifier.verify(message, max_age=None, expect_tag=tag, expect_label=label)
        except HTTPMessageSignaturesException as error:
            raise WrongSignature("it is not valid for this request") from error
        return "\n".join(f"{name}: {value}" for result in found for name, value in result.covered_components.items())

    def _take(self, chosen: Chosen, text: str, monotonic_s: float) -> None:
        """Let it be the one time. Not by the signature's own bytes: of one message others can make several."""
        name, nonce = chosen.signer.settings.name, chosen.parameters.get("nonce")
        if chosen.signer.settings.nonce == "required":
            if not isinstance(nonce, str) or not 0 < len(nonce) <= MAX_NONCE_CHARS:
                raise WrongSignature(f"it has no nonce of 1 to {MAX_NONCE_CHARS} characters")
            text = f"nonce:{nonce}"
        if not self._replays.take(name, text, monotonic_s):
            raise WrongSignature("it was shown before; sign every request anew")


def choose(headers: Mapping[bytes, bytes], signers: Mapping[str, Signer]) -> Chosen | None:
    """The one signature by a key of ours; None where there is none. Raises WrongSignature for headers that are not
    what section 4 says, for several of ours, and for one of several without the tag that would tell them apart."""
    given, made = (headers.get(name) for name in (b"signature-input", b"signature"))
    if given is None or made is None:
        raise WrongSignature("signature and signature-input belong together; send both")
    inputs, values = _dictionary(given), _dictionary(made)
    if inputs.keys() != values.keys():
        raise WrongSignature("signature and signature-input have not the same labels")
    found: list[Chosen] = []
    for label, (items, parameters) in inputs.items():
        if not isinstance(items, list):
            raise WrongSignature("signature-input has a member that is no list of components")
        signer = signers.get(parameters["keyid"]) if isinstance(parameters.get("keyid"), str) else None
        if signer is None:
            continue
        if signer.settings.tag is not None and parameters.get("tag") != signer.settings.tag:
            continue
        components = tuple(_component(item) for item in items[: MAX_COMPONENTS + 1])
        if len(components) > MAX_COMPONENTS:
            raise WrongSignature(f"it covers more than {MAX_COMPONENTS} components")
        found.append(Chosen(label, signer, components, parameters))
    if len(found) > 1:
        raise WrongSignature("there are several by keys of this server; send one")
    if found and len(inputs) > 1 and not isinstance(found[0].parameters.get("tag"), str):
        raise WrongSignature("there are several, and this one has no tag to know it by")
    return found[0] if found else None


def check_coverage(shown: Shown, chosen: Chosen) -> bytes | None:
    """The digest that the body must have, None where there is no body. Raises WrongSignature for a signature that says
    too little: another request would have the same."""
    covered = frozenset(chosen.components)
    needed = {"@method", *chosen.signer.settings.components}
    if "@target-uri" not in covered:
        needed |= {"@authority", "@path"}
        needed |= {"@query"} if "?" in shown.url else set()
    # Else it could be shown beside another's credentials.
    needed |= {name.decode() for name in _CREDENTIALS if name in shown.headers}
    has_body = shown.method not in _BODILESS or shown.headers.get(b"content-length", b"0") != b"0"
    if has_body or b"transfer-encoding" in shown.headers:
        needed.add("content-digest")
    if missing := sorted(needed - covered):
        raise WrongSignature(f"it does not cover {', '.join(missing)}")
    if not shown.is_own_url:
        raise WrongSignature("the host is no name of this server; allowed_hosts must have it")
    return read_digest(shown.headers[b"content-digest"]) if b"content-digest" in shown.headers else None


def read_digest(value: bytes) -> bytes:
    """The SHA-256 of a `content-digest` (RFC 9530, section 2). Raises WrongSignature."""
    digest = _dictionary(value).get(_SHA256, (None,))[0]
    if not isinstance(digest, bytes) or len(digest) != _DIGEST_BYTES:
        raise WrongSignature("content-digest has no sha-256; give that one")
    return digest


def read_signer(settings: SignerSettings, pem: bytes) -> Signer:
    """A signer by the PEM of its public key. Raises ValueError, whose sentence goes on from the file's name."""
    if b"PRIVATE KEY" in pem:
        raise ValueError("holds a private key, which is the signer's own; name its public key")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is no public key in PEM") from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return Signer(settings, key, ED25519)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return Signer(settings, key, ECDSA_P256_SHA256)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return Signer(settings, key, ECDSA_P384_SHA384)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return Signer(settings, key, RSA_PSS_SHA512)
    raise ValueError("is of a kind that is not taken; use Ed25519, P-256, P-384, or RSA of 2048 bits and more")


def _principal(settings: SignerSettings) -> Principal:
    assert settings.tenant is not None
    with_key = settings.with_key
    return Principal(
        tenant=settings.tenant,
        # Beside a key, the key says what it may do.
        scopes=settings.scopes if with_key is None else frozenset(SCOPES),
        tags=settings.tags,
        labels=settings.labels,
        routes=settings.routes,
        subject=f"signer:{settings.name}" if with_key is None else f"key:{with_key}",
    )


def _component(item: Any) -> str:
    """A component's name; with parameters (`;req`, `;bs`, `;key=...`) it is another one, and none that is needed."""
    name, parameters = item
    if not isinstance(name, str):
        raise WrongSignature("it covers something that has no name")
    if "req" in parameters:  # section 2.4
        raise WrongSignature("it covers a part of another request (req), which only a response's can")
    return name if not parameters else f"{name};{';'.join(parameters)}"


def _dictionary(value: bytes) -> dict[str, Any]:
    """A dictionary (RFC 9651) in which no key stands twice: of two the last would count, and a proxy may have read the
    first."""
    if len(value) > MAX_HEADER_BYTES or b"\r" in value or b"\n" in value:
        raise WrongSignature("a header of it is too long, or goes over several lines")

    def refuse(key: str, context: str) -> None:
        raise WrongSignature("a header of it has one label or parameter twice")

    try:
        found: Any = http_sf.parse(value, tltype="dictionary", on_duplicate_key=refuse)
    except WrongSignature:
        raise
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise WrongSignature("a header of it is no dictionary of structured fields") from error
    return dict(found)
