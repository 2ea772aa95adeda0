"""Asks backends whether they are well, each at its own pace, and tells the standings. Knows no requests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from headrace.core.errors import HeadraceError
from headrace.gateway.contract import Upstream
from headrace.gateway.settings import BackendSettings, Health
from headrace.gateway.standing import StandingBook


class HealthChecks:
    """One task for each backend that is to be checked. `on_change` is told the name of a backend that changed."""

    def __init__(
        self,
        standings: StandingBook,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._standings = standings
        self._sleep = sleep
        self._on_change = on_change
        self._tasks: dict[str, tuple[Health, Upstream, asyncio.Task[None]]] = {}

    async def replace(self, backends: Mapping[str, BackendSettings], upstreams: Mapping[str, Upstream]) -> None:
        """Check these from now on. A backend that stays what it was is checked on at its pace."""
        wanted = {
            name: (settings.health, upstreams[name])
            for name, settings in backends.items()
            if settings.health.path is not None and name in upstreams
        }
        gone = {
            name: task
            for name, (health, upstream, task) in self._tasks.items()
            if (known := wanted.get(name)) is None or known[0] != health or known[1] is not upstream
        }
        for name in gone:
            del self._tasks[name]
        await _end(gone.values())
        for name, (health, upstream) in wanted.items():
            if name not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._check(name, health, upstream))
                self._tasks[name] = (health, upstream, task)

    async def close(self) -> None:
        """No more checks."""
        await self.replace({}, {})

    async def _check(self, name: str, health: Health, upstream: Upstream) -> None:
        while True:
            error: HeadraceError | None = None
            try:
                await upstream.check()
            except HeadraceError as raised:
                error = raised
            if self._standings.note_check(name, error) and self._on_change is not None:
                self._on_change(name)
            await self._sleep(health.every_s)


async def _end(tasks: "Iterable[asyncio.Task[None]]") -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
