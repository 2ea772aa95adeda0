"""Hand-over between threads: in order, one wake-up, no loss when the reader goes away."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from headrace.engine.mailbox import Mailbox, Outbox


@pytest.fixture(params=["counter", "socket"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wake a loop: the event counter of Linux, and the loop's own."""
    if request.param == "socket":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("event counters are Linux's")


@pytest.mark.usefixtures("way")
def test_items_of_several_deliveries_arrive_in_order_and_together() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        async with asyncio.timeout(5.0):
            reader = asyncio.create_task(mailbox.take())
            await asyncio.sleep(0)
            assert await asyncio.to_thread(mailbox.outbox.post, [(mailbox, 1), (mailbox, 2)])
            assert await reader == [1, 2]
            mailbox.outbox.post([(mailbox, 3)])
            mailbox.outbox.post([(mailbox, 4)])
            await asyncio.sleep(0)
            assert await mailbox.take() == [3, 4]

    asyncio.run(main())


def test_a_reader_that_was_cancelled_loses_nothing() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        reader = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        reader.cancel()
        mailbox.put("kept")
        await asyncio.gather(reader, return_exceptions=True)
        assert await mailbox.take() == ["kept"]

    asyncio.run(main())


@pytest.mark.usefixtures("way")
def test_a_closed_loop_is_reported() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    assert not mailbox.outbox.post([(mailbox, 1)])


def test_a_loop_has_one_outbox_and_gives_back_all_of_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert Mailbox(loop).outbox is Mailbox(loop).outbox

    gc.collect()
    before = len(Outbox._by_loop), open_files()
    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    assert (len(Outbox._by_loop), open_files()) == before


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
