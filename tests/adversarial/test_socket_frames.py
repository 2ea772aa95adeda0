"""What a hostile or broken client can do over a WebSocket: exact answers, and nothing is left behind."""

import asyncio
import json
import logging
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.adversarial.test_socket_handshake import Entry, entry, handshake
from tests.doubles_http import run
from tests.scripted import Call, Gate, Scripted, Turn, last_says
from tests.socket_client import LAST, LOOKUP, Place, serving, until

from headrace.core.errors import Overloaded
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.observe.logs import ACCESS_LOGGER
from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing
from headrace.server.sockets import MAX_ERRORS_IN_A_ROW

OK = [Turn(text="OK")]
CREATE: dict[str, Any] = {"type": "response.create", "model": "scripted", "input": "Hi", "store": False}


def with_fields(**fields: Any) -> str:
    return json.dumps(CREATE | fields)


# Message -> code and field of the error that it gets.
WRONG: list[tuple[str, str, str | None]] = [
    ("", "invalid_json", None),
    ("{", "invalid_json", None),
    ("null", "invalid_type", None),
    ("[]", "invalid_type", None),
    ('"response.create"', "invalid_type", None),
    ("{}", "missing_required_parameter", "type"),
    ('{"type":7}', "invalid_type", "type"),
    ('{"type":"response.cancel"}', "invalid_value", "type"),
    ('{"type":"response.created"}', "invalid_value", "type"),
    ('{"type":' + "[" * 100_000, "invalid_json", None),
    ('{"type":"response.create","stream_id":' + "[" * 1500 + "]" * 1500 + "}", "invalid_json", None),
    ('{"type":"response.create","input":' + "[" * 1500 + "]" * 1500 + "}", "invalid_json", None),
    ('{"type":"\\ud800"}', "invalid_json", None),
    (with_fields(stream_id=5), "invalid_type", "stream_id"),
    (with_fields(stream_id=""), "invalid_value", "stream_id"),
    (with_fields(stream_id="x" * 129), "invalid_value", "stream_id"),
    (with_fields(stream=False), "invalid_value", "stream"),
    (with_fields(stream="yes"), "invalid_type", "stream"),
    (with_fields(background=True), "invalid_value", "background"),
    (with_fields(generate="no"), "invalid_type", "generate"),
    (with_fields(previous_response_id=7), "invalid_type", "previous_response_id"),
    (with_fields(temperature="hot"), "invalid_type", "temperature"),
    (with_fields(temprature=1), "unknown_parameter", "temprature"),
    (with_fields(model="another"), "model_not_found", "model"),
    (with_fields(input=[{"type": "nothing"}]), "unsupported_parameter", "input[0].type"),
]


def test_a_message_that_cannot_be_taken_gets_one_error_and_the_connection_goes_on() -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend), place.client() as client:
            for message, code, param in WRONG:
                await client.send(message)
                frame = await client.receive()
                assert frame["type"] == "error", message[:100]
                assert frame["status"] == (404 if code == "model_not_found" else 400)
                assert set(frame["error"]) == {"type", "code", "message", "param", "headers"}
                assert frame["error"]["headers"]["x-should-retry"] == "false"
                assert (frame["error"]["code"], frame["error"]["param"]) == (code, param), message[:100]
                assert (await client.turn())["type"] == "response.completed"
                assert backend.num_open == 0

    run(main())


def test_an_error_names_the_lane_that_it_belongs_to() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            frame = await client.turn(stream_id="a", temperature="hot")
            assert (frame["type"], frame["stream_id"]) == ("error", "a")
            frame = await client.turn(stream_id="a", background=True)
            assert (frame["type"], frame["stream_id"]) == ("error", "a")
            last = await client.turn(stream_id="a")
            assert (last["type"], last["stream_id"]) == ("response.completed", "a")

    run(main())


# Fields of a `response.steer` -> why it is not taken.
WRONG_STEERS: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_none", "input": "x"}, "response_not_found"),
    ({"input": "x"}, "invalid_input"),
    ({"previous_response_id": 7, "input": "x"}, "invalid_input"),
    ({"previous_response_id": "resp_1"}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": ""}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": []}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": [{"role": "system", "content": "x"}]}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": [{"role": "user", "content": ""}]}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": [{"role": "user", "content": [{"type": "x"}]}]}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": [{"role": "user", "content": [{"type": {}}]}]}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": [{"role": "user", "content": "x", "y": 1}]}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": [7]}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": "x", "stream_id": "a"}, "invalid_input"),
    ({"previous_response_id": "resp_1", "input": "x", "model": "a"}, "invalid_input"),
]


def test_steering_that_cannot_be_taken_comes_back_with_its_input() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            for fields, said in WRONG_STEERS:
                await client.send({"type": "response.steer", **fields})
                frame = await client.receive()
                assert (frame["type"], frame["error"]["code"]) == ("response.steer.failed", said), fields
                assert frame["steer"]["input"] == fields.get("input", "")
                assert "id" not in frame["steer"]

    run(main())


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """One frame of a client, masked with zeros (RFC 6455, 5.2)."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else bytes([0x80 | 126]) + struct.pack("!H", length)
    if length >= 2**16:
        size = bytes([0x80 | 127]) + struct.pack("!Q", length)
    return bytes([(0x80 if fin else 0) | opcode]) + size + bytes(4) + payload


@asynccontextmanager
async def raw(place: Place) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(handshake())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    yield reader, writer
    writer.close()


# Bytes after the handshake -> the code that the connection is closed with.
BROKEN: list[tuple[bytes, int]] = [
    (masked(1, b"\xff\xfe"), 1007),
    (masked(1, b'{"type":"\xc3', fin=False) + masked(0, b'\x28"}'), 1007),
    (masked(2, b"{}"), 1003),
    (b"\x81\x02{}", 1002),  # not masked
    (masked(0, b"{}"), 1002),  # continues nothing
    (masked(3, b"{}"), 1002),  # no such opcode
    (masked(1, b"{", fin=False) + masked(1, b"{}"), 1002),
    (masked(1, b"x" * 2000), 1009),
    (b"".join(masked(0 if index else 1, b"x" * 100, fin=False) for index in range(20)), 1009),
    (bytes([0x81, 0xFF]) + struct.pack("!Q", 2**62) + bytes(4), 1009),
    (masked(8, struct.pack("!H", 1000)), 1000),
]


def test_what_breaks_the_protocol_closes_the_connection_with_its_code() -> None:
    async def main() -> None:
        async with serving(OK, ServerConfig(port=0, max_message_bytes=1000)) as (place, _):
            for frames, code in BROKEN:
                async with raw(place) as (reader, writer):
                    writer.write(frames)
                    assert await close_code(reader) == code, frames[:20]

    run(main())


async def close_code(reader: asyncio.StreamReader) -> int:
    """The code of a close frame, which is the next thing that the server sends."""
    begin = await reader.readexactly(2)
    assert begin[0] == 0x88
    payload = await reader.readexactly(begin[1])
    return int(struct.unpack("!H", payload[:2])[0])


def test_a_text_may_come_in_pieces_that_split_a_character() -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend), place.client() as client:
            data = json.dumps(CREATE | {"input": "Grüße, 世界"}, ensure_ascii=False).encode()
            await client.connection.send(_pieces(data), text=True)
            assert (await client.until(*LAST))["type"] == "response.completed"
            assert backend.requests[-1].messages[-1].text == "Grüße, 世界"

    run(main())


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def test_a_client_that_is_never_right_is_told_to_go() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            for _ in range(MAX_ERRORS_IN_A_ROW):
                await client.send("{")
            assert await client.closed() == 1008
            assert len(client.frames) == MAX_ERRORS_IN_A_ROW

    run(main())


def test_a_client_that_leaves_amid_a_tool_call_leaves_nothing_behind() -> None:
    gate = Gate()
    turns = [Turn(calls=(Call("lookup", {"query": "long enough"}),), sizes=(3,), gates={3: gate})]

    async def main() -> None:
        async with serving(turns) as (place, backend):
            async with place.client() as client:
                await client.create(tools=[LOOKUP])
                await client.create(tools=[LOOKUP], stream_id="beside")
                await client.create(tools=[LOOKUP], stream_id="beside")  # waits behind it
                await client.until("response.function_call_arguments.delta")
                await gate.reached.wait()
                client.connection.transport.abort()
            await until(lambda: backend.num_open == 0 and len(backend.released) == 2)
            assert len(backend.requests) == 2
            assert not place.app.lifecycle.running
            await until(lambda: not place.server.server_state.connections)

    run(main())


def test_every_lane_is_a_session_of_its_own_that_is_released_when_the_connection_ends() -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend):
            for _ in range(2):
                async with place.client() as client:
                    for lane in (None, "a", "a", "b"):
                        await client.turn(stream_id=lane)
            await until(lambda: len(backend.released) == 6)
            sessions = [request.session for request in backend.requests]
            assert len(set(sessions)) == 6
            assert sessions[1] == sessions[2]
            assert set(backend.released) == {("local", session) for session in sessions}

    run(main())


def test_lanes_run_beside_each_other_and_one_lane_in_order() -> None:
    gate = Gate()
    turns = [Turn(text="slow answer", when=last_says("slow"), gates={1: gate}), Turn(text="quick")]

    async def main() -> None:
        async with serving(turns) as (place, _), place.client() as client:
            await client.create("slow", stream_id="a")
            await client.create("next", stream_id="a")
            await client.create("beside", stream_id="b")
            await client.until("response.completed", stream_id="b")
            assert not [one for one in client.frames if one["type"] == "response.completed" and one["stream_id"] == "a"]
            gate.go.set()
            texts = []
            for _ in range(2):
                done = await client.until("response.completed", stream_id="a")
                texts.append(done["response"]["output"][0]["content"][0]["text"])
            assert texts == ["slow answer", "quick"]

    run(main())


def test_too_many_responses_at_once_and_too_many_lanes_are_refused_by_name() -> None:
    gate = Gate()

    async def main() -> None:
        async with serving([Turn(text="a b", gates={0: gate})]) as (place, _), place.client() as client:
            for index in range(17):
                await client.create(stream_id=f"lane{index % 4}")
            refused = await client.until("error")
            assert (refused["status"], refused["error"]["code"]) == (400, "websocket_stream_limit_reached")
            assert refused["stream_id"] == "lane0"
            gate.go.set()
            for _ in range(16):
                await client.until("response.completed")

    run(main())


def test_what_crosses_a_close_on_its_way_begins_nothing() -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend), raw(place) as (reader, writer):
            writer.write(masked(2, b"{}") + masked(1, json.dumps(CREATE).encode()))
            assert await close_code(reader) == 1003
            await until(lambda: not place.app.lifecycle.running)
            assert backend.requests == []

    run(main())


def test_a_client_that_leaves_before_it_is_accepted_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend):
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", place.port)
                writer.write(handshake())
                writer.transport.abort()
            async with place.client() as client:
                assert (await client.turn())["type"] == "response.completed"
            await until(lambda: not place.server.server_state.connections)
            assert backend.num_open == 0

    run(main())
    assert "defect" not in caplog.text


def test_turns_count_among_the_requests_that_a_server_takes() -> None:
    gate = Gate()

    async def main() -> None:
        turns = [Turn(text="a b", gates={1: gate})]
        async with serving(turns, ServerConfig(port=0, max_requests=1)) as (place, _), place.client() as client:
            await client.create(stream_id="a")
            await gate.reached.wait()
            refused = await client.turn(stream_id="b")
            while refused.get("stream_id") != "b":
                refused = await client.until(*LAST)
            assert (refused["status"], refused["error"]["code"]) == (503, "overloaded")
            gate.go.set()
            await client.until("response.completed")

    run(main())


def test_a_key_that_is_taken_back_ends_the_connection_with_its_next_turn() -> None:
    held: list[Entry] = [entry("hr_one"), entry("hr_two")]
    keys = KeyRing(lambda: held)

    async def main() -> None:
        async with serving(OK, keys=keys) as (place, backend):
            async with place.client(authorization="Bearer hr_one") as client:
                assert (await client.turn())["type"] == "response.completed"
                del held[0]
                keys.reload()
                refused = await client.turn()
                assert (refused["status"], refused["error"]["code"]) == (401, "invalid_api_key")
                assert await client.closed() == 1008
            assert len(backend.requests) == 1

    run(main())


def test_warming_up_reads_and_answers_nothing_and_can_be_continued() -> None:
    async def main() -> None:
        for fields in ({"generate": False}, {"prompt_cache_options": {"prewarm": True}}):
            async with serving(OK) as (place, backend), place.client() as client:
                warm = await client.turn("Long instructions", **fields)
                assert warm["type"] == "response.completed"
                assert warm["response"]["output"] == []
                assert backend.requests[-1].limits.max_tokens == 0
                last = await client.turn("Now", previous_response_id=warm["response"]["id"])
                assert last["response"]["output"][0]["content"][0]["text"] == "OK"
                assert backend.requests[-1].limits.max_tokens is None
                assert [one.text for one in backend.requests[-1].messages] == ["Long instructions", "Now"]

    run(main())


def test_an_answer_that_fails_in_its_middle_ends_as_failed_and_takes_away_what_it_continued() -> None:
    turns = [Turn(text="one two three", error=Overloaded("busy"), error_after=2, when=last_says("fail")), *OK]

    async def main() -> None:
        async with serving(turns) as (place, _), place.client() as client:
            first = (await client.turn())["response"]["id"]
            failed = await client.turn("fail", previous_response_id=first)
            assert failed["type"] == "response.failed"
            again = await client.turn("again", previous_response_id=first)
            assert again["error"]["code"] == "previous_response_not_found"

    run(main())


class Defective(Scripted):
    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        raise RuntimeError("a defect")
        yield  # makes it a generator


def test_a_defect_ends_its_turn_and_not_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        backend = Defective(OK)
        async with serving(backend) as (place, _), place.client() as client:
            for _ in range(2):
                frame = await client.turn()
                assert (frame["status"], frame["error"]["code"]) == (500, "engine_fault")
                assert frame["error"]["headers"]["x-should-retry"] == "true"

    run(main())
    assert "met a defect" in caplog.text


def test_a_client_is_told_before_its_connection_has_lived_its_time_and_then_let_go() -> None:
    gate = Gate()

    async def main() -> None:
        async with serving([Turn(text="a b", gates={1: gate})]) as (place, _), place.client() as client:
            await client.create()
            await client.until("response.output_text.delta")
            place.clock.now_s += 3300
            place.timers.fire()
            notice = await client.receive()
            assert notice == {"type": "headrace:connection.expiring", "expires_in_s": 300}
            place.timers.fire()  # it is told once
            place.clock.now_s += 300
            place.timers.fire()
            limit = await client.receive()
            assert (limit["status"], limit["error"]["code"]) == (400, "websocket_connection_limit_reached")
            await client.create("another")
            assert (await client.until("error"))["error"]["code"] == "websocket_connection_limit_reached"
            gate.go.set()
            await client.until("response.completed")
            assert await client.closed() == 1001

    run(main())


def test_what_does_not_end_with_its_connection_is_ended() -> None:
    gate = Gate()

    async def main() -> None:
        async with serving([Turn(text="a b", gates={1: gate})]) as (place, backend), place.client() as client:
            await client.create()
            await client.create("waits")
            await client.until("response.output_text.delta")
            for seconds in (3600, 30):
                place.clock.now_s += seconds
                place.timers.fire()
            assert await client.closed() == 1001
            codes = [frame["error"]["code"] for frame in client.frames if frame["type"] == "error"]
            assert codes == ["websocket_connection_limit_reached", "unavailable", "websocket_connection_limit_reached"]
            assert backend.num_open == 0

    run(main())


def test_orders_that_wait_are_counted_with_the_bodies_of_requests_and_let_go_with_their_connection() -> None:
    gate = Gate()
    config = ServerConfig(port=0, max_buffered_bytes=100_000)

    async def main() -> None:
        async with serving([Turn(text="a b", gates={1: gate})], config) as (place, _):
            bodies = place.app._answering.bodies
            async with place.client() as client:
                await client.create("x" * 40_000, stream_id="a")
                await client.create("x" * 40_000, stream_id="a")
                await client.create("x" * 40_000, stream_id="a")
                refused = await client.until("error")
                assert (refused["status"], refused["error"]["code"]) == (503, "overloaded")
                assert refused["error"]["headers"]["retry-after"] == "1"
                assert 80_000 < bodies.used < 100_000
                gate.go.set()
                for _ in range(2):
                    await client.until("response.completed")
                await until(lambda: bodies.used == 0)
                gate.go.clear()
                await client.create("x" * 40_000)
                await client.until("response.created")
                client.connection.transport.abort()
            await until(lambda: bodies.used == 0)

    run(main())


def test_every_turn_is_logged_and_counted_as_a_request_is(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level(logging.INFO, ACCESS_LOGGER):
            async with serving(OK) as (place, _):
                async with place.client() as client:
                    done = await client.turn("one two three")
                    await client.turn(model="another")
                await until(lambda: not place.server.server_state.connections)
                text = place.app._metrics.expose()[0].decode()
        lines = [record.headrace_fields for record in caplog.records if record.name == ACCESS_LOGGER]
        assert [(line["method"], line["status"], line["outcome"]) for line in lines] == [
            ("MESSAGE", 200, "ok"),
            ("MESSAGE", 404, "not_found"),
            ("GET", 101, "ok"),
        ]
        usage = done["response"]["usage"]
        assert (lines[0]["prompt_tokens"], lines[0]["completion_tokens"]) == (usage["input_tokens"], 1)
        assert lines[0]["request_id"] == done["response"]["id"]
        assert 'method="MESSAGE",route="/v1/responses",status="200"} 1.0' in text

    run(main())
