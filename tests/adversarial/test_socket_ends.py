"""Clients that stop reading or answering, and servers that stop: the others go on, and everybody gets an end."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncGenerator

import pytest
from tests.adversarial.test_socket_frames import masked, raw
from tests.adversarial.test_socket_handshake import handshake
from tests.doubles_http import run
from tests.scripted import Gate, Scripted, Stream, Turn, last_says
from tests.socket_client import serving, until

from headrace.core.events import Event, Started, TextDelta
from headrace.core.request import Request
from headrace.server.config import ServerConfig
from headrace.server.outbox import MAX_WAITING_BYTES

WORD = "w" * 4096
# The kernel's buffers of both ends, the transport's, and what waits to be sent.
MAX_HELD_BYTES = 8 * 1024 * 1024 + 2 * MAX_WAITING_BYTES
OK = [Turn(text="OK")]
CREATE = {"type": "response.create", "model": "scripted", "store": False}


def order(text: str) -> bytes:
    return masked(1, json.dumps(CREATE | {"input": text}).encode())


class Endless(Scripted):
    """Answers "endless" with more words than anything between here and a client that does not read can hold."""

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        if not last_says("endless")(request):
            async for event in super().run(request):
                yield event
            return
        stream = Stream(request)
        self.streams.append(stream)
        try:
            yield Started(request.id, "scripted", 1)
            while len(stream.events) * len(WORD) < MAX_HELD_BYTES:
                stream.events.append(TextDelta(0, WORD, 1))
                yield stream.events[-1]
            raise AssertionError("nothing holds the backend back")
        finally:
            stream.is_closed = True


def test_a_client_that_does_not_read_holds_up_nobody_and_is_dropped_after_its_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        config = ServerConfig(port=0, write_timeout_s=60)
        async with serving(Endless(OK), config) as (place, backend), place.client() as other:
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                slow.setblocking(False)
                await loop.sock_connect(slow, ("127.0.0.1", place.port))
                await loop.sock_sendall(slow, handshake())
                await loop.sock_recv(slow, 16)
                await loop.sock_sendall(slow, order("endless"))
                await until(lambda: bool(backend.streams))
                for _ in range(20):
                    assert (await other.turn())["type"] == "response.completed"
                written = len(backend.streams[0].events)
                for _ in range(5):
                    await other.turn()
                assert len(backend.streams[0].events) == written
                assert not backend.streams[0].is_closed
                place.clock.now_s += 61
                place.timers.fire()
                await until(lambda: backend.streams[0].is_closed and len(backend.released) == 1)
                assert (await other.turn())["type"] == "response.completed"

    run(main(), limit_s=30)
    assert "defect" not in caplog.text


def test_a_client_that_sends_and_does_not_read_is_not_read_either() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            writer.write(handshake())
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()
            steer = masked(1, json.dumps({"type": "response.steer", "input": "x" * 60_000}).encode())
            for _ in range(500):
                writer.write(steer)
            for _ in range(2000):
                await asyncio.sleep(0)
            (link,) = place.server.server_state.connections
            assert link.transport.get_write_buffer_size() < 2 * MAX_WAITING_BYTES + 100_000
            assert writer.transport.get_write_buffer_size() > 0
            writer.transport.abort()

    run(main())


def test_a_client_that_answers_no_ping_is_dropped_amid_its_turn() -> None:
    config = ServerConfig(port=0, ping_interval_s=0.02, ping_timeout_s=0.02)

    async def main() -> None:
        gate = Gate()
        turns = [Turn(text="a b", gates={1: gate})]
        async with serving(turns, config) as (place, backend), raw(place) as (reader, writer):
            writer.write(order("Hi"))
            await gate.reached.wait()
            await until(lambda: backend.num_open == 0)
            assert b"keepalive ping timeout" in await reader.read()

    run(main())


def test_a_client_that_answers_pings_stays_however_long_it_says_nothing() -> None:
    config = ServerConfig(port=0, ping_interval_s=0.01, ping_timeout_s=5)

    async def main() -> None:
        async with serving(OK, config) as (place, _), raw(place) as (reader, writer):
            for _ in range(3):
                begin = await reader.readexactly(2)
                assert begin == bytes([0x89, 4])  # a ping
                writer.write(masked(10, await reader.readexactly(4)))
            writer.write(order("Hi"))
            await reader.readuntil(b'"type":"response.completed"')

    run(main())


def test_a_server_that_stops_closes_what_is_idle_and_lets_running_turns_finish() -> None:
    async def main() -> None:
        gate = Gate()
        turns = [Turn(text="a b", gates={1: gate})]
        async with serving(turns) as (place, _), place.client() as idle, place.client() as busy:
            await busy.create()
            await gate.reached.wait()
            place.server.handle_exit(signal.SIGTERM, None)
            assert await idle.closed() == 1012
            await busy.create("another")
            refused = await busy.until("error")
            assert (refused["status"], refused["error"]["code"]) == (503, "unavailable")
            gate.go.set()
            await busy.until("response.completed")
            assert await busy.closed() == 1012

    run(main())


def test_turns_that_outlast_the_drain_end_with_an_error() -> None:
    async def main() -> None:
        gate = Gate()
        config = ServerConfig(port=0, drain_s=0)
        turns = [Turn(text="a b", gates={1: gate})]
        async with serving(turns, config) as (place, backend), place.client() as client:
            await client.create()
            await client.create("waits")
            await gate.reached.wait()
            place.server.handle_exit(signal.SIGTERM, None)
            assert await client.closed() == 1012
            codes = [frame["error"]["code"] for frame in client.frames if frame["type"] == "error"]
            assert codes == ["unavailable", "unavailable"]
            assert backend.num_open == 0

    run(main())
