"""A gateway's answers in the caller's own protocol: what travels, what does not, and every way that they end."""

import asyncio
import json
import logging
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import pytest
from tests.doubles_http import MODEL, Client, HandClock, HandTimers, Pause, Reply, Step, make_app, run, started
from tests.loopback import listening
from tests.scripted_gateway import ScriptedGateway, streamed, told, whole

from headrace.api.sse import KEEP_ALIVE
from headrace.core.errors import BudgetExceeded, ContextTooLong, UpstreamFault
from headrace.core.events import Embedding, Finished, Usage
from headrace.core.gateway import Ask, RawStream, Taken
from headrace.core.gateway import Reply as Answer
from headrace.core.request import Request, Task
from headrace.core.shape import Shape
from headrace.observe.logs import ACCESS_LOGGER
from headrace.server.app import App
from headrace.server.config import ServerConfig

CHAT = "/v1/chat/completions"
BODY = b'{"model":"cheap","messages":[{"role":"user","content":"Hi"}],"seed":1,"new_field":{"a":[1, 2]}}'
STREAM = BODY[:-1] + b',"stream":true}'
JSON_TYPE = [(b"content-type", b"application/json")]


def ask(gateway: ScriptedGateway, body: bytes = BODY, path: str = CHAT, headers: dict[str, str] | None = None) -> Reply:
    client = Client(make_app(gateway), "POST", path, body, headers)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def test_bytes_go_through_as_they_are() -> None:
    gateway = ScriptedGateway(whole(b'{"choices": [ ]}', [(b"content-type", b"application/json; v=1")]))
    reply = ask(gateway)
    assert (reply.status, reply.body) == (200, b'{"choices": [ ]}')
    assert reply.headers["content-type"] == "application/json; v=1"
    raw = gateway.asks[0].raw
    assert raw is not None
    assert (raw.dialect, raw.path) == ("chat", CHAT)
    assert raw.fields["new_field"] == b'{"a":[1, 2]}'
    assert gateway.requests == []  # nothing was decoded


def test_a_response_says_which_way_its_request_went() -> None:
    gateway = ScriptedGateway(whole(b"{}", cost_nanos=1_500_000, saved_nanos=20, cache="exact", overhead_s=0.00025))
    headers = ask(gateway).headers
    found = {name.removeprefix("x-headrace-"): value for name, value in headers.items() if "headrace" in name}
    assert found == {
        "route": "cheap",
        "backend": "east",
        "model": "tiny",
        "attempts": "1",
        "cost": "0.0015",
        "saved": "0.00000002",
        "cache": "exact",
        "queue-ms": "1.50",
        "overhead-ms": "0.25",
    }
    assert headers["x-request-id"] == "req_0000"


def test_the_log_tells_what_the_gateway_knows(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, ACCESS_LOGGER):
        ask(ScriptedGateway(whole(b"{}", cost_nanos=5, prompt_tokens=7, cached_tokens=2, completion_tokens=3)))
    (line,) = [record.headrace_fields for record in caplog.records if record.name == ACCESS_LOGGER]  # type: ignore[attr-defined]
    told = {
        name: line[name] for name in ("backend", "num_attempts", "cost_nanos", "prompt_tokens", "completion_tokens")
    }
    assert list(told.values()) == ["east", 1, 5, 7, 3]
    assert (line["model"], "cache" in line) == ("tiny", False)


def test_a_models_name_cannot_write_headers() -> None:
    headers = ask(ScriptedGateway(whole(b"{}", model="a\r\nset-cookie: x=1", backend="café"))).headers
    assert "set-cookie" not in headers
    assert headers["x-headrace-model"] == "a%0D%0Aset-cookie: x=1"
    assert headers["x-headrace-backend"] == "caf%C3%A9"


def test_of_a_clients_headers_only_those_travel_that_a_backend_may_see() -> None:
    gateway = ScriptedGateway(whole(b"{}"))
    kept = {"anthropic-beta": "a,b", "user-agent": "x", "traceparent": "00-1", "x-vendor": "v"}
    secret = {
        "authorization": "Bearer hr_secret",
        "x-api-key": "hr_secret",
        "cookie": "a=b",
        "accept-encoding": "gzip",
        "x-forwarded-for": "10.0.0.1",
        "x-headrace-labels": "restricted",
        "connection": "keep-alive, x-hop",
        "x-hop": "1",
        "transfer-encoding": "chunked",
        "proxy-authorization": "x",
        "openai-organization": "org-theirs",
    }
    ask(gateway, headers=kept | secret)
    raw = gateway.asks[0].raw
    assert raw is not None
    assert {name.decode(): value.decode() for name, value in raw.headers} == kept


def test_of_a_backends_headers_those_stay_that_are_ours_to_say() -> None:
    sent = [
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"content-length", b"999"),
        (b"set-cookie", b"a=b"),
        (b"transfer-encoding", b"chunked"),
        (b"x-headrace-cost", b"0"),
        (b"x-request-id", b"theirs"),
        (b"x-bad", b"a\r\nx-smuggled: 1"),
    ]
    headers = ask(ScriptedGateway(whole(b"{}", sent))).headers
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert (headers["content-length"], headers["x-request-id"]) == ("2", "req_0000")
    assert not {"set-cookie", "transfer-encoding", "x-headrace-cost", "x-bad"} & headers.keys()


def test_a_stream_passes_piece_by_piece() -> None:
    pause = Pause()
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", pause, b"data: 2\n\n", headers=[(b"x-vendor", b"1")]))

    async def main() -> None:
        client = Client(make_app(gateway), "POST", CHAT, STREAM)
        task = client.start()
        await pause.reached.wait()
        assert client.reply.body == b"data: 1\n\n"
        assert client.reply.headers["content-type"].startswith("text/event-stream")
        assert (client.reply.headers["x-vendor"], client.reply.headers["x-headrace-route"]) == ("1", "cheap")
        pause.go.set()
        await task
        assert client.reply.body == b"data: 1\n\ndata: 2\n\n"
        assert client.reply.is_complete

    run(main())
    assert gateway.num_streams_closed == 1


def test_events_take_the_same_way_as_ever_and_are_marked_too() -> None:
    gateway = ScriptedGateway(told)
    body = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}]}'
    reply = ask(gateway, body)
    assert reply.json()["choices"][0]["message"]["content"] == "Hi"
    assert reply.headers["x-headrace-backend"] == "east"
    assert ask(gateway, body[:-1] + b',"stream":true}').frames()[-1] == "[DONE]"


def test_vectors_come_in_events_too() -> None:
    def script(request: Request) -> list[Step]:
        return [started(request), Embedding(0, array("f", [1.0, 0.0]).tobytes(), 1), Finished(Usage(1, 0))]

    gateway = ScriptedGateway(told, script)
    gateway.models = lambda: (replace(MODEL, tasks=frozenset({Task.EMBED})),)  # type: ignore[method-assign]
    reply = ask(gateway, b'{"model":"tiny","input":"x"}', "/v1/embeddings")
    assert reply.json()["data"][0]["embedding"] == [1.0, 0.0]
    assert reply.headers["x-headrace-route"] == "cheap"


@pytest.mark.parametrize("body", [STREAM, BODY])
def test_what_decoding_refuses_is_refused_as_ever(body: bytes) -> None:
    reply = ask(ScriptedGateway(told), body)
    assert reply.status == 400
    assert reply.error()["param"] == "new_field"


def test_a_gateways_refusal_comes_in_the_callers_words() -> None:
    gateway = ScriptedGateway(whole(b"{}"))
    gateway.before = ContextTooLong("9000 tokens are more than 4096.", param="messages")
    body = {"model": "cheap", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    told = ask(gateway, json.dumps(body).encode(), "/v1/messages").json()["error"]
    assert told["message"] == "prompt is too long: 9000 tokens are more than 4096."
    unknown = ask(gateway, json.dumps(body | {"made_up": 1}).encode(), "/v1/messages").json()["error"]
    assert unknown["message"] == "9000 tokens are more than 4096."
    assert ask(gateway).error()["code"] == "context_length_exceeded"


def test_a_refusal_before_anything_is_sent_has_its_own_status() -> None:
    gateway = ScriptedGateway(whole(b"{}"))
    gateway.before = BudgetExceeded("budget 'team': 0 left.", retry_after_s=3.2)
    reply = ask(gateway, STREAM)
    assert (reply.status, reply.error()["code"]) == (429, "budget_exceeded")
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("4", "false")


def test_a_fault_in_the_middle_ends_the_stream_with_a_frame() -> None:
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", UpstreamFault("east: the connection broke.")))
    reply = ask(gateway, STREAM)
    assert reply.status == 200
    assert reply.frames()[1]["error"]["code"] == "upstream_fault"
    assert reply.is_complete


def test_a_stream_of_nothing_is_a_fault() -> None:
    assert ask(ScriptedGateway(streamed()), STREAM).status == 500


@pytest.mark.parametrize("where", ["before", "within"])
def test_a_client_that_leaves_ends_what_was_asked_for(where: str) -> None:
    pause = Pause()
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", pause))
    if where == "before":
        gateway.before = pause

    async def main() -> None:
        client = Client(make_app(gateway), "POST", CHAT, STREAM)
        task = client.start()
        await pause.reached.wait()
        client.leave()
        await task
        assert not client.reply.is_complete

    run(main())
    assert gateway.num_streams_closed == (where == "within")


@pytest.mark.parametrize("where", ["before", "within"])
def test_the_end_of_a_drain_reaches_bytes_too(where: str) -> None:
    pause = Pause()
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", pause))
    if where == "before":
        gateway.before = pause
    app = make_app(gateway)

    client = Client(app, "POST", CHAT, STREAM)

    async def main() -> None:
        task = client.start()
        await pause.reached.wait()
        assert len(app.lifecycle.running) == 1
        app.lifecycle.fail_running()
        await task

    run(main())
    reply = client.reply
    error = reply.error() if where == "before" else reply.frames()[1]["error"]
    assert (reply.status, error["code"]) == (503 if where == "before" else 200, "unavailable")
    assert (reply.is_complete, app.lifecycle.running) == (True, set())


def test_silence_is_broken_by_a_comment_and_a_late_refusal_comes_in_the_stream() -> None:
    pause, timers, clock = Pause(), HandTimers(), HandClock()
    gateway = ScriptedGateway(told)
    gateway.before = pause
    app = make_app(gateway, timers=timers, clock=clock)

    client = Client(app, "POST", CHAT, STREAM)

    async def main() -> None:
        task = client.start()
        await pause.reached.wait()
        for _ in range(2):
            timers.fire()
        await client.until(lambda reply: bool(reply.writes))
        assert (client.reply.status, client.reply.body) == (200, KEEP_ALIVE)
        pause.go.set()
        await task

    run(main())
    reply = client.reply
    assert reply.frames()[0]["error"]["param"] == "new_field"
    assert timers.num_set == 1  # the sweep looks once more, finds nothing and stops
    timers.fire()
    assert timers.num_set == 0


def test_a_whole_answer_has_no_comments() -> None:
    pause, timers = Pause(), HandTimers()
    gateway = ScriptedGateway(whole(b"{}"))
    gateway.before = pause

    client = Client(make_app(gateway, timers=timers), "POST", CHAT, BODY)

    async def main() -> None:
        task = client.start()
        await pause.reached.wait()
        for _ in range(3):
            timers.fire()
        await asyncio.sleep(0)
        pause.go.set()
        await task

    run(main())
    assert client.reply.body == b"{}"


def test_a_client_that_takes_nothing_is_given_up() -> None:
    timers, clock = HandTimers(), HandClock()
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", b"data: 2\n\n"))
    app = make_app(gateway, ServerConfig(write_timeout_s=60.0), timers=timers, clock=clock)

    async def main() -> None:
        client = Client(app, "POST", CHAT, STREAM)
        client.may_write.clear()
        task = client.start()
        await _turns(20)
        for _ in range(3):
            timers.fire()
            clock.now_s += 61
        await task
        assert client.reply.writes == []

    run(main())
    assert gateway.num_streams_closed == 1


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}]}, "chat"),
        ("/v1/completions", {"prompt": "x"}, "completions"),
        ("/v1/embeddings", {"input": "x"}, "embeddings"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}, "messages"),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}, "messages"),
    ],
)
def test_each_route_brings_its_bytes(path: str, body: dict[str, object], dialect: str) -> None:
    gateway = ScriptedGateway(whole(b"{}", JSON_TYPE))
    reply = ask(gateway, json.dumps({"model": "cheap", **body}).encode(), path)
    raw = gateway.asks[0].raw
    assert raw is not None
    assert (reply.status, raw.dialect, raw.path) == (200, dialect, path)
    assert reply.headers["x-headrace-route"] == "cheap"


def test_what_our_own_server_must_act_on_is_never_passed_on() -> None:
    gateway = ScriptedGateway(whole(b"{}"))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    for more in ({"store": True}, {"priority": 3}):
        ask(gateway, json.dumps(body | more).encode())
    ask(gateway, json.dumps({"model": "tiny", "prompt": ["a", "b"]}).encode(), "/v1/completions")
    ask(gateway, json.dumps(body).encode(), headers={"x-headrace-explain": "cache"})
    assert gateway.asks == []


def test_labels_and_tags_of_all_headers_reach_the_policies() -> None:
    gateway = ScriptedGateway(whole(b"{}"))
    client = Client(make_app(gateway), "POST", CHAT, BODY, {"x-headrace-tags": "a, b", "x-headrace-no-cache": "true"})
    client.scope["headers"] += [(b"x-headrace-labels", b"internal"), (b"x-headrace-labels", b"restricted")]

    async def main() -> None:
        await client.run()

    run(main())
    shape: Shape = gateway.asks[0].shape
    assert shape.labels == {"internal", "restricted"}
    assert (shape.tags, shape.is_fresh) == (("a", "b"), True)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _on_a_socket(app: App, talk: Talk) -> None:
    async with listening(app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await talk(reader, writer)
        writer.close()


def _http(body: bytes, path: str = CHAT) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


async def _read_response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        return head, await reader.readuntil(b"\r\n0\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    return head, await reader.readexactly(int(length[16:]))


def test_on_a_socket_whole_answers_and_streams_keep_the_connection() -> None:
    def reply(gateway: ScriptedGateway, given: Ask) -> Answer:
        kind = streamed(b"data: 1\n\n", b"data: 2\n\n") if given.shape.is_stream else whole(b'{"a":1}')
        return kind(gateway, given)

    gateway = ScriptedGateway(reply)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http(BODY))
        head, body = await _read_response(reader)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (head.count(b"content-length"), body) == (1, b'{"a":1}')
        writer.write(_http(STREAM))
        _, body = await _read_response(reader)
        assert body == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        writer.write(_http(BODY) + _http(BODY))  # pipelined
        assert [(await _read_response(reader))[1] for _ in range(2)] == [b'{"a":1}'] * 2

    run(_on_a_socket(make_app(gateway), talk))


def test_on_a_socket_a_client_that_leaves_ends_its_stream() -> None:
    pause = Pause()
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", pause))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http(STREAM))
        await reader.readuntil(b"data: 1\n\n")
        await pause.reached.wait()
        writer.transport.abort()
        await gateway.closed.wait()

    run(_on_a_socket(make_app(gateway), talk))


def test_on_a_socket_a_fault_in_the_middle_is_told_in_the_stream() -> None:
    gateway = ScriptedGateway(streamed(b"data: 1\n\n", UpstreamFault("east: gone.")))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http(STREAM))
        _, body = await _read_response(reader)
        assert b"upstream_fault" in body

    run(_on_a_socket(make_app(gateway), talk))


def test_a_slow_client_holds_its_stream_back() -> None:
    asked: list[int] = []

    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            asked.append(1)
            yield b"x" * 65536

    gateway = ScriptedGateway(lambda _, __: RawStream(status=200, headers=(), chunks=endless(), taken=Taken()))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_http(STREAM))
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = -1
        while len(asked) != before:  # until nothing more is asked for
            before = len(asked)
            await _turns(100)
        assert 0 < len(asked) < 1000
        writer.transport.abort()

    run(_on_a_socket(make_app(gateway), talk))


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
