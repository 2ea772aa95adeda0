"""The hot routes: one generation request from body to last byte, streamed or whole.

Knows the backend's contract, and nothing of routes, keys or sockets; of a dialect it knows what `GenerationRoute` says.
The status line of a stream waits for the first thing to say, so that an early error has its own status; after
`keep_alive_s` of silence the stream begins with a comment, and errors then travel inside it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from headrace.api.errors import OPENAI, ErrorDialect
from headrace.api.openai import Caller
from headrace.api.openai_models import check_task
from headrace.api.peek import BodyKind, peek
from headrace.api.sse import CONTENT_TYPE, KEEP_ALIVE
from headrace.core.backend import Backend, ModelCard
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.events import Event, Finished, PromptLogprobs, ReasoningDelta, Started, TextDelta, ToolCallDelta
from headrace.core.gateway import WATCH, Gateway
from headrace.core.identity import Identity
from headrace.core.request import Principal, Request
from headrace.server.config import ServerConfig
from headrace.server.exchange import JSON, BodyBudget, Exchange
from headrace.server.feed import Feed, Pace
from headrace.server.guard import Sweep
from headrace.server.hints import read_hints
from headrace.server.lifecycle import Lifecycle
from headrace.server.relay import Asking, Relay, RelayRoute, travelling
from headrace.server.routes import Route
from headrace.server.tail import part

# A client that takes this much within `write_timeout_s` is slow and not gone: events with log-probabilities are long.
MAX_WRITE_BYTES: Final = 64 * 1024


Decoded = TypeVar("Decoded")


class Call(Protocol):
    """A decoded body: the neutral request, and whether its answer is streamed."""

    @property
    def request(self) -> Request:
        """What the backend is asked."""
        ...

    @property
    def stream(self) -> bool:
        """Whether the answer comes in pieces."""
        ...

    def reword(self, error: InvalidRequest) -> InvalidRequest:
        """A backend's refusal in the caller's words."""
        ...


class Stream(Protocol):
    """Events in, frames out."""

    @property
    def is_done(self) -> bool:
        """True after the last frame."""
        ...

    def encode(self, events: Iterable[Event]) -> bytes:
        """What events are on the wire, which may be nothing yet. Raises HeadraceError."""
        ...


class Whole(Protocol):
    """Events in, one whole answer out."""

    @property
    def is_done(self) -> bool:
        """True once `encode` has everything it needs."""
        ...

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer. Raises HeadraceError."""
        ...

    def encode(self) -> bytes:
        """The answer."""
        ...


def run_one(backend: Backend, call: Call) -> AsyncGenerator[Event, None]:
    """The events of a call that is one request."""
    return backend.run(call.request)


@dataclass(frozen=True, slots=True)
class GenerationRoute:
    """A dialect's way to ask for an answer: how ids of its answers begin, how its body is read, how its answer is
    written. `created`, the writers' second argument, is Unix time in whole seconds.

    `keep_alive` is sent into a silence; empty: the dialect has nothing that its clients would skip. `run` asks the
    backend for a call. `kind` is how its bodies are peeked into if a gateway may pass them on. `keep(call, principal,
    writer)` is awaited once the writer is done and before its last bytes go out, for answers that are to be found
    again.
    """

    id_prefix: str
    decode: Callable[[bytes, Caller], Any]
    stream: Callable[[Any, int], Stream]
    whole: Callable[[Any, int], Whole]
    errors: ErrorDialect = OPENAI
    content_type: bytes = CONTENT_TYPE
    keep_alive: bytes = KEEP_ALIVE
    run: Callable[[Backend, Any], AsyncGenerator[Event, None]] = run_one
    keep: Callable[[Any, Principal, Any], Awaitable[None]] | None = None
    kind: BodyKind | None = None

    @property
    def relay(self) -> RelayRoute:
        """What is said of its streams where they come as bytes."""
        return RelayRoute(
            id_prefix=self.id_prefix,
            decode=self.decode,
            kind=self.kind,
            errors=self.errors,
            content_type=self.content_type,
            keep_alive=self.keep_alive,
        )


def generation_routes(answering: "Answering", table: dict[str, GenerationRoute]) -> list[Route]:
    """The routes of a table: path -> how it is answered."""

    def route(name: str, given: GenerationRoute) -> Route:
        relay = given.relay

        async def handle(exchange: Exchange, identity: Identity) -> None:
            await answering.answer(given, relay, exchange, identity.principal)

        return Route(name, "POST", "generate", handle, given.errors)

    return [route(name, given) for name, given in table.items()]


@dataclass(slots=True)
class Answering:
    """What every answer needs of its server."""

    backend: Backend
    config: ServerConfig
    lifecycle: Lifecycle
    pace: Pace
    bodies: BodyBudget
    new_id: Callable[[], str]
    sweep: Sweep
    gateway: Gateway | None = None

    async def answer(self, route: GenerationRoute, relay: RelayRoute, exchange: Exchange, principal: Principal) -> None:
        """Answer one request. Raises HeadraceError while nothing is sent, and ClientGone."""
        asked = await self.ask(exchange, principal, relay)
        if asked is None:
            return
        call, events = asked
        if events is None:
            await self.reply(route, exchange, principal, call)
        else:
            await self._feed(route, exchange, principal, call, events)

    async def ask(
        self, exchange: Exchange, principal: Principal, route: RelayRoute
    ) -> tuple[Any, AsyncGenerator[Event, None] | None] | None:
        """Read a request and, if there is a gateway, ask it. None if the answer is sent; else the decoded call and its
        events, None where the call is still to be run: our own server must act on what it says.

        Raises HeadraceError while nothing is sent, and ClientGone.
        """
        caller, data = await self.receive(exchange, principal, route.id_prefix)
        gateway = self.gateway
        decode = partial(route.decode, data, caller)
        if gateway is None or route.kind is None:
            return decode(), None
        peeked = peek(route.kind, data, caller, travelling(exchange.scope["headers"]))
        del data
        model = peeked.shape.model
        if peeked.raw is None or (route.is_bytes_only and not gateway.passes(model, peeked.raw.dialect)):
            return decode(), None
        exchange.record.model = model[:200]
        asking = Asking(peeked, decode, partial(self.admit, exchange))
        del peeked, decode
        reply = await Relay(exchange, self.lifecycle, self.sweep, route).run(gateway, asking)
        return None if reply is None else (asking.call, reply.events)

    async def reply(self, route: GenerationRoute, exchange: Exchange, principal: Principal, call: Call) -> None:
        """Answer a request that was read. Raises HeadraceError while nothing is sent, and ClientGone."""
        self.admit(exchange, call.request)
        await self._feed(route, exchange, principal, call, route.run(self.backend, call))

    async def _feed(
        self,
        route: GenerationRoute,
        exchange: Exchange,
        principal: Principal,
        call: Call,
        events: AsyncGenerator[Event, None],
    ) -> None:
        created = int(self.pace.clock.unix_s())
        log = Log(exchange, self.pace)

        async def keep(writer: Stream | Whole) -> None:
            if route.keep is not None:
                await route.keep(call, principal, writer)

        async with Feed(events, exchange.receive, exchange.send, self.lifecycle, self.pace) as feed:
            try:
                if call.stream:
                    await _stream(exchange, feed, route, route.stream(call, created), log, keep)
                else:
                    await _whole(exchange, feed, route.whole(call, created), log, keep)
            except InvalidRequest as error:
                raise call.reword(error) from None

    async def read(
        self, exchange: Exchange, principal: Principal, id_prefix: str, decode: Callable[[bytes, Caller], Decoded]
    ) -> Decoded:
        """The body of a request, decoded. Raises HeadraceError and ClientGone."""
        # The bytes are not held for as long as the answer takes.
        caller, data = await self.receive(exchange, principal, id_prefix)
        return decode(data, caller)

    async def receive(self, exchange: Exchange, principal: Principal, id_prefix: str) -> tuple[Caller, bytes]:
        """Who asks, and the body. Raises HeadraceError and ClientGone."""
        self.lifecycle.check_accepting()
        hints = read_hints(exchange.headers)
        if hints.inlines_record and not self.config.seals_answers:
            raise InvalidRequest(
                "x-headrace-record: this server records no answers; leave it out, or ask whoever runs it.",
                param="x-headrace-record",
            )
        data = await exchange.read_body(self.config, self.bodies)
        caller = Caller(
            request_id=id_prefix + self.new_id(),
            principal=principal,
            deadline_s=hints.deadline_s(self.config.request_timeout_s),
            session=hints.session,
            parent=hints.parent,
            explains_cache=hints.explains_cache,
            headers=exchange.headers,
            prices=self.config.prices,
            labels=hints.labels,
            tags=hints.tags,
            is_fresh=hints.is_fresh,
        )
        return caller, data

    def models_for(self, principal: Principal) -> tuple[ModelCard, ...]:
        """The models that somebody may ask for."""
        return self.backend.models() if self.gateway is None else self.gateway.models_for(principal)

    def admit(self, exchange: Exchange, request: Request) -> None:
        """Note whom the request asks. Raises InvalidRequest for a model that does not do such things."""
        exchange.record.model = request.model[:200]
        WATCH.set(exchange.watch)
        check_task(self.backend.models(), request)


_Keep = Callable[[Stream | Whole], Awaitable[None]]


class Log:
    """Counts an answer's tokens into its record as they pass."""

    def __init__(self, exchange: Exchange, pace: Pace) -> None:
        self._exchange = exchange
        self._pace = pace

    def stamp(self) -> None:
        """Tell in a header how long the answer took so far, as OpenAI does."""
        exchange = self._exchange
        if exchange.errors is OPENAI and not exchange.is_started:
            exchange.add_header(b"openai-processing-ms", b"%d" % (1000 * self._elapsed_s()))

    def note(self, events: list[Event]) -> None:
        """What has just come."""
        record = self._exchange.record
        for event in events:
            kind = type(event)
            if kind is TextDelta or kind is ReasoningDelta or kind is ToolCallDelta:
                record.completion_tokens += event.num_tokens  # type: ignore[union-attr]
            elif isinstance(event, Started):
                record.model, record.prompt_tokens = event.model, event.prompt_tokens
                record.cached_tokens = event.cached_tokens
                if record.begun_s is None:
                    record.begun_s = self._elapsed_s()
                continue
            elif isinstance(event, PromptLogprobs):
                continue
            elif isinstance(event, Finished):
                record.prompt_tokens = event.usage.prompt_tokens
                record.completion_tokens = event.usage.completion_tokens
                record.cached_tokens = event.usage.cached_tokens
            if record.ttft_s is None:
                record.ttft_s = self._elapsed_s()

    def _elapsed_s(self) -> float:
        return self._pace.clock.monotonic_s() - self._exchange.started_s


async def _stream(
    exchange: Exchange, feed: Feed[Event], route: GenerationRoute, writer: Stream, log: Log, keep: _Keep
) -> None:
    try:
        while not writer.is_done:
            events = await feed.take()
            log.note(events)
            data = writer.encode(events) if events else route.keep_alive
            waits = writer.is_done and exchange.waits  # then nothing is to be found before its record is
            if writer.is_done and not waits:
                await keep(writer)
            if data:
                log.stamp()
                if writer.is_done:
                    data = await end_of(exchange, feed, data, route.content_type)
                    if waits:
                        await keep(writer)
                await send_chunk(exchange, feed, data, route.content_type, is_last=writer.is_done)
    except HeadraceError as error:
        if not exchange.is_started:
            raise
        exchange.record.outcome = error.code
        frame = route.errors.encode_frame(error, exchange.record.request_id)
        if exchange.sealing is not None:
            frame = exchange.sealing.cut(frame, route.content_type)
        await send_chunk(exchange, feed, frame, route.content_type, is_last=True)


async def end_of(exchange: Exchange, feed: Feed[Any], data: bytes, content_type: bytes) -> bytes:
    """The end of a stream as it is to be sent, with its record in it if that is wanted. If it waits for its record, it
    is its last frame alone, what comes before is sent, and the record is in the log. Raises ClientGone, and
    HeadraceError if the end must not go out."""
    sealing = exchange.sealing
    if sealing is None:
        return data
    if not sealing.waits:
        return sealing.last(data, content_type)
    early, last = part(data, content_type)
    if early:
        await send_chunk(exchange, feed, early, content_type, is_last=False)
    return await feed.during(sealing.kept(last, content_type))


async def send_chunk(exchange: Exchange, feed: Feed[Any], data: bytes, content_type: bytes, *, is_last: bool) -> None:
    """Send a part of a stream, behind its headers if it is the first. Raises ClientGone."""
    if not exchange.is_started:
        # no-transform and x-accel-buffering: a proxy that gathers or compresses would hold the tokens back.
        headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
        await feed.send(exchange.start(200, content_type, headers))
    await send_pieces(feed, data, is_last=is_last)


async def send_pieces(feed: Feed[Any], data: bytes, *, is_last: bool) -> None:
    """Send a part of a response's body, no more at once than a slow client takes in its time. Raises ClientGone."""
    for start in range(0, len(data), MAX_WRITE_BYTES):
        end = start + MAX_WRITE_BYTES
        is_end = is_last and end >= len(data)
        await feed.send({"type": "http.response.body", "body": data[start:end], "more_body": not is_end})


async def _whole(exchange: Exchange, feed: Feed[Event], writer: Whole, log: Log, keep: _Keep) -> None:
    while not writer.is_done:
        events = await feed.take()
        log.note(events)
        writer.add(events)
    body = writer.encode()
    if exchange.waits:
        await feed.during(exchange.keep([body]))
    await keep(writer)
    log.stamp()
    await feed.send(exchange.start(200, JSON, exchange.body_headers(body)))
    await send_pieces(feed, body, is_last=True)
