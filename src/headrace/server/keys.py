"""Who may call: API keys, known only by their SHA-256, each with a tenant, scopes, a priority and a share.

A fast hash is right here because keys are 256 random bits: there is nothing to guess. `reload` (SIGHUP) swaps the whole
ring or, when the new entries cannot be read, keeps the old one. Knows no file format (`cli` reads and writes the keys
file) and no HTTP.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from headrace.core.errors import InvalidRequest, Unauthenticated
from headrace.core.request import Principal

SCOPES = ("generate", "metrics", "admin")
# A longer text is no key of ours and is not worth hashing.
MAX_KEY_CHARS = 256


class KeyEntry(Protocol):
    """One issued key, without the key; `sha256` is lower-case hexadecimal."""

    @property
    def name(self) -> str:
        """What logs call the key."""
        ...

    @property
    def tenant(self) -> str:
        """The isolation boundary that the key's holder lives in."""
        ...

    @property
    def scopes(self) -> frozenset[str]:
        """Some of SCOPES."""
        ...

    @property
    def priority(self) -> int:
        """The most urgent that its holder's requests may be; larger goes first."""
        ...

    @property
    def share(self) -> float:
        """The tenant's weight beside others of the same priority; above 0."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of the key's text."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that showed a valid key, or the local user of a server without keys (`key` is then None)."""

    principal: Principal
    key: str | None = None


# On loopback without keys everybody is the machine's user, who owns the process anyway.
LOCAL = Identity(Principal(tenant="local", scopes=frozenset(SCOPES)))


class KeyRing:
    """The keys in force."""

    def __init__(self, load: Callable[[], Iterable[KeyEntry]]) -> None:
        """Take the entries that `load` gives now. Raises what `load` raises, and InvalidRequest when there are none."""
        self._load = load
        self._identities = _index(load())

    def __len__(self) -> int:
        return len(self._identities)

    def reload(self) -> None:
        """Take the entries that `load` gives now; when that fails the keys in force stay, and the error comes out."""
        self._identities = _index(self._load())

    def authenticate(self, key: str | None) -> Identity:
        """Who shows this key. Raises Unauthenticated, in the same words for every wrong key."""
        if key is None:
            raise Unauthenticated("no API key given; send it as 'Authorization: Bearer hr_...'.")
        digest = hashlib.sha256(key[: MAX_KEY_CHARS + 1].encode("utf-8", "surrogateescape")).hexdigest()
        # The lookup compares digests, of which a caller cannot choose a prefix; compare_digest is for the last one.
        found, identity = self._identities.get(digest, ("", LOCAL))
        if not hmac.compare_digest(found, digest):
            raise Unauthenticated("the API key is not valid; check it, or ask whoever runs this server for one.")
        return identity


def _index(entries: Iterable[KeyEntry]) -> dict[str, tuple[str, Identity]]:
    found = {entry.sha256: (entry.sha256, Identity(_principal(entry), entry.name)) for entry in entries}
    if not found:
        raise InvalidRequest("keys: there is no key, so nobody could call; issue one, or serve without a keys file.")
    return found


def _principal(entry: KeyEntry) -> Principal:
    return Principal(tenant=entry.tenant, scopes=entry.scopes, priority=entry.priority, share=entry.share)
