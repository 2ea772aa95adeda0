"""Seals what the console's cookie holds: AES-256-GCM (NIST SP 800-38D) with a random nonce each, under one key of this
server's. Whoever copies a cookie can use it, as with every bearer's credential, but read or change nothing of it.

Knows no sessions: what they hold and how long they last is `server/sessions.py`'s.
"""

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from headrace.trust.strict import decode_base64url, encode_base64url

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"headrace console session v2"


class AesSeal:
    """Seals and opens. 2^32 sessions may be sealed under one key (SP 800-38D, section 8.3)."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        """`key` has KEY_BYTES; `random` gives as many bytes as it is asked for. Raises ValueError for another key."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"key: has {len(key)} bytes, not {KEY_BYTES}.")
        self._cipher = AESGCM(key)
        self._random = random

    def seal(self, content: bytes) -> str:
        """See `core.sessions.SessionSeal`."""
        nonce = self._random(_NONCE_BYTES)
        return encode_base64url(nonce + self._cipher.encrypt(nonce, content, _PURPOSE))

    def open(self, text: str) -> bytes | None:
        """See `core.sessions.SessionSeal`."""
        try:
            sealed = decode_base64url(text)  # one content has one text: no character of it can be another
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PURPOSE)
        except (ValueError, InvalidTag):  # ValueError: it is not base64url, or has too few bytes
            return None
