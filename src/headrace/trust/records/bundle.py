"""A record with all that verifies it away from the server that made it, as one JSON text.

In canonical form with a checksum, so that damage is told from a forgery and no byte of it is without meaning. Values
only; whether what is in it holds is `verification.py`'s.
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Any, Final

from headrace.trust.records import canonical, dsse
from headrace.trust.records.canonical import NotCanonical
from headrace.trust.records.commitment import NONCE_BYTES

FORMAT: Final = "headrace-record-bundle-v1"
MAX_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exhibit:
    """An envelope with its entry of the log and, once there is one, the C2SP tlog-proof that the log has it. Empty:
    there is none, or it was erased."""

    envelope: bytes
    entry: bytes
    proof: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`delegation` is the node's statement for the key that signed the record; `nonce` opens its commitments, and is
    empty once it was erased."""

    record_id: str
    log_origin: str
    record: Exhibit
    delegation: Exhibit
    nonce: bytes = b""

    def encode(self) -> bytes:
        """As JSON."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "id": self.record_id,
            "log_origin": self.log_origin,
            "record": _told(self.record),
            "delegation": _told(self.delegation),
            "nonce": base64.b64encode(self.nonce).decode() or None,
        }
        value["checksum"] = _checksum(value)
        return canonical.encode(value)


def _told(exhibit: Exhibit) -> dict[str, str | None]:
    return {name: getattr(exhibit, name).decode() or None for name in ("envelope", "entry", "proof")}


def _checksum(value: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(canonical.encode(value)).hexdigest()


def read_bundle(data: bytes) -> Bundle:
    """A bundle. Raises NotCanonical for anything else."""
    if len(data) > MAX_BYTES:
        raise NotCanonical(f"the bundle has {len(data)} bytes; none has more than {MAX_BYTES}.")
    data = data.rstrip(b"\n")  # that a program which saved it may have added
    found = canonical.read(data, "the bundle")
    try:
        if found["format"] != FORMAT:
            raise NotCanonical(f"the bundle's format is {found['format']!r:.100}, not {FORMAT}.")
        bundle = Bundle(
            record_id=_text(found["id"]),
            log_origin=_text(found["log_origin"]),
            record=_exhibit(found["record"]),
            delegation=_exhibit(found["delegation"]),
            nonce=b"" if found["nonce"] is None else dsse.from_base64(found["nonce"], "the nonce"),
        )
    except (KeyError, TypeError) as error:
        raise NotCanonical(f"the bundle lacks {error}.") from error
    if len(bundle.nonce) not in (0, NONCE_BYTES):
        raise NotCanonical(f"the bundle's nonce has {len(bundle.nonce)} bytes, not {NONCE_BYTES}.")
    if bundle.encode() != data:
        raise NotCanonical("the bundle is damaged: it is not what its checksum says, or not in canonical form.")
    return bundle


def _exhibit(value: Any) -> Exhibit:
    return Exhibit(*(_text(value[name] or "").encode() for name in ("envelope", "entry", "proof")))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotCanonical(f"{value!r:.50} in the bundle is no text.")
    return value
