"""Opens the transparency log of a state directory: settings -> keys, files, database, notary, witnesses.

Knows every constructor and decides nothing.
"""

import asyncio
import functools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.core.public_log import PublicLog
from headrace.gateway.notary.notary import LogNotary
from headrace.gateway.notary.public import LogShelf
from headrace.gateway.notary.witnesses import Rounds
from headrace.gateway.notary.writer import LogWriter
from headrace.memory.database import Database
from headrace.memory.key_files import LOG_KEYS, read_or_make
from headrace.memory.log_files import CHECKPOINT, LogFiles, LogFolder
from headrace.memory.provenance import MIGRATIONS
from headrace.memory.store import Store
from headrace.models.store import Layout
from headrace.trust.log.fault import LogFault
from headrace.trust.log.log_keys import KeySet, make_log_keys, parse_log_keys
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.trust_file import Known, Node, TrustFile, witness_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLog:
    """A log that is kept. `store` reads and erases what was logged; `public` is None where nobody may read it."""

    notary: LogNotary
    store: Store
    keys: KeySet
    public: PublicLog | None


def log_folder(settings: LogSettings, layout: Layout) -> Path:
    """Where the log's files are."""
    return settings.folder or layout.log


def read_log_keys(settings: LogSettings, layout: Layout) -> KeySet:
    """The log's keys, made if there are none. Raises InvalidRequest if they are of another origin, Unavailable."""
    path, folder = layout.signing_keys / LOG_KEYS, log_folder(settings, layout)
    if not path.exists() and (folder / CHECKPOINT).exists():
        raise InvalidRequest(
            f"{folder} has a log, and its keys are not in {path}: this is a copy, or they were lost. If nothing was "
            f"logged after the copy was made, put them back; else begin a new log: move {folder} and "
            f"{layout.provenance} away together.",
            param="log",
        )
    origin = settings.origin or f"headrace.local/{secrets.token_hex(8)}"
    try:
        keys = parse_log_keys(read_or_make(path, lambda: make_log_keys(origin, secrets.token_bytes)))
    except LogFault as error:
        raise InvalidRequest(f"{path}: {error} Put back the file that belongs to this log.") from error
    if settings.origin is not None and keys.name != settings.origin:
        raise InvalidRequest(
            f"log.origin: {settings.origin!r} is not the log that is here, {keys.name!r}: a log keeps its name and "
            f"keys. Correct it; or, to begin a new log, move {path}, {folder} and {layout.provenance} away together.",
            param="log.origin",
        )
    return keys


def trust_file(settings: LogSettings, keys: KeySet, nodes: tuple[Node, ...]) -> TrustFile:
    """What verifies a node whose log has these keys, and whose own are `nodes`."""
    known, groups, quorum = witness_policy(settings)
    logs = tuple(Known(keys.name, one) for one in keys.keys)
    return TrustFile(logs=logs, witnesses=known, groups=groups, quorum=quorum, nodes=nodes)


def make_writer(settings: LogSettings, layout: Layout, keys: KeySet) -> LogWriter:
    """What writes the log, on the thread that calls this. Raises Conflict if another process does, Unavailable."""
    files = LogFiles.take(log_folder(settings, layout))
    try:
        return LogWriter(Database(layout.provenance, MIGRATIONS), files, keys, SystemClock())
    except BaseException:
        files.close()
        raise


@asynccontextmanager
async def open_log(
    settings: LogSettings, layout: Layout, on_merged: Callable[[Sequence[float]], None] | None = None
) -> AsyncIterator[OpenLog]:
    """The log, for as long as the block runs; at its end what waits is logged. `on_merged`: see `LogNotary`.

    Raises HeadraceError if it cannot be kept, or is not what was signed.
    """
    loop, clock = asyncio.get_running_loop(), SystemClock()
    async with AsyncExitStack() as stack:
        keys = await loop.run_in_executor(None, read_log_keys, settings, layout)
        store = Store(layout.provenance, MIGRATIONS)
        await store.open()
        stack.push_async_callback(store.close)
        folder = LogFolder(log_folder(settings, layout))
        make = functools.partial(make_writer, settings, layout, keys)
        notary = LogNotary(make, store, folder, settings, clock=clock, on_merged=on_merged)
        await loop.run_in_executor(None, notary.start)
        stack.push_async_callback(loop.run_in_executor, None, notary.close)
        if settings.witnesses:
            rounds = Rounds(notary, folder, keys.keys, settings, clock)
            rounds.start()
            stack.push_async_callback(loop.run_in_executor, None, rounds.close)
        yield OpenLog(notary=notary, store=store, keys=keys, public=LogShelf(folder) if settings.is_public else None)
