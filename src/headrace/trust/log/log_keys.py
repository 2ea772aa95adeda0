"""The keys that a log signs its checkpoints with, as a text for a file: one Ed25519 key, one ML-DSA-44 key, one name.

A line each, in the form that Go's `note` package has for signers: PRIVATE+KEY+NAME+ID+base64(type || seed). A log keeps
its name and its keys; new keys are a new log. Chance is passed in. Knows no files.
"""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import SEED_BYTES, Algorithm, Signer, VerifierKey, decode_base64

_PREFIX: Final = "PRIVATE+KEY+"
_OF_LOG: Final = (Algorithm.ED25519, Algorithm.COSIGNATURE_ML_DSA_44)
_OF_WITNESS: Final = (Algorithm.COSIGNATURE_ED25519, Algorithm.COSIGNATURE_ML_DSA_44)


@dataclass(frozen=True, slots=True)
class KeySet:
    """One signer of each kind, with the same name."""

    signers: tuple[Signer, ...]

    @property
    def name(self) -> str:
        """Of a log its origin."""
        return self.signers[0].key.name

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """What verifies them."""
        return tuple(one.key for one in self.signers)

    def sign(self, text: bytes, time_s: int) -> bytes:
        """A note: the text and a line of each."""
        return text + b"\n" + "".join(one.sign(text, time_s) for one in self.signers).encode()


def make_log_keys(origin: str, random_bytes: Callable[[int], bytes]) -> bytes:
    """The text of a log's new keys."""
    return _make(origin, _OF_LOG, random_bytes)


def make_witness_keys(name: str, random_bytes: Callable[[int], bytes]) -> bytes:
    """The text of a witness's new keys."""
    return _make(name, _OF_WITNESS, random_bytes)


def parse_log_keys(text: bytes) -> KeySet:
    """A log's keys. Raises LogFault."""
    return _parse(text, _OF_LOG)


def parse_witness_keys(text: bytes) -> KeySet:
    """A witness's keys. Raises LogFault."""
    return _parse(text, _OF_WITNESS)


def _make(name: str, algorithms: tuple[Algorithm, ...], random_bytes: Callable[[int], bytes]) -> bytes:
    lines = []
    for algorithm in algorithms:
        seed = random_bytes(SEED_BYTES)
        key = Signer(name, algorithm, seed).key
        lines.append(f"{_PREFIX}{name}+{key.id.hex()}+{b64encode(bytes([algorithm]) + seed).decode()}\n")
    return "".join(lines).encode()


def _parse(text: bytes, algorithms: tuple[Algorithm, ...]) -> KeySet:
    lines = text.decode("utf-8", "replace").split("\n")
    if len(lines) != len(algorithms) + 1 or lines[-1]:
        raise LogFault(f"a file of these keys has {len(algorithms)} lines; this one has {len(lines) - 1}.")
    signers = tuple(_parse_line(line, algorithm) for line, algorithm in zip(lines[:-1], algorithms, strict=True))
    if len({one.key.name for one in signers}) > 1:
        raise LogFault("the keys of a file have different names; they belong to one signer and have one.")
    return KeySet(signers)


def _parse_line(line: str, algorithm: Algorithm) -> Signer:
    # What is wrong is never shown: it is a secret.
    name, _, rest = line.removeprefix(_PREFIX).partition("+")
    key_id, _, encoded = rest.partition("+")
    data = decode_base64(encoded, "a secret key")
    if not line.startswith(_PREFIX) or not data or data[0] != algorithm:
        raise LogFault(f"a line of a key file is no secret key of type {algorithm:#04x}.")
    signer = Signer(name, algorithm, data[1:])
    if signer.key.id.hex() != key_id:
        raise LogFault(f"the id of the secret key of {name} does not fit its bytes; the file is damaged.")
    return signer
