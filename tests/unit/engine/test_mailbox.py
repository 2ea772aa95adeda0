"""Hand-over between threads: in order, one wake-up, no loss when the reader goes away."""

import asyncio

from headrace.engine.mailbox import Mailbox, deliver


def test_items_of_several_deliveries_arrive_in_order_and_together() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        async with asyncio.timeout(5.0):
            reader = asyncio.create_task(mailbox.take())
            await asyncio.sleep(0)
            assert await asyncio.to_thread(deliver, mailbox.loop, [(mailbox, 1), (mailbox, 2)])
            assert await reader == [1, 2]
            deliver(mailbox.loop, [(mailbox, 3)])
            deliver(mailbox.loop, [(mailbox, 4)])
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


def test_a_closed_loop_is_reported() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    assert not deliver(loop, [(mailbox, 1)])
