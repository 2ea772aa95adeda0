"""A database for a server: one thread with one connection, which everything that is remembered goes through.

What is remembered is the affair of the files beside this one: each has functions over a connection, and `Store.call`
runs one of them in a transaction of its own. SQLite's errors come out as sentences, a full disk as Unavailable, and
what a transaction that failed had changed is undone. Knows no tables.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from headrace.core.errors import Unavailable
from headrace.memory.database import Database
from headrace.memory.schema import MIGRATIONS

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class Store:
    """An open database, the state database if no other `migrations` are given. `open` it before the first call and
    `close` it at the end."""

    def __init__(self, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
        self._path = path
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(1, "headrace-store")
        self._database: Database | None = None

    async def open(self) -> None:
        """Open the database. Raises HeadraceError if it cannot be used."""
        self._database = await asyncio.get_running_loop().run_in_executor(
            self._thread, Database, self._path, self._migrations
        )

    async def close(self) -> None:
        """Wait for what was asked before, then close the database; later calls are refused."""
        database, self._database = self._database, None
        if database is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, database.close)
        self._thread.shutdown()

    async def call(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        """What `function(connection, *given)` returns, run in one transaction on the store's thread.

        A caller that is cancelled while it waits does not undo it. Raises what the function raises, and Unavailable.
        """
        database = self._opened()
        return await self._run(lambda: database.transact(function, *given, **named))

    async def call_durably(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        """The same as `call`; when it returns, this and every call before it survive a loss of power."""
        database = self._opened()
        return await self._run(lambda: database.transact_durably(function, *given, **named))

    async def read(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        """What `function(connection, *given)` returns, which changes nothing; no writer is waited for."""
        database = self._opened()
        return await self._run(lambda: database.read(function, *given, **named))

    async def empty_log(self) -> None:
        """Move what was changed into the database's file and cut its log, in which erased text would linger."""
        database = self._opened()
        await self._run(database.empty_log)

    def _opened(self) -> Database:
        if self._database is None:
            raise Unavailable("The server's memory is not open; try again in a moment.", retry_after_s=1.0)
        return self._database

    async def _run(self, work: Callable[[], _Made]) -> _Made:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
