"""What a hostile, broken or hasty client can do, in every dialect: refusals have the dialect's own shape and say
whether trying again can help, and whoever leaves frees what was at work for them.
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conversations import conversations
from tests.contract.dialects import DIALECTS, Dialect
from tests.doubles_http import Client, Reply, make_app, run
from tests.scripted import Call, Gate, Scripted, Turn
from tests.scripted_services import scripted_services

from headrace.core.errors import EngineFault, HeadraceError, InvalidRequest, Overloaded, RateLimited
from headrace.server.app import App
from headrace.server.config import ServerConfig

HELLO = next(one for one in conversations() if one.name == "plain")
TOOLS = next(one for one in conversations() if one.name == "one_tool")
by_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)


@contextlib.asynccontextmanager
async def application(backend: Scripted, config: ServerConfig | None = None) -> AsyncIterator[App]:
    with tempfile.TemporaryDirectory() as folder:
        async with scripted_services(backend, Path(folder)) as services:
            given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
            yield make_app(backend, config, **given)


def refused(dialect: Dialect, body: bytes | list[bytes], config: ServerConfig | None = None, **turn: Any) -> Reply:
    """What a body meets, after which the same server must still answer a good one."""
    backend = Scripted([Turn(text="Fine.") if not turn else Turn(**turn)])
    replies: list[Reply] = []

    async def main() -> None:
        async with application(backend, config) as app:
            replies.append(await Client(app, "POST", dialect.path, body).run())
            if not turn:
                after = await Client(app, "POST", dialect.path, good(dialect)).run()
                assert after.status == 200

    run(main())
    assert backend.num_open == 0
    return replies[0]


def good(dialect: Dialect, **fields: Any) -> bytes:
    return json.dumps(dialect.body(HELLO) | fields).encode()


def told(dialect: Dialect, reply: Reply) -> str:
    """The sentence of a refusal, whose shape must be the dialect's."""
    whole = reply.json()
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    if dialect.name == "ollama":
        assert set(whole) == {"error"} and isinstance(whole["error"], str)
        return str(whole["error"])
    if dialect.name == "messages":
        assert set(whole) == {"type", "error", "request_id"} and whole["type"] == "error"
        assert whole["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]
        assert set(whole["error"]) == {"type", "message"}
    else:
        assert set(whole["error"]) == {"message", "type", "param", "code"}
    return str(whole["error"]["message"])


BROKEN: list[tuple[str, bytes | list[bytes]]] = [
    ("empty", b""),
    ("cut", b'{"model":'),
    ("no object", b"[1]"),
    ("not UTF-8", b'{"model":"\xff\xfe"}'),
    ("UTF-8 cut between chunks", [b'{"model":"\xf0\x9f', b'"}']),
    ("half a surrogate", b'{"model":"\\ud800","messages":[],"input":"x","max_tokens":1}'),
    ("too deep", b'{"model":' * 3000),
    ("a number of 400 digits", b'{"model":"scripted","max_tokens":' + b"9" * 400 + b"}"),
    ("NaN", b'{"model":"scripted","temperature":NaN}'),
]


@by_dialect
@pytest.mark.parametrize("body", [body for _, body in BROKEN], ids=[name for name, _ in BROKEN])
def test_broken_bodies_are_refused_in_the_dialects_shape(dialect: Dialect, body: bytes | list[bytes]) -> None:
    reply = refused(dialect, body)
    assert reply.status == 400
    assert told(dialect, reply)
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers


@by_dialect
@pytest.mark.parametrize(
    "fields",
    [
        {"model": 7},
        {"model": None},
        {"model": ["scripted"]},
        {"stream": "yes"},
        {"stream": 1},
        {"tools": {}},
        {"tools": [7]},
        {"tools": [{"type": "unheard-of", "name": "x"}]},
        {"messages": "Hi", "input": 7},
        {"messages": [7], "input": [7]},
        {"messages": [{"role": "wizard", "content": "x"}], "input": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"content": "x"}], "input": [{"content": "x"}]},
        {"messages": [{"role": "user", "content": 7}], "input": [{"role": "user", "content": 7}]},
    ],
    ids=lambda fields: json.dumps(fields)[:50],
)
def test_wrong_types_and_unknown_words_are_refused(dialect: Dialect, fields: dict[str, Any]) -> None:
    known = set(dialect.body(HELLO)) | {"stream", "tools"}
    reply = refused(dialect, good(dialect, **{name: value for name, value in fields.items() if name in known}))
    assert reply.status == 400
    assert any(name in told(dialect, reply) for name in fields)
    assert reply.headers["x-should-retry"] == "false"


@by_dialect
def test_a_model_that_is_not_there_and_a_path_that_is_not_there_are_not_found(dialect: Dialect) -> None:
    reply = refused(dialect, good(dialect, model="nobody"))
    assert (reply.status, reply.headers["x-should-retry"]) == (404, "false")
    assert "nobody" in told(dialect, reply)


@by_dialect
def test_a_body_that_is_too_long_is_refused_before_it_is_read(dialect: Dialect) -> None:
    config = ServerConfig(max_body_bytes=5000)
    reply = refused(dialect, [b"[" * 1000] * 100, config)
    assert (reply.status, reply.headers["x-should-retry"]) == (413, "false")
    assert "5000" in told(dialect, reply)


@by_dialect
@pytest.mark.parametrize(
    ("error", "may_retry"),
    [
        (RateLimited("requests: too many.", retry_after_s=2.5), "true"),
        (Overloaded("the queue is full.", retry_after_s=900.0), "true"),
        (EngineFault("a step failed."), "true"),
        (InvalidRequest("temperature: out of range.", param="temperature"), "false"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, HeadraceError) else one,
)
def test_errors_say_whether_and_when_to_try_again(dialect: Dialect, error: HeadraceError, may_retry: str) -> None:
    for stream in (False, True):
        # Before the request is admitted an error of a stream has its own status too.
        reply = refused(dialect, good(dialect, stream=stream), error=error, error_after=-1, text="x")
        assert reply.status == dialect_status(dialect, error), reply.body
        assert told(dialect, reply)
        assert reply.headers["x-should-retry"] == may_retry
        after = reply.headers.get("retry-after")
        assert after == (None if error.retry_after_s is None else str(min(120, -int(-error.retry_after_s // 1))))


def dialect_status(dialect: Dialect, error: HeadraceError) -> int:
    """Anthropic's clients know 529 for a server that is too busy."""
    return 529 if dialect.name == "messages" and isinstance(error, Overloaded) else error.status


@by_dialect
def test_an_error_inside_a_stream_ends_it_and_is_never_taken_for_an_end(dialect: Dialect) -> None:
    turn = {"text": "one two three", "error": EngineFault("a step failed."), "error_after": 2}
    reply = refused(dialect, good(dialect, stream=True), **turn)
    assert reply.status == 200 and reply.is_complete
    frames = [json.loads(frame) for frame in dialect.frames(reply.body)]
    assert "a step failed." in json.dumps(frames[-1])
    assert not any(frame.get("done") for frame in frames)
    assert not {"message_stop", "response.completed"} & {frame.get("type") for frame in frames}
    assert dialect.name == "responses" or b"[DONE]" not in reply.body


@by_dialect
def test_a_client_that_leaves_amid_a_tool_call_frees_what_was_at_work(dialect: Dialect) -> None:
    gate = Gate()
    call = Call("get_weather", {"city": "Paris"})
    backend = Scripted([Turn(text="Let me look.", calls=(call,), sizes=(4,), gates={5: gate})])

    async def main() -> None:
        async with application(backend) as app:
            body = json.dumps(dialect.body(TOOLS) | {"stream": True}).encode()
            client = Client(app, "POST", dialect.path, body)
            exchange = client.start()
            await gate.reached.wait()
            assert backend.num_open == 1
            client.leave()
            await exchange
        assert not client.reply.is_complete

    run(main())
    assert [stream.is_finished for stream in backend.streams] == [False]


@by_dialect
def test_an_answer_nobody_waits_for_any_more_is_not_finished(dialect: Dialect) -> None:
    gate = Gate()
    backend = Scripted([Turn(text="one two", gates={1: gate})])

    async def main() -> None:
        async with application(backend) as app:
            client = Client(app, "POST", dialect.path, good(dialect))
            exchange = client.start()
            await gate.reached.wait()
            client.leave()
            await exchange

    run(main())
    assert [stream.is_finished for stream in backend.streams] == [False]
