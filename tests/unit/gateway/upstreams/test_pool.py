"""The client of backends over real sockets: what it sends, what it keeps, what it refuses, and that nothing is left."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from tests.upstreams import (
    CHUNKED,
    LAST_CHUNK,
    SSE,
    Script,
    Step,
    Upstream,
    chunk,
    garbage,
    hang_before,
    hang_midstream,
    head,
    stream,
    upstream,
    whole,
)

from headrace.core.errors import HeadraceError, Overloaded, UpstreamFault, UpstreamTimeout
from headrace.gateway.settings import Timeouts
from headrace.gateway.upstreams.address import Address, read_url
from headrace.gateway.upstreams.answer import MAX_AHEAD_BYTES, MAX_QUIET_BYTES, NEVER, Answer
from headrace.gateway.upstreams.http import Head
from headrace.gateway.upstreams.pool import Pool, PoolSettings

PLAIN = PoolSettings()
SOON = Timeouts(connect_s=0.05, first_event_s=0.05, whole_s=0.05, idle_s=0.05)


class Harness:
    """A backend, a pool of connections to it, and a short way to ask."""

    def __init__(self, up: Upstream, pool: Pool, address: Address) -> None:
        self.up = up
        self.pool = pool
        self.heads = Head(address, [(b"authorization", b"Bearer sk-secret")])

    async def ask(self, body: bytes = b"{}", *, is_whole: bool = True, timeouts: Timeouts | None = None) -> Answer:
        head_bytes = self.heads.write("POST", "/v1/chat/completions", [], len(body))
        return await self.pool.ask(head_bytes, body, is_whole=is_whole, timeouts=timeouts)

    async def fault(self, script: Script, **options: Any) -> HeadraceError:
        """What one request meets at a script that no answer may look like."""
        self.up.script.append(script)
        with pytest.raises(HeadraceError) as caught:
            answer = await self.ask(**options)
            while await answer.more():
                pass
        await self.up.wait_open(0)
        assert self.pool.num_busy == 0
        return caught.value


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    while not holds():  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)


@asynccontextmanager
async def harness(settings: PoolSettings = PLAIN) -> AsyncIterator[Harness]:
    async with upstream() as up:
        address = read_url(up.url)
        pool = Pool(address, settings)
        try:
            yield Harness(up, pool, address)
        finally:
            await pool.close()


def run(test: Callable[[Harness], Awaitable[None]], settings: PoolSettings = PLAIN) -> None:
    async def body() -> None:
        async with harness(settings) as h:
            async with asyncio.timeout(20):
                await test(h)

    for loop_factory in (asyncio.new_event_loop, uvloop.new_event_loop):  # a test's and a server's
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(body())


def test_a_request_goes_out_as_one_well_framed_message_and_its_answer_comes_back() -> None:
    async def body(h: Harness) -> None:
        answer = await h.ask(b'{"model":"m","messages":[]}')
        data = await answer.read()

        (request,) = h.up.received
        assert (answer.status, b"Hello there." in data) == (200, True)
        assert request.body == b'{"model":"m","messages":[]}'
        assert request.header("content-length") == "27"
        assert request.header("accept-encoding") == "identity"
        assert request.header("host") == f"127.0.0.1:{h.up.port}"
        assert request.header("transfer-encoding") is None

    run(body)


def test_connections_are_kept_and_the_one_used_last_goes_first() -> None:
    async def body(h: Harness) -> None:
        h.up.script.extend([[Step.HANG, *whole({})], whole({})])
        first = asyncio.ensure_future(h.ask())
        await h.up.wait_received(1)
        await h.ask()  # on a second one, for the first is busy
        h.up.go.set()
        await first
        for _ in range(3):
            await h.ask()

        assert h.up.num_connections == 2
        assert [one.connection for one in h.up.received] == [1, 2, 1, 1, 1]
        assert (h.pool.num_busy, h.pool.num_idle) == (0, 2)

    run(body)


def test_an_answer_that_is_over_waits_for_no_collector() -> None:
    async def body(h: Harness) -> None:
        gc.collect()
        gc.disable()
        try:
            for is_whole in (True, False):
                answer = await h.ask(is_whole=is_whole)
                while await answer.more():
                    pass
                del answer
            assert not [one for one in gc.get_objects() if isinstance(one, Answer)]
        finally:
            gc.enable()

    run(body)


def test_a_kept_connection_that_the_backend_gave_up_is_replaced_once_and_the_request_sent_again() -> None:
    async def body(h: Harness) -> None:
        await h.ask()
        h.up.script.append([Step.ABORT])  # as if the connection had died while the request was on its way
        answer = await h.ask(b'{"n":2}')

        assert answer.status == 200
        assert [(one.connection, one.body) for one in h.up.received] == [(1, b"{}"), (1, b'{"n":2}'), (2, b'{"n":2}')]

    run(body)


def test_a_request_is_not_sent_again_once_a_byte_of_its_answer_came_nor_on_a_new_connection() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append([Step.ABORT])
        with pytest.raises(UpstreamFault):
            await h.ask()
        await h.ask()
        h.up.script.append([b"HTTP/1.1 200 OK\r\n", Step.YIELD, Step.CLOSE])
        with pytest.raises(UpstreamFault, match="midst of its head"):
            await h.ask()

        assert len(h.up.received) == 3

    run(body)


def test_a_connection_that_was_closed_or_spoke_unasked_while_idle_is_not_used() -> None:
    async def body(h: Harness) -> None:
        await h.ask()
        h.up.drop()
        await h.up.wait_open(0)
        await h.ask()
        assert h.up.num_connections == 2
        h.up.script.append([*whole({}), Step.YIELD, Step.YIELD, *whole({"id": "smuggled"})])
        await h.ask()
        await h.up.wait_open(0)
        answer = await h.ask()

        assert b"smuggled" not in await answer.read()
        assert h.up.num_connections == 3

    run(body)


def test_what_follows_an_answer_in_the_same_bytes_is_no_answer_to_the_next_request() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append([b"".join((*whole({"id": "asked"}), *whole({"id": "smuggled"})))])
        first = await (await h.ask()).read()
        second = await (await h.ask()).read()

        assert b"asked" in first
        assert b"smuggled" not in first + second
        assert h.up.num_connections == 2

    run(body)


def test_a_stream_comes_in_pieces_and_leaves_its_connection_for_the_next() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(stream([b"data: 1\n\n", b"data: 2\n\n"]))
        answer = await h.ask(is_whole=False)
        pieces = []
        while piece := await answer.more():
            pieces.append(piece)

        assert b"".join(pieces) == b"data: 1\n\ndata: 2\n\n"
        assert await answer.more() == b""
        await h.ask()
        assert h.up.num_connections == 1

    run(body)


def test_a_stream_that_nobody_reads_is_not_read_from_the_backend_and_does_not_time_out() -> None:
    async def body(h: Harness) -> None:
        piece = b"x" * 65536

        def endless() -> Script:
            yield head(200, SSE, CHUNKED) + b"\r\n"
            for _ in range(1000):
                yield chunk(piece)
                yield Step.YIELD
            yield LAST_CHUNK

        h.up.script.append(endless())
        answer = await h.ask(is_whole=False)
        await until(lambda: answer.deadline_s == NEVER)
        for _ in range(500):  # time enough to read on
            await asyncio.sleep(0)
        first = await answer.more()
        assert MAX_AHEAD_BYTES < len(first) < MAX_AHEAD_BYTES + 2**21
        total = len(first)
        while data := await answer.more():
            total += len(data)
        assert total == 1000 * 65536

    run(body)


def test_closing_a_stream_closes_its_connection_and_a_cancelled_request_too() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(hang_midstream(b"data: 1\n\n"))
        answer = await h.ask(is_whole=False)
        assert await answer.more() == b"data: 1\n\n"
        answer.close()
        await h.up.wait_open(0)

        h.up.script.append(hang_before())
        task = asyncio.ensure_future(h.ask())
        await h.up.wait_received(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await h.up.wait_open(0)
        assert (h.pool.num_busy, h.pool.num_idle) == (0, 0)

    run(body)


def test_a_stream_that_was_left_keeps_its_connection_if_it_ends() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(
            [head(200, SSE, CHUNKED) + b"\r\n", chunk(b"data: [DONE]\n\n"), Step.HANG, chunk(b"late"), LAST_CHUNK]
        )
        answer = await h.ask(is_whole=False)
        assert await answer.more() == b"data: [DONE]\n\n"
        answer.leave()
        h.up.go.set()
        await until(lambda: not h.pool.num_busy)
        assert h.pool.num_idle == 1

    run(body)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (hang_before, "said nothing for 0.05 s"),
        (lambda: hang_midstream(b"data: 1\n\n"), "said nothing for 0.05 s"),
    ],
)
def test_silence_before_the_first_event_is_a_timeout(script: Callable[[], Script], says: str) -> None:
    async def body(h: Harness) -> None:
        error = await h.fault(script(), is_whole=False, timeouts=SOON)
        assert isinstance(error, UpstreamTimeout)
        assert says in error.message

    run(body)


def test_an_answer_that_comes_whole_has_a_time_of_its_own() -> None:
    async def body(h: Harness) -> None:
        error = await h.fault(hang_before(), timeouts=Timeouts(first_event_s=0.001, whole_s=0.06))
        assert "said nothing for 0.06 s" in error.message

    run(body)


def test_silence_after_the_first_event_is_a_timeout_of_its_own() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(hang_midstream(b"data: 1\n\n"))
        answer = await h.ask(is_whole=False, timeouts=Timeouts(first_event_s=60, idle_s=0.05))
        await answer.more()
        answer.begin()
        with pytest.raises(UpstreamTimeout, match="in the midst of its answer"):
            await answer.more()
        await h.up.wait_open(0)

    run(body)


def bare(*lines: str, body: bytes = b"") -> Script:
    return [("\r\n".join(lines) + "\r\n\r\n").encode() + body, Step.CLOSE]


OK = "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (garbage, "not HTTP/1.1"),
        (lambda: [Step.CLOSE], "before it answered"),
        (lambda: [b"HTTP/1.1 200 OK\r\ncontent-le", Step.CLOSE], "midst of its head"),
        (lambda: bare(OK, "content-length: 5", body=b"abc"), "midst of its answer"),
        (lambda: bare(OK, "transfer-encoding: chunked", body=b"5\r\nabc"), "midst of its answer"),
        (lambda: bare(OK, "transfer-encoding: chunked", body=b"zz\r\nabc"), "not HTTP/1.1"),
        (lambda: bare(OK, body=b"abc"), "nobody knows whether it was whole"),
        (lambda: bare(OK, "content-length: 3", "content-length: 4", body=b"abcd"), "not HTTP/1.1"),
        (
            lambda: bare(OK, "content-length: 3", "transfer-encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
            "not HTTP/1.1",
        ),
        (lambda: bare(OK, "transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"), "must be chunked"),
        (lambda: bare(OK, "content-length: 3", "content-encoding: gzip", body=b"abc"), "compressed"),
        (lambda: bare(OK, "content-length: 99999999999"), "longer than"),
        (lambda: bare("HTTP/1.1 101 Switching Protocols", "upgrade: x", "connection: upgrade"), "another protocol"),
        (lambda: [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MAX_QUIET_BYTES], "before its head ended"),
        (lambda: [b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 9999] * 9], "before its head ended"),
        (lambda: [b"HTTP/1.1 100 Continue\r\n\r\n" * 9999], "before its head ended"),
        (lambda: bare(OK, "transfer-encoding: chunked", body=b"3;" + b"x" * 700000), "before its body went on"),
        (lambda: bare("HTTP/2 200 OK"), "not HTTP/1.1"),
    ],
)
def test_what_is_no_answer_is_a_fault_that_says_why_and_ends_the_connection(
    script: Callable[[], Script], says: str
) -> None:
    async def body(h: Harness) -> None:
        error = await h.fault(script())
        assert type(error) is UpstreamFault
        assert says in error.message
        assert "sk-secret" not in error.message

    run(body)


@pytest.mark.parametrize("framing", [("content-length", "3000000"), CHUNKED])
def test_the_body_of_an_error_is_read_up_to_a_limit(framing: tuple[str, str]) -> None:
    async def body(h: Harness) -> None:
        data = b"x" * 3_000_000
        begun = head(500, "text/plain", framing) + b"\r\n"
        h.up.script.append([begun, *([chunk(data), LAST_CHUNK] if framing is CHUNKED else [data])])
        answer = await h.ask(is_whole=False)
        assert answer.status == 500
        with pytest.raises(UpstreamFault, match="longer than 1000000 bytes"):
            await answer.read(1_000_000)
        await h.up.wait_open(0)

    run(body)


def test_interim_answers_and_trailers_are_no_part_of_an_answer() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(
            [
                b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
                Step.YIELD,
                head(200, SSE, CHUNKED) + b"\r\n" + chunk(b"data: 1\n\n") + b"0\r\nx-checksum: 1\r\n\r\n",
            ]
        )
        answer = await h.ask()

        assert await answer.read() == b"data: 1\n\n"
        assert {name for name, _ in answer.headers}.isdisjoint({b"link", b"x-checksum"})
        await h.ask()
        assert h.up.num_connections == 1

    run(body)


def test_a_stream_may_end_with_its_connection_and_that_connection_is_not_kept() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append([head(200, SSE) + b"\r\n" + b"data: 1\n\n", Step.CLOSE])
        answer = await h.ask(is_whole=False)
        assert await answer.more() == b"data: 1\n\n"
        assert await answer.more() == b""
        assert (h.pool.num_busy, h.pool.num_idle) == (0, 0)

    run(body)


def test_a_backend_that_answers_before_it_read_the_request_is_heard_and_its_connection_not_used_again() -> None:
    async def body(h: Harness) -> None:
        ports = []

        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ports.append(writer.get_extra_info("peername"))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(whole({"error": "too large"}, 413)))
            with contextlib.suppress(ConnectionError):
                await h.up.go.wait()
            writer.transport.abort()

        server = await asyncio.start_server(early, "127.0.0.1", 0, limit=2**16)
        address = read_url(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        pool, big = Pool(address, PLAIN), b"x" * (32 * 2**20)
        head_bytes = Head(address, []).write("POST", "/", [], len(big))
        for _ in range(2):
            answer = await pool.ask(head_bytes, big, is_whole=True)
            assert answer.status == 413
        assert len(ports) == 2
        assert pool.num_idle == 0
        await pool.close()
        h.up.go.set()
        server.close()

    run(body)


def test_who_gives_up_waiting_for_a_connection_takes_none_with_him() -> None:
    async def body(h: Harness) -> None:
        for frees_first in (False, True):
            h.up.script.append(hang_midstream(b"data: 1\n\n"))
            held = await h.ask(is_whole=False)
            waiting = asyncio.ensure_future(h.ask())
            await asyncio.sleep(0)
            if frees_first:
                held.close()  # The place is his, and he does not know it yet.
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            held.close()
            assert h.pool.num_busy == 0
            await h.ask()

    run(body, PoolSettings(max_connections=1))


def test_no_more_connections_than_allowed_are_opened_and_who_waits_gets_the_next_that_is_free() -> None:
    async def body(h: Harness) -> None:
        h.up.script.extend([[Step.HANG, *whole({})], [Step.HANG, *whole({})]])
        held = [asyncio.ensure_future(h.ask()) for _ in range(2)]
        await h.up.wait_received(2)
        waiting = [asyncio.ensure_future(h.ask()) for _ in range(3)]
        given_up = asyncio.ensure_future(h.ask())
        await asyncio.sleep(0)
        given_up.cancel()
        h.up.go.set()
        answers = await asyncio.gather(*held, *waiting)

        assert [answer.status for answer in answers] == [200] * 5
        assert h.up.num_connections == 2
        assert h.pool.num_busy == 0

    run(body, PoolSettings(max_connections=2))


def test_a_request_for_which_no_connection_comes_free_is_refused_as_overload() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(hang_before())
        held = asyncio.ensure_future(h.ask())
        await h.up.wait_received(1)
        with pytest.raises(Overloaded, match="all 1 connections"):
            await h.ask(timeouts=SOON)
        held.cancel()
        await asyncio.wait([held])
        await h.ask()

    run(body, PoolSettings(max_connections=1))


def test_idle_connections_are_closed_after_their_time_and_beyond_their_number() -> None:
    async def body(h: Harness) -> None:
        await asyncio.gather(*(h.ask() for _ in range(5)))
        assert h.pool.num_idle == 2
        await h.up.wait_open(0)
        assert h.pool.num_idle == 0

    run(body, PoolSettings(max_idle=2, max_idle_s=0.05))


def test_a_backend_that_is_not_there_is_a_fault_that_names_it() -> None:
    async def body(h: Harness) -> None:
        h.up.refuse()
        with pytest.raises(UpstreamFault, match=rf"127\.0\.0\.1:{h.up.port}: it was refused"):
            await h.ask()
        assert h.pool.num_busy == 0

    run(body)


def test_closing_the_pool_ends_what_is_under_way_and_what_comes_later() -> None:
    async def body(h: Harness) -> None:
        h.up.script.append(hang_before())
        task = asyncio.ensure_future(h.ask())
        await h.up.wait_received(1)
        await h.pool.close()
        with pytest.raises(UpstreamFault, match="lets go"):
            await task
        with pytest.raises(UpstreamFault, match="lets go"):
            await h.ask()
        await h.up.wait_open(0)

    run(body)


def test_a_machine_that_swallows_what_is_sent_leaves_time_for_the_next_of_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(h: Harness) -> None:
        loop = asyncio.get_running_loop()
        connect, asked = loop.create_connection, []

        async def resolve(*args: Any, **options: Any) -> list[Any]:
            return [
                (family, 1, 6, "", (host, 0))
                for family, host in ((2, "192.0.2.1"), (2, "192.0.2.2"), (10, "::9"), (2, "127.0.0.1"))
            ]

        async def swallow(factory: Any, host: str, port: int, **options: Any) -> Any:
            asked.append(host)
            if host == "::9":
                raise ConnectionRefusedError
            if host != "127.0.0.1":
                await asyncio.Event().wait()
            return await connect(factory, host, port, **options)

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        monkeypatch.setattr(loop, "create_connection", swallow)
        answer = await h.ask(timeouts=Timeouts(connect_s=1.2))
        assert answer.status == 200
        assert asked == ["192.0.2.1", "::9", "192.0.2.2", "127.0.0.1"]

    run(body)


def test_a_name_that_leads_to_a_cloud_machines_metadata_is_refused_when_it_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(h: Harness) -> None:
        async def resolve(*args: Any, **options: Any) -> list[Any]:
            return [(2, 1, 6, "", ("169.254.169.254", 80))]

        pool = Pool(read_url("http://innocent.example"), PoolSettings())
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        with pytest.raises(UpstreamFault, match="metadata"):
            await pool.ask(b"", b"", is_whole=True)
        assert pool.num_busy == 0

    run(body)
