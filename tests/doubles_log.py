"""A log in memory, one in a folder, and one that is kept by a notary: what tests of the log share."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from headrace.core.clock import SystemClock
from headrace.core.provenance import LogItem
from headrace.gateway.notary.notary import LogNotary
from headrace.gateway.notary.writer import LogWriter
from headrace.memory.database import Database
from headrace.memory.log_files import LogFiles, LogFolder
from headrace.memory.provenance import MIGRATIONS
from headrace.memory.store import Store
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.log_keys import KeySet, make_log_keys, make_witness_keys, parse_log_keys, parse_witness_keys
from headrace.trust.log.note import Note, parse_note
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.tree import Tree
from headrace.trust.log.trust_file import Known, TrustFile

ORIGIN = "example.com/answers"


def seeded(seed: str) -> Callable[[int], bytes]:
    """Bytes that look random and are the same each time."""
    count = iter(range(1000))
    return lambda number: sha256(f"{seed} {next(count)}".encode()).digest()[:number]


def log_keys(origin: str = ORIGIN, seed: str = "log") -> KeySet:
    return parse_log_keys(make_log_keys(origin, seeded(seed)))


def witness_keys(name: str = "witness.example/w1") -> KeySet:
    return parse_witness_keys(make_witness_keys(name, seeded(name)))


class Files(dict[str, bytes]):
    """A log's files in memory; a `Source`."""

    def read(self, path: str) -> bytes | None:
        return self.get(path)


class Log:
    """A log in memory that grows as a test says."""

    def __init__(self, keys: KeySet | None = None) -> None:
        self.keys = keys or log_keys()
        self.files = Files()
        self.tree = Tree()

    def add(self, *entries: bytes) -> Note:
        """Entries, and the checkpoint over all."""
        for tile, data in self.tree.append(entries):
            self.files[tile.path] = data
        return self.note()

    def grow(self, num: int) -> Note:
        """So many entries more."""
        return self.add(*(b"entry %d" % (self.tree.size + at) for at in range(num)))

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.keys.name, self.tree.size, self.tree.root())

    def note(self, time_s: int = 1_700_000_000) -> Note:
        data = self.keys.sign(self.checkpoint.encode(), time_s)
        self.files["checkpoint"] = data
        return parse_note(data)


def trust_in(*keys: KeySet) -> TrustFile:
    """A trust file that names these logs, and no witnesses."""
    return TrustFile(logs=tuple(Known(one.name, key) for one in keys for key in one.keys))


def item(number: int, tenant: str = "acme") -> LogItem:
    return LogItem(
        id=f"rec_{number}",
        kind="record",
        tenant=tenant,
        entry=b'{"number":%d}' % number,
        envelope=b"envelope %d" % number,
        secrets=b"nonce %d" % number,
    )


class Disk:
    """Writes as the system does, until it is full: when a test says so, or after so many writes. `hold` lets nothing be
    written; `reached` says that somebody tries to."""

    def __init__(self) -> None:
        self.is_full = False
        self.num_left: int | None = None
        self.reached = threading.Event()
        self._may_write = threading.Event()
        self._may_write.set()

    def hold(self) -> None:
        self.reached.clear()
        self._may_write.clear()

    def go(self) -> None:
        self._may_write.set()

    def write(self, descriptor: int, data: bytes) -> int:
        if not self._may_write.is_set():
            self.reached.set()
            assert self._may_write.wait(60)
        if self.num_left is not None:
            self.num_left -= 1
        if self.is_full or (self.num_left is not None and self.num_left < 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data)


def open_writer(home: Path, keys: KeySet | None = None, disk: Disk | None = None) -> LogWriter:
    """A writer over a folder, on this thread, not opened yet."""
    files = LogFiles.take(home / "log", (disk or Disk()).write)
    try:
        database = Database(home / "provenance.db", MIGRATIONS)
    except BaseException:
        files.close()
        raise
    return LogWriter(database, files, keys or log_keys(), SystemClock())


@asynccontextmanager
async def open_notary(
    home: Path,
    settings: LogSettings | None = None,
    *,
    disk: Disk | None = None,
    keys: KeySet | None = None,
    on_merged: Callable[[Sequence[float]], None] | None = None,
) -> AsyncIterator[LogNotary]:
    """A notary that commits what comes within a few milliseconds."""
    home.mkdir(exist_ok=True)  # noqa: ASYNC240
    store = Store(home / "provenance.db", MIGRATIONS)
    await store.open()
    notary = LogNotary(
        lambda: open_writer(home, keys, disk),
        store,
        LogFolder(home / "log"),
        settings or LogSettings(batch_s=0.005),
        on_merged=on_merged,
        retry_s=0.01,
    )
    try:
        await asyncio.to_thread(notary.start)
        try:
            yield notary
        finally:
            await asyncio.to_thread(notary.close)
    finally:
        await store.close()
