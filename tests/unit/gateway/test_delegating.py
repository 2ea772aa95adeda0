"""What was done under delegations is kept soon after it happened, also what ended while something was being kept."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_delegation import KEYS, NOW_S, granted, read
from tests.doubles_gateway import HandClock, in_loop

from headrace.gateway.oversight import delegating
from headrace.gateway.oversight.delegating import DelegationKeeper
from headrace.memory import delegations as rows
from headrace.memory.store import Store
from headrace.trust.delegation.desk import DelegationDesk, Rules


class SlowStore(Store):
    """Waits in its first write until the test says go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, rows.MIGRATIONS)
        self.reached, self.go, self.num_saved = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)

    async def call(self, function: Any, *given: Any, **named: Any) -> Any:
        """As `Store`."""
        if function is rows.save_counts:
            self.reached.set()
            await self.go.wait()
        made = await super().call(function, *given, **named)
        if function is rows.save_counts:
            self.num_saved.release()
        return made


def test_what_ends_while_counts_are_kept_is_kept_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegating, "KEEP_S", 0.0)

    async def main() -> None:
        store = SlowStore(tmp_path / "delegations.db")
        await store.open()
        keeper = DelegationKeeper(store, HandClock())
        budgets, revoked = await keeper.open()
        assert not revoked
        keeper.attach(DelegationDesk(Rules(KEYS, 1e9), lambda _: None, budgets))
        blocks = read(granted(max_calls=5, expires_s=NOW_S * 2)).grant.blocks

        def run_one() -> None:
            held = budgets.begin(blocks, NOW_S)
            assert not isinstance(held, str)
            held.settle(7, is_call=True)
            keeper.note_change()

        run_one()
        await store.reached.wait()
        run_one()
        store.go.set()
        await store.num_saved.acquire()
        await store.num_saved.acquire()
        assert await store.read(rows.read_counts) == {blocks[0].revocation_id: (2, 14, NOW_S * 2)}
        run_one()
        await keeper.close()
        assert await store.read(rows.read_counts) == {blocks[0].revocation_id: (3, 21, NOW_S * 2)}
        await store.close()

    asyncio.run(asyncio.wait_for(main(), 30))


@in_loop
async def test_without_changes_nothing_is_written() -> None:
    class Untouched:
        """A store that nobody may ask."""

    keeper = DelegationKeeper(Untouched(), HandClock())  # type: ignore[arg-type]
    await keeper.close()
