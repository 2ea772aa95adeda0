"""A remote backend: what travels to it and back, in events and in bytes, whatever its protocol."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.backends import (
    DIALECTS,
    PASSING,
    SECRET,
    TARGET,
    Joined,
    joined,
    raw_body,
    request,
    text_of,
    usage_of,
)
from tests.upstream_answers import ANSWERS
from tests.upstreams import CHUNKED, LAST_CHUNK, Step, chunk, hang_before, head, stream, whole

from headrace.core.errors import HeadraceError, InvalidRequest, UpstreamFault
from headrace.core.events import Embedding, Score, Started, TextDelta
from headrace.core.request import Input, Limits, Task
from headrace.gateway.contract import UpstreamReply
from headrace.gateway.settings import BackendSettings, Dialect, Health
from headrace.gateway.upstreams.catalog import open_remote


def run(dialect: Dialect, test: Callable[[Joined], Awaitable[None]], **options: Any) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), joined(dialect, **options) as j:
            await test(j)

    asyncio.run(body())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_becomes_events_with_what_the_backend_counted(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        events = await j.events()

        assert isinstance(events[0], Started)
        assert text_of(events) == "Hello there."
        assert (usage_of(events).prompt_tokens, usage_of(events).completion_tokens) == (7, 3)
        await j.events()
        assert j.up.num_connections == 1

    run(dialect, body)


@pytest.mark.parametrize("dialect", PASSING)
def test_a_streamed_answer_passes_as_it_is_and_tells_its_usage(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        found = await j.remote.relay(raw_body(dialect, is_stream=True), TARGET, max_tokens=None)
        assert not isinstance(found, UpstreamReply)
        pieces = [piece async for piece in found.pieces()]

        asked_for = j.frames() if dialect is not Dialect.CHAT else [f for f in j.frames() if b'"usage"' not in f]
        assert b"".join(pieces) == b"".join(asked_for)
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 3)
        assert found.num_output_bytes >= len("Hello there.")
        await j.stream()
        assert j.up.num_connections == 1

    run(dialect, body)


@pytest.mark.parametrize("dialect", PASSING)
def test_a_whole_answer_passes_as_it_is_and_tells_its_usage(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        name = "chat/completions" if dialect is Dialect.CHAT else dialect.value
        odd = json.dumps(ANSWERS[name][0](j.up, TARGET.model, {}) | {"a_vendors": 1}, indent=3).encode()
        j.up.script.append(whole(odd))
        reply = await j.whole()
        assert reply.body == odd
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 3)

    run(dialect, body)


@pytest.mark.parametrize("dialect", PASSING)
def test_the_model_is_renamed_and_unknown_fields_travel(dialect: Dialect) -> None:
    async def body(j: Joined) -> None:
        await j.whole(some_vendors_field={"a": [1, 2]})
        fields = j.up.received[-1].fields

        assert fields["model"] == TARGET.model
        assert fields["some_vendors_field"] == {"a": [1, 2]}

    run(dialect, body)


def test_headers_of_vendors_travel_and_those_between_two_hops_do_not() -> None:
    up_and_on = {
        "anthropic-beta": "files-2026",
        "openai-organization": "org",
        "x-title": "app",
        "traceparent": "00-1-2-3",
    }
    held = {
        "authorization": "Bearer client",
        "x-api-key": "client",
        "cookie": "a=b",
        "host": "evil",
        "content-length": "1",
        "transfer-encoding": "chunked",
        "connection": "x-title",
        "accept-encoding": "gzip",
        "x-forwarded-for": "10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "x-headrace-route": "r",
        "x-stainless-lang": "python",
        "x-session-token": "client",
        "idempotency-key": "once",
        "x-litellm-key": "client",
        "x-auth-request-email": "client",
        "x-remote-user": "client",
        "user-agent": "client",
        "te": "trailers",
    }

    async def body(j: Joined) -> None:
        headers = [(name.encode(), value.encode()) for name, value in (up_and_on | held).items()]
        await j.whole(headers=headers)
        request = j.up.received[-1]

        assert {name: request.header(name) for name in up_and_on} == up_and_on
        assert request.header("x-api-key") == SECRET
        assert request.header("user-agent") == "headrace"
        assert request.header("host") == f"127.0.0.1:{j.up.port}"
        assert request.header("content-length") == str(len(request.body))
        assert request.header("accept-encoding") == "identity"
        own = {"x-api-key", "user-agent", "host", "content-length", "accept-encoding"}
        assert {name for name, _ in request.headers}.isdisjoint(held.keys() - own)
        assert b"client" not in request.raw

    run(Dialect.MESSAGES, body)


def test_a_clients_version_of_the_protocol_goes_before_ours_and_the_operators_headers_before_both() -> None:
    async def body(j: Joined) -> None:
        await j.whole(headers=[(b"anthropic-version", b"2099-01-01"), (b"x-team", b"client")])
        request = j.up.received[-1]
        assert request.header("anthropic-version") == "2099-01-01"
        assert request.header("x-team") == "operator"

    run(Dialect.MESSAGES, body, headers={"X-Team": "operator"})


def test_headers_of_an_answer_travel_by_an_allow_list() -> None:
    async def body(j: Joined) -> None:
        told = {
            "x-ratelimit-remaining-requests": "9",
            "openai-processing-ms": "12",
            "anthropic-ratelimit-tokens-limit": "5",
            "retry-after": "3",
        }
        dropped = {"set-cookie": "a=b", "server": "x", "connection": "keep-alive", "x-internal-host": "db1", "via": "y"}
        j.up.script.append(whole({"usage": None}, 200, *(told | dropped).items()))
        headers = dict((await j.whole()).headers)

        expected = {name.encode(): value.encode() for name, value in told.items()}
        assert headers == expected | {b"x-upstream-request-id": b"up-1"}

    run(Dialect.MESSAGES, body)


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\0b", b"a\rb"])
def test_a_header_that_would_end_early_is_refused_and_nothing_is_sent(value: bytes) -> None:
    async def body(j: Joined) -> None:
        with pytest.raises(InvalidRequest, match="x-title"):
            await j.whole(headers=[(b"x-title", value)])
        assert not j.up.received

    run(Dialect.MESSAGES, body)


def test_a_stream_that_begins_with_comments_is_read_up_to_its_first_event() -> None:
    async def body(j: Joined) -> None:
        frames = [b": warming up\n\n", b": still\n\n", *j.frames()]
        j.up.script.append(stream(frames))
        found = await j.remote.relay(raw_body("messages", is_stream=True), TARGET, max_tokens=None)
        assert not isinstance(found, UpstreamReply)
        pieces = found.pieces()

        assert b"message_start" in await anext(pieces)
        await pieces.aclose()

    run(Dialect.MESSAGES, body)


def test_a_stream_whose_last_word_came_first_of_all_leaves_its_connection() -> None:
    async def body(j: Joined) -> None:
        begun = head(200, "text/event-stream", CHUNKED) + b"\r\n" + chunk(b"".join(j.frames()))
        j.up.script.append([begun, Step.HANG, LAST_CHUNK])
        assert await j.stream() == b"".join(j.frames())
        j.up.go.set()
        while not j.remote.pool.num_idle:  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0)
        await j.stream()
        assert j.up.num_connections == 1

    run(Dialect.MESSAGES, body)


@pytest.mark.parametrize("reads", [0, 1])
def test_closing_the_pieces_closes_the_connection_even_if_none_was_read(reads: int) -> None:
    async def body(j: Joined) -> None:
        first, *_ = j.frames()
        j.up.script.append([head(200, "text/event-stream", CHUNKED) + b"\r\n", chunk(first)])
        found = await j.remote.relay(raw_body("messages", is_stream=True), TARGET, max_tokens=None)
        assert not isinstance(found, UpstreamReply)
        pieces = found.pieces()
        for _ in range(reads):
            await anext(pieces)
        await pieces.aclose()
        await j.up.wait_open(0)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)

    run(Dialect.MESSAGES, body)


def test_closing_the_events_closes_the_connection() -> None:
    async def body(j: Joined) -> None:
        frames = j.frames()[:4]
        j.up.script.append([head(200, "text/event-stream", CHUNKED) + b"\r\n", *map(chunk, frames)])
        events = j.remote.run(request())
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()
        await j.up.wait_open(0)

    run(Dialect.MESSAGES, body)


def test_a_health_check_asks_the_servers_root_with_its_own_patience() -> None:
    async def body(j: Joined) -> None:
        await j.remote.check()
        assert (j.up.received[-1].method, j.up.received[-1].path) == ("GET", "/health?full=1")
        j.up.script.append(whole({}, 503))
        with pytest.raises(UpstreamFault, match="status 503"):
            await j.remote.check()

    run(Dialect.MESSAGES, body, health=Health(path="/health?full=1"))


@pytest.mark.parametrize(
    ("dialect", "path"),
    [(Dialect.CHAT, "/v1/models"), (Dialect.MESSAGES, "/v1/models"), (Dialect.GEMINI, "/v1beta/models")],
)
def test_a_health_check_without_a_path_asks_for_the_models(dialect: Dialect, path: str) -> None:
    async def body(j: Joined) -> None:
        await j.remote.check()
        assert j.up.received[-1].path == path

    run(dialect, body)


def test_a_health_check_does_not_wait_for_requests() -> None:
    async def body(j: Joined) -> None:
        j.up.script.append(hang_before())
        held = asyncio.ensure_future(j.whole())
        await j.up.wait_received(1)
        await j.remote.check()
        held.cancel()
        await asyncio.wait([held])

    run(Dialect.MESSAGES, body, max_concurrency=1)


@pytest.mark.parametrize("dialect", ["chat", "completions", "embeddings"])
def test_every_dialect_that_a_backend_takes_passes(dialect: str) -> None:
    async def body(j: Joined) -> None:
        reply = await j.remote.relay(raw_body(dialect, is_stream=False), TARGET, max_tokens=5)
        assert isinstance(reply, UpstreamReply)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == 7
        request = j.up.received[-1]
        assert request.path == raw_body(dialect, is_stream=False).path
        bounds = {"chat": ("max_completion_tokens", 5), "completions": ("max_tokens", 5)}
        if dialect in bounds:
            name, value = bounds[dialect]
            assert request.fields[name] == value

    run(Dialect.CHAT, body)


def test_requests_that_embed_or_score_come_back_in_the_order_of_their_inputs() -> None:
    texts = ("a", "four", "eleven char")

    async def body(j: Joined) -> None:
        embeds = request(task=Task.EMBED, messages=None, inputs=tuple(map(Input, texts)), limits=Limits())
        vectors = [event for event in await j.events(embeds) if isinstance(event, Embedding)]
        assert [struct.unpack("<3f", one.vector)[0] for one in vectors] == [1.0, 4.0, 11.0]
        for pairs in ([("q", text) for text in texts], [(f"q{index}", text) for index, text in enumerate(texts)]):
            inputs = tuple(Input(first, second) for first, second in pairs)
            scores = await j.events(request(task=Task.SCORE, messages=None, inputs=inputs, limits=Limits()))
            found = sorted((event.index, event.value) for event in scores if isinstance(event, Score))
            assert found == [(0, 0.001), (1, 0.004), (2, 0.011)]

    run(Dialect.CHAT, body)


def test_counts_of_tokens_are_asked_for_in_events_and_in_bytes() -> None:
    async def body(j: Joined) -> None:
        counted = await j.events(request(task=Task.COUNT, limits=Limits()))
        assert isinstance(counted[0], Started)
        assert counted[0].prompt_tokens == 7
        raw = replace(raw_body("messages", is_stream=False), path="/v1/messages/count_tokens")
        reply = await j.remote.relay(raw, TARGET, max_tokens=5)
        assert isinstance(reply, UpstreamReply)
        assert json.loads(reply.body) == {"input_tokens": 7}

    run(Dialect.MESSAGES, body)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
@pytest.mark.parametrize("dialect", PASSING)
def test_a_refusal_that_repeats_the_key_is_not_repeated(dialect: Dialect, status: int) -> None:
    async def body(j: Joined) -> None:
        for ask in (j.whole, j.stream, j.events):
            error = {"message": f"no header may be Bearer {SECRET}", "type": "invalid_request_error", "param": SECRET}
            j.up.script.append(whole({"error": error}, status))
            with pytest.raises(HeadraceError) as caught:
                await ask()
            assert SECRET not in f"{caught.value.message}{caught.value.param}"

    run(dialect, body)


def test_neither_the_secret_nor_the_address_is_in_a_repr_or_an_error() -> None:
    async def body(j: Joined) -> None:
        j.up.refuse()
        with pytest.raises(UpstreamFault) as caught:
            await j.whole()
        shown = f"{caught.value.message}{j.remote!r}{vars(j.remote) if hasattr(j.remote, '__dict__') else ''}"
        assert SECRET not in shown
        assert "127.0.0.1" not in caught.value.message
        assert "'back'" in caught.value.message

    run(Dialect.MESSAGES, body)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "antropic"}, "kind: 'antropic' is not known"),
        ({"kind": "openai-compatible"}, "url: is missing"),
        ({"kind": "anthropic", "url": "http://169.254.169.254/"}, "metadata"),
        ({"kind": "anthropic", "headers": {"content-length": "3"}}, "content-length"),
        ({"kind": "anthropic", "health": Health(path="health")}, "health.path"),
        ({"kind": "anthropic", "headers": {"x-a": "b\r\nc: d"}}, "x-a"),
    ],
)
def test_a_backend_that_cannot_be_is_refused_when_it_is_set_up(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_remote(BackendSettings(name="b", **settings), secret=SECRET)
