"""The same conversations in every dialect: all become the same neutral request, and one answer reads alike in all."""

import contextlib
import dataclasses
import functools
import itertools
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conversations import TOOLS, Conversation, Said, conversations, shape
from tests.contract.dialects import DIALECTS, MAX_TOKENS, TEMPERATURE, Dialect, Heard
from tests.doubles_http import Client, Reply, make_app, run
from tests.loopback import listening
from tests.scripted import Scripted
from tests.scripted_services import scripted_services

from headrace.core.request import Request
from headrace.server.app import App
from headrace.server.config import ServerConfig

RECORDED = conversations()
by_conversation = pytest.mark.parametrize("conversation", RECORDED, ids=lambda one: one.name)
by_both = pytest.mark.parametrize(
    ("dialect", "conversation"),
    [(one, other) for one, other in itertools.product(DIALECTS, RECORDED) if one.can_say(other)],
    ids=lambda one: one.name,
)


@contextlib.asynccontextmanager
async def application(backend: Scripted) -> AsyncIterator[App]:
    """The application with all services."""
    with tempfile.TemporaryDirectory() as folder:
        async with scripted_services(backend, Path(folder)) as services:
            given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
            yield make_app(backend, ServerConfig(port=0), **given)


def raw(dialect: Dialect, conversation: Conversation, **fields: Any) -> tuple[Reply, Request]:
    """An exchange without an SDK: the answer's bytes, and what the backend was asked."""
    backend = Scripted([conversation.turn])
    body = json.dumps(dialect.body(conversation) | fields).encode()
    replies: list[Reply] = []

    async def main() -> None:
        async with application(backend) as app:
            replies.append(await Client(app, "POST", dialect.path, body).run())

    run(main())
    assert replies[0].status == 200, replies[0].body
    return replies[0], backend.requests[0]


@functools.cache
def heard(dialect: Dialect, conversation: Conversation, *, stream: bool) -> Heard:
    """What the SDK makes of the answer over a real socket."""
    backend = Scripted([conversation.turn])
    told: list[Heard] = []

    async def main() -> None:
        async with application(backend) as app, listening(app) as (_, port):
            told.append(await dialect.ask(f"http://127.0.0.1:{port}", dialect.body(conversation), stream))

    run(main(), limit_s=15)
    assert backend.num_open == 0
    return told[0]


@by_both
def test_every_dialect_asks_the_same(dialect: Dialect, conversation: Conversation) -> None:
    _, request = raw(dialect, conversation)
    assert shape(request) == conversation.said()
    tools = [(tool.name, tool.description, dict(tool.parameters)) for tool in request.tools]
    assert tools == [(name, TOOLS[name]["description"], TOOLS[name]["parameters"]) for name in conversation.tools]
    assert (request.tool_choice.mode, request.tool_choice.names) == conversation.choice()
    assert (request.limits.max_tokens, request.sampling.temperature) == (MAX_TOKENS, TEMPERATURE)


@by_both
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_every_sdk_hears_the_same_answer(dialect: Dialect, conversation: Conversation, stream: bool) -> None:
    answer = heard(dialect, conversation, stream=stream)
    assert answer.said == conversation.answered
    assert answer.tokens == heard(dialect, conversation, stream=not stream).tokens
    assert answer.reason == dialect.reasons[bool(conversation.answer.get("calls"))]


@by_both
def test_raw_answers_satisfy_the_sdks_own_types(dialect: Dialect, conversation: Conversation) -> None:
    whole, _ = raw(dialect, conversation)
    dialect.whole.validate_json(whole.body)
    streamed, _ = raw(dialect, conversation, stream=True)
    frames = dialect.frames(streamed.body)
    assert len(frames) > 3
    for frame in frames:
        dialect.frame.validate_json(frame)


@by_conversation
def test_all_dialects_count_the_same_tokens(conversation: Conversation) -> None:
    counts = {
        dialect.name: heard(dialect, conversation, stream=True).tokens
        for dialect in DIALECTS
        if dialect.can_say(conversation)
    }
    assert len(set(counts.values())) == 1, counts


def test_a_difference_would_be_seen() -> None:
    one, other = RECORDED[0], RECORDED[1]
    _, request = raw(DIALECTS[0], one)
    assert shape(request) != other.said()
    assert Said("user", "a") != Said("user", "b")
