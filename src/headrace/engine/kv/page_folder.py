"""The directory of cached pages: the only place in the cache that touches the file system, and so its seam for tests.

    <root>/<tenant, hashed>/<model>/<name, 40 hexadecimal digits>.page      directories 0700, files 0600

A file is written beside its name and renamed, so nobody reads half of one; it is not flushed to the platter, because
a checksum finds what a power cut leaves. A page's time of last use is its file's modification time. Whatever else lies
in the directory is left alone. OSErrors go to the caller. Decides nothing and knows no page's contents.
"""

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.engine.kv.page_file import Buffer

_SUFFIX = ".page"
_PAGE = re.compile(r"[0-9a-f]{40}\.page")
_PARTIAL = re.compile(r"[0-9a-f]{40}\.page\.[0-9a-f]{12}\.partial")
_FOLDER = re.compile(r"[0-9a-f]{20}")
_READ_HEADER = 128
FORGOTTEN_PARTIAL_S = 3600.0


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file with a page's name, or one that has none (`name` empty). `used_ns` is Unix time in nanoseconds."""

    path: Path
    name: bytes
    size: int
    used_ns: int


def tenant_folder(tenant: str) -> str:
    """A tenant's directory. Not keyed, so that a tenant can be erased by name without any key."""
    digest = hashlib.blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=10, person=b"headrace tenant")
    return digest.hexdigest()


def model_folder(digest: str) -> str:
    """A model's directory inside a tenant's, from its digest."""
    return hashlib.blake2b(digest.encode(), digest_size=10, person=b"headrace model").hexdigest()


class PageFolder:
    """Files under one root. Every method may raise OSError, except for what is documented as ignored."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, tenant: str, model: str, name: bytes) -> Path:
        """Where a page lies."""
        return self.root / tenant_folder(tenant) / model_folder(model) / (name.hex() + _SUFFIX)

    def read(self, path: Path) -> bytes:
        """A whole file."""
        return path.read_bytes()

    def read_start(self, path: Path) -> bytes:
        """As much of a file as its header can be long."""
        with path.open("rb") as file:
            return file.read(_READ_HEADER)

    def write(self, path: Path, parts: Iterable[Buffer], used_ns: int) -> None:
        """Put a file in place, whole or not at all; missing directories are made."""
        partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
        try:
            descriptor = self._create(partial)
            try:
                for part in parts:
                    _write_all(descriptor, part)
                os.utime(descriptor, ns=(used_ns, used_ns))
            finally:
                os.close(descriptor)
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def touch(self, path: Path, used_ns: int) -> None:
        """Record a use."""
        os.utime(path, ns=(used_ns, used_ns))

    def remove(self, path: Path) -> None:
        """Delete a file; one that is gone is no error."""
        path.unlink(missing_ok=True)

    def scan(self, tenant: str | None = None, model: str | None = None) -> Iterator[FoundFile]:
        """All files in directories of ours, of one tenant or model if named, links left out.

        What cannot be listed is passed over. A root that does not exist is empty.
        """
        for folder in _folders(self.root, None if tenant is None else tenant_folder(tenant)):
            for inner in _folders(folder, None if model is None else model_folder(model)):
                yield from _files(inner)

    def remove_partials(self, before_s: float, tenant: str | None = None, model: str | None = None) -> None:
        """Delete what was half written before that Unix time by processes that ended; at infinity, by all."""
        for found in self.scan(tenant, model):
            if _PARTIAL.fullmatch(found.path.name) and found.used_ns < before_s * 1e9:
                self.remove(found.path)

    def remove_empty(self, tenant: str | None = None) -> None:
        """Delete directories of ours that have nothing in them; failures are ignored."""
        for folder in _folders(self.root, None if tenant is None else tenant_folder(tenant)):
            for inner in (*_folders(folder, None), folder):
                with contextlib.suppress(OSError):
                    inner.rmdir()

    def _create(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            # One by one, because only the last of `parents=True` gets the mode.
            for folder in (self.root, path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, parents=folder == self.root, exist_ok=True)
            return os.open(path, flags, 0o600)


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _folders(root: Path, only: str | None) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if _FOLDER.fullmatch(entry.name)
                and (only is None or entry.name == only)
                and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _files(folder: Path) -> Iterator[FoundFile]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # removed in this moment
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    name = bytes.fromhex(entry.name[:40]) if _PAGE.fullmatch(entry.name) else b""
                    yield FoundFile(Path(entry.path), name, status.st_size, status.st_mtime_ns)
