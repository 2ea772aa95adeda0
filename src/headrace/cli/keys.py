"""The keys file: which hashed API key belongs to which tenant, and what it may do.

    [[key]]
    name = "laptop"
    tenant = "anna"
    scopes = ["generate"]
    sha256 = "9f86d0..."
    created = 2026-01-31T12:00:00Z
    priority = 0     # may be left out: the most urgent that its requests may be, larger goes first
    share = 1.0      # may be left out: the tenant's weight beside others of the same priority

A key is 256 random bits, so one SHA-256 is enough to store: there is nothing to guess, hence nothing to slow down. The
key itself is shown once and kept nowhere. Reads and writes the file; who is let in is decided by `server`, which is
given the parsed entries.
"""

import hashlib
import os
import re
import secrets
import tomllib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.core.errors import InvalidRequest, NotFound

KEY_PREFIX = "hr_"
SCOPES = ("generate", "metrics", "admin")
_HEADER = "# API keys of Headrace, hashed. Written by `headrace keys`; SIGHUP makes a running server read it again.\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "tenant", "scopes", "sha256", "created"}
_OPTIONAL = {"priority", "share"}
MAX_PRIORITY = 1000
MAX_SHARE = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """One issued key, without the key."""

    name: str
    tenant: str
    scopes: frozenset[str]
    sha256: str
    created: datetime
    priority: int = 0
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRights:
    """What a new key may do. Checked when the key is added."""

    tenant: str = "local"
    scopes: tuple[str, ...] = ("generate",)
    priority: int = 0
    share: float = 1.0


def new_key() -> str:
    """A fresh key: a prefix that scanners for leaked secrets can find, and 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def load_keys(path: Path) -> list[KeyEntry]:
    """All entries of the file. Raises InvalidRequest naming the entry and the remedy, NotFound if there is no file."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"There is no keys file {path}; `headrace keys add NAME` writes one.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"keys: {path} cannot be read ({error}); check its permissions.") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"keys: {path} is not valid TOML: {error}.") from error
    listed = document.get("key", [])
    if set(document) - {"key"} or not isinstance(listed, list):
        raise InvalidRequest(f"keys: {path} may hold [[key]] tables only; found {', '.join(document)}.")
    entries = [_entry(table, f"{path}, key {number}") for number, table in enumerate(listed, 1)]
    for column in ("name", "sha256"):
        seen = [getattr(entry, column) for entry in entries]
        if len(set(seen)) != len(seen):
            raise InvalidRequest(f"keys: {path} has two entries with the same {column}; remove one.")
    return entries


def save_keys(path: Path, entries: list[KeyEntry]) -> None:
    """Write the file in one rename, readable by its owner only."""
    blocks = [_HEADER]
    for entry in entries:
        scopes = ", ".join(f'"{scope}"' for scope in sorted(entry.scopes))
        blocks.append(
            f'\n[[key]]\nname = "{entry.name}"\ntenant = "{entry.tenant}"\nscopes = [{scopes}]\n'
            f'sha256 = "{entry.sha256}"\ncreated = {entry.created.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\n'
            f"priority = {entry.priority}\nshare = {entry.share!r}\n"
        )
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(blocks))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise InvalidRequest(
            f"keys: {path} cannot be written ({error.strerror or error}); check the folder."
        ) from error


def add_key(path: Path, name: str, rights: KeyRights, now: datetime) -> str:
    """Issue a key under a new name and return it: the only time that it is seen."""
    entries = load_keys(path) if path.exists() else []
    if any(entry.name == name for entry in entries):
        raise InvalidRequest(f"name: there is a key called {name} already; remove it first or choose another name.")
    key = new_key()
    table = {"name": name, "sha256": hash_key(key), "created": now, **asdict(rights), "scopes": list(rights.scopes)}
    save_keys(path, [*entries, _entry(table, "the new key")])
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key back. Raises NotFound naming those that exist."""
    entries = load_keys(path)
    kept = [entry for entry in entries if entry.name != name]
    if len(kept) == len(entries):
        known = ", ".join(entry.name for entry in entries) or "none"
        raise NotFound(f"There is no key called {name} in {path}; existing: {known}.")
    save_keys(path, kept)


def _entry(table: Any, where: str) -> KeyEntry:
    if not isinstance(table, dict) or (wrong := (set(table) - _OPTIONAL) ^ _FIELDS):
        shown = ", ".join(sorted(wrong)) if isinstance(table, dict) else "not a table"
        raise InvalidRequest(f"keys: {where}: missing or unknown: {shown}; needed are {', '.join(sorted(_FIELDS))}.")
    for field in ("name", "tenant"):
        if not isinstance(table[field], str) or not _NAME.fullmatch(table[field]):
            raise InvalidRequest(
                f"{field}: {table[field]!r} ({where}) must be 1 to 64 letters, digits, dots, dashes, underscores or @.",
                param=field,
            )
    scopes = table["scopes"]
    if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
        raise InvalidRequest(f"scopes: {scopes!r} ({where}) must be some of {', '.join(SCOPES)}.", param="scopes")
    if not isinstance(table["sha256"], str) or not _SHA256.fullmatch(table["sha256"]):
        raise InvalidRequest(f"sha256: ({where}) must be 64 lower-case hexadecimal digits.", param="sha256")
    if not isinstance(table["created"], datetime):
        raise InvalidRequest(f"created: {table['created']!r} ({where}) must be a date and time.", param="created")
    priority, share = table.get("priority", 0), table.get("share", 1.0)
    if type(priority) is not int or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidRequest(
            f"priority: {priority!r} ({where}) is not in [{-MAX_PRIORITY}, {MAX_PRIORITY}].", param="priority"
        )
    if type(share) not in (int, float) or not 0 < share <= MAX_SHARE:
        raise InvalidRequest(f"share: {share!r} ({where}) is not in (0, {MAX_SHARE:g}].", param="share")
    return KeyEntry(
        name=table["name"],
        tenant=table["tenant"],
        scopes=frozenset(scopes),
        sha256=table["sha256"],
        created=table["created"],
        priority=priority,
        share=float(share),
    )
