"""Joins what a server has beside its engine: the memory on disk and the services that act on it.

Knows every constructor and decides nothing. Services end before the engine that they ask, and the memory ends last.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from headrace.cli.config import Settings
from headrace.core.clock import SystemClock
from headrace.engine.text import TextEngine
from headrace.gateway.conversation import Responses
from headrace.gateway.conversation_items import Conversations
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
        clock, quota = SystemClock(), settings.responses_bytes
        responses = Responses(engine, store, clock, days=settings.responses_days, quota=quota)
        await responses.open(_is_running)
        stack.push_async_callback(responses.close)
        yield Services(
            adapters=engine.adapters,
            residents=engine.residents,
            tokens=engine.tokens,
            completions=CompletionStore(store, quota),
            responses=responses,
            conversations=Conversations(store, clock, quota=quota),
        )


def _is_running(process: int) -> bool:
    """Whether another process is there, which may be a server on the same state directory."""
    if process == os.getpid():
        return False  # a number that is used again: no response of ours is old
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
