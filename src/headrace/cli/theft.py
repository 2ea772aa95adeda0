"""Joins the monitor of theft: settings -> monitor -> overseer. Knows every constructor and decides nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_bytes
from typing import Final

import numpy as np

from headrace.core.backend import Backend
from headrace.core.errors import Unavailable
from headrace.core.provenance import Notary
from headrace.core.request import Task
from headrace.gateway.oversight.theft import TheftOverseer
from headrace.gateway.oversight.theft_watch import TheftWatch
from headrace.gateway.settings import ENGINE, Target
from headrace.memory.key_files import read_or_make
from headrace.memory.monitor_state import load_state, save_state
from headrace.trust.monitors.theft.monitor import TheftMonitor
from headrace.trust.monitors.theft.settings import Mode, TheftSettings

KEY_FILE: Final = "theft.key"
STATE_FILE: Final = "theft.json"
SAVE_S: Final = 60.0
WATCH_SHARE: Final = 0.1
"""Of the interpreter, which the event loop needs: more, and answers wait for it."""
_WATCHED: Final = ("window_size", "window_false_share", "link_likeness")
_logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_theft(
    settings: TheftSettings | None,
    engine: Backend | None,
    *,
    folder: Path | None = None,
    notary: Notary | None = None,
) -> AsyncIterator[TheftOverseer | None]:
    """The overseer, if there is to be one, for as long as the block runs. What it has counted is kept in `folder`, if
    one is given. Raises Unavailable if that cannot be read."""
    if settings is None or settings.mode is Mode.OFF:
        yield None
        return

    def generates(target: Target) -> bool:
        cards = () if engine is None or target.backend != ENGINE else engine.models()
        return any(Task.GENERATE in card.tasks for card in cards if target.model in (card.id, *card.aliases))

    def new_secret() -> bytes:
        return token_bytes(32)

    secret = new_secret() if folder is None else read_or_make(folder / KEY_FILE, new_secret)
    monitor = TheftMonitor(settings, secret)
    async with AsyncExitStack() as stack:
        if folder is not None:
            await stack.enter_async_context(_kept(monitor, folder / STATE_FILE))
        overseer = TheftOverseer(monitor, generates=generates, notary=notary, watch=_open_watch(settings))
        stack.callback(_close, overseer)
        yield overseer


def prepare_theft(overseer: TheftOverseer, settings: TheftSettings | None) -> Callable[[], None]:
    """What is returned puts other settings in force (None: off). What was counted and flagged stays; windows that are
    half full go where something of how they are compared has changed."""
    wanted = settings or TheftSettings(mode=Mode.OFF)

    def put_in_force() -> None:
        before = overseer.monitor.settings
        overseer.monitor.replace(wanted)
        if [getattr(before, name) for name in _WATCHED] != [getattr(wanted, name) for name in _WATCHED]:
            watched_by = overseer.watch_by(_open_watch(wanted))
            if watched_by is not None:  # what it works on may take a moment
                asyncio.get_running_loop().run_in_executor(None, watched_by.close)

    return put_in_force


def _open_watch(settings: TheftSettings) -> TheftWatch | None:
    if not settings.window_size:
        return None
    watch = TheftWatch(settings, np.random.default_rng(), share=WATCH_SHARE)
    watch.open()
    return watch


def _close(overseer: TheftOverseer) -> None:
    watch = overseer.watch_by(None)
    if watch is not None:
        watch.close()


@asynccontextmanager
async def _kept(monitor: TheftMonitor, path: Path) -> AsyncIterator[None]:
    """Go on from what an earlier process counted, and keep what this one counts: every minute, and at the end."""
    state = load_state(path)
    if state is not None:
        try:
            monitor.restore(state)
        except ValueError as error:
            _logger.warning("theft: %s is not used, and counting begins anew: %s", path, error)

    async def save() -> None:
        try:
            await asyncio.to_thread(save_state, path, monitor.snapshot())
        except Unavailable as error:
            _logger.warning("theft: %s", error)

    async def go_on_saving() -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            await save()

    task = asyncio.create_task(go_on_saving())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await save()
