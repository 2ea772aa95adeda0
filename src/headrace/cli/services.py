"""Joins what a server has beside its gateway: the memory on disk and the services that act on it.

Knows every constructor and decides nothing. Services end before the gateway that they ask, and the memory ends last.
"""

import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from secrets import token_bytes, token_hex
from typing import Any, Protocol

from headrace.api.batch_dialects import DIALECTS
from headrace.api.batch_lines import LINE_CODECS
from headrace.cli.config import Settings
from headrace.cli.console import KeptSeal
from headrace.core.backend import Backend
from headrace.core.clock import SystemClock
from headrace.core.model_library import Library
from headrace.core.request import Principal, Request
from headrace.core.service import Adapters, Residents, Tokens
from headrace.core.tracing import Tracer
from headrace.core.trust import Label
from headrace.core.watching import LiveEngine
from headrace.gateway.actions import ActionKeeper, ActionLog
from headrace.gateway.actions import Surroundings as ActionGround
from headrace.gateway.batch_responses import ENDPOINT as RESPONSES
from headrace.gateway.batch_responses import ResponseLines
from headrace.gateway.batch_runner import BatchRunner, Surroundings, Turn
from headrace.gateway.batches import BatchLimits, BatchService
from headrace.gateway.caches import CacheService
from headrace.gateway.conversation import Responses
from headrace.gateway.conversation_items import Conversations
from headrace.gateway.foreground import Foreground
from headrace.gateway.room import Room
from headrace.memory.completions import CompletionStore
from headrace.memory.files import FileLimits, FileStore
from headrace.memory.store import Store
from headrace.models.store import Layout
from headrace.observe.metrics import Metrics
from headrace.server.services import Services


@dataclass(frozen=True, slots=True)
class Base:
    """What services stand on. `gateway` is asked, under its policies; `foreground` says whether anybody waits for the
    engine; `still_may` and `tracer` see `gateway.batch_runner`, `label_of` see `gateway.conversation`; `action_log` is
    who commits to what administrators do."""

    layout: Layout
    store: Store
    gateway: Backend
    foreground: Foreground
    metrics: Metrics
    still_may: Callable[[Principal], None] = lambda _: None
    label_of: Callable[[Request], Label | None] = lambda _: None
    action_log: ActionLog | None = None
    tracer: Tracer | None = None


class EngineServices(Protocol):
    """What an engine serves beside answers."""

    @property
    def adapters(self) -> Adapters | None:
        """See `core.service`."""
        ...

    @property
    def residents(self) -> Residents | None:
        """See `core.service`."""
        ...

    @property
    def tokens(self) -> Tokens:
        """See `core.service`."""
        ...

    def look(self, *, is_whole: bool = True) -> Coroutine[Any, Any, LiveEngine]:
        """See `core.watching`."""
        ...


@asynccontextmanager
async def open_store(layout: Layout) -> AsyncIterator[Store]:
    """The state database. Raises HeadraceError if it cannot be used."""
    store = Store(layout.database)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _open_actions(settings: Settings, base: Base) -> AsyncIterator[ActionKeeper]:
    """Who remembers what administrators do."""
    around = ActionGround(clock=SystemClock(), new_id=partial(token_hex, 12), random=token_bytes)
    keeper = ActionKeeper(base.store, settings.trust.actions, around, base.action_log)
    keeper.open()
    try:
        yield keeper
    finally:
        await keeper.close()


@asynccontextmanager
async def open_services(settings: Settings, base: Base, engine: EngineServices | None) -> AsyncIterator[Services]:
    """The services of a server. `engine` None: this process has none.

    Raises HeadraceError if the state database or the files cannot be used.
    """
    async with AsyncExitStack() as stack:
        store, gateway, layout = base.store, base.gateway, base.layout
        clock, quota, new_id = SystemClock(), settings.responses_bytes, partial(token_hex, 12)
        room = Room(store, clock, quota)
        responses = Responses(gateway, store, clock, days=settings.responses_days, room=room, label_of=base.label_of)
        await responses.open(is_running)
        stack.push_async_callback(responses.close)
        limits = FileLimits(max_file_bytes=settings.file_bytes, max_tenant_bytes=settings.file_quota)
        files = FileStore(store, layout.files, clock, new_id, limits)
        await files.open()
        stack.push_async_callback(files.close)
        batches = BatchService(store, files, clock, new_id, BatchLimits(max_running=settings.batch_lines))
        around = Surroundings(
            backend=gateway,
            foreground=base.foreground,
            clock=clock,
            new_id=new_id,
            dialects=DIALECTS,
            codecs=LINE_CODECS,
            prices=settings.prices,
            metrics=base.metrics,
            services={RESPONSES: ResponseLines(Responses(gateway, store, clock, room=room, label_of=base.label_of))},
            still_may=base.still_may,
            tracer=base.tracer,
        )
        runner = BatchRunner(batches, store, files, around, Turn(layout.batches_lock))
        runner.start()
        stack.push_async_callback(runner.close)
        yield Services(
            actions=await stack.enter_async_context(_open_actions(settings, base)),
            adapters=None if engine is None else engine.adapters,
            residents=None if engine is None else engine.residents,
            tokens=None if engine is None else engine.tokens,
            completions=CompletionStore(store, quota),
            responses=responses,
            conversations=Conversations(store, clock, room=room),
            files=files,
            batches=batches,
            caches=None if engine is None else CacheService(store, gateway, engine.tokens, clock, new_id),
            model_library=None if engine is None else _library(settings),
            session_seal=KeptSeal(layout.session_key),
            watching=engine,
        )


def _library(settings: Settings) -> Library:
    # Imported here because a server without an engine reads no model's files.
    from headrace.cli.model_library import ServedLibrary
    from headrace.cli.served_models import served_paths

    return ServedLibrary(served_paths(settings), settings.home)


def is_running(process: int) -> bool:
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
