"""Every client dialect before every protocol of backends: what was asked arrives, what was answered is heard, and both
add up, over a real server and a real gate, with the official SDKs as clients.

What a protocol cannot say is a row of REFUSED or of `loses`, and nothing else may be lost.
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import anthropic
import ollama
import openai
import pytest
from tests.contract.conversations import TOOLS, Conversation, Said, canonical, conversations, shape
from tests.contract.dialects import DIALECTS, MAX_TOKENS, MESSAGES, OLLAMA, TEMPERATURE, Dialect, Failed, Heard
from tests.contract.governed import MODEL, SECRET, Governed, governed
from tests.contract.provider import REFUSALS, WORDS, Answer, Counts, Provider
from tests.contract.providers import PROVIDERS
from tests.doubles_http import run
from tests.scripted import Scripted
from tests.upstreams import Received

RECORDED = conversations()
PLAIN = next(one for one in RECORDED if one.name == "plain")
COUNTS = Counts()
LIMIT_S = 20

streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
by_pair = pytest.mark.parametrize(
    ("dialect", "provider"), list(itertools.product(DIALECTS, PROVIDERS)), ids=lambda one: one.name
)


Ask = Callable[[Governed], Awaitable[Any]]
Respond = Callable[[Received], Any]


def exchanges(provider: Provider, steps: Sequence[tuple[Respond, Ask]]) -> tuple[list[Any], Governed]:
    """What clients heard in turn, each from a provider that responds so, and the server that they went through."""
    told: list[Any] = []
    through: list[Governed] = []

    async def main() -> None:
        async with governed(provider) as server:
            assert server.up is not None
            through.append(server)
            for respond, ask in steps:
                server.up.respond = respond
                told.append(await ask(server))

    run(main(), limit_s=LIMIT_S)
    assert through[0].is_quiet
    return told, through[0]


def exchange(provider: Provider, respond: Respond, ask: Ask) -> tuple[Any, Received, Governed]:
    """What a client heard, what the provider received, and the server between them."""
    (heard,), server = exchanges(provider, [(respond, ask)])
    assert server.up is not None
    (received,) = server.up.received
    return heard, received, server


def asks(dialect: Dialect, conversation: Conversation, *, stream: bool) -> Ask:
    """A client that lets its SDK ask."""
    return lambda server: dialect.ask(server.url, dialect.body(conversation), stream)


def wanted(provider: Provider, conversation: Conversation, dialect: Dialect) -> list[Said]:
    """The turns that a provider must be told."""
    passes = dialect.name == provider.client
    lost = frozenset[str]() if passes else provider.loses
    turns = [replace(turn, reasoning="") if "reasoning" in lost else turn for turn in conversation.said()]
    return [turn for turn in turns if turn.text or turn.calls or turn.reasoning or turn.role == "tool"]


@by_pair
def test_what_is_asked_arrives_and_what_is_answered_is_heard(
    dialect: Dialect, provider: Provider, subtests: pytest.Subtests
) -> None:
    cells = [
        (conversation, stream)
        for conversation, stream in itertools.product(RECORDED, (False, True))
        if dialect.can_say(conversation)
    ]
    told, server = exchanges(
        provider,
        [
            (provider.respond(Answer.of(conversation)), asks(dialect, conversation, stream=stream))
            for conversation, stream in cells
        ],
    )
    assert server.up is not None
    for (conversation, stream), heard, received, record in zip(
        cells, told, server.up.received, server.book.records, strict=True
    ):
        with subtests.test(conversation=conversation.name, stream=stream):
            _check_asked(received.fields, provider, conversation, dialect)
            assert isinstance(heard, Heard)
            assert heard.said == conversation.answered
            assert heard.reason == dialect.reasons[bool(conversation.answer.get("calls"))]
            assert heard.tokens == (COUNTS.prompt, COUNTS.answer)
            counts = (record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.reasoning_tokens)
            assert counts == (COUNTS.prompt, COUNTS.answer, COUNTS.cached, COUNTS.reasoning)
            assert (record.outcome, record.is_estimated) == ("ok", False)


def _check_asked(fields: dict[str, Any], provider: Provider, conversation: Conversation, dialect: Dialect) -> None:
    provider.check_question(fields)
    question = provider.read(fields)
    assert list(question.said) == wanted(provider, conversation, dialect)
    assert question.tools == tuple(
        (name, TOOLS[name]["description"], canonical(TOOLS[name]["parameters"])) for name in conversation.tools
    )
    assert question.choice == conversation.tool_choice
    assert (question.max_tokens, question.temperature) == (MAX_TOKENS, TEMPERATURE)
    assert fields.get("model", MODEL) == MODEL


@by_pair
def test_a_key_is_shown_as_the_protocol_wants_it_and_a_clients_own_never_travels(
    dialect: Dialect, provider: Provider
) -> None:
    answer = Answer(text="Yes.")
    _, received, _ = exchange(provider, provider.respond(answer), asks(dialect, PLAIN, stream=True))
    shown = {"chat": "authorization", "responses": "authorization", "messages": "x-api-key", "gemini": "x-goog-api-key"}
    found = [name for name, value in received.headers if SECRET in value]
    assert found == [shown[provider.name]]
    assert b"unused" not in received.raw
    assert SECRET not in received.path


def test_what_providers_say_here_is_what_the_official_types_say() -> None:
    for provider, conversation, ends in itertools.product(PROVIDERS, RECORDED, ("stop", "length", "filtered")):
        answer = replace(Answer.of(conversation), ends=ends)
        for _, data in provider.frames(answer):
            if isinstance(data, dict) and data.get("type") != "ping":
                provider.check_frame(data)
        provider.check_body(provider.body(answer))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_the_engine_behind_a_gate_answers_as_it_does_alone(dialect: Dialect) -> None:
    cells = [cell for cell in itertools.product(RECORDED, (False, True)) if dialect.can_say(cell[0])]

    async def main() -> None:
        engine = Scripted([])
        async with governed(None, engine) as server:
            for conversation, stream in cells:
                engine.turns = [conversation.turn]
                heard = await dialect.ask(server.url, dialect.body(conversation), stream)
                assert heard.said == conversation.answered, conversation.name
                assert heard.reason == dialect.reasons[bool(conversation.answer.get("calls"))]
                assert shape(engine.requests[-1]) == conversation.said()
                record = server.book.records[-1]
                assert (record.prompt_tokens, record.completion_tokens) == heard.tokens
        assert len(server.book.records) == len(cells)
        assert (server.is_quiet, engine.num_open) == (True, 0)

    run(main(), limit_s=LIMIT_S)


# How an answer ends --------------------------------------------------------------------------------------------------

ENDS = {
    "chat": {"length": "length", "filtered": "content_filter"},
    "responses": {"length": "incomplete", "filtered": "incomplete"},
    "messages": {"length": "max_tokens", "filtered": "refusal"},
    "ollama": {"length": "length", "filtered": "stop"},
}


@by_pair
def test_an_answer_that_was_cut_or_withheld_says_so(dialect: Dialect, provider: Provider) -> None:
    cells = list(itertools.product(("length", "filtered"), (False, True)))
    # As long as was asked for: an answer that ends before that was cut by the model's context.
    answers = [Answer(text="As far as", ends=ends, counts=Counts(answer=MAX_TOKENS)) for ends, _ in cells]
    steps = [
        (provider.respond(answer), asks(dialect, PLAIN, stream=stream))
        for answer, (_, stream) in zip(answers, cells, strict=True)
    ]
    told, _ = exchanges(provider, steps)
    for heard, (ends, stream) in zip(told, cells, strict=True):
        assert (heard.said.text, heard.reason) == ("As far as", ENDS[dialect.name][ends]), (ends, stream)


# A form of the answer ------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "chat": {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
    "responses": {"text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}},
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "ollama": {"format": SCHEMA},
}


@by_pair
def test_a_schema_holds_the_answer_wherever_it_is_made(dialect: Dialect, provider: Provider) -> None:
    body = dialect.body(PLAIN) | FORMS[dialect.name]
    respond = provider.respond(Answer(text='{"city":"Oslo"}'))

    def asking(stream: bool) -> Ask:
        return lambda server: dialect.ask(server.url, dict(body), stream)

    told, server = exchanges(provider, [(respond, asking(False)), (respond, asking(True))])
    assert server.up is not None
    for heard, received in zip(told, server.up.received, strict=True):
        provider.check_question(received.fields)
        assert provider.read(received.fields).schema == SCHEMA
        assert json.loads(heard.said.text) == {"city": "Oslo"}


# What was cached -----------------------------------------------------------------------------------------------------


async def _raw(server: Governed, dialect: Dialect, body: dict[str, Any]) -> Any:
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    data = json.dumps(body).encode()
    head = (
        f"POST {dialect.path} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    )
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data)
    whole = await reader.read()
    writer.close()
    return json.loads(whole.partition(b"\r\n\r\n")[2])


CACHED: dict[str, Callable[[Any], tuple[int, int]]] = {
    "chat": lambda said: (
        said["usage"]["prompt_tokens"],
        said["usage"]["prompt_tokens_details"]["cached_tokens"],
    ),
    "responses": lambda said: (
        said["usage"]["input_tokens"],
        said["usage"]["input_tokens_details"]["cached_tokens"],
    ),
    "messages": lambda said: (
        said["usage"]["input_tokens"]
        + said["usage"]["cache_read_input_tokens"]
        + said["usage"]["cache_creation_input_tokens"],
        said["usage"]["cache_read_input_tokens"],
    ),
}


@pytest.mark.parametrize(
    ("dialect", "provider"),
    [pair for pair in itertools.product(DIALECTS, PROVIDERS) if pair[0].name in CACHED],
    ids=lambda one: one.name,
)
def test_what_was_cached_is_told_in_the_clients_own_sums(dialect: Dialect, provider: Provider) -> None:
    respond = provider.respond(Answer(text="Yes."))
    said, _, server = exchange(provider, respond, lambda server: _raw(server, dialect, dialect.body(PLAIN)))
    assert CACHED[dialect.name](said) == (COUNTS.prompt, COUNTS.cached)
    (record,) = server.book.records
    # Written tokens are told by Messages alone.
    assert record.written_tokens == (8 if provider.name == "messages" else 0)


# Errors --------------------------------------------------------------------------------------------------------------

# What the provider's refusal is to a client: HTTP status, and its kind in the words of OpenAI and Anthropic.
BECOMES = {
    "limited": (429, "rate_limit_error", "rate_limit_error"),
    "overloaded": (503, "server_error", "overloaded_error"),
    "invalid": (400, "invalid_request_error", "invalid_request_error"),
    "key": (502, "server_error", "api_error"),
    "broken": (502, "server_error", "api_error"),
}


def explained(error: Exception, dialect: Dialect) -> tuple[int, str]:
    """An SDK's exception as the status and the error's kind, empty where a dialect has none."""
    if dialect is OLLAMA:
        assert isinstance(error, ollama.ResponseError)
        return error.status_code, ""
    assert isinstance(error, openai.APIStatusError | anthropic.APIStatusError)
    body: Any = error.body
    told = body["error"] if dialect is MESSAGES else body
    return error.status_code, told["type"]


async def _fails(dialect: Dialect, url: str, stream: bool) -> Exception:
    try:
        await dialect.ask(url, dialect.body(PLAIN), stream)
    except (openai.APIError, anthropic.APIError, ollama.ResponseError, Failed) as error:
        return error
    raise AssertionError("the SDK saw no error")


@by_pair
@streamed
# After the last of each a backend is not asked again for a while.
@pytest.mark.parametrize("kinds", [("invalid", "key", "broken", "overloaded"), ("limited",)], ids=lambda one: one[-1])
def test_a_refusal_is_one_in_the_clients_own_words(
    dialect: Dialect, provider: Provider, stream: bool, kinds: tuple[str, ...]
) -> None:
    told, server = exchanges(
        provider,
        [
            (provider.refuse(refusal), lambda server: _fails(dialect, server.url, stream))
            for refusal in map(REFUSALS.__getitem__, kinds)
        ],
    )
    for error, kind in zip(told, kinds, strict=True):
        refusal = REFUSALS[kind]
        status, *types = BECOMES[kind]
        seen, word = explained(error, dialect)
        assert seen == (529 if dialect is MESSAGES and kind == "overloaded" else status), kind
        assert word == ("" if dialect is OLLAMA else types[dialect is MESSAGES]), kind
        # What the provider says of the request is the caller's business, and what it says of our key is not.
        assert (WORDS in str(error)) == (kind in ("invalid", "broken")), kind
        if refusal.retry_after is not None and dialect is not OLLAMA:
            assert error.response.headers["retry-after"] == refusal.retry_after
    spent = [(one.prompt_tokens, one.completion_tokens, one.cost_nanos) for one in server.book.records]
    assert spent == [(0, 0, 0)] * len(kinds)


@by_pair
def test_an_error_within_a_stream_ends_it_as_one(dialect: Dialect, provider: Provider) -> None:
    answer = Answer(text="Once upon a time there was")
    error, _, server = exchange(
        provider, provider.break_off(answer, "overloaded"), lambda server: _fails(dialect, server.url, True)
    )
    assert not isinstance(error, openai.APIConnectionError | anthropic.APIConnectionError)
    (record,) = server.book.records
    # A response that says that it failed has ended as its protocol says, and passes as it is.
    assert (record.outcome == "ok") == (dialect.name == provider.name == "responses")
    assert record.prompt_tokens > 0, "what was read is charged"


@by_pair
def test_a_provider_that_is_gone_is_an_error_and_no_end(dialect: Dialect, provider: Provider) -> None:
    answer = Answer(text="Once upon a time there was")
    _, _, server = exchange(provider, provider.cut_off(answer), lambda server: _fails(dialect, server.url, True))
    (record,) = server.book.records
    assert record.outcome == "upstream_fault"
