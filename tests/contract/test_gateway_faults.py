"""Backends that fail, seen through the whole server: what a client gets, which breaker moves, what is charged.

Each row is a fault; each is met by a client whose bytes pass through, whole and streamed, and by one whose protocol is
translated. `tests/adversarial/test_bad_upstreams.py` has the same faults at the client of backends alone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests import upstreams
from tests.contract.faulty import SECRET, Faulty, Got, faulty, wire
from tests.upstream_answers import chat_frames
from tests.upstreams import Script, Upstream

from headrace.gateway.settings import CandidateSettings, Escalation, Policy, RetrySettings, Target, Timeouts

PATIENT = Timeouts()
NOT_FOR_LONG = Timeouts(first_event_s=0.2, whole_s=0.2)
NOT_IDLE = Timeouts(idle_s=0.2)

NOTHING, BOUNDS, TOLD = "nothing", "bounds", "what was told"
"""What is charged: 7 tokens in and 3 out where the backend told it."""


@dataclass(frozen=True)
class Row:
    """`status` and `code` are what the client sees before an answer has begun, or None in `status` where it has: then
    200 and an error at the end of the stream. `moves`: failed, resting or nothing, of the breaker. A row that is not
    `has_whole` needs a stream to fail in."""

    script: Callable[[Upstream], Script]
    status: int | None
    code: str
    moves: str = "failed"
    charged: str = NOTHING
    has_whole: bool = True
    retry_after: str | None = None
    timeouts: Timeouts = PATIENT


def begun(up: Upstream) -> list[bytes]:
    """The first frames of a good answer."""
    return list(chat_frames(up, "m", {}))[:2]


def bad_request(_: Upstream) -> Script:
    error = {
        "message": "temperature: is too hot",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": None,
    }
    return upstreams.whole({"error": error}, 400)


ROWS = {
    "hangs before headers": Row(lambda up: upstreams.hang_before(), 504, "upstream_timeout", timeouts=NOT_FOR_LONG),
    "hangs before the first event": Row(
        lambda up: upstreams.hang_midstream(b": hello\n\n"),
        504,
        "upstream_timeout",
        has_whole=False,
        timeouts=NOT_FOR_LONG,
    ),
    "hangs mid-stream": Row(
        lambda up: upstreams.hang_midstream(*begun(up)),
        None,
        "upstream_timeout",
        charged=BOUNDS,
        has_whole=False,
        timeouts=NOT_IDLE,
    ),
    "closes before headers": Row(lambda up: [upstreams.Step.CLOSE], 502, "upstream_fault"),
    "dies mid-stream": Row(
        lambda up: upstreams.die_midstream(*begun(up)), None, "upstream_fault", charged=BOUNDS, has_whole=False
    ),
    "sends garbage": Row(lambda up: upstreams.garbage(), 502, "upstream_fault"),
    "ends with half a frame": Row(
        lambda up: upstreams.half_frame(begun(up), b'data: {"choices": [{"ind'),
        None,
        "upstream_fault",
        charged=BOUNDS,
        has_whole=False,
    ),
    "ends before the last word": Row(
        lambda up: upstreams.stream(begun(up)), None, "upstream_fault", charged=BOUNDS, has_whole=False
    ),
    "answers with a page": Row(lambda up: upstreams.wrong_type(), 502, "upstream_fault"),
    "429 with retry-after": Row(
        lambda up: upstreams.limited("7"), 429, "rate_limit_exceeded", moves="resting", retry_after="7"
    ),
    "429 without retry-after": Row(lambda up: upstreams.limited(), 429, "rate_limit_exceeded", moves="resting"),
    "500": Row(lambda up: upstreams.failed(500), 502, "upstream_fault"),
    "401, which is ours to mend": Row(lambda up: upstreams.failed(401), 502, "upstream_fault"),
    "400, which is the caller's": Row(bad_request, 400, "", moves="nothing"),
    "a 200 whose stream is an error": Row(
        lambda up: upstreams.error_stream(), 503, "overloaded", moves="resting", has_whole=False
    ),
}

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
MESSAGES = {**CHAT, "max_tokens": 50}
CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("/v1/chat/completions", CHAT),
    "streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "translated": ("/v1/messages", {**MESSAGES, "stream": True}),
}


def run(test: Callable[[Faulty], Awaitable[None]], timeouts: Timeouts = PATIENT, **route: Any) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), faulty(timeouts, **route) as at:
            await test(at)

    asyncio.run(body())


def check_charge(at: Faulty, charged: str) -> None:
    (record,) = at.book.records
    (reserved,) = at.book.reserved
    assert record.cost_nanos <= reserved.bound.nanos
    if charged == NOTHING:
        assert (record.cost_nanos, record.prompt_tokens, record.completion_tokens) == (0, 0, 0)
    elif charged == TOLD:
        assert (record.cost_nanos, record.is_estimated) == (7 * 1000 + 3 * 10_000, False)
    else:
        assert record.is_estimated
        assert record.prompt_tokens == reserved.shape.prompt_bound
        assert record.cost_nanos > 0


MET = [(client, name) for name, row in ROWS.items() for client in CLIENTS if row.has_whole or client != "whole"]


@pytest.mark.parametrize(("client", "name"), MET)
def test_what_a_client_sees_which_breaker_moves_and_what_is_charged(client: str, name: str) -> None:
    row, (path, fields) = ROWS[name], CLIENTS[client]

    async def body(at: Faulty) -> None:
        at.up.script.append(row.script(at.up))
        got = await at.send(path, {"model": "alone", **fields})
        status = row.status or 200
        assert got.status == (529 if status == 503 and client == "translated" else status), got
        error = got.error
        if client != "translated":
            assert row.code in {error["code"] or "", ""}, error
        assert SECRET not in got.body.decode()
        assert got.headers.get("retry-after") == row.retry_after
        assert at.word() == ("resting" if row.moves == "resting" else "closed")
        assert at.num_failed() == (row.moves == "failed")
        assert at.book.records[0].outcome == (row.code or "invalid_value")
        check_charge(at, row.charged)

    run(body, row.timeouts)


@pytest.mark.parametrize(("client", "name"), [met for met in MET if ROWS[met[1]].status not in {None, 400}])
def test_what_fails_before_an_answer_begins_is_answered_by_another_and_only_that_is_charged(
    client: str, name: str
) -> None:
    row, (path, fields) = ROWS[name], CLIENTS[client]

    async def body(at: Faulty) -> None:
        at.up.script.append(row.script(at.up))
        got = await at.send(path, {"model": "smart", **fields})
        assert (got.status, got.is_cut) == (200, False)
        assert b"there." in got.body
        assert got.headers["x-headrace-backend"] == "spare"
        assert got.headers["x-headrace-attempts"] == "2"
        assert (at.num_failed("up"), at.num_failed("spare")) == (row.moves == "failed", 0)
        check_charge(at, TOLD)

    run(body, row.timeouts)


@pytest.mark.parametrize("client", ["streamed", "translated"])
def test_what_fails_after_an_answer_has_begun_is_never_answered_twice(client: str) -> None:
    path, fields = CLIENTS[client]

    async def body(at: Faulty) -> None:
        at.up.script.append(upstreams.die_midstream(*begun(at.up)))
        got = await at.send(path, {"model": "smart", **fields})
        assert got.status == 200
        assert got.error
        assert not at.spare.received

    run(body)


def test_a_backend_that_refuses_connections_is_passed_over() -> None:
    async def body(at: Faulty) -> None:
        at.up.refuse()
        got = await at.send("/v1/chat/completions", {"model": "alone", **CHAT})
        assert (got.status, got.error["code"]) == (502, "upstream_fault")
        assert at.num_failed() == 1
        assert (await at.send("/v1/chat/completions", {"model": "smart", **CHAT})).status == 200

    run(body)


def test_a_burst_of_500s_opens_the_breaker_and_one_request_tries_when_its_time_has_passed() -> None:
    async def body(at: Faulty) -> None:
        ask = {"model": "alone", **CHAT}
        for _ in range(5):
            at.up.script.append(upstreams.failed(500))
            assert (await at.send("/v1/chat/completions", ask)).status == 502
        assert at.word() == "open"
        refused = await at.send("/v1/chat/completions", ask)
        assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (503, "unavailable", "5")
        assert len(at.up.received) == 5
        assert (await at.send("/v1/chat/completions", {"model": "smart", **CHAT})).headers["x-headrace-attempts"] == "1"
        at.clock.now_s += 5.0
        assert (await at.send("/v1/chat/completions", ask)).status == 200
        assert at.word() == "closed"

    run(body)


def test_a_slow_drip_is_a_good_answer() -> None:
    async def body(at: Faulty) -> None:
        frames = list(chat_frames(at.up, "m", {"stream_options": {"include_usage": True}}))
        at.up.script.append(upstreams.drip(upstreams.stream(frames)))
        got = await at.send("/v1/chat/completions", {"model": "alone", **CHAT, "stream": True})
        assert (got.status, got.is_cut) == (200, False)
        assert got.body.endswith(b"data: [DONE]\n\n")
        assert (at.num_failed(), at.word()) == (0, "closed")
        check_charge(at, TOLD)

    run(body)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_goes_ends_the_work_moves_no_breaker_and_pays_for_what_it_may_have_used(client: str) -> None:
    path, fields = CLIENTS[client]

    async def body(at: Faulty) -> None:
        is_whole = client == "whole"
        at.up.script.append(upstreams.hang_before() if is_whole else upstreams.hang_midstream(*begun(at.up)))
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(wire(path, {"model": "alone", **fields}))
        if is_whole:
            await at.up.wait_received(1)
        else:
            await reader.readuntil(b"\r\n\r\n")
            await reader.read(1)
        writer.close()
        await at.up.wait_open(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert at.book.records[0].outcome == "cancelled"
        assert (at.num_failed(), at.word()) == (0, "closed")
        check_charge(at, BOUNDS)
        if is_whole:
            record = at.book.records[0]
            assert record.prompt_tokens + record.completion_tokens == at.book.reserved[0].bound.tokens

    run(body)


def test_retries_stop_at_the_routes_budget() -> None:
    async def body(at: Faulty) -> None:
        for _ in range(3):
            at.up.script.append(upstreams.failed(500))
        statuses = [(await at.send("/v1/chat/completions", {"model": "smart", **CHAT})).status for _ in range(3)]
        assert statuses == [200, 502, 502]

    run(body, retry=RetrySettings(max_attempts=2, budget_share=0.0, budget_floor=0.1))


def test_an_operator_sees_drains_and_resumes_a_backend() -> None:
    async def body(at: Faulty) -> None:
        at.up.script.append(upstreams.failed(500))
        await at.send("/v1/chat/completions", {"model": "alone", **CHAT})
        got: Got = await at.send("/v1/gateway/backends", {}, "GET")
        assert b'"num_failed":1' in got.body
        assert (await at.send("/v1/gateway/backends/up/drain", {})).status == 200
        refused = await at.send("/v1/chat/completions", {"model": "alone", **CHAT})
        assert (refused.status, refused.error["code"]) == (503, "unavailable")
        assert "draining" in refused.error["message"]
        answered = await at.send("/v1/chat/completions", {"model": "smart", **CHAT})
        assert answered.headers["x-headrace-backend"] == "spare"
        assert (await at.send("/v1/gateway/backends/up/resume", {})).status == 200
        assert (await at.send("/v1/chat/completions", {"model": "alone", **CHAT})).status == 200
        assert (await at.send("/v1/gateway/backends/nobody/drain", {})).status == 404

    run(body)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_hedge_answers_where_the_first_backend_hangs_which_is_let_go_of(client: str) -> None:
    path, fields = CLIENTS[client]

    async def body(at: Faulty) -> None:
        at.up.script.append(upstreams.hang_before())
        got = await at.send(path, {"model": "smart", **fields})
        assert (got.status, got.headers["x-headrace-backend"]) == (200, "spare")
        await at.up.wait_open(0)
        assert (at.num_failed("up"), at.num_failed("spare")) == (0, 0)
        (record,) = at.book.records
        assert record.is_estimated
        assert 7 * 1000 + 3 * 10_000 < record.cost_nanos <= at.book.reserved[0].bound.nanos

    run(body, hedge_after_s=0.01)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_that_is_not_what_was_wanted_is_asked_for_again_a_tier_up(client: str) -> None:
    path, fields = CLIENTS[client]
    tiers = tuple(CandidateSettings(target=Target(name, "m"), tier=tier) for tier, name in enumerate(("up", "spare")))

    async def body(at: Faulty) -> None:
        at.spare.text = '{"a": 1}'
        got = await at.send(path, {"model": "smart", **fields})
        assert (got.status, got.headers["x-headrace-backend"]) == (200, "spare")
        assert b"there." not in got.body
        (record,) = at.book.records
        assert (record.cost_nanos, record.num_attempts) == (2 * (7 * 1000 + 3 * 10_000), 2)
        assert at.up.received[0].fields["stream"] is True  # asked for in events, to be read

    run(
        body,
        candidates=tiers,
        policies=(Policy.COMPLEXITY,),
        escalation=Escalation(max_difficulty=(0.99,), verifiers=("json",)),
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_a_shadow_gets_a_copy_whose_failure_nobody_sees(client: str) -> None:
    path, fields = CLIENTS[client]
    first = (CandidateSettings(target=Target("up", "m")),)

    async def body(at: Faulty) -> None:
        at.spare.script.append(upstreams.garbage())
        got = await at.send(path, {"model": "smart", **fields})
        assert (got.status, got.headers["x-headrace-attempts"]) == (200, "1")
        await at.spare.wait_received(1)
        await at.spare.wait_open(0)
        for _ in range(100):
            await asyncio.sleep(0)
        own, copy = at.book.records
        assert (own.tenant, own.outcome, own.cost_nanos) == ("local", "ok", 7 * 1000 + 3 * 10_000)
        assert (copy.tenant, copy.outcome, copy.cost_nanos) == ("shadow", "upstream_fault", 0)

    run(body, candidates=first, shadow=Target("spare", "m"), shadow_share=1.0)
