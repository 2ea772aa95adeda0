"""Texts that can be read in one way only: base64url without slack, JSON objects in which no name stands twice.

What two readers could take for two things is refused: of two readers the second is an attacker's. Knows no tokens.
"""

import base64
import binascii
import json
import re
from typing import Any, Final

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


class NotStrict(ValueError):
    """What was read has no single meaning, or none. The message says what is wrong and repeats nothing of it."""


def decode_base64url(text: str) -> bytes:
    """Bytes of base64url without padding (RFC 7515, section 2). Raises NotStrict, also for bits that mean nothing: the
    same bytes would have several texts."""
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise NotStrict("is not base64url without padding")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise NotStrict("is not base64url without padding") from error
    if encode_base64url(data) != text:
        raise NotStrict("is base64url with bits that mean nothing")
    return data


def encode_base64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read_json(data: bytes) -> Any:
    """A value (RFC 7493). Raises NotStrict for a name twice, NaN, infinities, too many levels, and what is no UTF-8."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except NotStrict:
        raise
    except (ValueError, RecursionError) as error:
        raise NotStrict("is no JSON") from error


def read_json_object(data: bytes) -> dict[str, Any]:
    """An object. Raises NotStrict as `read_json`, and for other values."""
    found = read_json(data)
    if not isinstance(found, dict):
        raise NotStrict("is no JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotStrict("has a name twice")
    return found


def _no_constant(_: str) -> Any:
    raise NotStrict("has a number that is none")
