"""The book of records over a real database: who gets what, what waiting gives, and what erasing takes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.doubles_gateway import ANSWER, ScriptedUpstream, ask, bench, in_loop, read, shape
from tests.doubles_records import Desk, desk
from tests.log_in_memory import MemoryLog

from headrace.core.errors import Forbidden, NotFound
from headrace.core.request import Principal
from headrace.core.trust import Delegation
from headrace.gateway.provenance import RecordService
from headrace.memory import provenance
from headrace.memory.store import Store
from headrace.trust.records.bundle import Bundle, read_bundle
from headrace.trust.records.verification import Level, verify

OWN = Principal(tenant="t")
OTHER = Principal(tenant="other")
AUDITOR = Principal(tenant="other", scopes=frozenset({"audit"}))


@asynccontextmanager
async def service(
    tmp_path: Path, *, is_late: bool = False, **settings: object
) -> AsyncIterator[tuple[Desk, RecordService]]:
    path = tmp_path / "provenance.db"
    log = MemoryLog(path, is_late=is_late)
    store = Store(path, provenance.MIGRATIONS)
    await store.open()
    try:
        at = desk(log, keeps_content=True)
        yield at, RecordService(store, log, **settings)  # type: ignore[arg-type]
    finally:
        await store.close()
        log.close()


def bytes_in(folder: Path) -> bytes:
    """What somebody could find who reads the files."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def record(at: Desk, tenant: str = "t") -> str:
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    await read(await gate.gate.ask(ask(shape(principal=Principal(tenant=tenant)), raw=None)))
    return str(at.records[-1].id)


async def fetched(book: RecordService, record_id: str, principal: Principal = OWN, wait_s: float = 0.0) -> Bundle:
    return read_bundle(await book.bundle(record_id, principal, wait_s))


@in_loop
async def test_a_record_is_its_tenants_and_the_auditors(tmp_path: Path) -> None:
    async with service(tmp_path) as (at, book):
        record_id = await record(at)
        for principal in (OWN, AUDITOR):
            report = verify(await fetched(book, record_id, principal), None, at.trusted())
            assert report.level is Level.LOGGED, report.clauses
        for wrong, principal in ((record_id, OTHER), ("rec_nothing", OWN), (at.log.items[0].id, AUDITOR)):
            with pytest.raises(NotFound, match="no record"):
                await book.bundle(wrong, principal)
            with pytest.raises(NotFound, match="no record"):
                await book.erase(wrong, principal)


@in_loop
async def test_a_proof_that_is_not_there_yet_is_left_out_or_waited_for(tmp_path: Path) -> None:
    async with service(tmp_path, is_late=True) as (at, book):
        record_id = await record(at)
        early = await fetched(book, record_id)
        assert early.record.envelope and not early.record.proof
        at.log.publish()
        assert (await fetched(book, record_id, wait_s=1.0)).record.proof


@in_loop
async def test_erasing_takes_what_opens_a_record_and_leaves_what_the_log_says(tmp_path: Path) -> None:
    async with service(tmp_path) as (at, book):
        record_id, other = await record(at), await record(at, "other")
        await book.erase(record_id, OWN)
        left = await fetched(book, record_id)
        assert not left.record.envelope and not left.nonce
        assert left.record.entry and left.record.proof
        assert verify(left, None, at.trusted()).is_refused
        assert (await fetched(book, other, OTHER)).nonce
    data = bytes_in(tmp_path)
    assert at.records[0].secrets[:16] not in data and at.records[1].secrets[:16] in data


@in_loop
async def test_who_reads_everybodys_records_erases_none(tmp_path: Path) -> None:
    async with service(tmp_path) as (at, book):
        record_id = await record(at)
        for principal in (AUDITOR, OTHER):
            with pytest.raises(NotFound):
                await book.erase(record_id, principal)
        assert (await fetched(book, record_id, AUDITOR)).nonce
        await book.erase(record_id, Principal(tenant="other", scopes=frozenset({"admin"})))
        assert not (await fetched(book, record_id)).nonce


@in_loop
async def test_an_agent_does_not_erase_what_it_did(tmp_path: Path) -> None:
    async with service(tmp_path) as (at, book):
        record_id = await record(at)
        with pytest.raises(Forbidden):
            await book.erase(record_id, replace(OWN, delegation=Delegation(chain=("key:k", "agent"))))
        assert (await fetched(book, record_id)).nonce


@in_loop
async def test_an_operator_may_keep_envelopes(tmp_path: Path) -> None:
    async with service(tmp_path, keeps_envelopes=True) as (at, book):
        record_id = await record(at)
        await book.erase(record_id, OWN)
        left = await fetched(book, record_id)
        assert left.record.envelope and not left.nonce


@in_loop
async def test_content_goes_when_its_days_are_over_and_nothing_else_does(tmp_path: Path) -> None:
    async with service(tmp_path) as (at, book):
        record_id = await record(at)
        store_time_s = 1_000_000.0  # when the log in memory took it in
        assert await book.erase_content(store_time_s) == 0
        assert await book.erase_content(store_time_s + 1) == 1
        assert await book.erase_content(store_time_s + 1) == 0
        assert (await fetched(book, record_id)).nonce


def test_nobody_waits_for_what_was_never_recorded(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(tmp_path) as (_, book):
            with pytest.raises(NotFound):
                await book.bundle("rec_x", OWN, 30.0)

    asyncio.run(main())
