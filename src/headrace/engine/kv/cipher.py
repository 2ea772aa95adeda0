"""Encryption of cached pages at rest: AES-256-GCM with a key for each tenant, derived by HKDF (RFC 5869) from one file.

One tenant's key opens nothing of another's. Names of files are keyed too (`page_file.root_name`), so that whoever can
list the directory cannot test a guess of a prompt against them. The library is imported when a key is opened and not
before. Knows bytes and one key file; nothing of pages.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.core.errors import InvalidRequest
from headrace.engine.kv.page_file import Buffer, Flaw, Unusable

if TYPE_CHECKING:
    pass

FEWEST_KEY_BYTES = 32
_MOST_KEY_BYTES = 4096


class PageCipher:
    """Seals and opens with keys derived from `secret`. One object may be used by one thread at a time."""

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only who encrypts loads it

        self._secret = secret
        self._aead: type[AESGCM] = AESGCM
        self._keys: dict[str, tuple[bytes, Any]] = {}
        self.key_id = self._derive(b"id", b"")[:8]

    def name_key(self, tenant: str) -> bytes:
        """See `page_file.Cipher`."""
        return self._of(tenant)[0]

    def seal(self, tenant: str, nonce: bytes, data: bytes, header: bytes) -> bytes:
        """See `page_file.Cipher`."""
        sealed: bytes = self._of(tenant)[1].encrypt(nonce, data, header)
        return sealed

    def open(self, tenant: str, nonce: bytes, data: Buffer, header: bytes) -> bytes:
        """See `page_file.Cipher`."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        try:
            opened: bytes = self._of(tenant)[1].decrypt(nonce, data, header)
        except InvalidTag as error:
            raise Unusable(Flaw.DAMAGED) from error
        return opened

    def _of(self, tenant: str) -> tuple[bytes, Any]:
        keys = self._keys.get(tenant)
        if keys is None:
            if len(self._keys) >= 1024:
                self._keys.clear()
            encoded = tenant.encode("utf-8", "surrogatepass")
            keys = self._keys[tenant] = (
                self._derive(b"name", encoded),
                self._aead(self._derive(b"page", encoded)),
            )
        return keys

    def _derive(self, purpose: bytes, tenant: bytes) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        info = b"headrace page cache 1\0" + purpose + b"\0" + hashlib.sha256(tenant).digest()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._secret)


def open_cipher(path: Path) -> PageCipher:
    """The cipher of a key file: at least 32 random bytes that only their owner may read. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(_MOST_KEY_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(
            f"disk_cache_key: {path} cannot be read ({error.strerror or error}); name a file of at least "
            f"{FEWEST_KEY_BYTES} random bytes.",
            param="disk_cache_key",
        ) from error
    if not FEWEST_KEY_BYTES <= len(secret) <= _MOST_KEY_BYTES:
        raise InvalidRequest(
            f"disk_cache_key: {path} holds {len(secret)} bytes, not {FEWEST_KEY_BYTES} to {_MOST_KEY_BYTES}; write "
            f"random ones, for example with `head -c {FEWEST_KEY_BYTES} /dev/urandom`.",
            param="disk_cache_key",
        )
    if mode & 0o077:
        raise InvalidRequest(
            f"disk_cache_key: {path} can be read by others (mode {mode:04o}); run `chmod 600 {path}`.",
            param="disk_cache_key",
        )
    return PageCipher(secret)
