"""A whole gateway before this process's engine, with the monitor of theft or without it, for those who attack it.

Knows no attack.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import headrace
from headrace.cli.gateway import Ground, Wanted, open_gateway
from headrace.cli.services import open_store
from headrace.cli.theft import open_theft
from headrace.core.ledger import NO_PRICES
from headrace.gateway.gate import Gate
from headrace.gateway.oversight.theft import TheftOverseer
from headrace.gateway.settings import GatewaySettings
from headrace.models.store import open_home
from headrace.trust.monitors.theft.settings import TheftSettings


@dataclass(frozen=True, slots=True)
class Guarded:
    """`overseer` None: nobody watches."""

    gate: Gate
    overseer: TheftOverseer | None


@asynccontextmanager
async def guarded(engine: headrace.Engine, folder: Path, settings: TheftSettings | None) -> AsyncIterator[Guarded]:
    """A gateway for as long as the block runs; its state lies in `folder`."""
    async with AsyncExitStack() as stack:
        layout = open_home(folder)
        store = await stack.enter_async_context(open_store(layout))
        overseer = await stack.enter_async_context(open_theft(settings, engine.backend))
        overseers = () if overseer is None else (overseer,)
        ground = Ground(store, layout.accounts, engine.backend, overseers=overseers)
        wanted = Wanted(settings=GatewaySettings(), prices=NO_PRICES, secrets={})
        joined = await stack.enter_async_context(open_gateway(wanted, ground))
        yield Guarded(joined.gate, overseer)
