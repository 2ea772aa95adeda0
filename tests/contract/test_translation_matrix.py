"""Every client dialect before every protocol of backends: what was asked arrives, what was answered is heard, and both
add up, over a real server and a real gate, with the official SDKs as clients.

What a protocol cannot say is a row of REFUSED or of `loses`, and nothing else may be lost.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.conversations import TOOLS, Conversation, Said, canonical, conversations
from tests.contract.dialects import DIALECTS, MAX_TOKENS, TEMPERATURE, Dialect, Heard
from tests.contract.governed import MODEL, SECRET, Governed, governed
from tests.contract.provider import Answer, Counts, Provider
from tests.contract.providers import PROVIDERS
from tests.doubles_http import run
from tests.upstreams import Received

RECORDED = conversations()
COUNTS = Counts()
LIMIT_S = 20

streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
by_pair = pytest.mark.parametrize(
    ("dialect", "provider"), list(itertools.product(DIALECTS, PROVIDERS)), ids=lambda one: one.name
)
by_cell = pytest.mark.parametrize(
    ("dialect", "provider", "conversation"),
    [cell for cell in itertools.product(DIALECTS, PROVIDERS, RECORDED) if cell[0].can_say(cell[2])],
    ids=lambda one: one.name,
)


def exchange(
    dialect: Dialect,
    provider: Provider,
    respond: Callable[[Received], Any],
    ask: Callable[[Governed], Any],
) -> tuple[Any, Received, Governed]:
    """What came of one request: what the client heard, what the provider received, and the server it went through."""
    told: list[Any] = []

    async def main() -> None:
        async with governed(provider) as server:
            assert server.up is not None
            server.up.respond = respond
            told.append(await ask(server))
            told.append(server)

    run(main(), limit_s=LIMIT_S)
    heard, server = told
    assert server.is_quiet
    assert server.up is not None
    (received,) = server.up.received
    return heard, received, server


def asks(dialect: Dialect, conversation: Conversation, *, stream: bool) -> Callable[[Governed], Any]:
    """A client that lets its SDK ask."""
    return lambda server: dialect.ask(server.url, dialect.body(conversation), stream)


def wanted(provider: Provider, conversation: Conversation, dialect: Dialect) -> list[Said]:
    """The turns that a provider must be told."""
    passes = dialect.name == provider.client
    lost = frozenset[str]() if passes else provider.loses
    turns = [replace(turn, reasoning="") if "reasoning" in lost else turn for turn in conversation.said()]
    return [turn for turn in turns if turn.text or turn.calls or turn.reasoning or turn.role == "tool"]


@by_cell
@streamed
def test_what_is_asked_arrives_and_what_is_answered_is_heard(
    dialect: Dialect, provider: Provider, conversation: Conversation, stream: bool
) -> None:
    answer = Answer.of(conversation)
    heard, received, server = exchange(
        dialect, provider, provider.respond(answer), asks(dialect, conversation, stream=stream)
    )
    fields = received.fields
    provider.check_question(fields)
    question = provider.read(fields)
    assert list(question.said) == wanted(provider, conversation, dialect)
    assert question.tools == tuple(
        (name, TOOLS[name]["description"], canonical(TOOLS[name]["parameters"])) for name in conversation.tools
    )
    assert question.choice == conversation.tool_choice
    assert (question.max_tokens, question.temperature) == (MAX_TOKENS, TEMPERATURE)
    assert fields.get("model", MODEL) == MODEL
    assert isinstance(heard, Heard)
    assert heard.said == conversation.answered
    assert heard.reason == dialect.reasons[bool(answer.calls)]
    assert heard.tokens == (COUNTS.prompt, COUNTS.answer)
    (record,) = server.book.records
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (
        COUNTS.prompt,
        COUNTS.answer,
        COUNTS.cached,
    )
    assert (record.reasoning_tokens, record.outcome, record.is_estimated) == (COUNTS.reasoning, "ok", False)


@by_pair
def test_a_key_is_shown_as_the_protocol_wants_it_and_a_clients_own_never_travels(
    dialect: Dialect, provider: Provider
) -> None:
    plain = next(one for one in RECORDED if one.name == "plain")
    answer = Answer(text="Yes.")
    _, received, _ = exchange(dialect, provider, provider.respond(answer), asks(dialect, plain, stream=True))
    shown = {"chat": "authorization", "responses": "authorization", "messages": "x-api-key", "gemini": "x-goog-api-key"}
    found = [name for name, value in received.headers if SECRET in value]
    assert found == [shown[provider.name]]
    assert b"unused" not in received.raw
    assert SECRET not in received.path
