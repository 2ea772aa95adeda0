"""Books of actions over a database of the test's own, with or without a log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.doubles_gateway import HandClock
from tests.log_in_memory import MemoryLog

from headrace.core.actions import ActionQuery, Actor, AdminAction, Begun
from headrace.gateway.actions import ActionKeeper, ActionLog, Surroundings
from headrace.memory.store import Store
from headrace.trust.records.settings import ActionSettings

ROOT = Actor(tenant="ops", subject="key:root", key="root")


def begun(name: str = "POST /v1/x", target: str = "", actor: Actor = ROOT, **asked: object) -> Begun:
    return Begun(actor=actor, name=name, target=target, asked=asked, request_id="req_1")


@asynccontextmanager
async def book(
    path: Path,
    log: MemoryLog | None = None,
    *,
    is_strict: bool = False,
    clock: HandClock | None = None,
    start: int = 0,
    limits: ActionSettings | None = None,
) -> AsyncIterator[tuple[ActionKeeper, Store]]:
    store = Store(path / "state.db")
    await store.open()
    ids = iter(range(start, 10**9))
    around = Surroundings(clock=clock or HandClock(), new_id=lambda: f"{next(ids):04d}", random=lambda n: b"n" * n)
    to = None if log is None else ActionLog(log, log.merged, is_strict)
    keeper = ActionKeeper(store, limits or ActionSettings(), around, to)
    keeper.open()
    try:
        yield keeper, store
    finally:
        await keeper.close()
        await store.close()


async def until_logged(keeper: ActionKeeper, num: int) -> list[AdminAction]:
    async with asyncio.timeout(20):
        while True:
            found = (await keeper.actions(ActionQuery())).actions
            if sum((one.begun_index is not None) + (one.ended_index is not None) for one in found) == num:
                return list(found)
            await asyncio.sleep(0)
