"""Budgets, limits and usage for the command line: asked of a running server by its routes, or read from the state
directory. Both tell the same documents, those of `api/accounts.py`.

What a server has settled but not written yet, a fifth of a second's worth, only the server knows.
"""

import asyncio
import json as jsonlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from headrace.api.accounts import (
    decode_budget,
    encode_budget,
    encode_budgets,
    encode_deleted,
    encode_records,
    encode_sums,
    read_usage,
)
from headrace.cli.config import Settings, compose
from headrace.cli.recorded import recorded
from headrace.cli.residents import Server
from headrace.core.clock import SystemClock
from headrace.gateway.accounts.ledger import Ledger
from headrace.gateway.accounts.rules import Rules, load_rules
from headrace.gateway.accounts.service import AccountService
from headrace.memory.store import Store
from headrace.models.store import open_home


class Books(Protocol):
    """See the routes under `/v1/accounts`."""

    def budgets(self) -> Any:
        """The list of budgets."""
        ...

    def set_budget(self, rule: Mapping[str, Any]) -> Any:
        """Add or change one."""
        ...

    def remove_budget(self, name: str) -> Any:
        """Take one back."""
        ...

    def usage(self, query: Mapping[str, str]) -> Any:
        """Records or sums."""
        ...


def open_books(url: str | None, key: str | None, flags: Mapping[str, Any], config: Path | None) -> Books:
    """Those of a running server if its address is given, else those in the state directory."""
    if url is not None:
        return RunningBooks(Server(url, key, config, "accounts"))
    return StoredBooks(compose(flags, os.environ, config).settings)


class RunningBooks:
    """Asks a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def budgets(self) -> Any:
        """See `Books`."""
        return self._server.ask("/v1/accounts/budgets")

    def set_budget(self, rule: Mapping[str, Any]) -> Any:
        """See `Books`."""
        return self._server.ask("/v1/accounts/budgets", rule)

    def remove_budget(self, name: str) -> Any:
        """See `Books`."""
        return self._server.ask(f"/v1/accounts/budgets/{quote(name, safe='')}", method="DELETE")

    def usage(self, query: Mapping[str, str]) -> Any:
        """See `Books`."""
        return self._server.ask(f"/v1/accounts/usage?{urlencode(query)}")


class StoredBooks:
    """Reads the state directory, whether a server runs on it or not; a running one takes changes when it reloads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def budgets(self) -> Any:
        """See `Books`."""
        return self._do(lambda service: _made(service.budgets(), encode_budgets))

    def set_budget(self, rule: Mapping[str, Any]) -> Any:
        """See `Books`."""
        wanted = decode_budget(jsonlib.dumps(rule).encode())
        with recorded(self._settings.home, "budgets set", wanted.name, rule):
            return self._do(lambda service: _made(service.set_budget(wanted), encode_budget))

    def remove_budget(self, name: str) -> Any:
        """See `Books`."""
        with recorded(self._settings.home, "budgets remove", name):
            return self._do(
                lambda service: _made(service.remove_budget(name), lambda _: encode_deleted("budget", name))
            )

    def usage(self, query: Mapping[str, str]) -> Any:
        """See `Books`."""
        asked = read_usage({name: [value] for name, value in query.items()})
        by = asked.by
        if by is None:
            return self._do(lambda service: _made(service.records(asked.query), encode_records))
        return self._do(lambda service: _made(service.sums(by, asked.query.which), encode_sums))

    def _do(self, work: Callable[[AccountService], Awaitable[bytes]]) -> Any:
        async def main() -> bytes:
            store = Store(open_home(self._settings.home).database)
            await store.open()
            try:
                kept = _Unkept(self._settings, store)
                await kept.reread()
                return await work(AccountService(kept, store, SystemClock()))
            finally:
                await store.close()

        return jsonlib.loads(asyncio.run(main()))


class _Unkept:
    """Accounts that this process does not keep: what the store says is all that is known."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.fixed = Rules(settings.gateway.budgets, settings.gateway.limits)
        self.rules = self.fixed
        self.ledger = Ledger()
        self._store = store

    def hold_alone(self) -> None:
        """Whoever serves finds out."""

    async def reread(self) -> None:
        """See `gateway.accounts.service.Kept`."""
        self.rules = self.fixed.with_stored(*await self._store.call(load_rules))
        self.ledger = Ledger(self.rules.budgets)

    async def drain(self) -> None:
        """Nothing is settled here."""


async def _made(asked: Awaitable[Any], encode: Callable[[Any], bytes]) -> bytes:
    return encode(await asked)
