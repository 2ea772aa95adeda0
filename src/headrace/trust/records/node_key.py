"""The node's public key as trust files name it, and whether a signature is its.

A verifier key is written as signed notes write one (C2SP signed-note, "Verifier keys"): `NAME+HASH+BASE64`. Type 0x01
is Ed25519; 0xff with our identifier is any key by its SubjectPublicKeyInfo, which is how keys of a KMS are named.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from headrace.core.errors import InvalidRequest
from headrace.trust.records import dsse
from headrace.trust.records.keys import SPKI_ED25519, key_id, verifier

MIN_RSA_BITS: Final = 2048
_CURVES: Final[dict[str, Callable[[], HashAlgorithm]]] = {"secp256r1": SHA256, "secp384r1": SHA384, "secp521r1": SHA512}
_ED25519: Final = b"\x01"
_SPKI: Final = b"\xffheadrace.spki\n"


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node's name and its public key, DER."""

    name: str
    spki: bytes

    @property
    def id(self) -> str:
        """How its signatures name it."""
        return key_id(self.spki)

    @property
    def is_ed25519(self) -> bool:
        """Whether it is of the kind that is made where no other is named."""
        return self.spki.startswith(SPKI_ED25519) and len(self.spki) == len(SPKI_ED25519) + 32

    def encode(self) -> str:
        """As a verifier key."""
        data = _ED25519 + self.spki[len(SPKI_ED25519) :] if self.is_ed25519 else _SPKI + self.spki
        return f"{self.name}+{_hash(self.name, data)}+{base64.b64encode(data).decode()}"

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature is its."""
        if self.is_ed25519:
            return verifier(self.spki[len(SPKI_ED25519) :])(signature, message)
        try:
            _verify_other(self.spki, signature, message)
        except InvalidSignature:
            return False
        return True


def _verify_other(spki: bytes, signature: bytes, message: bytes) -> None:
    """The schemes that vaults and KMS sign with, as `securesystemslib` has them sign."""
    public = load_der_public_key(spki)
    if isinstance(public, EllipticCurvePublicKey):
        digest = _CURVES.get(public.curve.name)
        if digest is not None:
            public.verify(signature, message, ECDSA(digest()))
            return
    elif isinstance(public, RSAPublicKey) and public.key_size >= MIN_RSA_BITS:
        public.verify(signature, message, PSS(MGF1(SHA256()), PSS.AUTO), SHA256())
        return
    raise InvalidSignature


def read_node_key(text: str) -> NodeKey:
    """A verifier key. Raises InvalidRequest, saying what is wrong with it."""
    name, _, rest = text.partition("+")
    digits, _, encoded = rest.partition("+")
    try:
        data = dsse.from_base64(encoded, "the key")
    except InvalidRequest as error:
        raise InvalidRequest(f"{text!r:.100} is no verifier key (NAME+HASH+BASE64): {error.message}") from error
    if not name or " " in name or digits != _hash(name, data):
        raise InvalidRequest(f"{text!r:.100}: the hash does not go with the name and the key; copy the line whole.")
    if data.startswith(_ED25519) and len(data) == 33:
        return NodeKey(name, SPKI_ED25519 + data[1:])
    if data.startswith(_SPKI) and len(data) > len(_SPKI):
        return NodeKey(name, data[len(_SPKI) :])
    raise InvalidRequest(f"{text!r:.100}: keys of this type do not sign for nodes; the node's own line has one.")


def _hash(name: str, data: bytes) -> str:
    # signed-note: SHA-256(name, 0x0A, signature type, key), its first four bytes. Names are octets: see trust files.
    return hashlib.sha256(name.encode("utf-8", "surrogateescape") + b"\n" + data).digest()[:4].hex()
