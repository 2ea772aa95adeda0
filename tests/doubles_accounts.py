"""Accounts over a real folder, a clock that is set by hand, and ways for their process and its machine to end."""

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.core.request import Principal, Task
from headrace.core.shape import Shape
from headrace.core.usage import UsageRecord
from headrace.gateway.accounts.accounts import Accounts, Held, Rhythm, Surroundings
from headrace.gateway.settings import BudgetSettings, LimitSettings, Subject, Window
from headrace.memory.store import Store

THURSDAY_S = 1_795_694_400.0  # 2026-11-26T12:00:00Z
LOCAL = Principal()
NEVER_BY_ITSELF = Rhythm(tick_s=1e6, usage_days=36_500)


class SetClock:
    """Both readings, moved by hand."""

    def __init__(self, unix_s: float = THURSDAY_S) -> None:
        self.now_s, self.passed_s = unix_s, 1000.0

    def monotonic_s(self) -> float:
        return self.passed_s

    def unix_s(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.passed_s += seconds


class Machine:
    """A state directory and the process that keeps accounts in it: it can be started, ended well, killed, and lose its
    power, which undoes what was not synced."""

    def __init__(self, folder: Path) -> None:
        self.home, self._synced = folder / "home", folder / "synced"
        self.home.mkdir()
        self.clock = SetClock()
        self.num_boots = 1
        self.store: Store
        self.accounts: Accounts
        self._copy_synced()

    async def start(
        self,
        budgets: Sequence[BudgetSettings] = (),
        limits: Sequence[LimitSettings] = (),
        *,
        write: Callable[[int, bytes], int] = os.write,
        rhythm: Rhythm = NEVER_BY_ITSELF,
    ) -> Accounts:
        self.store = _SyncedStore(self.home / "headrace.db", self._copy_synced)
        await self.store.open()
        around = Surroundings(self.store, self.home / "ledger", self.clock, f"boot-{self.num_boots}", write)
        self.accounts = Accounts(around, budgets, limits, rhythm)
        await self.accounts.open()
        return self.accounts

    async def end(self) -> None:
        await self.accounts.close()
        await self.store.close()

    async def kill(self) -> None:
        """What the operating system does: descriptors are closed, and nothing of the process runs any more."""
        accounts = self.accounts
        assert accounts._drainer is not None
        assert accounts._journal is not None
        accounts._drainer.cancel()
        with contextlib.suppress(BaseException):
            await accounts._drainer
        accounts._journal.close()
        accounts._journal = None
        accounts._claim.close()
        await self.store.close()

    async def lose_power(self, *, loses_journal: bool = True) -> None:
        """The files are as they were when something was last synced; of the journal more may be there."""
        await self.kill()
        kept = self.home.with_name("kept")
        shutil.copytree(self.home / "ledger", kept)
        shutil.rmtree(self.home)
        shutil.copytree(self._synced, self.home)
        if loses_journal:
            shutil.rmtree(self.home / "ledger", ignore_errors=True)
            shutil.rmtree(kept)
        else:
            shutil.rmtree(self.home / "ledger", ignore_errors=True)
            kept.rename(self.home / "ledger")
        self.num_boots += 1

    def _copy_synced(self) -> None:
        shutil.rmtree(self._synced, ignore_errors=True)
        shutil.copytree(self.home, self._synced)

    async def sums(self) -> dict[tuple[str, str, int], tuple[int, int]]:
        """What the store says was spent in each period."""
        rows = await self.store.call(
            lambda connection: connection.execute(
                "SELECT subject, window, start_s, nanos, tokens FROM budget_periods"
            ).fetchall()
        )
        return {(subject, window, start_s): (nanos, tokens) for subject, window, start_s, nanos, tokens in rows}

    async def records(self) -> list[tuple[str, str, int, int]]:
        """Request, outcome, billionths and tokens of each record."""
        return await self.store.call(
            lambda connection: connection.execute(
                "SELECT request_id, outcome, cost_nanos, prompt_tokens + completion_tokens FROM usage_records "
                "ORDER BY number"
            ).fetchall()
        )


class _SyncedStore(Store):
    def __init__(self, path: Path, synced: Callable[[], None]) -> None:
        super().__init__(path)
        self._synced = synced

    async def call_durably(self, function, *given, **named):  # type: ignore[no-untyped-def, override]
        made = await super().call_durably(function, *given, **named)
        self._synced()
        return made


def budget(
    name: str, subject: str, window: Window = Window.DAY, money: float | None = None, tokens: int | None = None
) -> BudgetSettings:
    kind, _, of = subject.partition(":")
    return BudgetSettings(name=name, subject=Subject(kind, of), window=window, money=money, tokens=tokens)


def limit(name: str, subject: str, **given: int) -> LimitSettings:
    kind, _, of = subject.partition(":")
    return LimitSettings(name=name, subject=Subject(kind, of), **given)


def shape(request_id: str = "r", principal: Principal = LOCAL, **given: object) -> Shape:
    basics = {"id": request_id, "model": "m", "task": Task.GENERATE, "principal": principal, "num_bytes": 10}
    return Shape(**basics | given)  # type: ignore[arg-type]


def record_of(held: Held, nanos: int = 0, tokens: int = 0, request_id: str = "r", **given: object) -> UsageRecord:
    at_s = held.owner._clock.unix_s()
    return UsageRecord(
        **{"request_id": request_id, "started_s": at_s, "tenant": "local", "prompt_tokens": tokens, "cost_nanos": nanos}
        | given  # type: ignore[arg-type]
    )
