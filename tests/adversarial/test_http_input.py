"""What a hostile or broken client can send: each gets a clear refusal, nothing grows, and the server goes on."""

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
from tests.doubles_http import (
    Client,
    HandClock,
    Pause,
    Reply,
    ScriptedBackend,
    Step,
    answer,
    chat,
    make_app,
    run,
    started,
)
from tests.doubles_inputs import InputsBackend
from tests.loopback import exchange, listening, socket_option

from headrace.core.events import TextDelta
from headrace.core.request import Request
from headrace.server.app import Surroundings, build_app
from headrace.server.config import ServerConfig

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024
HUNDRED_MB = 100 * 1000 * 1000


def refusal(
    body: bytes | list[bytes], config: ServerConfig | None = None, headers: dict[str, str] | None = None
) -> tuple[Reply, int]:
    """The error that a chat body meets, after which the same server must still answer a good one."""
    replies = []

    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), config)
        client = Client(app, "POST", CHAT, body, headers)
        replies.append((await client.run(), client.num_received))
        after = await Client(app, "POST", CHAT, chat()).run()
        assert after.status == 200

    run(main())
    return replies[0]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b'{"model":"\xff"}', "invalid_json", None),
        (b"null", "invalid_type", None),
        (b"[]", "invalid_type", None),
        (b"{}", "missing_required_parameter", "model"),
        (b"[" * 100_000, "invalid_type", None),
        (chat(messages=[]), "invalid_value", "messages"),
        (chat(messages=[{"role": "user"}]), "invalid_value", "messages[0].content"),
        (chat(temperature=-1), "invalid_value", "temperature"),
        (chat(top_p=0), "invalid_value", "top_p"),
        (chat(n=0), "invalid_value", "n"),
        (chat(n=10**9), "invalid_value", "n"),
        (chat(max_tokens=-5), "invalid_value", "max_tokens"),
        (chat(seed=10**30), "invalid_value", "seed"),
        (chat(stop=[""]), "invalid_value", "stop"),
        (chat(stop=["x"] * 1000), "invalid_value", "stop"),
        (chat(temperature=float("nan")), "invalid_json", None),
        (chat(temperature=float("inf")), "invalid_json", None),
        (chat().replace(b"}]}", b'}],"temperature":1e999}'), "invalid_value", "temperature"),
        (chat(prediction=json.loads("[" * 900 + "]" * 900), bogus=1), "unknown_parameter", "bogus"),
    ],
)
def test_bad_bodies_are_refused_with_the_field_named(body: bytes, code: str, param: str | None) -> None:
    reply, _ = refusal(body)
    assert reply.status == 400
    assert (reply.error()["code"], reply.error()["param"]) == (code, param)
    assert reply.error()["type"] == "invalid_request_error"
    assert len(reply.body) < 3000


INPUTS_ROUTES = {
    "/v1/embeddings": b'{"model":"mini","input":"a b"}',
    "/v1/score": b'{"model":"judge","text_1":"a","text_2":"b"}',
    "/v1/rerank": b'{"model":"judge","query":"a","documents":["b"]}',
}


@pytest.mark.parametrize("path", INPUTS_ROUTES)
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"null", 400, "invalid_type"),
        (b"{}", 400, "missing_required_parameter"),
        (b"[" * 100_000, 400, "invalid_type"),
        (b'{"model":"mini","input":' + b"[" * 500_000, 400, None),
        (b'{"model":"mini","input":"\\ud800","query":"\\ud800"}', 400, None),
        (b'{"model":"mini","input":[' + b"[1]," * 300_000 + b"[1]]}", 400, None),
        (b'{"model":"mini","user":{},"text_1":[' + b'"a",' * 300_000 + b'"b"],"text_2":"c"}', 400, None),
        (b'{"model":"mini","input":["a",' + b"1," * 300_000 + b"2]}", 400, None),
        (b'{"model":"mini","input":"' + b"a" * 11 * MIB + b'"}', 413, "payload_too_large"),
    ],
)
def test_bad_bodies_of_many_texts_are_refused_and_reach_no_backend(
    path: str, body: bytes, status: int, code: str | None
) -> None:
    async def main() -> None:
        backend = InputsBackend()
        app = make_app(backend)
        reply = await Client(app, "POST", path, body).run()
        assert reply.status == status
        assert reply.error()["type"] == "invalid_request_error"
        assert code is None or reply.error()["code"] == code
        assert len(reply.body) < 3000
        assert backend.requests == []
        assert (await Client(app, "POST", path, INPUTS_ROUTES[path]).run()).status == 200

    run(main())


def test_a_body_nested_beyond_all_reason_is_refused() -> None:
    reply, _ = refusal(chat().replace(b"}]}", b'}],"prediction":' + b"[" * 500_000 + b"]" * 500_000 + b"}"))
    assert (reply.status, reply.error()["code"]) == (400, "invalid_json")


def test_a_declared_length_above_the_limit_is_refused_before_a_byte_is_read() -> None:
    reply, num_received = refusal(b"x" * 1000, headers={"content-length": str(HUNDRED_MB)})
    assert (reply.status, num_received) == (413, 0)
    reply, num_received = refusal(b"x" * 1000, headers={"content-length": "9" * 5000})
    assert (reply.status, num_received) == (413, 0)


def test_an_endless_body_is_refused_when_it_passes_the_limit_and_is_not_kept() -> None:
    chunk = b" " * 65536
    tracemalloc.start()
    reply, num_received = refusal([chunk] * (HUNDRED_MB // len(chunk)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (reply.status, reply.error()["code"]) == (413, "payload_too_large")
    assert num_received <= ServerConfig().max_body_bytes + len(chunk)
    assert peak < 3 * MIB  # the chunks are one object here: what is counted is what we keep beside it


def test_many_bodies_together_cannot_exceed_the_servers_budget() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(max_buffered_bytes=1000))
        slow = [Client(app, "POST", CHAT, [b" " * 400, b" " * 400]) for _ in range(2)]
        hold = asyncio.Event()

        async def receive_slowly(client: Client) -> Any:
            if client.num_received:
                await hold.wait()
            return await client.receive()

        tasks = []
        for client in slow:

            def receive(client: Client = client) -> Awaitable[Any]:
                return receive_slowly(client)

            tasks.append(asyncio.ensure_future(app(client.scope, receive, client.send)))
        await asyncio.sleep(0)
        third = await Client(app, "POST", CHAT, chat(user="x" * 300)).run()
        assert (third.status, third.error()["code"]) == (503, "overloaded")
        hold.set()
        await asyncio.gather(*tasks)
        assert (await Client(app, "POST", CHAT, chat()).run()).status == 200

    run(main())


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(body_timeout_s=1e-6))
        client = Client(app, "POST", CHAT, [])
        reply = await client.run()
        assert (reply.status, reply.error()["code"]) == (408, "deadline_exceeded")
        assert reply.headers["connection"] == "close"

    run(main())


def test_a_client_that_leaves_inside_its_body_is_no_error_and_reaches_no_backend() -> None:
    async def main() -> None:
        backend = ScriptedBackend(answer("ok"))
        client = Client(make_app(backend), "POST", CHAT, [])
        client.leave()
        reply = await client.run()
        assert (reply.status, backend.requests) == (0, [])

    run(main())


def test_a_hundred_megabytes_over_a_socket_are_refused_and_the_server_goes_on() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0, max_body_bytes=MIB))
        async with listening(app) as (_, port):
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
            for _ in range(32):
                writer.write(chunk)
                await writer.drain()
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
            with pytest.raises(ConnectionError):
                for _ in range(HUNDRED_MB // 65536):  # sent on regardless: the connection ends
                    writer.write(chunk)
                    await writer.drain()
            writer.close()
            assert b"200 OK" in await exchange(port, request(chat()))

    run(main())


def request(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "connection: close", *headers, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 400_000, b"431"),
        (b"GET / HTTP/1.1\r\nhost: " + b"a" * 400_000, b"431"),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_http_is_refused_in_openais_shape(sent: bytes, status: bytes) -> None:
    async def main() -> None:
        async with listening(make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0))) as (_, port):
            head, _, body = (await exchange(port, sent)).partition(b"\r\n\r\n")
            if head:  # a client that is reset while it still sends may lose the refusal
                assert head.startswith(b"HTTP/1.1 " + status)
                assert json.loads(body)["error"]["type"] == "invalid_request_error"
            assert b"200 OK" in await exchange(port, request(chat()))

    run(main())


def test_trailers_after_a_body_are_not_kept() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0))
        async with listening(app) as (_, port):
            body = chat()
            sent = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            sent += b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nx-request-id: late\r\n\r\n" % (len(body), body)
            reply = await exchange(port, sent)
            assert b"200 OK" in reply
            assert b"x-request-id: late" not in reply

    run(main())


def test_a_connection_that_says_nothing_is_closed() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0, header_timeout_s=0.01))
        async with listening(app) as (_, port):
            assert (await exchange(port)).startswith(b"HTTP/1.1 408 ")
            assert (await exchange(port, b"GET /health HTT")).startswith(b"HTTP/1.1 408 ")

    run(main())


def test_a_connection_too_many_is_refused_and_the_first_goes_on() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0, max_connections=1))
        async with listening(app) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            assert (await exchange(port)).startswith(b"HTTP/1.1 503 ")
            writer.close()

    run(main())


class RushingClock(HandClock):
    """Every look at it is a minute later than the last."""

    def monotonic_s(self) -> float:
        self.now_s += 60
        return self.now_s


def test_a_reader_that_never_reads_is_dropped_from_a_real_socket() -> None:
    """Closing such a connection would wait for its buffer to drain, which never happens: it must be aborted."""

    async def main() -> None:
        closed = asyncio.Event()

        def script(request: Request) -> Iterator[Step]:
            try:
                yield started(request)
                while True:
                    yield TextDelta(0, "x" * 65536, 1)
            finally:
                closed.set()

        backend = ScriptedBackend(script)
        surroundings = Surroundings(clock=RushingClock())
        app = build_app(backend, ServerConfig(port=0, keep_alive_s=0.01), surroundings=surroundings)
        async with listening(app) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(request(chat(stream=True)))
            await closed.wait()
            # Leaving waits until the server has no connection left.
        writer.close()

    run(main())


def test_tokens_are_not_held_back_by_the_kernel() -> None:
    async def main() -> None:
        pause = Pause()
        app = make_app(ScriptedBackend(lambda request: [started(request), pause]), ServerConfig(port=0))
        async with listening(app) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(chat()))
            await pause.reached.wait()
            (connection,) = server.server_state.connections
            assert socket_option(connection.transport, 1) != 0  # TCP_NODELAY
            writer.close()
            await reader.read()

    run(main())


def test_a_client_that_sends_two_requests_at_once_and_vanishes_leaves_nothing_behind() -> None:
    pause = Pause()

    async def main() -> None:
        closed = asyncio.Event()

        def script(request: Request) -> Iterator[Step]:
            try:
                yield started(request)
                yield TextDelta(0, "a", 1)
                yield pause
                yield TextDelta(0, "b", 1)
                yield Pause()
            finally:
                closed.set()

        backend = ScriptedBackend(script)
        async with listening(make_app(backend, ServerConfig(port=0, drain_s=0))) as (_, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            body = chat(stream=True)
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write((head.encode() + body) * 2)
            await pause.reached.wait()
            writer.transport.abort()
            pause.go.set()
            await closed.wait()
        assert (backend.num_open, len(backend.requests)) == (0, 1)

    run(main())
