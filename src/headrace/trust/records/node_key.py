"""The node's public key as trust files name it, and whether a signature is its.

A verifier key is written as signed notes write one (C2SP signed-note, "Verifier keys"): `NAME+HASH+BASE64`. Type 0x01
is Ed25519; 0xff with our identifier is any key by its SubjectPublicKeyInfo, which is how keys of a KMS are named.
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from headrace.core.errors import InvalidRequest
from headrace.trust.records import dsse
from headrace.trust.records.keys import SPKI_ED25519, key_id, verifier

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
        # Imported here: only keys of a vault or a KMS need to know other schemes.
        from cryptography.hazmat.primitives.serialization import load_der_public_key
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import Signature, SSlibKey

        public = SSlibKey.from_crypto(load_der_public_key(self.spki))  # type: ignore[arg-type]
        try:
            public.verify_signature(Signature(public.keyid, signature.hex()), message)
        except UnverifiedSignatureError:
            return False
        return True


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
    # signed-note: SHA-256(name, 0x0A, signature type, key), its first four bytes.
    return hashlib.sha256(name.encode() + b"\n" + data).digest()[:4].hex()
