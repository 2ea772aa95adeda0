"""A client that reads a byte at a time, and clocks that jump: nobody else waits, nothing grows, nothing ends early."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.adversarial.test_http_input import request
from tests.doubles_http import (
    Client,
    HandClock,
    HandTimers,
    Pause,
    ScriptedBackend,
    Step,
    answer,
    chat,
    make_app,
    run,
    started,
)
from tests.loopback import exchange, listening

from headrace.core.events import ChoiceFinished, Finished, FinishReason, TextDelta, Usage
from headrace.core.request import Request
from headrace.observe.logs import ACCESS_LOGGER
from headrace.server.app import App
from headrace.server.config import ServerConfig
from headrace.server.feed import MAX_PENDING

CHAT = "/v1/chat/completions"
LIMIT_S = 30
WORD = "w" * 4096
# What may lie between the backend and a client that has stopped: the kernel's buffers of both ends, the transport's,
# and two batches of events. Far below what the script would give.
MAX_HELD_BYTES = 8 * 1024 * 1024 + 2 * MAX_PENDING * len(WORD)


class Endless:
    """A backend whose first request is answered without an end and every other with one word."""

    def __init__(self) -> None:
        self.num_words = 0
        self.is_closed = asyncio.Event()
        self.backend = ScriptedBackend(self._script)

    def _script(self, request: Request) -> Iterator[Step]:
        if request.principal.user != "slow":
            yield from answer("word")(request)
            return
        try:
            yield started(request)
            while self.num_words * len(WORD) < MAX_HELD_BYTES:
                self.num_words += 1
                yield TextDelta(0, WORD, 1)
            raise AssertionError("nothing holds the backend back")
        finally:
            self.is_closed.set()


@asynccontextmanager
async def slow_client(port: int) -> AsyncIterator[socket.socket]:
    """A connection with the smallest receive buffer that the system gives, on which a stream was asked for."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request(chat(stream=True, user="slow")))
        yield connection


async def read_byte(connection: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(connection, 1)


def test_a_client_that_reads_byte_by_byte_holds_up_nobody_and_nothing_grows_behind_it() -> None:
    async def main() -> None:
        endless, clock, timers = Endless(), HandClock(), HandTimers()
        app = make_app(endless.backend, ServerConfig(port=0, write_timeout_s=60), clock=clock, timers=timers)
        async with listening(app) as (server, port):
            async with slow_client(port) as connection:
                heard = b""
                for _ in range(20):
                    heard += await read_byte(connection)
                    reply = await exchange(port, request(chat()))
                    assert b'"content":"word"' in reply
                assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
                (slow,) = app.lifecycle.running
                assert 0 < endless.num_words * len(WORD) < MAX_HELD_BYTES
                written = endless.num_words
                for _ in range(10):  # more of others' work lets no more of its answer be made
                    await read_byte(connection)
                    await exchange(port, request(chat()))
                assert endless.num_words == written
                held = [link.transport.get_write_buffer_size() for link in server.server_state.connections]
                assert sum(held) < MAX_HELD_BYTES
                # It takes no more for a minute: it is let go, and what it held is free.
                clock.now_s += 60
                timers.fire()
                await endless.is_closed.wait()
            assert slow not in app.lifecycle.running
        assert endless.backend.num_open == 0

    run(main(), LIMIT_S)


class SippingClient(Client):
    """Takes one write at a time, when the test lets it."""

    def __init__(self, app: App, body: bytes, path: str = CHAT) -> None:
        super().__init__(app, "POST", path, body)
        self.waiting = asyncio.Event()
        self.sips = asyncio.Semaphore(0)

    async def send(self, message: Any) -> None:
        self.waiting.set()
        await self.sips.acquire()
        await super().send(message)


def test_a_client_that_takes_a_long_batch_in_several_minutes_is_slow_and_not_gone() -> None:
    """A batch of events is as long as their log-probabilities make it; what counts is that bytes are taken."""

    async def main() -> None:
        clock, timers = HandClock(), HandTimers()
        words = [WORD] * 100
        app = make_app(ScriptedBackend(answer(*words)), ServerConfig(write_timeout_s=60), clock=clock, timers=timers)
        client = SippingClient(app, chat(stream=True))
        task = client.start()
        num_sips = 0
        while not client.reply.is_complete:
            await client.waiting.wait()
            client.waiting.clear()
            clock.now_s += 40
            timers.fire()
            client.sips.release()
            num_sips += 1
            await client.until(lambda reply, n=num_sips: len(reply.writes) + bool(reply.status) == n)
        reply = await task
        said = [frame["choices"][0]["delta"].get("content") or "" for frame in reply.frames()[:-1]]
        assert "".join(said) == "".join(words)
        assert max(map(len, reply.writes)) <= 65_536

    run(main(), LIMIT_S)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_stops_in_the_middle_of_an_answer_is_let_go(stream: bool) -> None:
    async def main() -> None:
        clock, timers = HandClock(), HandTimers()
        backend = ScriptedBackend(answer(*[WORD] * 100))
        app = make_app(backend, ServerConfig(write_timeout_s=60), clock=clock, timers=timers)
        client = SippingClient(app, chat(stream=stream))
        task = client.start()
        for num_writes in range(3):  # the status and two pieces
            await client.waiting.wait()
            client.waiting.clear()
            client.sips.release()
            await client.until(lambda reply, n=num_writes: len(reply.writes) == n and reply.status == 200)
        await client.waiting.wait()
        assert not client.reply.is_complete
        clock.now_s += 59
        timers.fire()
        await asyncio.sleep(0)
        assert not task.done()
        clock.now_s += 1
        timers.fire()
        await task
        assert not client.reply.is_complete
        assert not app.lifecycle.running
        assert backend.num_open == 0

    run(main(), LIMIT_S)


def test_a_client_that_reads_slowly_and_goes_leaves_nothing() -> None:
    async def main() -> None:
        endless = Endless()
        async with listening(make_app(endless.backend, ServerConfig(port=0))) as (_, port):
            async with slow_client(port) as connection:
                await read_byte(connection)
            await endless.is_closed.wait()
        assert endless.backend.num_open == 0

    run(main())


class JumpingClock(HandClock):
    """The wall clock leaps by years, back and forth, at every look; the other one goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.num_looks = 0

    def unix_s(self) -> float:
        self.num_looks += 1
        return 1_000_000_000.0 if self.num_looks % 2 else 2_000_000_000.0


def test_a_wall_clock_that_jumps_changes_what_answers_say_was_their_time_and_nothing_else() -> None:
    async def main() -> None:
        clock, timers = JumpingClock(), HandTimers()
        created = []
        pause = Pause()

        def script(request: Request) -> list[Step]:
            end: list[Step] = [ChoiceFinished(0, FinishReason.STOP), Finished(Usage(7, 2))]
            return [started(request), TextDelta(0, "a", 1), pause, TextDelta(0, "b", 1), *end]

        app = make_app(ScriptedBackend(script), clock=clock, timers=timers)
        for _ in range(2):
            pause.go.clear()
            pause.reached.clear()
            client = Client(app, "POST", CHAT, chat(stream=True))
            task = client.start()
            await pause.reached.wait()
            clock.now_s += 1
            timers.fire()
            pause.go.set()
            reply = await task
            assert reply.frames()[-1] == "[DONE]"
            assert len({frame["created"] for frame in reply.frames()[:-1]}) == 1
            created.append(reply.frames()[0]["created"])
        assert sorted(created) == [1_000_000_000, 2_000_000_000]

    run(main())


def test_durations_in_the_log_follow_the_clock_that_never_goes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS_LOGGER)

    async def main() -> None:
        await Client(make_app(ScriptedBackend(answer("x")), clock=JumpingClock()), "POST", CHAT, chat()).run()

    run(main())
    (record,) = caplog.records
    assert (record.headrace_fields["duration_s"], record.headrace_fields["ttft_s"]) == (0.0, 0.0)
