"""Files: there after a crash or not at all, one tenant's only, and gone when their time is over."""

import asyncio
import errno
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_files import opened
from tests.doubles_http import HandClock, ScriptedBackend, answer, run

from headrace.core.errors import DiskFull, NotFound, Overloaded, PayloadTooLarge, Unavailable
from headrace.core.file import FileNote, FileRecord, ListQuery
from headrace.core.request import Principal
from headrace.memory.files import FileLimits

NOTE = FileNote(filename="a.txt", purpose="user_data")
BACKEND = ScriptedBackend(answer())


def kept(home: Path) -> list[str]:
    """Everything that lies in the folder of files."""
    return sorted(path.name for path in (home / "files").rglob("*") if path.is_file())


def num_open() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_bytes_are_private_and_there_once_they_are_committed(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, BACKEND) as shelf:
            upload = await shelf.files.begin("acme")
            await upload.write(b"a" * 300_000)
            assert (await shelf.files.list("acme", ListQuery(limit=9))).items == ()
            record = await upload.commit(NOTE)
            await upload.abort()  # what a `finally` does
            assert record.num_bytes == 300_000
            path = tmp_path / "files" / record.id
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert await shelf.files.read_at(record.id, 299_998, 9) == b"aa"
        async with opened(tmp_path, BACKEND) as shelf:  # another process
            assert await shelf.files.get("acme", record.id) == record
            assert kept(tmp_path) == [record.id]

    run(main())


def test_another_tenant_has_no_such_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, BACKEND) as shelf:
            record = await shelf.keep(b"secret")
            for ask in (shelf.files.get, shelf.files.delete):
                with pytest.raises(NotFound, match="no file"):
                    await ask("other", record.id)
            with pytest.raises(NotFound, match="no file"):
                await shelf.files.list("other", ListQuery(limit=9, after=record.id))
            assert (await shelf.files.list("other", ListQuery(limit=9))).items == ()
            assert kept(tmp_path) == [record.id]

    run(main())


def test_an_upload_that_is_too_large_or_over_the_quota_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        limits = FileLimits(max_file_bytes=1000, max_tenant_bytes=1500)
        async with opened(tmp_path, BACKEND, file_limits=limits) as shelf:
            upload = await shelf.files.begin("acme")
            with pytest.raises(PayloadTooLarge, match="larger than 1000 bytes"):
                await upload.write(b"x" * 1001)
            await upload.abort()
            first, second = await shelf.files.begin("acme"), await shelf.files.begin("acme")
            await first.write(b"x" * 1000)
            await second.write(b"x" * 1000)
            record = await first.commit(NOTE)
            with pytest.raises(PayloadTooLarge, match="together"):  # they arrived side by side
                await second.commit(NOTE)
            third = await shelf.files.begin("acme")
            with pytest.raises(PayloadTooLarge, match="together"):
                await third.write(b"x" * 501)
            await third.abort()
            assert kept(tmp_path) == [record.id]
            await shelf.keep(b"x" * 900, Principal(tenant="other"))

    run(main())


def test_only_so_many_files_of_a_tenant_arrive_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, BACKEND, file_limits=FileLimits(max_uploads=2)) as shelf:
            first, second = await shelf.files.begin("acme"), await shelf.files.begin("acme")
            with pytest.raises(Overloaded, match="arriving already"):
                await shelf.files.begin("acme")
            await (await shelf.files.begin("other")).abort()
            await first.abort()
            await second.commit(NOTE)
            for _ in range(3):
                await shelf.keep(b"x")

    run(main())


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        async with opened(tmp_path, BACKEND) as shelf:
            upload = await shelf.files.begin("acme")
            await upload.write(b"x")
            with monkeypatch.context() as patch:
                patch.setattr(*(Path, "rename", full) if call == "rename" else (os, call, full))
                with pytest.raises(DiskFull, match="disk is full") as caught:
                    await upload.commit(NOTE)
            assert (caught.value.status, caught.value.retryable) == (507, False)
            assert kept(tmp_path) == []
            assert (await shelf.files.list("acme", ListQuery(limit=9))).items == ()
            assert (await shelf.keep(b"x")).num_bytes == 1  # with space again it works again

    run(main())


def test_a_disk_that_cannot_be_used_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        async with opened(tmp_path, BACKEND) as shelf:
            record = await shelf.keep(b"x")
            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", broken)
                with pytest.raises(Unavailable, match="Input/output error"):
                    await shelf.files.read_at(record.id, 0, 1)

    run(main())


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_caller_that_leaves_while_the_row_is_written_leaves_both_or_nothing(tmp_path: Path, is_refused: bool) -> None:
    is_writing, go = threading.Event(), threading.Event()

    def wait(_: sqlite3.Connection, __: FileRecord) -> None:
        is_writing.set()
        go.wait()
        if is_refused:
            raise NotFound("there is no batch.")

    async def main() -> None:
        async with opened(tmp_path, BACKEND) as shelf:
            upload = await shelf.files.begin("acme")
            await upload.write(b"bytes")
            commit = asyncio.ensure_future(upload.commit(NOTE, wait))
            await asyncio.to_thread(is_writing.wait)
            commit.cancel()
            asyncio.get_running_loop().call_soon(go.set)
            with pytest.raises(asyncio.CancelledError):
                await commit
            known = (await shelf.files.list("acme", ListQuery(limit=9))).items
            assert [record.id for record in known] == kept(tmp_path) == ([] if is_refused else [upload.file_id])
            for record in known:
                assert await shelf.files.read_at(record.id, 0, 9) == b"bytes"

    run(main())


@pytest.mark.parametrize("call", ["write", "fsync", "open", "read"])
def test_nothing_is_closed_while_a_thread_is_at_it_and_nothing_is_left_open(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_at_it, go, errors = getattr(os, call), threading.Event(), threading.Event(), []

    def slow(*given: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return real(*given)
        is_at_it.set()
        go.wait()
        try:
            return real(*given)
        except OSError as error:
            errors.append(error)
            raise

    async def main() -> None:
        before = num_open()
        async with opened(tmp_path, BACKEND) as shelf:
            record = await shelf.keep(b"x")
            upload = await shelf.files.begin("acme")
            await upload.write(b"y")
            with monkeypatch.context() as patch:
                patch.setattr(os, call, slow)
                work: Any = upload.commit(NOTE) if call in ("write", "fsync") else anext(shelf.files.read(record))
                task = asyncio.ensure_future(work)
                await asyncio.to_thread(is_at_it.wait)
                task.cancel()
                for _ in range(9):  # what it does at once when it is told to stop
                    await asyncio.sleep(0)
                go.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await upload.abort()
        assert errors == []  # a descriptor that was closed, or that is another file's by now
        assert num_open() == before
        assert kept(tmp_path) == [record.id]

    run(main())


def test_what_has_expired_is_hidden_at_once_and_erased_by_the_next_sweep(tmp_path: Path) -> None:
    clock = HandClock()

    async def main() -> None:
        async with opened(tmp_path, BACKEND, clock=clock) as shelf:
            short, long = await shelf.keep(b"s", lifetime_s=3600), await shelf.keep(b"l")
            clock.now_s += 3600
            with pytest.raises(NotFound):
                await shelf.files.get("acme", short.id)
            assert (await shelf.files.list("acme", ListQuery(limit=9))).items == (long,)
            await shelf.files.sweep()
            assert kept(tmp_path) == [long.id]

    run(main())


def test_what_dead_processes_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, BACKEND) as shelf:
            living = await shelf.files.begin("acme")
            await living.write(b"x" * 300_000)
            dead = shelf.files.partial / "file-dead"
            dead.write_bytes(b"half")
            old, young = tmp_path / "files" / "file-old", tmp_path / "files" / "file-young"
            for path, written_s in ((old, 0.0), (young, shelf.clock.unix_s())):
                path.write_bytes(b"without a row")
                os.utime(path, (written_s, written_s))
            async with opened(tmp_path, BACKEND):
                pass
            assert kept(tmp_path) == sorted([living.file_id, "file-young"])
            record = await living.commit(NOTE)
            assert await shelf.files.read_at(record.id, 0, 3) == b"xxx"

    run(main())
