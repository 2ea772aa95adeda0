"""Keeps what administrators do, and has the transparency log commit to it, where there is one.

A beginning is on the disk before its change is made. The log is handed each beginning and each end soon afterwards, by
one task that goes on until the log says under which index it has them: what a kill lost, and what commands wrote while
nobody served, is handed in later. Knows no routes and no commands.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from headrace.core.actions import ActionPage, ActionQuery, AdminAction, Begun, Outcome
from headrace.core.clock import Clock
from headrace.core.errors import Conflict, HeadraceError, NotFound
from headrace.core.provenance import Notary
from headrace.memory import actions as rows
from headrace.memory.store import Store
from headrace.trust.records.action import item_of
from headrace.trust.records.commitment import NONCE_BYTES
from headrace.trust.records.settings import ActionSettings

LOOK_S: Final = 30.0
"""How often it is looked for what others wrote, and for what is too old."""
LAST_S: Final = 5.0
"""How long the log may take for the last of them, when the server stops."""
_AT_ONCE: Final = 256
_DAY_S: Final = 86_400.0
_logger = logging.getLogger("headrace.actions")


@dataclass(frozen=True, slots=True)
class ActionLog:
    """Where commitments go. `notary` signs and takes in, `merged` tells an item's index as soon as it has one;
    `is_strict`: nothing is begun while the log takes nothing in."""

    notary: Notary
    merged: Callable[[str], Awaitable[int]]
    is_strict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What comes from outside: time and chance."""

    clock: Clock
    new_id: Callable[[], str]
    random: Callable[[int], bytes]


class ActionKeeper:
    """Implements `core.actions.ActionBook`. `open` it, and `close` it before the log and the store."""

    def __init__(
        self, store: Store, settings: ActionSettings, around: Surroundings, log: ActionLog | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._around = around
        self._log = log
        self._running: set[str] = set()
        self._has_news = asyncio.Event()
        self._is_faulty = False
        self._misses_visits = False
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to look after what is kept, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Hand in the last, and end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self._hand_in()

    async def begin(self, begun: Begun) -> str:
        """See `core.actions.ActionBook`."""
        if self._log is not None and self._log.is_strict:
            self._log.notary.check()
        action_id = f"act_{self._around.new_id()}"
        now_s, nonce = self._around.clock.unix_s(), self._around.random(NONCE_BYTES)
        self._running.add(action_id)
        try:
            await self._store.call_durably(rows.begin, action_id, begun, now_s, nonce)
        except BaseException:
            self._running.discard(action_id)
            raise
        self._has_news.set()
        return action_id

    async def end(self, action_id: str, outcome: Outcome, code: str | None = None) -> None:
        """See `core.actions.ActionBook`."""
        try:
            await self._store.call(rows.end, action_id, outcome, code, self._around.clock.unix_s())
        except HeadraceError:
            _logger.exception("the end of the action %s, %s, could not be written", action_id, outcome.value)
        finally:
            self._running.discard(action_id)
        self._has_news.set()

    async def note_visit(self, begun: Begun) -> None:
        """See `core.actions.ActionBook`."""
        visit_id = f"act_{self._around.new_id()}"
        try:
            await self._store.call(rows.note_visit, visit_id, begun, self._around.clock.unix_s())
            self._misses_visits = False
        except HeadraceError as error:
            if not self._misses_visits:  # whoever comes again and again fills no log with it
                _logger.error("sign-ins are not in the list of actions: %s", error)  # noqa: TRY400
            self._misses_visits = True

    async def actions(self, query: ActionQuery) -> ActionPage:
        """See `core.actions.ActionBook`."""
        found = await self._store.read(rows.find, query, tuple(self._running))
        return ActionPage(found[: query.limit], len(found) > query.limit)

    async def _keep(self) -> None:
        while True:
            self._has_news.clear()
            await self._hand_in()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._has_news.wait()

    async def _hand_in(self) -> None:
        """All that the log does not have yet, and forget what is too old."""
        try:
            before_s = self._around.clock.unix_s() - self._settings.days * _DAY_S
            await self._store.call(rows.prune, before_s, self._settings.max_actions, self._settings.max_visits)
            while self._log is not None and (waiting := await self._store.read(rows.unlogged, _AT_ONCE)):
                await self._hand_in_some(self._log, waiting)
                self._is_faulty = False
        except HeadraceError as error:
            if not self._is_faulty:  # it is tried again, and told once
                _logger.error("what administrators did is not in the log yet: %s", error)  # noqa: TRY400
            self._is_faulty = True

    async def _hand_in_some(self, log: ActionLog, waiting: list[rows.Kept]) -> None:
        wanted = [
            (kept.action.id, is_end, item_of(kept.action, kept.asked, kept.nonce, is_end=is_end))
            for kept in waiting
            for is_end in _missing(kept.action)
        ]
        found: list[tuple[str, bool, int]] = []
        for action_id, is_end, item in wanted:
            try:
                found.append((action_id, is_end, await log.merged(item.id)))  # before a kill
            except NotFound:
                with contextlib.suppress(Conflict):  # it waits there already
                    log.notary.submit(item)
        known = {(action_id, is_end) for action_id, is_end, _ in found}
        for action_id, is_end, item in wanted:
            if (action_id, is_end) not in known:
                found.append((action_id, is_end, await log.merged(item.id)))
        await self._store.call(rows.mark_logged, found)


def _missing(action: AdminAction) -> Iterator[bool]:
    """Which parts of an action the log does not have yet: its beginning (False), its end (True)."""
    if action.begun_index is None:
        yield False
    if action.ended_s is not None and action.ended_index is None:
        yield True
