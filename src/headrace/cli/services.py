"""Joins what a server has beside its engine: the memory on disk and the services that act on it.

Knows every constructor and decides nothing. Services end before the engine that they ask, and the memory ends last.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from headrace.cli.config import Settings
from headrace.engine.text import TextEngine
from headrace.memory.completions import CompletionStore
from headrace.memory.store import Store
from headrace.models.store import open_home
from headrace.server.services import Services


@asynccontextmanager
async def open_services(settings: Settings, engine: TextEngine) -> AsyncIterator[Services]:
    """The services of a server around a started engine. Raises HeadraceError if the state database cannot be used."""
    async with AsyncExitStack() as stack:
        store = Store(open_home(settings.home).database)
        await store.open()
        stack.push_async_callback(store.close)
        yield Services(
            adapters=engine.adapters,
            residents=engine.residents,
            completions=CompletionStore(store),
        )
