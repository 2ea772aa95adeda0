"""The store: what a call changes is all there or not at all, and errors come out as sentences."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from headrace.core.errors import InvalidRequest, Unavailable
from headrace.memory.store import Store


def _add(connection: sqlite3.Connection, name: str, *, fails: bool = False) -> int:
    connection.execute("INSERT INTO models VALUES (?, '/m', 'ab', 1, 'test', 0.0)", (name,))
    if fails:
        raise InvalidRequest("name: is not liked.", param="name")
    return _count(connection)


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM models").fetchone()[0])


def _fill(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count = 1")
    for index in range(1000):
        _add(connection, f"model-{index}" * 100)


def test_what_a_call_changes_is_all_there_or_not_at_all(tmp_path: Path) -> None:
    async def talk() -> None:
        store = Store(tmp_path / "state.db")
        await store.open()
        assert await store.call(_add, "one") == 1
        with pytest.raises(InvalidRequest, match="not liked"):
            await store.call(_add, "two", fails=True)
        assert await store.call(_count) == 1
        with pytest.raises(Unavailable, match="disk is full"):
            await store.call(_fill)
        assert await store.call(_count) == 1
        await store.close()
        with pytest.raises(Unavailable):
            await store.call(_count)

    asyncio.run(talk())


def test_calls_of_many_tasks_follow_one_another(tmp_path: Path) -> None:
    async def talk() -> None:
        store = Store(tmp_path / "state.db")
        await store.open()
        counts = await asyncio.gather(*(store.call(_add, f"model-{index}") for index in range(20)))
        assert counts == list(range(1, 21))
        await store.close()

    asyncio.run(talk())


def test_a_caller_that_leaves_does_not_undo_what_it_asked_for(tmp_path: Path) -> None:
    async def talk() -> None:
        store = Store(tmp_path / "state.db")
        await store.open()
        asked = asyncio.ensure_future(store.call(_add, "one"))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await store.call(_count) == 1
        await store.close()

    asyncio.run(talk())
