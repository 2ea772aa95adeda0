"""Taking in what processes left that ended, well or not: their journals, written to the store and deleted.

    folder/0/  folder/1/  ...       a journal each, held by the process that writes to it

Knows nothing of budgets: a frame says itself what it is charged to.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace.core.errors import Conflict
from headrace.gateway.accounts.frames import replay
from headrace.memory import usage
from headrace.memory.journal import Journal
from headrace.memory.store import Store

MAX_SLOTS: Final = 64
"""Processes that share a state directory."""

_CHUNK: Final = 4096

_log = logging.getLogger("headrace.accounts")


async def take_journal(store: Store, folder: Path, write: Callable[[int, bytes], int]) -> tuple[Journal, bool]:
    """Write what is in the journals that nobody has into the store, and keep one to write to; whether records are
    missing from one. The files of the one that is kept are still there: begin a generation, then drop those before it.

    Raises Conflict if there is none left, and what journals and the store raise.
    """
    mine: Journal | None = None
    is_damaged = False
    try:
        for slot in range(MAX_SLOTS):
            if mine is not None and not (folder / str(slot)).exists():
                break
            journal = Journal.take(folder / str(slot), write)
            if journal is None:
                continue
            try:
                is_damaged = await _take_in(store, journal) or is_damaged
            except BaseException:
                journal.close()
                raise
            if mine is None:
                mine = journal
            else:
                journal.remove()
    except BaseException:
        if mine is not None:
            mine.close()
        raise
    if mine is None:
        raise Conflict(f"{MAX_SLOTS} Headrace processes keep journals in {folder}; stop one.", code="ledger_in_use")
    return mine, is_damaged


async def _take_in(store: Store, journal: Journal) -> bool:
    found = await asyncio.to_thread(journal.found)
    replayed = replay(found.payloads)
    entries = [*replayed.settled, *replayed.interrupted]
    for at in range(0, len(entries), _CHUNK):
        await store.call(usage.write, entries[at : at + _CHUNK])
    if replayed.interrupted:
        _log.warning("%d requests had not ended when their process did; charged whole", len(replayed.interrupted))
    if found.is_damaged:
        _log.error("a journal of usage is damaged: some records are missing")
    return found.is_damaged
