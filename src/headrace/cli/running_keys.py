"""The keys of a running server, changed by its own routes: `core.accounts.KeyBook` over the keys file.

A change is written to the file and in force when the call returns. Keys of the settings file are changed there. Knows
no wire format.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from headrace.cli.key_source import KeySource
from headrace.cli.keys import KeyEntry, add_key, disable_key, remove_key
from headrace.cli.keys import KeyRights as NewRights
from headrace.core.accounts import IssuedKey, KeyRights
from headrace.core.errors import Conflict, NotFound
from headrace.models.store import Layout
from headrace.server.keys import KeyRing

_Made = TypeVar("_Made")


class RunningKeys:
    """See `core.accounts.KeyBook`. `ring` is None for a server that lets everybody in."""

    def __init__(self, source: KeySource, ring: KeyRing | None) -> None:
        self._source = source
        self._ring = ring
        self._lock = asyncio.Lock()

    async def list_keys(self) -> tuple[IssuedKey, ...]:
        """See `core.accounts.KeyBook`."""
        if self._ring is None:
            return ()
        fixed = self._fixed()
        entries = await asyncio.to_thread(self._source.load)
        return tuple(_issued(entry, is_fixed=entry.name in fixed) for entry in entries)

    async def add_key(self, name: str, rights: KeyRights) -> tuple[IssuedKey, str]:
        """See `core.accounts.KeyBook`."""
        if self._ring is None:
            raise Conflict(
                "name: this server began without keys and lets everybody in; issue the first with `headrace keys add` "
                "and start it again.",
                param="name",
            )
        self._check_changeable(name)
        new = NewRights(
            tenant=rights.tenant,
            scopes=tuple(sorted(rights.scopes)),
            priority=rights.priority,
            share=rights.share,
            user=rights.user,
            tags=rights.tags,
            labels=rights.labels,
            routes=rights.routes,
            expires=None if rights.expires_s is None else datetime.fromtimestamp(rights.expires_s, UTC),
        )
        now = datetime.now(UTC)
        text = await self._change(lambda path: add_key(path, name, new, now))
        return IssuedKey(name=name, rights=rights, created_s=now.timestamp()), text

    async def set_disabled(self, name: str, *, is_disabled: bool) -> IssuedKey:
        """See `core.accounts.KeyBook`."""
        self._check_changeable(name)
        return _issued(
            await self._change(lambda path: disable_key(path, name, is_disabled=is_disabled)), is_fixed=False
        )

    async def remove_key(self, name: str) -> None:
        """See `core.accounts.KeyBook`."""
        self._check_changeable(name)
        entries = await asyncio.to_thread(self._source.load) if self._ring is not None else []
        if [entry.name for entry in entries] == [name]:
            raise Conflict(f"name: {name!r} is the last key, and nobody could call without it; issue another first.")
        await self._change(lambda path: remove_key(path, name))

    async def _change(self, change: Callable[[Path], _Made]) -> _Made:
        settings = self._source.settings
        path = settings.keys or Layout(settings.home).keys
        if self._ring is None:
            raise NotFound("name: this server began without keys, and has none to change.", param="name")
        async with self._lock:
            made = await asyncio.to_thread(change, path)
            self._ring.reload()
        return made

    def _fixed(self) -> set[str]:
        return {one.name for one in self._source.settings.issued}

    def _check_changeable(self, name: str) -> None:
        if name in self._fixed():
            raise Conflict(
                f"name: the key {name[:100]!r} is of the settings file; change it there and reload.",
                param="name",
                code="fixed",
            )


def _issued(entry: KeyEntry, *, is_fixed: bool) -> IssuedKey:
    return IssuedKey(
        name=entry.name,
        rights=KeyRights(
            tenant=entry.tenant,
            scopes=entry.scopes,
            priority=entry.priority,
            share=entry.share,
            user=entry.user,
            tags=entry.tags,
            labels=entry.labels,
            routes=entry.routes,
            expires_s=None if entry.expires is None else entry.expires.timestamp(),
        ),
        created_s=entry.created.timestamp(),
        is_disabled=entry.is_disabled,
        is_fixed=is_fixed,
    )
