"""Answers that wait for their records: nothing whole goes out before the record is in the log, or if it cannot be."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable

import pytest
from tests.doubles_gateway import ANSWER, FAULT, USAGE, Script, ScriptedUpstream, bench
from tests.doubles_http import Client, Reply, make_app, run
from tests.doubles_oversight import ScriptedOverseer, ScriptedReceipt
from tests.loopback import listening

from headrace.core.errors import DiskFull, HeadraceError, Overloaded
from headrace.core.events import Embedding, Finished, Started, Usage
from headrace.core.request import Message, Request, Role, TextPart
from headrace.core.transcript import records_in, transcript_digest
from headrace.gateway.contract import UpstreamReply
from headrace.server.app import App
from headrace.server.config import ServerConfig
from headrace.server.guard import Guard

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
BODIES = {
    CHAT: {"model": "smart", "messages": HI},
    "/v1/completions": {"model": "smart", "prompt": "hi"},
    "/v1/messages": {"model": "smart", "messages": HI, "max_tokens": 9},
    "/api/chat": {"model": "smart", "messages": HI},
    "/api/generate": {"model": "smart", "prompt": "hi"},
}
REQUEST = Request(id="r", model="smart", messages=(Message(Role.USER, (TextPart("hi"),)),))
WHOLE = UpstreamReply(status=200, headers=(), body=b'{"ok":true}', usage=USAGE)
SAID = b'data: {"choices":[]}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
DONE = b"data: [DONE]\n\n"
ENDS = {CHAT: DONE, "/v1/completions": DONE, "/v1/messages": STOP}
FULL = DiskFull("there is no room for the log; make some.")
SEALED = base64.b64encode(b'{"sealed":true}')


class Scene:
    """A server whose one request waits for its record."""

    def __init__(self, script: Script, *, is_raw: bool, faults: bool = False) -> None:
        self.sees = ScriptedOverseer(reads_answers=not is_raw, gives_receipts=True, holds_answers=True)
        takes = frozenset({"chat", "completions", "messages"}) if is_raw else frozenset[str]()
        self.bench = bench({"a": ScriptedUpstream(script, takes=takes)}, overseers=(self.sees,))
        self.app: App = make_app(self.bench.gate, ServerConfig(port=0, seals_answers=True))
        self.fault: HeadraceError | None = FULL if faults else None

    def client(self, path: str, headers: dict[str, str] | None = None, **more: object) -> Client:
        return Client(self.app, "POST", path, json.dumps(BODIES[path] | more).encode(), headers)

    @property
    def receipt(self) -> ScriptedReceipt:
        (receipt,) = self.sees.receipts
        return receipt

    async def waiting(self) -> ScriptedReceipt:
        """Until somebody waits for the record."""
        while not self.sees.receipts:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self.receipt.fault = self.fault
        await self.receipt.reached.wait()
        return self.receipt


def meet(scene: Scene, client: Client, then: Callable[[ScriptedReceipt], Awaitable[None]] | None = None) -> Reply:
    """Ask, wait until the record is waited for, do something, and let the record be."""

    async def main() -> None:
        task = client.start()
        receipt = await scene.waiting()
        if then is not None:
            await then(receipt)
        receipt.go.set()
        await task

    run(main())
    return client.reply


VECTORS: Script = [
    Started("r", "m", 4),
    *(Embedding(index, b"\xcd\xcc\x8c\x3f" * 5000, 2) for index in range(2)),
    Finished(Usage(prompt_tokens=4, completion_tokens=0)),
]


def test_an_answer_that_is_printed_in_pieces_waits_as_a_whole() -> None:
    scene = Scene(VECTORS, is_raw=False)
    body = {"model": "smart", "input": ["one", "two"]}
    client = Client(scene.app, "POST", "/v1/embeddings", json.dumps(body).encode())

    async def look(_: ScriptedReceipt) -> None:
        assert (client.reply.status, client.reply.writes) == (0, [])

    reply = meet(scene, client, look)
    assert [len(one["embedding"]) for one in reply.json()["data"]] == [5000, 5000]
    assert len(reply.writes) > 1
    assert scene.receipt.seals == [hashlib.sha256(reply.body).digest()]


def script_of(path: str, *, is_stream: bool, is_raw: bool) -> Script:
    if not is_raw or path.startswith("/api"):
        return ANSWER
    return [SAID, ENDS[path]] if is_stream else [WHOLE]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("is_raw", [False, True])
def test_nothing_of_a_whole_answer_goes_out_before_its_record_is_in_the_log(path: str, *, is_raw: bool) -> None:
    scene = Scene(script_of(path, is_stream=False, is_raw=is_raw), is_raw=is_raw)
    client = scene.client(path, stream=False)

    async def look(receipt: ScriptedReceipt) -> None:
        assert (client.reply.status, client.reply.writes) == (0, [])
        assert len(receipt.seals) == 1

    reply = meet(scene, client, look)
    assert (reply.status, reply.is_complete) == (200, True)
    assert scene.receipt.seals == [hashlib.sha256(reply.body).digest()], "signed over what went out, once"
    assert reply.headers["content-digest"].encode() == b"sha-256=:%b:" % base64.b64encode(scene.receipt.seals[0] or b"")
    assert reply.headers["x-headrace-record"] == scene.receipt.id


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("is_raw", [False, True])
def test_the_last_frame_of_a_stream_goes_out_when_its_record_is_in_the_log(path: str, *, is_raw: bool) -> None:
    scene = Scene(script_of(path, is_stream=True, is_raw=is_raw), is_raw=is_raw)
    client, early = scene.client(path, stream=True), b""
    is_sse = not path.startswith("/api")

    async def look(_: ScriptedReceipt) -> None:
        nonlocal early
        await client.until(lambda reply: bool(reply.writes))
        early = client.reply.body
        assert not client.reply.is_complete

    reply = meet(scene, client, look)
    assert reply.is_complete
    assert early.endswith(b"\n\n" if is_sse else b"\n")
    last = reply.body.removeprefix(early)
    assert last == ENDS[path] if is_sse else json.loads(last)["done"] is True
    told = transcript_digest(reply.body) if is_sse else hashlib.sha256(reply.body).digest()
    assert scene.receipt.seals == [told]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_raw", [False, True])
def test_an_answer_whose_record_is_not_kept_is_an_error_in_its_protocols_shape(
    path: str, *, is_stream: bool, is_raw: bool
) -> None:
    scene = Scene(script_of(path, is_stream=is_stream, is_raw=is_raw), is_raw=is_raw, faults=True)
    reply = meet(scene, scene.client(path, stream=is_stream))
    assert reply.is_complete
    assert b"there is no room for the log" in reply.body
    if not is_stream:
        assert reply.status == (529 if path == "/v1/messages" else 507)
        assert reply.body.count(b"{") <= 2, "nothing of the answer"
        told = reply.json()["error"]
    else:
        assert reply.status == 200
        assert b"[DONE]" not in reply.body
        assert b"message_stop" not in reply.body
        assert b'"done":true' not in reply.body
        told = json.loads(reply.body.rstrip().split(b"\n")[-1].removeprefix(b"data: "))["error"]
    kinds = {"/v1/messages": "overloaded_error", "/api/chat": None, "/api/generate": None}
    assert (told["type"] if isinstance(told, dict) else None) == kinds.get(path, "server_error")


def test_a_last_frame_that_comes_in_pieces_or_not_at_all_waits_too() -> None:
    for pieces in ([SAID, b"data: [DO", b"NE]\n", b"\n"], [SAID, b"event: message_stop\n", b"data: {}\n\n"], [SAID]):
        _check_end_waits(pieces)


def _check_end_waits(pieces: list[bytes]) -> None:
    scene = Scene(pieces, is_raw=True)
    client = scene.client(CHAT, stream=True)

    async def look(_: ScriptedReceipt) -> None:
        await client.until(lambda reply: bool(reply.writes))
        assert client.reply.body == SAID
        assert not client.reply.is_complete

    reply = meet(scene, client, look)
    assert (reply.body, reply.is_complete) == (b"".join(pieces), True)


def test_a_record_inside_of_a_stream_waits_as_the_stream_does() -> None:
    scene = Scene([SAID, DONE], is_raw=True)
    client = scene.client(CHAT, {"x-headrace-record": "inline"}, stream=True)

    async def look(_: ScriptedReceipt) -> None:
        assert SEALED not in client.reply.body

    reply = meet(scene, client, look)
    assert records_in(reply.body) == [SEALED]
    assert reply.body.endswith(DONE)
    assert scene.receipt.seals[0] == transcript_digest(reply.body)


@pytest.mark.parametrize("is_raw", [False, True])
def test_of_a_stream_that_breaks_off_nothing_that_ends_it_goes_out_and_it_waits_for_nothing(*, is_raw: bool) -> None:
    scene = Scene([SAID, DONE, FAULT] if is_raw else [*ANSWER[:2], FAULT], is_raw=is_raw)
    client = scene.client(CHAT, stream=True)

    async def main() -> None:
        await client.run()

    run(main())
    assert b'"upstream_fault"' in client.reply.body
    assert DONE not in client.reply.body
    assert scene.receipt.seals == [transcript_digest(client.reply.body)]


def test_a_whole_answer_in_the_place_of_a_stream_goes_out_once_however_long_its_record_takes() -> None:
    scene = Scene([WHOLE], is_raw=True)
    client = scene.client(CHAT, stream=True)

    async def look(_: ScriptedReceipt) -> None:
        (guard,) = scene.app.lifecycle.running
        assert isinstance(guard, Guard)
        for now_s in (1.0, 2.0, 3.0):  # as if it took as long as a silence may
            guard.look(now_s, 30.0)
            await asyncio.sleep(0)
        assert (client.reply.status, client.reply.writes) == (0, [])

    reply = meet(scene, client, look)
    assert (reply.status, reply.json()) == (200, {"ok": True})


def test_a_refusal_waits_for_nothing() -> None:
    scene = Scene([FAULT], is_raw=True)
    client = scene.client(CHAT)

    async def main() -> None:
        await client.run()

    run(main())
    assert client.reply.status == 502


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_raw", [False, True])
def test_a_client_that_leaves_while_its_answer_waits_ends_the_exchange(*, is_stream: bool, is_raw: bool) -> None:
    scene = Scene(script_of(CHAT, is_stream=is_stream, is_raw=is_raw), is_raw=is_raw)
    client = scene.client(CHAT, stream=is_stream)

    async def main() -> None:
        task = client.start()
        receipt = await scene.waiting()
        client.leave()
        await task  # though nobody said that the record is kept
        assert len(receipt.seals) == 1, "it is recorded all the same"

    run(main())
    assert not client.reply.is_complete
    assert not scene.app.lifecycle.running


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_raw", [False, True])
def test_a_server_whose_time_to_drain_is_over_ends_what_waits_with_an_error(*, is_stream: bool, is_raw: bool) -> None:
    scene = Scene(script_of(CHAT, is_stream=is_stream, is_raw=is_raw), is_raw=is_raw)
    client = scene.client(CHAT, stream=is_stream)

    async def main() -> None:
        task = client.start()
        await scene.waiting()
        scene.app.lifecycle.start_draining()
        assert len(scene.app.lifecycle.running) == 1, "it is waited for like any other"
        scene.app.lifecycle.fail_running()
        await task

    run(main())
    assert client.reply.is_complete
    assert b"the server is stopping" in client.reply.body
    assert DONE not in client.reply.body
    assert client.reply.status == (200 if is_stream else 503)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("faults", [False, True])
def test_on_a_real_connection_bytes_that_pass_wait_too(*, is_stream: bool, faults: bool) -> None:
    scene = Scene([SAID, DONE] if is_stream else [WHOLE], is_raw=True, faults=faults)
    body = json.dumps(BODIES[CHAT] | {"stream": is_stream}).encode()
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"

    async def main() -> None:
        async with listening(scene.app) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head % (CHAT.encode(), len(body)) + body)
            receipt = await scene.waiting()
            early = await reader.readuntil(SAID + b"\r\n") if is_stream else b""
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await reader.read(1)
            receipt.go.set()
            rest = await reader.read()
            writer.close()
        whole = early + rest
        assert (b"HTTP/1.1 507 " in whole) is (faults and not is_stream)
        assert (b"no room for the log" in rest) is faults
        assert (DONE in rest) is (is_stream and not faults)
        assert (WHOLE.body in rest) is (not is_stream and not faults)
        assert receipt.seals == [transcript_digest(SAID + DONE) if is_stream else hashlib.sha256(WHOLE.body).digest()]

    run(main())


def test_several_requests_behind_one_answer_are_all_waited_for() -> None:
    scene = Scene(ANSWER, is_raw=False)
    client = scene.client("/v1/completions", prompt=["one", "two"])

    async def main() -> None:
        task = client.start()
        while len(scene.sees.receipts) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for receipt in scene.sees.receipts:
            await receipt.reached.wait()
            assert not client.reply.writes
            receipt.go.set()
        await task

    run(main())
    assert client.reply.is_complete


@pytest.mark.parametrize("faults", [False, True])
def test_an_answer_that_a_service_reads_ends_when_its_record_is_in_the_log(*, faults: bool) -> None:
    scene = Scene(ANSWER, is_raw=False)
    scene.fault = Overloaded("too many records wait.") if faults else None
    heard: list[str] = []

    async def read() -> None:
        async for event in scene.bench.gate.run(REQUEST):
            heard.append(type(event).__name__)  # noqa: PERF401  (heard at once)

    async def main() -> None:
        task = asyncio.create_task(read())
        receipt = await scene.waiting()
        assert "TextDelta" in heard
        assert "Finished" not in heard
        receipt.go.set()
        if faults:
            with pytest.raises(Overloaded):
                await task
        else:
            await task
        assert ("Finished" in heard) is not faults
        assert receipt.seals == [None], "nobody knows the bytes"
        assert scene.bench.book.is_even

    run(main())
