"""What a model file is, by content: SHA-256 of its bytes, remembered so that a warm start need not read them again.

Owns the memory (one small JSON file per source path in the cache directory). A remembered digest holds while path,
size, modification time and status-change time are the same; anything else, also an unreadable memory, means hashing
again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

Hasher = Callable[[Path], str]
Stamp = tuple[str, int, int, int]
"""Path, size, and times of the last changes of a file and of what is known of it."""


def sha256_of(path: Path) -> str:
    """`sha256:...` of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


class DigestMemory:
    """A hasher that remembers. Losing or corrupting its files costs time and nothing else."""

    def __init__(self, folder: Path, hasher: Hasher = sha256_of) -> None:
        self.folder = folder
        self.hasher = hasher

    def __call__(self, path: Path) -> str:
        """`sha256:...` of a file's bytes, from memory if the file is unchanged. Raises OSError."""
        path = path.resolve()
        known_as = list(stamp(path))
        note = self.folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.digest.json"
        known = _read(note)
        digest = known.get("digest")
        if known.get("source") == known_as and isinstance(digest, str) and digest.startswith("sha256:"):
            return digest
        digest = self.hasher(path)
        # If the file changed while it was read, nothing is remembered.
        if list(stamp(path)) == known_as:
            _write(note, {"source": known_as, "digest": digest})
        return digest


def stamp(path: Path) -> Stamp:
    """By what it shows that a file has changed. Raises OSError."""
    stat = path.stat()
    return os.fsdecode(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read(note: Path) -> dict[str, object]:
    try:
        content = json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(note: Path, content: dict[str, object]) -> None:
    # A full or read-only disk only means hashing again next time.
    with contextlib.suppress(OSError, ValueError):
        note.parent.mkdir(parents=True, exist_ok=True)
        # One name, so that the next one replaces what a killed process left; two at once write the same.
        partial = note.with_name(f"{note.name}.partial")
        partial.write_text(json.dumps(content))
        partial.replace(note)
