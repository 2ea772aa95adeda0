"""What a model's provider signed about a tool call travels in the call's id.

Gemini signs what it thought before a call and wants the signature back with it; no other protocol has a field for that,
and every one returns a call's id as it was. So the id carries it: letters, digits, `-` and `_` alone, as the strictest
protocol wants, and whoever asks another provider takes it off again. Nothing is stored. Knows no protocol.
"""

import re
from typing import Final

MAX_SIGNATURE_CHARS: Final = 64 * 1024
"""A longer signature is not carried."""

_MARK: Final = "__sig__"
_MARK_BYTES: Final = _MARK.encode()
_SIGNED: Final = re.compile(_MARK_BYTES + rb"[A-Za-z0-9_-]+")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


def sign_id(call_id: str, signature: str) -> str:
    """The id with a signature (base64); without one, or with one that is not to be carried, the id alone."""
    if not _BASE64.fullmatch(signature) or len(signature) > MAX_SIGNATURE_CHARS:
        return call_id
    return call_id + _MARK + signature.rstrip("=").translate(_TO_URL)


def plain_id(call_id: str) -> str:
    """The id without a signature."""
    return call_id.partition(_MARK)[0]


def plain_ids(value: bytes) -> bytes:
    """A conversation that passes through, its calls' ids without signatures: OpenAI refuses long ones."""
    return _SIGNED.sub(b"", value) if _MARK_BYTES in value else value


def signature_of(call_id: str) -> str:
    """The signature of an id as base64, empty without one."""
    signature = call_id.partition(_MARK)[2].translate(_FROM_URL)
    return signature + "=" * (-len(signature) % 4)
