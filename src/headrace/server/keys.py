"""Who may call: API keys, known only by their SHA-256, each with what its requests are under: tenant, scopes, priority
and share, user, tags, labels, and the models that they may name. A key may end on a date, or be disabled.

A fast hash is right here because keys are 256 random bits: there is nothing to guess. `reload` (SIGHUP) swaps the whole
ring or, when the new entries cannot be read, keeps the old one. Knows no file format (`cli` reads and writes the keys
file) and no HTTP.
"""

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, Protocol

from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import InvalidRequest, Unauthenticated
from headrace.core.identity import Identity
from headrace.core.request import SCOPES, Principal

SYSTEM_CLOCK: Final = SystemClock()
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

    @property
    def user(self) -> str | None:
        """Whom of the tenant its requests are for."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """What its spending is counted under beside."""
        ...

    @property
    def labels(self) -> frozenset[str]:
        """What every one of its requests holds."""
        ...

    @property
    def routes(self) -> frozenset[str]:
        """Names of models that it may ask for; empty: any."""
        ...

    @property
    def expires(self) -> datetime | None:
        """From when on it is none; None: never."""
        ...

    @property
    def is_disabled(self) -> bool:
        """Whether it is none for now."""
        ...


# On loopback without keys everybody is the machine's user, who owns the process anyway.
LOCAL = Identity(Principal(tenant="local", scopes=frozenset(SCOPES), subject="local"))


class KeyRing:
    """The keys in force."""

    def __init__(self, load: Callable[[], Iterable[KeyEntry]], clock: Clock = SYSTEM_CLOCK) -> None:
        """Take the entries that `load` gives now. Raises what `load` raises, and InvalidRequest when there are none."""
        self._load = load
        self._clock = clock
        self._identities = _index(load())

    def __len__(self) -> int:
        return len(self._identities)

    @property
    def tenants(self) -> frozenset[str]:
        """Those that have a key."""
        return frozenset(identity.principal.tenant for _, identity in self._identities.values())

    def reload(self) -> None:
        """Take the entries that `load` gives now; when that fails the keys in force stay, and the error comes out."""
        self._identities = _index(self._load())

    def differing(self, other: "KeyRing") -> frozenset[str]:
        """Names of the keys that only one of both has in force, or that may do other things in one."""
        ours, theirs = self._identities, other._identities
        digests = [one for one in ours.keys() | theirs.keys() if ours.get(one) != theirs.get(one)]
        found = (ring[one][1].key for ring in (ours, theirs) for one in digests if one in ring)
        return frozenset(name for name in found if name is not None)

    def named(self, name: str) -> Principal | None:
        """What a key may do now, by its name; None if there is none of that name that is valid."""
        for _, identity in self._identities.values():
            if identity.key == name:
                return None if self._clock.unix_s() >= identity.expires_s else identity.principal
        return None

    def authenticate(self, key: str | None) -> Identity:
        """Who shows this key. Raises Unauthenticated, in the same words for every wrong key."""
        if key is None:
            raise Unauthenticated("no API key given; send it as 'Authorization: Bearer hr_...'.")
        return self.recall(digest_of(key))

    def recall(self, digest: str) -> Identity:
        """Whose key has this digest. Raises Unauthenticated as `authenticate`."""
        # The lookup compares digests, of which a caller cannot choose a prefix; compare_digest is for the last one.
        found, identity = self._identities.get(digest, ("", LOCAL))
        is_over = identity.expires_s < math.inf and self._clock.unix_s() >= identity.expires_s
        if not hmac.compare_digest(found, digest) or is_over:
            raise Unauthenticated("the API key is not valid; check it, or ask whoever runs this server for one.")
        return identity


def digest_of(key: str) -> str:
    """By what a key is known."""
    return hashlib.sha256(key[: MAX_KEY_CHARS + 1].encode("utf-8", "surrogateescape")).hexdigest()


def _index(entries: Iterable[KeyEntry]) -> dict[str, tuple[str, Identity]]:
    listed = list(entries)
    if not listed:
        raise InvalidRequest("keys: there is no key, so nobody could call; issue one, or serve without a keys file.")
    return {entry.sha256: (entry.sha256, _identity(entry)) for entry in listed if not entry.is_disabled}


def _identity(entry: KeyEntry) -> Identity:
    principal = Principal(
        tenant=entry.tenant,
        key=entry.name,
        user=entry.user,
        scopes=entry.scopes,
        priority=entry.priority,
        share=entry.share,
        tags=entry.tags,
        labels=entry.labels,
        routes=entry.routes,
        subject=f"key:{entry.name}",
    )
    return Identity(principal, entry.name, math.inf if entry.expires is None else entry.expires.timestamp())
