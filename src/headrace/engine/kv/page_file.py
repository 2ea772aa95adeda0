"""One page of keys and values as bytes on disk: what it is called, what stands in it, and how it is verified.

    header   magic, version, flags, fingerprint of the layout, name, key id, nonce, sizes, SHA-256 of all else
    body     token ids (int32, little-endian), then the page as it lies in the pool; in an encrypted file both are one
             AES-256-GCM ciphertext with the header as associated data

A name is a chained digest: of salt and layout for a root, of the parent's name and the page's tokens below it. Whatever
would make a page something else makes another name, so a name that is found is the right page, and the tokens inside
are compared all the same. Bytes in, bytes out: no file, no directory, no clock. What may be wrong with a file is a
`Flaw`; only files that are certainly ours and broken (DAMAGED) may be removed for it.
"""

import hashlib
import secrets
import struct
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from headrace.engine.kv.salt import Salt

Buffer = bytes | memoryview

VERSION = 1
"""Raise it when the file's layout changes, or the bytes of a page come to mean something else."""

MAGIC = b"\x89HRPAGE\n"
NAME_BYTES = 20
_PREFIX = struct.Struct("<8sHHII16s20s8s12s")  # magic, version, flags, tokens, body, fingerprint, name, key id, nonce
_NO_CHECKSUM = bytes(32)  # of an encrypted file: its tag is one
_TAG_BYTES = 16
HEADER_BYTES = _PREFIX.size + 32
_ENCRYPTED = 1
_NO_KEY = bytes(8)


class Flaw(StrEnum):
    """Why a file cannot be used."""

    FOREIGN = "foreign"  # not a page of ours
    OTHER_VERSION = "other_version"  # of this file
    OTHER_KEY = "other_key"  # encrypted with another key, or not as it should be
    DAMAGED = "damaged"  # ours and not what was written
    UNREADABLE = "unreadable"  # the system would not give it


class Unusable(Exception):
    """A file that cannot be used; `flaw` says why. Never leaves the cache."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


class Cipher(Protocol):
    """Encryption with a key for each tenant; `cipher.py` implements it."""

    key_id: bytes

    def name_key(self, tenant: str) -> bytes:
        """What makes names unguessable, 32 bytes."""
        ...

    def seal(self, tenant: str, nonce: bytes, data: bytes, header: bytes) -> bytes:
        """Ciphertext with its tag."""
        ...

    def open(self, tenant: str, nonce: bytes, data: Buffer, header: bytes) -> bytes:
        """What was sealed. Raises Unusable if it is not what was sealed with this header."""
        ...


@dataclass(frozen=True, slots=True)
class PageLayout:
    """What the bytes of one model's pages mean: model and plan (digests), kind and shape of keys and values, and the
    kernels that made them, because only the same kernels would compute exactly the same bytes."""

    model: str
    plan: str
    kv_type: str
    variant: str
    shape: tuple[int, ...]
    page_tokens: int
    page_bytes: int

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that no other layout has."""
        return _fingerprint(self)


def root_name(salt: Salt, layout: PageLayout, cipher: Cipher | None = None) -> bytes:
    """What the names of a salt's first pages are made from."""
    key = b"" if cipher is None else cipher.name_key(salt.tenant)
    return hashlib.blake2b(layout.fingerprint + salt.encode(), digest_size=NAME_BYTES, key=key).digest()


def child_name(parent: bytes, tokens: bytes) -> bytes:
    """The name of the page that holds `tokens` (int32 bytes) after everything above `parent`."""
    return hashlib.blake2b(parent + tokens, digest_size=NAME_BYTES).digest()


@dataclass(frozen=True, slots=True)
class PageId:
    """Whose page it is, what it holds and what it is called."""

    tenant: str
    layout: PageLayout
    name: bytes
    tokens: bytes


def encode(page: PageId, data: Buffer, cipher: Cipher | None = None) -> tuple[Buffer, ...]:
    """The file's parts, in order; `data` is not copied unless it is encrypted."""
    size = len(page.tokens) + memoryview(data).nbytes + (0 if cipher is None else _TAG_BYTES)
    nonce = bytes(12) if cipher is None else secrets.token_bytes(12)
    prefix = _PREFIX.pack(
        MAGIC,
        VERSION,
        0 if cipher is None else _ENCRYPTED,
        len(page.tokens) // 4,
        size,
        page.layout.fingerprint,
        page.name,
        _NO_KEY if cipher is None else cipher.key_id,
        nonce,
    )
    if cipher is None:
        return prefix, _checksum(prefix, page.tokens, data), page.tokens, data
    return prefix, _NO_CHECKSUM, cipher.seal(page.tenant, nonce, page.tokens + bytes(data), prefix)


def decode(page: PageId, file: bytes, cipher: Cipher | None = None) -> memoryview:
    """The page's bytes out of a file that should be `page`. Raises Unusable."""
    check_header(file, cipher)
    _, _, _, num_tokens, size, fingerprint, name, _, nonce = _PREFIX.unpack_from(file)
    prefix, body = file[: _PREFIX.size], memoryview(file)[HEADER_BYTES:]
    expected_checksum = _checksum(prefix, body) if cipher is None else _NO_CHECKSUM
    if len(body) != size or file[_PREFIX.size : HEADER_BYTES] != expected_checksum:
        raise Unusable(Flaw.DAMAGED)
    if cipher is not None:
        body = memoryview(cipher.open(page.tenant, nonce, body, prefix))
    expected = (page.layout.fingerprint, page.name, len(page.tokens) // 4, page.layout.page_bytes)
    found = (fingerprint, name, num_tokens, len(body) - len(page.tokens))
    if expected != found or body[: len(page.tokens)] != page.tokens:
        raise Unusable(Flaw.DAMAGED)  # whole, but under a name that is not its own
    return body[len(page.tokens) :]


def check_header(start: bytes, cipher: Cipher | None = None) -> None:
    """Whether a file that begins like this could be used, its body aside. Raises Unusable."""
    if not start.startswith(MAGIC):
        # Nothing but our magic's beginning is what a crash of the machine may leave.
        raise Unusable(Flaw.DAMAGED if MAGIC.startswith(start) else Flaw.FOREIGN)
    if len(start) < HEADER_BYTES:
        raise Unusable(Flaw.DAMAGED)
    _, version, flags, _, _, _, _, key_id, _ = _PREFIX.unpack_from(start)
    if version != VERSION:
        raise Unusable(Flaw.OTHER_VERSION)
    wanted = (0, _NO_KEY) if cipher is None else (_ENCRYPTED, cipher.key_id)
    if (flags, key_id) != wanted:
        raise Unusable(Flaw.OTHER_KEY)


def is_encrypted(start: bytes) -> bool:
    """Of a file whose header was checked for its version."""
    return bool(_PREFIX.unpack_from(start)[2] & _ENCRYPTED)


def _checksum(*parts: Buffer) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


@lru_cache(maxsize=64)  # layout -> fingerprint; never stale
def _fingerprint(layout: PageLayout) -> bytes:
    parts = (layout.model, layout.plan, layout.kv_type, layout.variant)
    sizes = (*layout.shape, layout.page_tokens, layout.page_bytes, VERSION)
    return hashlib.blake2b(repr((parts, sizes)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
