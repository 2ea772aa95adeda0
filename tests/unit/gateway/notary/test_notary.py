"""What is submitted is logged, in order and once; whoever waits hears of it; a full disk is said and outlived."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
from tests.doubles_log import Disk, item, log_keys, open_notary, open_writer, trust_in

from headrace.core.errors import Conflict, DiskFull, HeadraceError, InvalidRequest, NotFound, Overloaded, Unavailable
from headrace.gateway.notary.writer import LogInconsistent
from headrace.memory.log_files import LogFolder
from headrace.trust.log.audit import audit
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.proof import parse_proof
from headrace.trust.log.reading import Reader
from headrace.trust.log.settings import LogSettings


def test_what_is_submitted_is_logged_in_order_and_proved(tmp_path: Path) -> None:
    delays: list[float] = []

    async def talk() -> None:
        async with open_notary(tmp_path, on_merged=delays.extend) as notary:
            for number in range(700):
                notary.submit(item(number))
            assert await notary.merged("rec_699") == 699
            assert await notary.merged("rec_3") == 3
            assert notary.num_waiting == 0 and notary.latest.checkpoint.size == 700
            for index in (0, 255, 256, 699):
                proof = parse_proof(await notary.prove(index))
                opened = proof.verify(hash_leaf(item(index).entry), trust_in(log_keys()))
                assert opened.checkpoint.size == 700 and not opened.is_witnessed
            with pytest.raises(NotFound):
                await notary.prove(700)
            report = audit(LogFolder(tmp_path / "log"), notary.latest.checkpoint)
            assert report.is_clean and report.size == 700

    asyncio.run(talk())
    assert len(delays) == 700


def test_whoever_waits_before_the_item_is_logged_hears_of_it(tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            for number in range(3):
                notary.submit(item(number))
            assert await asyncio.gather(*(notary.merged(f"rec_{number}") for number in range(3))) == [0, 1, 2]
            with pytest.raises(NotFound):
                await notary.merged("rec_77")

    asyncio.run(talk())


def test_closing_logs_what_waits_and_a_new_start_goes_on(tmp_path: Path) -> None:
    async def talk(first: int) -> int:
        async with open_notary(tmp_path, LogSettings(batch_s=10.0)) as notary:
            size = notary.latest.checkpoint.size
            for number in range(first, first + 5):
                notary.submit(item(number))
        with pytest.raises(Unavailable):
            notary.submit(item(99))
        return size

    assert [asyncio.run(talk(0)), asyncio.run(talk(5)), asyncio.run(talk(10))] == [0, 5, 10]


def test_an_id_is_logged_once(tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path, LogSettings(batch_s=0.05)) as notary:
            notary.submit(item(1))
            with pytest.raises(Conflict):
                notary.submit(item(1))
            assert await notary.merged("rec_1") == 0
            again = dataclasses.replace(item(1), entry=b"another")
            notary.submit(again)
            notary.submit(item(2))
            waits = asyncio.gather(notary.merged("rec_1"), notary.merged("rec_2"), return_exceptions=True)
            refused, index = await waits
            assert isinstance(refused, Conflict) and index == 1
            assert Reader(LogFolder(tmp_path / "log"), 2).entry(0) == item(1).entry

    asyncio.run(talk())


@pytest.mark.parametrize("length", [0, 65_535])
def test_an_entry_may_have_from_0_to_65535_bytes(tmp_path: Path, length: int) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            notary.submit(dataclasses.replace(item(1), entry=b"e" * length))
            await notary.merged("rec_1")
            assert Reader(LogFolder(tmp_path / "log"), 1).entry(0) == b"e" * length

    asyncio.run(talk())


def test_an_entry_of_65536_bytes_is_refused_and_the_log_goes_on(tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with pytest.raises(InvalidRequest):
                notary.submit(dataclasses.replace(item(1), entry=b"e" * 65_536))
            notary.submit(item(2))
            assert await notary.merged("rec_2") == 0

    asyncio.run(talk())


def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    async def talk() -> None:
        settings = LogSettings(batch_s=10.0, batch_items=3, queue_items=3)
        disk = Disk()
        async with open_notary(tmp_path, settings, disk=disk) as notary:
            disk.is_full = True  # nothing leaves for good
            taken = 0
            with pytest.raises(HeadraceError) as caught:
                for number in range(20):
                    notary.submit(item(number))
                    taken += 1
            assert isinstance(caught.value, Overloaded | DiskFull) and taken >= 3
            disk.is_full = False

    asyncio.run(talk())


def test_a_queue_is_full_of_bytes_too(tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path, LogSettings(batch_s=10.0, queue_bytes=1000)) as notary:
            notary.submit(dataclasses.replace(item(0), content=b"c" * 990))
            with pytest.raises(Overloaded):
                notary.submit(item(1))

    asyncio.run(talk())


def test_a_full_disk_is_said_and_outlived_and_nothing_taken_in_is_lost(tmp_path: Path) -> None:
    async def talk() -> None:
        disk = Disk()
        async with open_notary(tmp_path, disk=disk) as notary:
            notary.submit(item(0))
            await notary.merged("rec_0")
            disk.is_full = True
            notary.submit(item(1))
            with pytest.raises(DiskFull):
                while True:
                    notary.check()
                    await asyncio.sleep(0)
            with pytest.raises(DiskFull):
                notary.submit(item(2))
            assert notary.latest.checkpoint.size == 1
            waits = asyncio.ensure_future(notary.merged("rec_1"))
            disk.is_full = False
            assert await waits == 1
            notary.submit(item(3))
            assert await notary.merged("rec_3") == 2

    asyncio.run(talk())


def test_what_can_never_be_written_is_told_to_those_who_wait_when_the_log_ends(tmp_path: Path) -> None:
    async def talk() -> None:
        disk = Disk()
        async with open_notary(tmp_path, disk=disk) as notary:
            disk.is_full = True
            notary.submit(item(1))
            waits = asyncio.ensure_future(notary.merged("rec_1"))
            await asyncio.sleep(0)
        with pytest.raises(DiskFull):
            await waits

    asyncio.run(talk())
    # It was durable before the disk was full for files: the next start finds and tiles it.
    writer = open_writer(tmp_path)
    writer.open()
    assert writer.latest.checkpoint.size == 1
    writer.close()


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with pytest.raises(Conflict, match="another process writes the log"):
                async with open_notary(tmp_path):
                    pass
            notary.submit(item(1))
            assert await notary.merged("rec_1") == 0
        async with open_notary(tmp_path) as notary:
            assert notary.latest.checkpoint.size == 1

    asyncio.run(talk())


def test_a_log_that_is_shown_to_be_rolled_back_takes_nothing_and_signs_nothing_more(tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path, LogSettings(batch_s=10.0)) as notary:
            notary.submit(item(1))
            waits = asyncio.ensure_future(notary.merged("rec_1"))
            await asyncio.sleep(0)
            notary.refuse(LogInconsistent("there was more."))
            with pytest.raises(LogInconsistent):
                await waits
            with pytest.raises(LogInconsistent):
                notary.submit(item(2))
            assert notary.latest.checkpoint.size == 0

    asyncio.run(talk())


LONG = LogSettings(batch_s=3600.0)
"""Nothing is written because its time has come."""


def test_what_somebody_who_hurries_waits_for_is_logged_at_once(tmp_path: Path) -> None:
    batches: list[int] = []

    async def talk() -> None:
        async with open_notary(tmp_path, LONG, on_merged=lambda delays: batches.append(len(delays))) as notary:
            for number in range(3):
                notary.submit(item(number))
            patient = asyncio.create_task(notary.merged("rec_0"))
            async with asyncio.timeout(30):
                assert await notary.merged("rec_1", hurries=True) == 1
                assert await patient == 0, "what had gathered went along"
            notary.submit(item(3))
            assert await notary.merged("rec_1", hurries=True) == 1, "it is there"
            assert notary.num_waiting == 1, "and hurries nobody"
        assert batches == [3, 1]

    asyncio.run(talk())


def test_what_gathers_while_a_batch_is_written_is_the_next_batch(tmp_path: Path) -> None:
    batches: list[int] = []

    async def talk() -> None:
        disk = Disk()
        async with open_notary(
            tmp_path, LONG, disk=disk, on_merged=lambda delays: batches.append(len(delays))
        ) as notary:
            disk.hold()
            waiting = []
            for number in range(20):
                notary.submit(item(number))
                waiting.append(asyncio.create_task(notary.merged(f"rec_{number}", hurries=True)))
                await asyncio.sleep(0)
                if number == 0:
                    assert await asyncio.to_thread(disk.reached.wait, 30)
            disk.go()
            async with asyncio.timeout(30):
                assert await asyncio.gather(*waiting) == list(range(20))
        assert batches == [1, 19]

    asyncio.run(talk())


def test_who_hurries_hears_of_a_full_disk_at_once_and_who_does_not_when_it_is_written(tmp_path: Path) -> None:
    async def talk() -> None:
        disk = Disk()
        async with open_notary(tmp_path, LONG, disk=disk) as notary:
            disk.is_full = True
            notary.submit(item(0))
            patient = asyncio.create_task(notary.merged("rec_0"))
            async with asyncio.timeout(30):
                for _ in range(2):  # the second when it is known
                    with pytest.raises(DiskFull):
                        await notary.merged("rec_0", hurries=True)
                assert not patient.done()
                disk.is_full = False
                assert await patient == 0
                assert await notary.merged("rec_0", hurries=True) == 0

    asyncio.run(talk())
