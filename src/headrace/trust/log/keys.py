"""Keys of signed notes: what verifies a signature line (a vkey), and what makes one. C2SP signed-note and
tlog-cosignature.

A key has a name, an algorithm that is one byte, and an id of four that follows from both and the public key. Three
algorithms are known: Ed25519 over the note's text, and the cosignatures of checkpoints, Ed25519 and ML-DSA-44, which
sign a time with it. Knows no files: secret keys come as bytes.
"""

import re
import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.key_name import is_key_name

ID_BYTES: Final = 4
MAX_TIME_S: Final = 2**63 - 1
SEED_BYTES: Final = 32

_TIME: Final = struct.Struct(">Q")
_ED25519_BYTES: Final = 64
_ML_DSA_44_BYTES: Final = 2420
_PUBLIC_BYTES: Final = {0x01: 32, 0x04: 32, 0x06: 1312}


class Algorithm(IntEnum):
    """signed-note, Signature types: the byte that stands for each."""

    ED25519 = 0x01
    COSIGNATURE_ED25519 = 0x04
    COSIGNATURE_ML_DSA_44 = 0x06


def decode_base64(text: str, what: str) -> bytes:
    """RFC 4648 section 4, only as it would be encoded again: one text for one value. Raises LogFault."""
    try:
        data = b64decode(text.encode("ascii"), validate=True)
    except (Base64Error, UnicodeEncodeError, ValueError) as error:
        raise LogFault(f"{what} is no base64.") from error
    if b64encode(data).decode() != text:
        raise LogFault(f"{what} is not base64 as it is written (RFC 4648, section 4).")
    return data


def key_id(name: str, algorithm: int, public: bytes) -> bytes:
    """key ID = SHA-256(key name || 0x0A || signature type || public key)[:4]"""
    return sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[:ID_BYTES]


@dataclass(frozen=True)
class VerifierKey:
    """What is known of a signer. `material` is the public key."""

    name: str
    algorithm: Algorithm
    material: bytes

    @cached_property
    def id(self) -> bytes:
        """Names it, beside its name, in a signature line."""
        return key_id(self.name, self.algorithm, self.material)

    def __str__(self) -> str:
        """signed-note, Verifier keys: <key name>+hex(key ID)+base64(signature type || public key)."""
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes([self.algorithm]) + self.material).decode()}"

    @property
    def is_cosigner(self) -> bool:
        """Whether its signatures have a time."""
        return self.algorithm is not Algorithm.ED25519

    def verify(self, text: bytes, signature: bytes) -> int | None:
        """Check a signature over a note's text; its time, Unix seconds, of a cosignature. Raises LogFault."""
        try:
            return self._verify(text, signature)
        except InvalidSignature as error:
            raise LogFault(f"the signature of {self.name} ({self.id.hex()}) does not fit the text.") from error

    def _verify(self, text: bytes, signature: bytes) -> int | None:
        if self.algorithm is Algorithm.ED25519:
            self._check_length(signature, _ED25519_BYTES)
            self._ed25519.verify(signature, text)
            return None
        is_classic = self.algorithm is Algorithm.COSIGNATURE_ED25519
        self._check_length(signature, _TIME.size + (_ED25519_BYTES if is_classic else _ML_DSA_44_BYTES))
        (time_s,) = _TIME.unpack_from(signature)
        if time_s > MAX_TIME_S:
            raise LogFault(f"the cosignature of {self.name} has the time {time_s}; 2^63 - 1 is the latest.")
        if is_classic:
            self._ed25519.verify(signature[_TIME.size :], cosigned_text(text, time_s))
        else:
            message = cosigned_message(self.name, Checkpoint.decode(text), time_s)
            MLDSA44PublicKey.from_public_bytes(self.material).verify(signature[_TIME.size :], message)
        return int(time_s)

    def _check_length(self, signature: bytes, wanted: int) -> None:
        if len(signature) != wanted:
            raise LogFault(f"the signature of {self.name} has {len(signature)} bytes; its key makes {wanted}.")

    @cached_property
    def _ed25519(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.material)


def parse_vkey(text: str) -> VerifierKey:
    """A verifier key from its text. Raises LogFault if it is none, or of an algorithm that is not known here."""
    name, _, rest = text.partition("+")
    hex_id, _, encoded = rest.partition("+")
    if not is_key_name(name) or not re.fullmatch("[0-9a-f]{8}", hex_id):
        raise LogFault(f"{text[:100]!r} is no verifier key; one reads NAME+8 hex digits+base64.", param="vkey")
    data = decode_base64(encoded, f"the key of {name}")
    if not data or data[0] not in _PUBLIC_BYTES:
        known = ", ".join(f"{one.value:#04x}" for one in Algorithm)
        raise LogFault(f"the key of {name} is of type {data[:1].hex() or 'none'}; known are {known}.", param="vkey")
    key = VerifierKey(name, Algorithm(data[0]), data[1:])
    if len(key.material) != _PUBLIC_BYTES[data[0]]:
        raise LogFault(f"the key of {name} has {len(key.material)} bytes; its kind has {_PUBLIC_BYTES[data[0]]}.")
    if key.id.hex() != hex_id:
        raise LogFault(f"the id of the key of {name} is {hex_id}; its bytes say {key.id.hex()}.", param="vkey")
    return key


class Signer:
    """A secret key with its name. `seed` are its 32 bytes (RFC 8032 5.1.5; FIPS 204's xi)."""

    def __init__(self, name: str, algorithm: Algorithm, seed: bytes) -> None:
        if not is_key_name(name):
            raise LogFault(f"{name!r} cannot be a key's name: it is empty, or has a space or a plus.", param="name")
        if len(seed) != SEED_BYTES:
            raise LogFault(f"the secret key of {name} has {len(seed)} bytes; it must have {SEED_BYTES}.")
        self._secret: Ed25519PrivateKey | MLDSA44PrivateKey
        if algorithm is Algorithm.COSIGNATURE_ML_DSA_44:
            self._secret = MLDSA44PrivateKey.from_seed_bytes(seed)
        else:
            self._secret = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = VerifierKey(name, algorithm, self._secret.public_key().public_bytes_raw())

    def sign(self, text: bytes, time_s: int) -> str:
        """A signature line over a note's text, with its newline; `time_s` is what a cosignature says."""
        algorithm = self.key.algorithm
        if algorithm is Algorithm.ED25519:
            signature = self._secret.sign(text)
        elif algorithm is Algorithm.COSIGNATURE_ED25519:
            signature = _TIME.pack(time_s) + self._secret.sign(cosigned_text(text, time_s))
        else:
            message = cosigned_message(self.key.name, Checkpoint.decode(text), time_s)
            signature = _TIME.pack(time_s) + self._secret.sign(message)
        return f"— {self.key.name} {b64encode(self.key.id + signature).decode()}\n"


def cosigned_text(text: bytes, time_s: int) -> bytes:
    """tlog-cosignature, Ed25519 signed message."""
    return b"cosignature/v1\ntime %d\n" % time_s + text


def cosigned_message(cosigner: str, checkpoint: Checkpoint, time_s: int) -> bytes:
    """tlog-cosignature, ML-DSA-44 signed message: a `cosigned_message` over the whole tree (start is 0)."""
    return b"".join(
        (
            b"subtree/v1\n\0",
            _opaque(cosigner, "a cosigner's name"),
            _TIME.pack(time_s),
            _opaque(checkpoint.origin, "an origin"),
            _TIME.pack(0),
            _TIME.pack(checkpoint.size),
            checkpoint.root,
        )
    )


def _opaque(text: str, what: str) -> bytes:
    """RFC 8446 3.4: opaque<1..2^8-1>, a length in one byte before it."""
    data = text.encode()
    if not 1 <= len(data) <= 255:
        raise LogFault(f"{what} has {len(data)} bytes; ML-DSA-44 cosignatures take 1 to 255.")
    return bytes([len(data)]) + data
