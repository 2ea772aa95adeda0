"""What is still to be sent: in its order, bounded for those who ask, ended for clients that take nothing."""

import asyncio
from typing import Any

import pytest
from tests.doubles_http import HandClock, HandTimers, run

from headrace.server.feed import ClientGone, Pace
from headrace.server.outbox import MAX_WAITING_BYTES, Outbox


class Line:
    """A client's end: what it took, and a tap."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.open = asyncio.Event()
        self.open.set()
        self.num_aborts = self.num_beats = 0
        self.clock, self.timers = HandClock(), HandTimers()
        pace = Pace(self.clock, keep_alive_s=5, write_timeout_s=60, timers=self.timers)
        self.outbox = Outbox(self.send, pace, self.abort, self.beat)

    async def send(self, message: Any) -> None:
        await self.open.wait()
        self.taken.append(message.get("text", message["type"]))

    def abort(self) -> None:
        self.num_aborts += 1

    def beat(self) -> None:
        self.num_beats += 1


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_frames_go_in_their_order_and_the_close_after_all_of_them() -> None:
    async def main() -> None:
        line = Line()
        async with line.outbox as outbox:
            outbox.put(b"1")
            outbox.put("zwölf".encode())
            outbox.close(1000, "")
            outbox.put(b"too late")
            outbox.close(1001, "")
        assert line.taken == ["1", "zwölf", "websocket.close"]
        assert line.timers.num_set == 0

    run(main())


def test_who_has_much_to_say_waits_for_room_and_what_is_put_meanwhile_is_kept() -> None:
    async def main() -> None:
        line = Line()
        async with line.outbox as outbox:
            line.open.clear()
            await outbox.room()
            outbox.put(b"x" * (MAX_WAITING_BYTES + 1))
            waiting = asyncio.ensure_future(outbox.room())
            outbox.put(b"said at once")
            await settle()
            assert not waiting.done()
            line.open.set()
            await waiting
            await settle()
            assert line.taken[-1] == "said at once"

    run(main())


def test_a_client_that_takes_nothing_for_its_time_is_dropped_and_nobody_waits_for_it() -> None:
    async def main() -> None:
        line = Line()
        async with line.outbox as outbox:
            line.open.clear()
            outbox.put(b"x" * (MAX_WAITING_BYTES + 1))
            outbox.put(b"y" * (MAX_WAITING_BYTES + 1))
            waiting = asyncio.ensure_future(outbox.room())
            await settle()
            line.clock.now_s += 59
            line.timers.fire()
            assert (line.num_aborts, line.num_beats) == (0, 1)
            line.clock.now_s += 1
            line.timers.fire()
            assert line.num_aborts == 1
            with pytest.raises(ClientGone):
                await waiting
            with pytest.raises(ClientGone):
                await outbox.room()

    run(main())


def test_a_client_that_takes_something_now_and_then_stays() -> None:
    async def main() -> None:
        line = Line()
        async with line.outbox as outbox:
            for _ in range(3):
                line.open.clear()
                outbox.put(b"x")
                await settle()
                line.clock.now_s += 40
                line.timers.fire()
                line.open.set()
                await settle()
            assert (line.num_aborts, line.taken) == (0, ["x", "x", "x"])

    run(main())


def test_a_client_that_has_left_frees_those_who_wait() -> None:
    async def main() -> None:
        line = Line()

        async def refuse(_: Any) -> None:
            raise OSError

        outbox = Outbox(refuse, Pace(line.clock, 5, 60, line.timers), line.abort, line.beat)
        async with outbox:
            outbox.put(b"x" * (MAX_WAITING_BYTES + 1))
            with pytest.raises(ClientGone):
                await outbox.room()
        assert line.num_aborts == 0

    run(main())
