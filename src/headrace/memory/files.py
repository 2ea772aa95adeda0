"""Files of tenants: their bytes one by one in a private folder, what is known of them in the state database.

    <folder>/<file id>           0600; complete, because it came here by a rename after its bytes were on the disk
    <folder>/.partial/<file id>  an upload under way, locked by whoever writes it

A row is written after the rename and removed before the bytes are. A process that dies in between leaves bytes without
a row, which nobody can name and `sweep` removes. A caller that is cancelled stops waiting, and the database and the
disk do not: so nothing is closed under a thread that uses it, and whether a file is there is asked of its row. Ids come
from outside, never from a caller. Knows no wire format.
"""

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from headrace.core.batch import UNFINISHED
from headrace.core.clock import Clock
from headrace.core.errors import (
    Conflict,
    DiskFull,
    HeadraceError,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    Unavailable,
)
from headrace.core.file import BATCH_SPOOL, FileNote, FileRecord, ListQuery, Page
from headrace.memory.store import Store

_PIECE_BYTES: Final = 256 * 1024
# Bytes without a row may belong to an upload of another process that is about to write its row.
_ORPHAN_AGE_S: Final = 3600.0
_UNBOUNDED: Final = 2**62
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_COLUMNS = "id, tenant, filename, purpose, num_bytes, created_s, expires_s"
_Made = TypeVar("_Made")
# What changes in the transaction that makes a file known.
Along = Callable[[sqlite3.Connection, FileRecord], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """Bytes of one file and of all files of a tenant together, and how many of them may arrive at once."""

    max_file_bytes: int = 512 * 10**6
    max_tenant_bytes: int = 10 * 10**9
    max_uploads: int = 16

    def __post_init__(self) -> None:
        for name in ("max_file_bytes", "max_tenant_bytes", "max_uploads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not above 0.")


class FileStore:
    """The files of all tenants; implements `core.file.Files`. `close` it at the end."""

    def __init__(
        self, store: Store, folder: Path, clock: Clock, new_id: Callable[[], str], limits: FileLimits | None = None
    ) -> None:
        self.limits = limits or FileLimits()
        self._store = store
        self._folder = folder
        self._clock = clock
        self._new_id = new_id
        self._threads = ThreadPoolExecutor(2, "headrace-files")
        self._num_uploads: Counter[str] = Counter()  # by tenant; each holds a piece in memory and a descriptor

    @property
    def max_file_bytes(self) -> int:
        """The size of the largest file."""
        return self.limits.max_file_bytes

    @property
    def partial(self) -> Path:
        """Where uploads under way are."""
        return self._folder / ".partial"

    async def open(self) -> None:
        """Make the folder and remove what dead processes left. Raises DiskFull, Unavailable."""
        await self._run(self._make_folders)
        await self.sweep()

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.to_thread(self._threads.shutdown)

    async def begin(self, tenant: str, *, is_bounded: bool = True) -> "FileUpload":
        """Begin to take in a file of a tenant; results that are owed to it are not bounded.

        Raises Overloaded if too many arrive at once, DiskFull, Unavailable.
        """
        room = _UNBOUNDED
        if is_bounded:
            if self._num_uploads[tenant] >= self.limits.max_uploads:
                raise Overloaded(
                    f"{self.limits.max_uploads} of your files are arriving already; send this one when one of them is "
                    "there.",
                    retry_after_s=1.0,
                )
            room = self.limits.max_tenant_bytes - await self._store.call(_used_bytes, tenant)
        file_id = f"file-{self._new_id()}"
        descriptor = await self._hold(self._create, self.partial / file_id)
        self._num_uploads[tenant] += 1
        return FileUpload(self, tenant, file_id, descriptor, room)

    async def get(self, tenant: str, file_id: str) -> FileRecord:
        """What is known of a file. Raises NotFound."""
        return await self._store.call(find_file, tenant, file_id, self._now_s())

    async def list(self, tenant: str, query: ListQuery) -> Page[FileRecord]:
        """A page of the tenant's files. Raises NotFound if `query.after` is none of them."""
        return await self._store.call(_list, tenant, query, self._now_s())

    async def delete(self, tenant: str, file_id: str) -> None:
        """Erase a file. Raises NotFound, and Conflict while a batch reads it."""
        await self._store.call(_delete, tenant, file_id, self._now_s())
        await self._run(self._unlink, file_id)

    async def read(self, record: FileRecord) -> AsyncGenerator[bytes, None]:
        """The bytes of a file, in pieces. Raises NotFound when it goes meanwhile, Unavailable."""
        descriptor = await self._hold(self._open, record.id)
        try:
            while piece := await self._run(os.read, descriptor, _PIECE_BYTES):
                yield piece
        finally:
            os.close(descriptor)

    async def read_at(self, file_id: str, offset: int, num_bytes: int) -> bytes:
        """Some bytes of a file. Raises NotFound, Unavailable."""
        return await self._run(self._read_at, file_id, offset, num_bytes)

    async def sweep(self) -> None:
        """Erase what has expired, uploads of dead processes, and bytes that no row names."""
        for file_id in await self._store.call(_delete_expired, self._now_s()):
            await self._run(self._unlink, file_id)
        known = await self._store.call(_ids)
        await self._run(self._remove_orphans, known)

    async def commit(self, upload: "FileUpload", note: FileNote, along: Along | None) -> FileRecord:
        """Give an upload its place and its row; `FileUpload.commit` calls this."""
        now_s = self._now_s()
        record = FileRecord(
            id=upload.file_id,
            tenant=upload.tenant,
            filename=note.filename,
            purpose=note.purpose,
            num_bytes=upload.num_bytes,
            created_s=now_s,
            expires_s=None if note.lifetime_s is None else now_s + note.lifetime_s,
        )
        try:
            await self._run(self._settle, upload)
            max_bytes = self.limits.max_tenant_bytes if upload.is_bounded else _UNBOUNDED
            await self._store.call(_insert, record, max_bytes, along)
        except BaseException:
            # Who was cancelled has not stopped the database, which does one thing after the other: asked now, it
            # knows. Where it cannot be asked the bytes stay, for a sweep.
            with suppress(HeadraceError):
                if not await self._store.read(_is_known, upload.file_id):
                    await self._run(self._unlink, upload.file_id)
            raise
        return record

    def forget(self, upload: "FileUpload") -> None:
        """An upload is over; `FileUpload` calls this."""
        self._num_uploads[upload.tenant] -= 1
        if not self._num_uploads[upload.tenant]:
            del self._num_uploads[upload.tenant]

    async def run(self, function: Callable[..., _Made], *given: object) -> _Made:
        """What a function that touches the disk returns, run on a thread; its OSErrors come out as sentences."""
        return await self._run(function, *given)

    async def _run(self, function: Callable[..., _Made], *given: object) -> _Made:
        return await _to_its_end(self._submit(function, *given))

    async def _hold(self, function: Callable[..., int], *given: object) -> int:
        """The same for one that opens a descriptor: nobody's, and closed, if the caller was cancelled meanwhile."""
        work = self._submit(function, *given)
        try:
            return await _to_its_end(work)
        except asyncio.CancelledError:
            if work.exception() is None:
                os.close(work.result())
            raise

    def _submit(self, function: Callable[..., _Made], *given: object) -> asyncio.Future[_Made]:
        def speak() -> _Made:
            with _speaking(self._folder):
                return function(*given)

        return asyncio.get_running_loop().run_in_executor(self._threads, speak)

    def _now_s(self) -> int:
        return int(self._clock.unix_s())

    def _make_folders(self) -> None:
        for folder in (self._folder, self.partial):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _create(self, path: Path) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _open(self, file_id: str) -> int:
        try:
            return os.open(self._folder / file_id, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _no_file(file_id) from None

    def _read_at(self, file_id: str, offset: int, num_bytes: int) -> bytes:
        descriptor = self._open(file_id)
        try:
            return os.pread(descriptor, num_bytes, offset)
        finally:
            os.close(descriptor)

    def _settle(self, upload: "FileUpload") -> None:
        os.fsync(upload.descriptor)
        (self.partial / upload.file_id).rename(self._folder / upload.file_id)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _unlink(self, file_id: str) -> None:
        (self._folder / file_id).unlink(missing_ok=True)

    def _remove_orphans(self, known: frozenset[str]) -> None:
        for path in self.partial.iterdir():
            _remove_if_dead(path)
        oldest_s = self._clock.unix_s() - _ORPHAN_AGE_S
        for path in self._folder.iterdir():
            if path.name not in known and path.is_file() and path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)


class FileUpload:
    """Bytes that are arriving; implements `core.file.Upload`."""

    def __init__(self, files: FileStore, tenant: str, file_id: str, descriptor: int, room: int) -> None:
        self.tenant = tenant
        self.file_id = file_id
        self.descriptor = descriptor
        self._files = files
        self.is_bounded = room < _UNBOUNDED
        self.num_bytes = 0
        self._room = room  # bytes that the tenant has left
        self._buffer = bytearray()
        self._is_over = False

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises PayloadTooLarge above the size of a file or the tenant's quota, DiskFull, Unavailable."""
        self.num_bytes += len(data)
        if self.is_bounded and self.num_bytes > self._files.max_file_bytes:
            raise PayloadTooLarge(
                f"file: is larger than {self._files.max_file_bytes} bytes; split it into several.", param="file"
            )
        if self.num_bytes > self._room:
            raise _over_quota(self._files.limits.max_tenant_bytes)
        self._buffer += data
        if len(self._buffer) >= _PIECE_BYTES:
            await self._flush()

    async def commit(self, note: FileNote, along: Along | None = None) -> FileRecord:
        """Make the bytes a file that outlives a crash, `along` with another change of the database.

        Raises as `write` does, and nothing is left then.
        """
        try:
            await self._flush()
            record = await self._files.commit(self, note, along)
        except BaseException:
            await self.abort()
            raise
        self._close()
        return record

    async def abort(self) -> None:
        """Forget the bytes; after `commit` it does nothing."""
        if not self._is_over:
            (self._files.partial / self.file_id).unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if not self._is_over:
            self._is_over = True
            os.close(self.descriptor)
            self._files.forget(self)

    async def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        await self._files.run(_write_all, self.descriptor, data)


async def _to_its_end(work: asyncio.Future[_Made]) -> _Made:
    """What a thread makes of some work. A caller that is cancelled hears of it when the thread is done.

    It would close a descriptor that the thread is about to use, and the system gives its number to whoever opens the
    next file or connection.
    """
    cut: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cut = error
    if cut is not None:
        work.exception()  # seen: nobody else asks for it
        raise cut
    return work.result()


def find_file(connection: sqlite3.Connection, tenant: str, file_id: str, now_s: int) -> FileRecord:
    """A tenant's file that has not expired. Raises NotFound."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ? AND (expires_s IS NULL OR expires_s > ?)",  # noqa: S608
        (file_id, tenant, now_s),
    ).fetchone()
    if row is None:
        raise _no_file(file_id)
    return _record(row)


def erase(connection: sqlite3.Connection, tenant: str) -> list[str]:
    """Forget all files of a tenant; the ids under which their bytes lie, which the caller erases."""
    return [str(row[0]) for row in connection.execute("DELETE FROM files WHERE tenant = ? RETURNING id", (tenant,))]


def _insert(connection: sqlite3.Connection, record: FileRecord, max_tenant_bytes: int, along: Along | None) -> None:
    # Asked again, because several uploads of a tenant may have arrived side by side.
    if _used_bytes(connection, record.tenant) + record.num_bytes > max_tenant_bytes:
        raise _over_quota(max_tenant_bytes)
    connection.execute(
        f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            record.id,
            record.tenant,
            record.filename,
            record.purpose,
            record.num_bytes,
            record.created_s,
            record.expires_s,
        ),
    )
    if along is not None:
        along(connection, record)


def _used_bytes(connection: sqlite3.Connection, tenant: str) -> int:
    return int(
        connection.execute("SELECT coalesce(sum(num_bytes), 0) FROM files WHERE tenant = ?", (tenant,)).fetchone()[0]
    )


def _list(connection: sqlite3.Connection, tenant: str, query: ListQuery, now_s: int) -> Page[FileRecord]:
    wheres = ["tenant = ?", "(expires_s IS NULL OR expires_s > ?)", "purpose != ?"]
    values: list[object] = [tenant, now_s, BATCH_SPOOL]
    if query.purpose is not None:
        wheres.append("purpose = ?")
        values.append(query.purpose)
    if query.after is not None:
        row = connection.execute("SELECT number FROM files WHERE id = ? AND tenant = ?", (query.after, tenant))
        if (found := row.fetchone()) is None:
            raise _no_file(query.after)
        wheres.append("number < ?" if query.is_descending else "number > ?")
        values.append(found[0])
    order = "DESC" if query.is_descending else "ASC"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE {' AND '.join(wheres)} ORDER BY number {order} LIMIT ?",  # noqa: S608
        (*values, query.limit + 1),
    ).fetchall()
    return Page(tuple(map(_record, rows[: query.limit])), has_more=len(rows) > query.limit)


def _delete(connection: sqlite3.Connection, tenant: str, file_id: str, now_s: int) -> None:
    find_file(connection, tenant, file_id, now_s)
    reader = connection.execute(f"SELECT id FROM batches WHERE {_READS}", (file_id, *UNFINISHED)).fetchone()  # noqa: S608
    if reader is not None:
        raise Conflict(f"the file {file_id} is being read by {reader[0]}; cancel that batch first.", param="file_id")
    connection.execute("DELETE FROM files WHERE id = ?", (file_id,))


def _delete_expired(connection: sqlite3.Connection, now_s: int) -> list[str]:
    # A batch that has begun may end with the file that it began with.
    reads = _READS.replace("?", "files.id", 1)
    rows = connection.execute(
        f"DELETE FROM files WHERE expires_s <= ? AND NOT EXISTS (SELECT 1 FROM batches WHERE {reads}) RETURNING id",  # noqa: S608
        (now_s, *UNFINISHED),
    ).fetchall()
    return [str(row[0]) for row in rows]


_READS = f"input_file_id = ? AND status IN ({', '.join('?' * len(UNFINISHED))})"


def _ids(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(str(row[0]) for row in connection.execute("SELECT id FROM files"))


def _is_known(connection: sqlite3.Connection, file_id: str) -> bool:
    return connection.execute("SELECT 1 FROM files WHERE id = ?", (file_id,)).fetchone() is not None


def _record(row: tuple[str, str, str, str, int, int, int | None]) -> FileRecord:
    file_id, tenant, filename, purpose, num_bytes, created_s, expires_s = row
    return FileRecord(
        id=file_id,
        tenant=tenant,
        filename=filename,
        purpose=purpose,
        num_bytes=num_bytes,
        created_s=created_s,
        expires_s=expires_s,
    )


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _remove_if_dead(path: Path) -> None:
    """Remove an upload that nobody holds; the system dropped the lock of whoever died."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


@contextmanager
def _speaking(folder: Path) -> Iterator[None]:
    """Turn the system's errors into sentences."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                "the server's disk is full, and nothing of the file was kept; delete files, or have space made."
            ) from error
        raise Unavailable(
            f"the server cannot read or write its files ({error.strerror or error}); its operator should look at the "
            f"permissions of {folder}.",
            code="files_unavailable",
        ) from error


def _no_file(file_id: str) -> NotFound:
    return NotFound(f"there is no file {file_id[:100]!r}; GET /v1/files lists yours.", param="file_id")


def _over_quota(max_tenant_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"file: your files together would be larger than {max_tenant_bytes} bytes; delete some.",
        param="file",
        code="storage_quota_exceeded",
    )
