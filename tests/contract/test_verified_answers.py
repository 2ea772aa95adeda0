"""Every protocol's answers, whole and streamed, verified from the bytes that a client saved and from what they say when
a program has written them anew; and the requests that they answer.
"""

import dataclasses
import functools
import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conversations import Conversation, conversations
from tests.contract.dialects import DIALECTS, Dialect
from tests.doubles_gateway import PRICES, backend, bench, candidate
from tests.doubles_http import Client, Reply, make_app, run
from tests.doubles_records import Desk, desk
from tests.scripted import Scripted
from tests.scripted_services import scripted_services

from headrace.cli.saved_files import SavedAnswer, read_answer, request_forms
from headrace.gateway.contract import Plan
from headrace.gateway.settings import ENGINE, ModelSettings, Target
from headrace.gateway.upstreams.engine import Engine
from headrace.server.config import ServerConfig
from headrace.trust.records.verification import Level, Report, verify

MODEL = "scripted"
by_all = pytest.mark.parametrize(
    ("dialect", "conversation", "is_stream"),
    [
        (one, other, is_stream)
        for one, other, is_stream in itertools.product(DIALECTS, conversations(), (False, True))
        if one.can_say(other)
    ],
    ids=lambda one: getattr(one, "name", {False: "whole", True: "streamed"}.get(one, "?")),  # type: ignore[call-overload]
)


async def asked(at: Desk, dialect: Dialect, conversation: Conversation, body: bytes) -> Reply:
    """An answer of a server with nothing but a recorder before its engine."""
    scripted = Scripted([conversation.turn])
    target = Target(ENGINE, MODEL)
    gate = bench(
        {ENGINE: Engine(scripted)},  # type: ignore[dict-item]
        plan=Plan(route=MODEL, candidates=(replace(candidate(ENGINE), target=target),)),
        backends={ENGINE: backend(ENGINE, models={MODEL: ModelSettings(prices=PRICES)})},
        overseers=(at.recorder,),
    ).gate
    with tempfile.TemporaryDirectory() as folder:
        async with scripted_services(gate, Path(folder)) as services:  # type: ignore[arg-type]
            given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
            app = make_app(gate, ServerConfig(port=0, seals_answers=True), **given)
            return await Client(app, "POST", dialect.path, body).run()


@functools.cache
def exchange(dialect: Dialect, conversation: Conversation, *, is_stream: bool) -> tuple[Desk, bytes, bytes]:
    """A recorder that has recorded one answer, the request's body, and the answer's."""
    at, replies = desk(), list[Reply]()
    body = json.dumps(dialect.body(conversation) | {"model": MODEL, "stream": is_stream}).encode()

    async def main() -> None:
        replies.append(await asked(at, dialect, conversation, body))

    run(main())
    assert replies[0].status == 200, replies[0].body
    return at, body, replies[0].body


def rewritten(dialect: Dialect, body: bytes, *, is_stream: bool) -> bytes:
    """An answer as another program would write it: other spaces, other order."""

    def again(text: bytes) -> bytes:
        value: dict[str, Any] = json.loads(text)
        return json.dumps(dict(reversed(value.items()))).encode()

    if not is_stream:
        return again(body)
    frames = [again(frame) for frame in dialect.frames(body)]
    if dialect.is_lines:
        return b"\n".join(frames)
    return b"".join(b"data: " + frame + b"\r\n\r\n" for frame in frames)


def verified(at: Desk, answer: SavedAnswer, request: bytes, *, is_rewritten: bool = False) -> Report:
    return verify(at.bundle(), answer.shown(request_forms(request), is_rewritten=is_rewritten), at.trusted())


@by_all
def test_an_answer_verifies_as_it_came_and_as_it_was_written_anew(
    dialect: Dialect, conversation: Conversation, *, is_stream: bool
) -> None:
    at, request, body = exchange(dialect, conversation, is_stream=is_stream)
    report = verified(at, read_answer(body), request)
    assert report.level is Level.LOGGED, report.clauses
    met = [one.name for one in report.clauses if one.is_met]
    assert {"answer", "meaning", "request"} <= set(met)
    other = rewritten(dialect, body, is_stream=is_stream)
    assert verified(at, read_answer(other), request).is_refused
    again = verified(at, read_answer(other), request, is_rewritten=True)
    assert again.level is Level.LOGGED, again.clauses
    assert MODEL.encode() in other
    renamed = other.replace(f'"{MODEL}"'.encode(), b'"another"')
    assert verified(at, read_answer(renamed), request, is_rewritten=True).is_refused


@by_all
def test_an_answer_to_another_conversation_is_refused(
    dialect: Dialect, conversation: Conversation, *, is_stream: bool
) -> None:
    others = [one for one in conversations() if one.answered != conversation.answered and dialect.can_say(one)]
    at, request, _ = exchange(dialect, conversation, is_stream=is_stream)
    _, _, wrong = exchange(dialect, others[0], is_stream=is_stream)
    assert verified(at, read_answer(wrong), request, is_rewritten=True).is_refused
