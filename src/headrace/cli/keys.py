"""The keys file: which hashed API key belongs to which tenant, and what it may do.

    [[key]]
    name = "laptop"
    tenant = "anna"
    scopes = ["generate"]
    sha256 = "9f86d0..."
    created = 2026-01-31T12:00:00Z
    priority = 0     # may be left out: the most urgent that its requests may be, larger goes first
    share = 1.0      # may be left out: the tenant's weight beside others of the same priority
    user = "bob"     # may be left out, as all that follows: whom of the tenant its requests are for
    tags = ["batch"] # what its spending is counted under beside
    labels = ["restricted"]                 # what its requests hold, so that only cleared backends see them
    routes = ["small"]                      # names of models that it may ask for; none: any
    expires = 2027-01-31T00:00:00Z          # from when on it is not valid
    is_disabled = true                      # not valid for now

A key is 256 random bits, so one SHA-256 is enough to store: there is nothing to guess, hence nothing to slow down. The
key itself is shown once and kept nowhere. Reads and writes the file; who is let in is decided by `server`, which is
given the parsed entries.
"""

import hashlib
import json as jsonlib
import os
import re
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.request import SCOPES

KEY_PREFIX = "hr_"
_HEADER = "# API keys of Headrace, hashed. Written by `headrace keys`; SIGHUP makes a running server read it again.\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "tenant", "scopes", "sha256", "created"}
_OPTIONAL = {"priority", "share", "user", "tags", "labels", "routes", "expires", "is_disabled"}
_LISTS = {"tags": 64, "labels": 64, "routes": 400}  # at most so many characters each
_MAX_LISTED = 64
_MAX_USER_CHARS = 200
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
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: datetime | None = None
    is_disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRights:
    """What a new key may do. Checked when the key is added."""

    tenant: str = "local"
    scopes: tuple[str, ...] = ("generate",)
    priority: int = 0
    share: float = 1.0
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: datetime | None = None


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
        document = _own_tables(text) or tomllib.loads(text)
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
    text = "".join([_HEADER, *map(_block, entries)])
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
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
        raise InvalidRequest(
            f"name: there is a key called {name} already; remove it first or choose another name.", param="name"
        )
    key = new_key()
    given = {field: value for field, value in asdict(rights).items() if value not in (None, (), frozenset())}
    lists = {field: list(given[field]) for field in ("scopes", *_LISTS) if field in given}
    table = {"name": name, "sha256": hash_key(key), "created": now, **given, **lists}
    save_keys(path, [*entries, _entry(table, "the new key")])
    return key


def disable_key(path: Path, name: str, *, is_disabled: bool) -> KeyEntry:
    """Have a key not be valid for now, or valid again. Raises NotFound naming those that exist."""
    entries = load_keys(path)
    changed = [replace(entry, is_disabled=is_disabled) if entry.name == name else entry for entry in entries]
    found = next((entry for entry in changed if entry.name == name), None)
    if found is None:
        raise _no_key(path, name, entries)
    save_keys(path, changed)
    return found


def remove_key(path: Path, name: str) -> None:
    """Take a key back. Raises NotFound naming those that exist."""
    entries = load_keys(path)
    kept = [entry for entry in entries if entry.name != name]
    if len(kept) == len(entries):
        raise _no_key(path, name, entries)
    save_keys(path, kept)


def _no_key(path: Path, name: str, entries: list[KeyEntry]) -> NotFound:
    known = ", ".join(entry.name for entry in entries[:50]) or "none"
    more = ", ..." if len(entries) > 50 else ""
    return NotFound(f"There is no key called {name} in {path}; existing: {known}{more}.")


def _block(entry: KeyEntry) -> str:
    lines = [
        f'name = "{entry.name}"',
        f'tenant = "{entry.tenant}"',
        f"scopes = {_texts(entry.scopes)}",
        f'sha256 = "{entry.sha256}"',
        f"created = {_moment(entry.created)}",
        f"priority = {entry.priority}",
        f"share = {entry.share!r}",
    ]
    if entry.user is not None:
        lines.append(f"user = {jsonlib.dumps(entry.user, ensure_ascii=False)}")
    lines += [f"{name} = {_texts(getattr(entry, name))}" for name in _LISTS if getattr(entry, name)]
    if entry.expires is not None:
        lines.append(f"expires = {_moment(entry.expires)}")
    if entry.is_disabled:
        lines.append("is_disabled = true")
    return "\n[[key]]\n" + "\n".join(lines) + "\n"


def _texts(values: Iterable[str]) -> str:
    ordered = values if isinstance(values, tuple) else sorted(values)
    # A basic string of TOML is one of JSON, but for what no value of ours holds.
    return "[" + ", ".join(jsonlib.dumps(value, ensure_ascii=False) for value in ordered) + "]"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


# Ten thousand keys are a second's work for a parser that knows all of TOML; files as we write them need not have it.
_LINE = re.compile(
    r'([a-z0-9_]+) = (?:"([^"\\\n\x00-\x1f]*)"|(\[(?:"[^"\\\n\x00-\x1f]*"(?:, )?)*\])|(true|false)|(-?\d{1,9})'
    r"|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)|(\d+\.\d+))"
)


def _own_tables(text: str) -> dict[str, Any] | None:
    """The document, if it is written just as we write it; None if it takes more to read it."""
    tables: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line == "[[key]]":
            tables.append({})
        elif line and line[0] != "#":
            found = _LINE.fullmatch(line)
            if found is None or not tables or found[1] in tables[-1]:
                return None
            tables[-1][found[1]] = _value(found)
    return {"key": tables} if tables else None


def _value(found: re.Match[str]) -> Any:
    text, texts, is_true, whole, moment, number = found.groups()[1:]
    if text is not None:
        return text
    if texts is not None:
        return jsonlib.loads(texts)
    if is_true is not None:
        return is_true == "true"
    if whole is not None:
        return int(whole)
    return datetime.fromisoformat(moment) if moment is not None else float(number)


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
        user=_user(table, where),
        tags=tuple(dict.fromkeys(_list(table, "tags", where))),
        labels=frozenset(_list(table, "labels", where)),
        routes=frozenset(_list(table, "routes", where)),
        expires=_expiry(table, where),
        is_disabled=_flag(table, where),
    )


def _user(table: dict[str, Any], where: str) -> str | None:
    user = table.get("user")
    if user is not None and not (isinstance(user, str) and 0 < len(user) <= _MAX_USER_CHARS and user.isprintable()):
        raise InvalidRequest(
            f"user: {str(user)[:200]!r} ({where}) must be 1 to {_MAX_USER_CHARS} printable characters.", param="user"
        )
    return user


def _list(table: dict[str, Any], field: str, where: str) -> list[str]:
    found: list[str] = table.get(field, [])
    longest = _LISTS[field]
    is_right = isinstance(found, list) and len(found) <= _MAX_LISTED
    if not is_right or not all(isinstance(one, str) and 0 < len(one) <= longest and one.isprintable() for one in found):
        raise InvalidRequest(
            f"{field}: {str(found)[:200]} ({where}) must be a list of at most {_MAX_LISTED} texts of 1 to {longest} "
            "printable characters.",
            param=field,
        )
    return found


def _expiry(table: dict[str, Any], where: str) -> datetime | None:
    expires = table.get("expires")
    if expires is not None and not (isinstance(expires, datetime) and expires.tzinfo is not None):
        raise InvalidRequest(
            f"expires: {expires!r} ({where}) must be a date and time with a zone, as 2027-01-31T00:00:00Z.",
            param="expires",
        )
    return expires


def _flag(table: dict[str, Any], where: str) -> bool:
    is_disabled = table.get("is_disabled", False)
    if not isinstance(is_disabled, bool):
        raise InvalidRequest(f"is_disabled: {is_disabled!r} ({where}) is neither true nor false.", param="is_disabled")
    return is_disabled
