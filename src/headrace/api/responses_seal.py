"""What we hand out as `encrypted_content`: text that a client keeps for us and sends back.

It is opaque and not secret. The client may read everything in it, and could have sent the same as plain items, so a key
would protect nothing; leaving it out lets a conversation go on after a restart, on another server and with `store`
false. What comes back is bounded before it is unpacked.
"""

import base64
import binascii
import zlib
from typing import Final

import msgspec

from headrace.core.errors import InvalidRequest
from headrace.core.trust import Confidentiality

MAX_TEXT_BYTES: Final = 10 * 1024 * 1024
_PREFIX: Final = "hr1."
_MAY_LEARN: Final = "confidentiality"


def seal(text: str, kind: str, confidentiality: Confidentiality | None = None) -> str:
    """Text as opaque content of a kind: `reasoning` or `summary`; and who may learn of it, where that is known."""
    told = {kind: text} if confidentiality is None else {kind: text, _MAY_LEARN: confidentiality.name}
    packed = zlib.compress(msgspec.json.encode(told), 6)
    return _PREFIX + base64.urlsafe_b64encode(packed).decode()


def open_seal(content: str, kind: str, path: str) -> str:
    """The text again. Raises InvalidRequest for what `seal` did not make."""
    return _open(content, kind, path)[kind]


def sealed_confidentiality(content: str, kind: str, path: str) -> Confidentiality | None:
    """Who may learn of it, where it was said. Raises InvalidRequest as `open_seal`."""
    name = _open(content, kind, path).get(_MAY_LEARN)
    # A name that a later version knows is taken for the narrowest.
    return None if name is None else Confidentiality.__members__.get(name, Confidentiality.SECRET)


def _open(content: str, kind: str, path: str) -> dict[str, str]:
    try:
        given = content[len(_PREFIX) :] if content.startswith(_PREFIX) else ""
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(given.encode("ascii"), b"-_", validate=True), MAX_TEXT_BYTES)
        # What is longer than the bound, or has lost its end, is taken for nothing.
        found = msgspec.json.decode(data if unpacker.eof else b"", type=dict[str, str])
        found[kind]
    except (ValueError, LookupError, binascii.Error, zlib.error, msgspec.DecodeError, RecursionError):
        raise InvalidRequest(
            f"{path}: was not made by this kind of server, or was changed since; leave the item out.",
            param=path,
            code="invalid_encrypted_content",
        ) from None
    return found
