"""Recorded answers: what is sealed is what a client got, byte for byte, once, however its answer ended."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.doubles_gateway import ANSWER, FAULT, USAGE, Bench, Script, ScriptedUpstream, Wait, bench
from tests.doubles_http import Client, HandTimers, Reply, make_app, run
from tests.doubles_oversight import ScriptedOverseer, ScriptedOversight
from tests.loopback import exchange, listening

from headrace.core.errors import Forbidden
from headrace.core.events import Event, TextDelta
from headrace.core.transcript import records_in, transcript_digest
from headrace.gateway.contract import UpstreamReply
from headrace.server.config import ServerConfig

HI = [{"role": "user", "content": "hi"}]
BODIES = {
    "/v1/chat/completions": {"model": "smart", "messages": HI},
    "/v1/completions": {"model": "smart", "prompt": "hi"},
    "/v1/messages": {"model": "smart", "messages": HI, "max_tokens": 9},
    "/api/chat": {"model": "smart", "messages": HI},
}
CHAT = "/v1/chat/completions"
PIECES = (b'data: {"a":1}\n\n', b": from the backend\n\n", b'data: {"b":": not a comment"}\n\n', b"data: [DONE]\n\n")
HEADERS = ((b"link", b"<https://backend/>; rel=x"), (b"content-digest", b"sha-256=:AAAA:"))
WHOLE = UpstreamReply(status=200, headers=HEADERS, body=b'{"ok":true}', usage=USAGE)
SEALED = base64.b64encode(b'{"sealed":true}')


def recorded(script: Script, *, is_raw: bool, **about: object) -> tuple[Bench, ScriptedOverseer]:
    sees = ScriptedOverseer(reads_answers=not is_raw, gives_receipts=True, **about)  # type: ignore[arg-type]
    takes = frozenset({"chat", "completions", "messages"}) if is_raw else frozenset[str]()
    return bench({"a": ScriptedUpstream(script, takes=takes)}, overseers=(sees,)), sees


def client_of(
    at: Bench, path: str, config: ServerConfig | None = None, headers: Sequence[str] = (), **more: object
) -> Client:
    body = json.dumps(BODIES[path] | more).encode()
    given = dict(one.split(": ") for one in headers)
    return Client(make_app(at.gate, config or ServerConfig(seals_answers=True)), "POST", path, body, given)


def ask(at: Bench, path: str, config: ServerConfig | None = None, headers: Sequence[str] = (), **more: object) -> Reply:
    client = client_of(at, path, config, headers, **more)
    run(_to_its_end(client))
    return client.reply


async def _to_its_end(client: Client) -> None:
    await client.run()


def digest_of(reply: Reply) -> bytes:
    is_stream = reply.headers["content-type"].startswith("text/event-stream")
    return transcript_digest(reply.body) if is_stream else hashlib.sha256(reply.body).digest()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_raw", [False, True])
def test_what_is_sealed_is_what_was_sent(path: str, *, is_stream: bool, is_raw: bool) -> None:
    script: Script = ANSWER if not is_raw or path == "/api/chat" else PIECES if is_stream else [WHOLE]
    at, sees = recorded(script, is_raw=is_raw)
    reply = ask(at, path, stream=is_stream)
    assert (reply.status, reply.is_complete) == (200, True)
    (receipt,) = sees.receipts
    assert receipt.seals[0] == digest_of(reply)
    assert reply.headers["x-headrace-record"] == receipt.id
    assert reply.headers["link"] == f'</v1/provenance/{receipt.id}>; rel="describedby"'
    shown = reply.headers.get("content-digest")
    told = base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
    assert shown == (None if is_stream else f"sha-256=:{told}:")
    assert [record.outcome for record in sees.begun[0].records] == ["ok"]


@pytest.mark.parametrize("path", list(BODIES)[:3])
@pytest.mark.parametrize("is_raw", [False, True])
@pytest.mark.parametrize("by", ["header", "setting"])
def test_a_stream_can_hold_its_own_record_and_its_digest_is_that_of_the_rest(
    path: str, by: str, *, is_raw: bool
) -> None:
    last = b'event: message_stop\ndata: {"type":"message_stop"}\n\n' if path == "/v1/messages" else b"data: [DONE]\n\n"
    at, sees = recorded([*PIECES[:-1], last] if is_raw else ANSWER, is_raw=is_raw)
    config = ServerConfig(seals_answers=True, inlines_records=by == "setting")
    reply = ask(at, path, config, ["x-headrace-record: inline"] if by == "header" else [], stream=True)
    assert records_in(reply.body) == [SEALED]
    assert reply.body.endswith(b"\n\n: headrace-record " + SEALED + b"\n\n" + last)
    (receipt,) = sees.receipts
    assert receipt.seals[0] == transcript_digest(reply.body)
    assert transcript_digest(reply.body) == transcript_digest(reply.body.replace(b": from the backend\n\n", b""))


def test_what_looks_like_the_last_frame_waits_only_for_the_next() -> None:
    pieces = [b'data: {"x":"data: [DONE]"}\n\n', b"data: 2\n\n", b"data: [DONE]\n\n", b"data: 3\n\n"]
    at, sees = recorded(pieces, is_raw=True)
    reply = ask(at, CHAT, headers=["x-headrace-record: inline"], stream=True)
    assert reply.body.replace(b": headrace-record " + SEALED + b"\n\n", b"") == b"".join(pieces)
    assert sees.receipts[0].seals[0] == transcript_digest(b"".join(pieces))


def test_words_of_a_model_that_look_like_the_last_frame_hold_nothing_back() -> None:
    wait = Wait()
    said = b'data: {"delta":{"content":"data: [DONE]","metadata":{"type":"message_stop"}}}\n\n'
    at, sees = recorded([said, b"data: [DONE]\n\n", b"data: 2\n\n", wait, b"data: [DONE]\n\n"], is_raw=True)
    client = client_of(at, CHAT, headers=["x-headrace-record: inline"], stream=True)

    async def main() -> None:
        task = client.start()
        await wait.reached.wait()
        await client.until(lambda reply: b"data: 2" in reply.body)
        assert client.reply.body == said + b"data: [DONE]\n\ndata: 2\n\n"
        wait.go.set()
        await task

    run(main())
    assert records_in(client.reply.body) == [SEALED]
    assert sees.receipts[0].seals[0] == transcript_digest(client.reply.body)


@pytest.mark.parametrize("is_raw", [False, True])
def test_an_answer_that_breaks_off_is_sealed_over_what_was_sent_of_it_and_over_why(*, is_raw: bool) -> None:
    script: Script = [PIECES[0], FAULT] if is_raw else [*ANSWER[:2], FAULT]
    at, sees = recorded(script, is_raw=is_raw)
    reply = ask(at, CHAT, headers=["x-headrace-record: inline"], stream=True)
    assert b'"upstream_fault"' in reply.body
    assert sees.receipts[0].seals[0] == transcript_digest(reply.body)
    assert records_in(reply.body) == [SEALED]
    assert sees.begun[0].records[0].outcome == "upstream_fault"


@pytest.mark.parametrize("is_raw", [False, True])
def test_an_answer_whose_client_leaves_is_sealed_over_what_was_sent_of_it(*, is_raw: bool) -> None:
    wait = Wait()
    script: Script = [PIECES[0], wait, PIECES[1]] if is_raw else [*ANSWER[:2], wait, *ANSWER[2:]]
    at, sees = recorded(script, is_raw=is_raw)
    client = client_of(at, CHAT, stream=True)

    async def main() -> None:
        task = client.start()
        await wait.reached.wait()
        await client.until(lambda reply: bool(reply.writes))
        client.leave()
        await task

    run(main())
    assert sees.receipts[0].seals == [transcript_digest(client.reply.body)]
    assert sees.begun[0].records[0].outcome == "cancelled"


def test_an_answer_that_a_policy_ends_before_it_begins_is_sealed_over_the_refusal() -> None:
    def refuse(_: ScriptedOversight, event: Event) -> Sequence[Event]:
        raise Forbidden("no", code="policy_denied")

    at, sees = recorded(ANSWER, is_raw=False, on_hear=refuse)
    reply = ask(at, CHAT, stream=True)
    assert (reply.status, reply.error()["code"]) == (403, "policy_denied")
    assert sees.receipts[0].seals[0] == hashlib.sha256(reply.body).digest()
    assert reply.headers["x-headrace-record"] == sees.receipts[0].id


def test_a_request_that_nobody_answers_has_a_record_without_bytes() -> None:
    at, sees = recorded([FAULT], is_raw=True)
    reply = ask(at, CHAT)
    assert reply.status == 502
    assert sees.receipts[0].seals[0] is None


def test_a_silence_before_the_answer_has_the_headers_of_its_record_already() -> None:
    wait = Wait()
    at, sees = recorded([wait, *PIECES], is_raw=True)
    timers = HandTimers()
    app = make_app(at.gate, ServerConfig(seals_answers=True), timers=timers)
    client = Client(app, "POST", CHAT, json.dumps(BODIES[CHAT] | {"stream": True}).encode())

    async def main() -> None:
        task = client.start()
        await wait.reached.wait()
        for _ in range(3):
            timers.fire()
            await asyncio.sleep(0)
        await client.until(lambda reply: bool(reply.writes))
        assert client.reply.headers["x-headrace-record"] == "prov_0"
        wait.go.set()
        await task

    run(main())
    assert client.reply.body.startswith(b": keep-alive\n\n")
    assert sees.receipts[0].seals[0] == transcript_digest(client.reply.body) == transcript_digest(b"".join(PIECES))


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_raw", [False, True])
def test_the_same_goes_for_a_real_connection(*, is_stream: bool, is_raw: bool) -> None:
    script: Script = ANSWER if not is_raw else PIECES if is_stream else [WHOLE]
    at, sees = recorded(script, is_raw=is_raw)
    app = make_app(at.gate, ServerConfig(port=0, seals_answers=True))

    async def main() -> None:
        async with listening(app) as (_, port):
            body = json.dumps(BODIES[CHAT] | {"stream": is_stream}).encode()
            head = (
                b"POST %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-headrace-record: inline\r\n"
                % CHAT.encode()
            )
            data = await exchange(port, head + b"content-length: %d\r\n\r\n" % len(body) + body)
        headers, _, rest = data.partition(b"\r\n\r\n")
        assert b'\r\nlink: </v1/provenance/prov_0>; rel="describedby"' in headers
        if not is_stream:
            digest = hashlib.sha256(rest).digest()
            assert b"content-digest: sha-256=:" + base64.b64encode(digest) + b":" in headers
        else:
            sent = b""
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                sent, rest = sent + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            assert records_in(sent) == [SEALED]
            digest = transcript_digest(sent)
        assert sees.receipts[0].seals[0] == digest

    run(main())


def test_a_record_that_cannot_be_sealed_ends_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    at, sees = recorded(ANSWER, is_raw=False)

    class Broken:
        id = "prov_9"
        waits = False

        def seal(self, digest: bytes | None) -> bytes | None:
            raise OSError("no disk")

    begin = sees.begin

    class Overseer:
        reads_answers = True

        def begin(self, case: object) -> object:
            one = begin(case)  # type: ignore[arg-type]
            one.case.taken.receipt = Broken()
            return one

    at.gate.replace(replace(at.gate.parts, overseers=(Overseer(),)))  # type: ignore[arg-type]
    for is_stream in (False, True):
        reply = ask(at, CHAT, headers=["x-headrace-record: inline"], stream=is_stream)
        assert (reply.status, reply.is_complete) == (200, True)
    assert caplog.text.count("the record prov_9 could not be sealed") >= 2


def test_a_server_that_records_nothing_says_so_to_whoever_asks_for_records() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER, takes=frozenset())})
    reply = ask(at, CHAT, ServerConfig(), ["x-headrace-record: inline"])
    assert (reply.status, reply.error()["param"]) == (400, "x-headrace-record")
    reply = ask(at, CHAT, ServerConfig(seals_answers=True), ["x-headrace-record: outline"])
    assert (reply.status, reply.error()["param"]) == (400, "x-headrace-record")
    reply = ask(at, CHAT, ServerConfig(seals_answers=True))
    assert reply.status == 200
    assert not {"content-digest", "link", "x-headrace-record"} & reply.headers.keys()


def test_of_several_requests_behind_one_answer_each_is_sealed_and_the_last_over_its_bytes() -> None:
    at, sees = recorded(ANSWER, is_raw=False)
    body = {"model": "smart", "prompt": ["one", "two"]}
    client = Client(
        make_app(at.gate, ServerConfig(seals_answers=True)), "POST", "/v1/completions", json.dumps(body).encode()
    )
    run(_to_its_end(client))
    assert client.reply.status == 200
    assert len(sees.receipts) == 2
    told = hashlib.sha256(client.reply.body).digest()
    assert [receipt.seals[0] for receipt in sees.receipts].count(told) == 1
    assert [receipt.seals[0] for receipt in sees.receipts].count(None) == 1
    assert client.reply.headers["x-headrace-record"] == sees.receipts[-1].id
    assert sees.receipts[-1].seals[0] == told
    assert isinstance(sees.begun[0].heard[1], TextDelta)
