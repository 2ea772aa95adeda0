"""The hot routes: one generation request from body to last byte, streamed or whole.

Knows OpenAI's codecs and the backend's contract, and nothing of routes, keys or sockets. The status line of a stream
waits for the first thing to say, so that an early error has its own status; after `keep_alive_s` of silence the stream
begins with a comment, and errors then travel inside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from headrace.api.errors import encode_error
from headrace.api.openai import Call, Caller, decode_chat, decode_completion
from headrace.api.openai_answers import CHAT, COMPLETION, AnswerWriter, Dialect, StreamWriter, answer_head
from headrace.api.openai_models import check_task
from headrace.api.sse import CONTENT_TYPE, KEEP_ALIVE, encode_frame
from headrace.core.backend import Backend
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.events import Event, Finished, PromptLogprobs, Started, TextDelta
from headrace.core.request import Principal, Request
from headrace.server.config import ServerConfig
from headrace.server.exchange import JSON, BodyBudget, Exchange
from headrace.server.feed import Feed, Pace
from headrace.server.hints import read_hints
from headrace.server.lifecycle import Lifecycle

# A client that takes this much within `write_timeout_s` is slow and not gone: events with log-probabilities are long.
MAX_WRITE_BYTES: Final = 64 * 1024


Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A generation route: how its body is read and how its answer is written."""

    dialect: Dialect
    decode: Callable[[bytes, Caller], Call]


# Path -> how it is answered.
GENERATION_ROUTES: Final = {
    "/v1/chat/completions": Protocol(CHAT, decode_chat),
    "/v1/completions": Protocol(COMPLETION, decode_completion),
}


@dataclass(slots=True)
class Answering:
    """What every answer needs of its server."""

    backend: Backend
    config: ServerConfig
    lifecycle: Lifecycle
    pace: Pace
    bodies: BodyBudget
    new_id: Callable[[], str]

    async def answer(self, protocol: Protocol, exchange: Exchange, principal: Principal) -> None:
        """Answer one request. Raises HeadraceError while nothing is sent, and ClientGone."""
        call = await self.read(exchange, principal, protocol.dialect.id_prefix, protocol.decode)
        self.admit(exchange, call.request)
        head = answer_head(protocol.dialect, call, int(self.pace.clock.unix_s()))
        events = self.backend.run(call.request)
        log = Log(exchange, self.pace)
        async with Feed(events, exchange.receive, exchange.send, self.lifecycle, self.pace) as feed:
            try:
                if call.stream:
                    await _stream(exchange, feed, StreamWriter(head), log)
                else:
                    await _whole(exchange, feed, AnswerWriter(head), log)
            except InvalidRequest as error:
                raise call.reword(error) from None

    async def read(
        self, exchange: Exchange, principal: Principal, id_prefix: str, decode: Callable[[bytes, Caller], Decoded]
    ) -> Decoded:
        """The body of a request, decoded. Raises HeadraceError and ClientGone."""
        self.lifecycle.check_accepting()
        hints = read_hints(exchange.headers)
        # The bytes are not held for as long as the answer takes.
        return decode(
            await exchange.read_body(self.config, self.bodies),
            Caller(
                request_id=id_prefix + self.new_id(),
                principal=principal,
                deadline_s=hints.deadline_s(self.config.request_timeout_s),
                session=hints.session,
                parent=hints.parent,
                explains_cache=hints.explains_cache,
            ),
        )

    def admit(self, exchange: Exchange, request: Request) -> None:
        """Note whom the request asks. Raises InvalidRequest for a model that does not do such things."""
        exchange.record.model = request.model[:200]
        check_task(self.backend.models(), request)


class Log:
    """Counts an answer's tokens into its record as they pass."""

    def __init__(self, exchange: Exchange, pace: Pace) -> None:
        self._exchange = exchange
        self._pace = pace

    def note(self, events: list[Event]) -> None:
        """What has just come."""
        record = self._exchange.record
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                record.completion_tokens += event.num_tokens  # type: ignore[union-attr]
            elif isinstance(event, Started):
                record.model, record.prompt_tokens = event.model, event.prompt_tokens
                record.cached_tokens = event.cached_tokens
                continue
            elif isinstance(event, PromptLogprobs):
                continue
            elif isinstance(event, Finished):
                record.completion_tokens = event.usage.completion_tokens
                record.cached_tokens = event.usage.cached_tokens
            if record.ttft_s is None:
                record.ttft_s = self._pace.clock.monotonic_s() - self._exchange.started_s


async def _stream(exchange: Exchange, feed: Feed, writer: StreamWriter, log: Log) -> None:
    try:
        while not writer.is_done:
            events = await feed.take()
            log.note(events)
            data = writer.encode(events) if events else KEEP_ALIVE
            if data:
                await _send_chunk(exchange, feed, data, is_last=writer.is_done)
    except HeadraceError as error:
        if not exchange.is_started:
            raise
        exchange.record.outcome = error.code
        await _send_chunk(exchange, feed, encode_frame(encode_error(error)), is_last=True)


async def _send_chunk(exchange: Exchange, feed: Feed, data: bytes, *, is_last: bool) -> None:
    if not exchange.is_started:
        # no-transform and x-accel-buffering: a proxy that gathers or compresses would hold the tokens back.
        headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
        await feed.send(exchange.start(200, CONTENT_TYPE, headers))
    await send_pieces(feed, data, is_last=is_last)


async def send_pieces(feed: Feed, data: bytes, *, is_last: bool) -> None:
    """Send a part of a response's body, no more at once than a slow client takes in its time. Raises ClientGone."""
    for start in range(0, len(data), MAX_WRITE_BYTES):
        end = start + MAX_WRITE_BYTES
        is_end = is_last and end >= len(data)
        await feed.send({"type": "http.response.body", "body": data[start:end], "more_body": not is_end})


async def _whole(exchange: Exchange, feed: Feed, writer: AnswerWriter, log: Log) -> None:
    while not writer.is_done:
        events = await feed.take()
        log.note(events)
        writer.add(events)
    body = writer.encode()
    await feed.send(exchange.start(200, JSON, [(b"content-length", str(len(body)).encode())]))
    await send_pieces(feed, body, is_last=True)
