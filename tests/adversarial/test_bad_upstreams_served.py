"""Failing backends behind the whole server: what the client sees, which breaker moves, what is charged, who is asked
next. What comes out of each fault by itself: `test_bad_upstreams.py`."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import upstreams
from tests.adversarial.test_bad_upstreams import FAULTS, PATIENT, Fault
from tests.backends import KINDS, Joined
from tests.doubles_http import Client, Reply
from tests.gateway_server import ServedGateway, backend, serving
from tests.upstream_answers import chat_frames
from tests.upstreams import Script, Step, Upstream, upstream

from headrace.core.errors import InvalidRequest, Overloaded, RateLimited, UpstreamFault, UpstreamTimeout
from headrace.gateway.settings import Dialect, Target, Timeouts
from headrace.gateway.upstreams.answer import MAX_AHEAD_BYTES, NEVER
from headrace.gateway.upstreams.remote import Remote

CHAT = "/v1/chat/completions"
NEAR, FAR = Target("near", "small"), Target("far", "small")
ROUTES = (
    '[routes.alone]\ncandidates = ["near/small"]\nretry = {max_attempts = 1}\n'
    '[routes.both]\ncandidates = ["near/small", "far/small"]\npolicies = ["ordered"]\n'
    '[routes.again]\ncandidates = ["near/small"]\nretry = {max_attempts = 2, backoff = "1ms", max_backoff = "1ms"}\n'
)
LATE = [name for name, fault in FAULTS.items() if fault.is_late]
EARLY = [name for name, fault in FAULTS.items() if not fault.is_late]
WHOLE = [name for name in EARLY if "stream" not in name and "event" not in name and "nothing said" not in name]


class Place:
    """The server and its two backends."""

    def __init__(self, served: ServedGateway, dialect: Dialect, near: Upstream, far: Upstream) -> None:
        self.dialect = dialect
        self.served = served
        self.near = near
        self.far = far

    def play(self, fault: Fault) -> None:
        """Let the next request to the near backend meet a fault."""
        joined = Joined(self.near, None, self.dialect)  # type: ignore[arg-type]
        self.near.script.append(fault.script(joined))

    async def ask(self, model: str, *, is_stream: bool) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
        body |= {"stream": True} if is_stream else {}
        return await Client(self.served.app, "POST", CHAT, json.dumps(body).encode()).run()


def run(
    folder: Path,
    test: Callable[[Place], Awaitable[None]],
    timeouts: Timeouts = PATIENT,
    dialect: Dialect = Dialect.CHAT,
) -> None:
    """`dialect` is that of the near backend; clients speak Chat Completions."""
    more = f'dialect = "{dialect}"\n'
    more += (
        f"timeouts = {{first_event = {timeouts.first_event_s}, whole = {timeouts.whole_s}, idle = {timeouts.idle_s}}}\n"
    )

    async def body() -> None:
        async with asyncio.timeout(30), upstream() as near, upstream() as far:
            far.text = "Hello from far."
            text = backend(near, "near", KINDS[dialect], more=more) + backend(far, "far") + ROUTES
            async with serving(folder, text) as served:
                await test(Place(served, dialect, near, far))
                while served.num_busy():  # noqa: ASYNC110  one that has said its last word may still be ending
                    await asyncio.sleep(0)
                assert served.gate.parts.admission.num_in_flight == 0
            await near.wait_open(0)
            await far.wait_open(0)

    asyncio.run(body())


def fault_of(name: str, dialect: Dialect) -> Fault:
    """A fault as a backend of a dialect shows it: not all of them can say that they are overloaded in a stream."""
    fault = FAULTS[name]
    if name == "a stream that is an error":
        return replace(fault, error=UpstreamFault if dialect is Dialect.RESPONSES else Overloaded)
    return fault


def expected(fault: Fault) -> tuple[int, str]:
    """Status and code that a client of one backend alone meets."""
    for error, told in (
        (UpstreamTimeout, (504, "upstream_timeout")),
        (RateLimited, (429, "rate_limit_exceeded")),
        (Overloaded, (503, "overloaded")),
        (InvalidRequest, (400, "invalid_value")),
    ):
        if issubclass(fault.error, error):
            return told
    return 502, "upstream_fault"


@pytest.mark.parametrize(("name", "is_stream"), [*((n, True) for n in EARLY), *((n, False) for n in WHOLE)])
@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.MESSAGES])  # in bytes, and in events
def test_a_fault_before_anything_was_said(tmp_path: Path, dialect: Dialect, name: str, is_stream: bool) -> None:
    fault = fault_of(name, dialect)

    async def body(place: Place) -> None:
        place.play(fault)
        reply = await place.ask("alone", is_stream=is_stream)

        status, code = expected(fault)
        assert (reply.status, reply.error()["code"]) == (status, code)
        assert fault.says in reply.error()["message"]
        assert b"sk-very" not in reply.body
        assert b"127.0.0.1" not in reply.body
        if fault.retry_after_s is not None:
            assert reply.headers["retry-after"] == str(int(fault.retry_after_s))
        (record,) = place.served.records
        assert (record.outcome, record.cost_nanos, record.completion_tokens) == (code, 0, 0)
        assert (record.num_attempts, record.backend) in {(1, "near"), (1, "")}
        rests = status in {429, 503}
        assert place.served.num_failed(NEAR) == (status in {502, 504})
        assert (place.served.standings.standing(NEAR).share == 0.0) == rests

    run(tmp_path, body, fault.timeouts, dialect)


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("dialect", Dialect)
def test_a_fault_in_the_midst_of_an_answer(tmp_path: Path, dialect: Dialect, name: str) -> None:
    fault = fault_of(name, dialect)

    async def body(place: Place) -> None:
        place.play(fault)
        reply = await place.ask("both", is_stream=True)

        *said, error = [frame for frame in reply.frames() if frame != "[DONE]"]
        assert reply.status == 200
        assert "".join(_text(frame) for frame in said) == "Hello"
        assert error["error"]["code"] == expected(fault)[1]
        assert not place.far.received, "what has begun is not begun again elsewhere"
        (record,) = place.served.records
        assert record.outcome == expected(fault)[1]
        assert record.is_estimated
        assert record.prompt_tokens == 7 or record.prompt_tokens >= len("Say hello."), "as told, or as bounded"
        assert 5 <= record.completion_tokens <= 16, "charged by what was said, and never above what was set aside"
        assert record.cost_nanos == 1000 * record.prompt_tokens + 2000 * record.completion_tokens
        assert place.served.num_failed(NEAR) == 1

    run(tmp_path, body, fault.timeouts, dialect)


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("name", [name for name in WHOLE if name != "400"])
def test_another_backend_is_asked_before_anything_was_said(tmp_path: Path, name: str, is_stream: bool) -> None:
    fault = fault_of(name, Dialect.CHAT)

    async def body(place: Place) -> None:
        place.play(fault)
        reply = await place.ask("both", is_stream=is_stream)

        assert reply.status == 200
        assert b"far." in reply.body
        assert (len(place.near.received), len(place.far.received)) == (1, 1)
        assert (reply.headers["x-headrace-backend"], reply.headers["x-headrace-attempts"]) == ("far", "2")
        (record,) = place.served.records
        assert (record.outcome, record.backend, record.num_attempts) == ("ok", "far", 2)
        assert (record.prompt_tokens, record.completion_tokens, record.cost_nanos) == (7, 3, 13_000)
        assert place.served.num_failed(FAR) == 0

    run(tmp_path, body, fault.timeouts)


def test_a_callers_own_mistake_is_asked_of_nobody_else(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        place.play(FAULTS["400"])
        reply = await place.ask("both", is_stream=False)
        assert reply.status == 400
        assert not place.far.received

    run(tmp_path, body)


def test_a_burst_of_failures_opens_the_breaker_and_then_nobody_asks_that_backend(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        for _ in range(5):
            place.play(FAULTS["500"])
            assert (await place.ask("alone", is_stream=False)).status == 502
        for _ in range(3):
            reply = await place.ask("alone", is_stream=False)
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert (await place.ask("both", is_stream=False)).headers["x-headrace-backend"] == "far"
        assert len(place.near.received) == 5

    run(tmp_path, body)


def test_a_backend_that_refuses_connections_fails_over(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        place.near.refuse()
        for is_stream in (True, False):
            assert (await place.ask("both", is_stream=is_stream)).headers["x-headrace-backend"] == "far"
        reply = await place.ask("alone", is_stream=False)
        assert reply.status == 502

    run(tmp_path, body)


def test_a_client_that_leaves_ends_the_backends_work_and_is_charged_for_what_was_said(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        place.play(FAULTS["hangs mid-stream"])
        fields = {"model": "both", "messages": [{"role": "user", "content": "Say hello."}], "stream": True}
        client = Client(place.served.app, "POST", CHAT, json.dumps(fields | {"max_tokens": 16}).encode())
        task = client.start()
        await client.until(lambda reply: b"Hello" in reply.body)
        client.leave()
        await task
        await place.near.wait_open(0)

        (record,) = place.served.records
        assert (record.outcome, record.is_estimated) == ("cancelled", True)
        assert record.cost_nanos > 0
        assert place.served.num_failed(NEAR) == 0

    run(tmp_path, body)


def test_a_client_that_does_not_read_holds_the_backend_back(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        def endless() -> Script:
            frames = list(chat_frames(place.near, "small", {}))
            yield upstreams.head(200, upstreams.SSE, upstreams.CHUNKED) + b"\r\n" + upstreams.chunk(frames[0])
            for _ in range(1000):
                yield upstreams.chunk(frames[1] * 250)  # about 40 KB
                yield Step.YIELD
            yield upstreams.chunk(b"".join(frames[2:])) + upstreams.LAST_CHUNK

        place.near.script.append(endless())
        fields = {"model": "alone", "messages": [{"role": "user", "content": "Say hello."}], "stream": True}
        client = Client(place.served.app, "POST", CHAT, json.dumps(fields).encode())
        task = client.start()
        await client.until(lambda reply: b"Hello" in reply.body)
        client.may_write.clear()
        remote = place.served.gate.parts.upstreams["near"]
        assert isinstance(remote, Remote)
        (connection,) = remote.pool._busy
        answer = connection.answer
        assert answer is not None
        while answer.deadline_s != NEVER:  # noqa: ASYNC110  nobody tells that a stream is held
            await asyncio.sleep(0)
        for _ in range(500):
            await asyncio.sleep(0)
        assert answer._ahead_bytes < 2 * MAX_AHEAD_BYTES
        num_written = len(client.reply.body)
        client.leave()
        client.may_write.set()
        await task
        await place.near.wait_open(0)
        assert len(client.reply.body) < num_written + 2**20
        (record,) = place.served.records
        assert record.outcome == "cancelled"

    run(tmp_path, body)


def test_an_answer_that_drips_is_the_same_answer(tmp_path: Path) -> None:
    async def body(place: Place) -> None:
        good = await place.ask("alone", is_stream=True)
        frames = chat_frames(place.near, "small", {"stream_options": {"include_usage": True}})
        place.near.script.append(upstreams.drip(upstreams.stream(frames)))
        assert (await place.ask("alone", is_stream=True)).body == good.body

    run(tmp_path, body)


def _text(frame: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in frame["choices"])
