"""Backends that fail in every way that we know of: what comes out of each is one error that says what happened, in
time, and no connection is left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests import upstreams
from tests.backends import DIALECTS, PASSING, TARGET, Joined, joined, raw_body, text_of
from tests.upstreams import Script

from headrace.core.errors import (
    HeadraceError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    UpstreamFault,
    UpstreamTimeout,
)
from headrace.gateway.contract import UpstreamReply
from headrace.gateway.settings import Dialect, Timeouts

PATIENT = Timeouts()
NOT_FOR_LONG = Timeouts(first_event_s=0.2, whole_s=0.2)
NOT_IDLE = Timeouts(idle_s=0.2)


@dataclass(frozen=True)
class Fault:
    """A way to fail. `says` is in the message; `is_late`: some of an answer has come, so that it cannot be another."""

    script: Callable[[Joined], Script]
    error: type[HeadraceError]
    says: str
    is_late: bool = False
    retry_after_s: float | None = None
    timeouts: Timeouts = PATIENT


def _refusal(dialect: Dialect, status: int, words: str, *headers: tuple[str, str]) -> Script:
    """A refusal as the dialect words it."""
    if dialect is Dialect.MESSAGES:
        kinds = {
            400: "invalid_request_error",
            429: "rate_limit_error",
            503: "overloaded_error",
            529: "overloaded_error",
        }
        error: dict[str, Any] = {"type": kinds.get(status, "api_error"), "message": words}
        return upstreams.whole({"type": "error", "error": error}, status, *headers)
    if dialect is Dialect.GEMINI:
        states = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 529: "UNAVAILABLE"}
        error = {"code": status, "message": words, "status": states.get(status, "INTERNAL")}
        return upstreams.whole({"error": error}, status, *headers)
    error = {"message": words, "type": "invalid_request_error", "param": None, "code": None}
    return upstreams.whole({"error": error}, status, *headers)


def _error_stream(j: Joined) -> Script:
    """A 200 whose stream is an error, as the dialect words it."""
    if j.dialect is Dialect.MESSAGES:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return upstreams.stream([upstreams.frame(error, "error")])
    if j.dialect is Dialect.GEMINI:
        return upstreams.stream(
            [upstreams.frame({"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}})]
        )
    if j.dialect is Dialect.RESPONSES:
        error = {"type": "error", "code": "server_error", "message": "Overloaded", "param": None, "sequence_number": 0}
        return upstreams.stream([upstreams.frame(error, "error")])
    return upstreams.error_stream()


FAULTS: dict[str, Fault] = {
    "hangs before headers": Fault(
        lambda j: upstreams.hang_before(), UpstreamTimeout, "said nothing for 0.2 s", timeouts=NOT_FOR_LONG
    ),
    "hangs before the first event": Fault(
        lambda j: upstreams.hang_midstream(b": hello\n\n"),
        UpstreamTimeout,
        "said nothing for 0.2 s",
        timeouts=NOT_FOR_LONG,
    ),
    "hangs mid-stream": Fault(
        lambda j: upstreams.hang_midstream(*j.begun()),
        UpstreamTimeout,
        "in the midst of its answer",
        True,
        timeouts=NOT_IDLE,
    ),
    "closes before headers": Fault(lambda j: [upstreams.Step.CLOSE], UpstreamFault, "before it answered"),
    "dies mid-stream": Fault(
        lambda j: upstreams.die_midstream(*j.begun()), UpstreamFault, "in the midst of its answer", True
    ),
    "sends garbage": Fault(lambda j: upstreams.garbage(), UpstreamFault, "not HTTP/1.1"),
    "sends garbage events": Fault(
        lambda j: upstreams.stream([b"data: {\xff\xfe\n\n", b"data: nonsense\n\n"]), UpstreamFault, ""
    ),
    "ends with half a frame": Fault(
        lambda j: upstreams.half_frame(j.begun(), j.frames()[-2][:-9]), UpstreamFault, "", True
    ),
    "ends before the last word": Fault(lambda j: upstreams.stream(j.begun()), UpstreamFault, "", True),
    "ends with nothing said": Fault(lambda j: upstreams.stream([]), UpstreamFault, ""),
    "answers with a page": Fault(lambda j: upstreams.wrong_type(), UpstreamFault, "'text/html'"),
    "answers a stream with one JSON": Fault(
        lambda j: upstreams.whole({"choices": []}), UpstreamFault, "a stream of events was asked for"
    ),
    "answers without a type": Fault(
        lambda j: [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], UpstreamFault, "no content-type"
    ),
    "redirects": Fault(
        lambda j: upstreams.whole(b"", 307, ("location", "http://169.254.169.254/")), UpstreamFault, "not followed"
    ),
    "429 with retry-after": Fault(
        lambda j: _refusal(j.dialect, 429, "slow down", ("retry-after", "7")), RateLimited, "", retry_after_s=7
    ),
    "429 without retry-after": Fault(lambda j: _refusal(j.dialect, 429, "slow down"), RateLimited, ""),
    "503": Fault(lambda j: _refusal(j.dialect, 503, "busy", ("retry-after", "2")), Overloaded, "", retry_after_s=2),
    "529": Fault(lambda j: _refusal(j.dialect, 529, "busy"), Overloaded, ""),
    "500": Fault(lambda j: _refusal(j.dialect, 500, "it broke"), UpstreamFault, ""),
    "500 with a page": Fault(lambda j: upstreams.whole(b"<html>", 500, content_type="text/html"), UpstreamFault, ""),
    "401": Fault(lambda j: _refusal(j.dialect, 401, "Incorrect API key sk-very"), UpstreamFault, ""),
    "400": Fault(lambda j: _refusal(j.dialect, 400, "temperature: is too hot"), InvalidRequest, "is too hot"),
    "a stream that is an error": Fault(_error_stream, HeadraceError, "verloaded"),
}


def run(dialect: Dialect, test: Callable[[Joined], Awaitable[None]], timeouts: Timeouts = PATIENT) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), joined(dialect, timeouts) as j:
            await test(j)

    asyncio.run(body())


def check(error: HeadraceError, fault: Fault) -> None:
    assert isinstance(error, fault.error), error
    assert fault.says in error.message
    assert error.retry_after_s == fault.retry_after_s
    assert "sk-very" not in error.message


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("dialect", PASSING)
def test_what_a_client_of_bytes_meets(dialect: Dialect, name: str) -> None:
    fault = FAULTS[name]

    async def body(j: Joined) -> None:
        j.up.script.append(fault.script(j))
        got = b""
        with pytest.raises(HeadraceError) as caught:
            found = await j.remote.relay(raw_body(dialect, is_stream=True), TARGET, max_tokens=None)
            assert fault.is_late, "an error at the start must be raised before anything counts as an answer"
            assert not isinstance(found, UpstreamReply)
            async for piece in found.pieces():
                got += piece
        check(caught.value, fault)
        assert got == b"".join(j.begun() if fault.is_late else [])
        if fault.timeouts is PATIENT:
            assert await j.stream()  # and the next request is answered

    run(dialect, body, fault.timeouts)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_client_of_events_meets(dialect: Dialect, name: str) -> None:
    fault = FAULTS[name]

    async def body(j: Joined) -> None:
        j.up.script.append(fault.script(j))
        with pytest.raises(HeadraceError) as caught:
            await j.events()
        check(caught.value, fault)
        if fault.timeouts is PATIENT:
            assert text_of(await j.events()) == "Hello there."

    run(dialect, body, fault.timeouts)


WHOLE = [name for name, fault in FAULTS.items() if not fault.is_late and "stream" not in name and "event" not in name]


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "ends with nothing said"])
@pytest.mark.parametrize("dialect", PASSING)
def test_what_a_client_of_a_whole_answer_meets(dialect: Dialect, name: str) -> None:
    fault = FAULTS[name]

    async def body(j: Joined) -> None:
        j.up.script.append(fault.script(j))
        with pytest.raises(HeadraceError) as caught:
            await j.whole()
        check(caught.value, fault)
        if fault.timeouts is PATIENT:
            assert (await j.whole()).status == 200

    run(dialect, body, fault.timeouts)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_that_drips_byte_by_byte_is_the_same_answer(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        j.up.script.append(upstreams.drip(upstreams.stream(j.frames())))
        assert text_of(await j.events()) == "Hello there."
        if dialect in PASSING:
            j.up.script.append(upstreams.drip(upstreams.stream(j.frames())))
            assert await j.stream() == await j.stream()

    run(dialect, body)


@pytest.mark.parametrize("dialect", PASSING)
def test_a_status_200_that_is_an_error_is_the_error(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        for ask in (j.whole, j.stream):
            j.up.script.append(upstreams.whole({"error": {"code": 429, "message": "slow down", "type": "x"}}))
            with pytest.raises(RateLimited):
                await ask()

    run(dialect, body)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_backend_that_refuses_connections_is_a_fault(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        j.up.refuse()
        with pytest.raises(UpstreamFault, match="'back': it was refused"):
            await j.events()

    run(dialect, body)


def test_an_answer_beyond_the_limit_is_refused_without_holding_it() -> None:
    async def body(j: Joined) -> None:
        j.up.script.append([upstreams.head(200, "application/json") + b"content-length: 67108865\r\n\r\n"])
        with pytest.raises(UpstreamFault, match="longer than 67108864 bytes"):
            await j.whole()

    run(Dialect.MESSAGES, body)
