"""An answer that a gateway gives in the caller's own protocol: bytes in, bytes out, at the pace of who reads them.

Whole, it is one response; streamed, each piece goes out as it comes, and the next is asked for once the client has
room. A stream that says nothing for a while gets comments, and errors then travel inside it. Knows no dialect beyond a
`RelayRoute`, and no policies.
"""

from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from headrace.api.errors import OPENAI, ErrorDialect
from headrace.api.openai import Caller
from headrace.api.peek import BodyKind, Peeked
from headrace.api.sse import CONTENT_TYPE, KEEP_ALIVE
from headrace.core.backend import Backend
from headrace.core.errors import EngineFault, HeadraceError, InvalidRequest
from headrace.core.gateway import WATCH, Ask, EventReply, Gateway, Headers, RawReply, RawStream
from headrace.core.request import Request
from headrace.server.exchange import JSON, Exchange
from headrace.server.guard import Guard, Sweep
from headrace.server.lifecycle import Lifecycle

# Of one connection only, or about this client and this server; nothing that a backend should get.
_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade expect".split()
)
_KEPT_HERE: Final = _HOP | frozenset(
    b"authorization x-api-key api-key x-goog-api-key cookie host content-length content-type content-encoding "
    b"accept accept-encoding origin referer forwarded via x-real-ip x-request-id date range if-match if-none-match "
    b"if-modified-since if-unmodified-since if-range openai-organization openai-project x-goog-user-project "
    b"dpop signature signature-input signature-agent content-digest repr-digest client-cert client-cert-chain".split()
)  # three say whose account pays, which with our credentials is our affair; the last are what a caller shows of itself
_KEPT_PREFIXES: Final = (b"x-headrace-", b"x-forwarded-", b"sec-", b"access-control-", b"proxy-")
# Of a response: what this server says itself.
_SAID_HERE: Final = _HOP | frozenset(
    b"content-length content-encoding content-type set-cookie server date x-request-id request-id "
    b"x-content-type-options strict-transport-security alt-svc".split()
)
_SAID_OF_RECORDED: Final = frozenset({b"link", b"content-digest", b"repr-digest"})
_STREAM_HEADERS: Final = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
_MAX_HEADERS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayRoute:
    """How a route's bodies are read, and what is said of its streams. `kind` None: they are always decoded.
    `is_bytes_only`: its answers are made of bytes alone, and not of a gateway's events."""

    id_prefix: str
    decode: Callable[[bytes, Caller], Any]
    kind: BodyKind | None
    errors: ErrorDialect = OPENAI
    content_type: bytes = CONTENT_TYPE
    keep_alive: bytes = KEEP_ALIVE
    is_bytes_only: bool = False


def gateway_of(backend: Backend) -> Gateway | None:
    """The backend as a gateway, if it is one."""
    return cast(Gateway, backend) if callable(getattr(backend, "ask", None)) else None


def travelling(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Of a client's headers those that may go on to a backend."""
    found, named = [], None
    for pair in headers:
        name = pair[0]
        if name in _KEPT_HERE:
            if name == b"connection" and pair[1].lower() not in (b"keep-alive", b"close"):
                named = {one.strip().lower() for one in pair[1].split(b",")}
        elif not name.startswith(_KEPT_PREFIXES):
            found.append(pair)
    if named is not None:
        found = [pair for pair in found if pair[0] not in named]
    return found[:_MAX_HEADERS]


def returning(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Of a backend's headers those that may go on to the client."""
    return [
        pair
        for pair in headers
        if pair[0] not in _SAID_HERE and not pair[0].startswith(_KEPT_PREFIXES) and not _is_broken(pair)
    ]


def _is_broken(pair: tuple[bytes, bytes]) -> bool:
    name, value = pair
    return b"\n" in value or b"\r" in value or b"\0" in value or b"\n" in name or b"\r" in name


class Asked(Protocol):
    """A decoded body, as far as asking for it goes."""

    @property
    def request(self) -> Request:
        """What the backend is asked."""
        ...


class Asking:
    """One request on its way to a gateway. It is decoded if that is needed, and once; it is not held for as long as its
    answer takes."""

    def __init__(self, peeked: Peeked, decode: Callable[[], Asked], admit: Callable[[Request], None]) -> None:
        self._peeked: Peeked | None = peeked
        self._decode: Callable[[], Asked] | None = decode
        self._admit = admit
        self._call: Asked | None = None
        self._refusal: HeadraceError | None = None
        self.model = peeked.shape.model[:200]

    @property
    def call(self) -> Any:
        """What `decode` made of the body. Raises HeadraceError."""
        if self._call is None:
            if self._refusal is not None:
                raise self._refusal
            assert self._decode is not None
            try:
                call = self._decode()
                self._admit(call.request)
            except HeadraceError as error:
                self._refusal = error
                raise
            self._call = call
        return self._call

    def reworded(self, error: InvalidRequest) -> InvalidRequest:
        """A gateway's refusal in the caller's words, which only a decoded body has: Claude Code looks for some."""
        if error is self._refusal:
            return error
        try:
            reword: Callable[[InvalidRequest], InvalidRequest] | None = getattr(self.call, "reword", None)
        except HeadraceError:
            return error
        return error if reword is None else reword(error)

    def ask(self) -> Ask:
        """What the gateway is asked."""
        assert self._peeked is not None
        return Ask(shape=self._peeked.shape, decode=self._request, raw=self._peeked.raw)

    def forget(self) -> None:
        """Let go of the body."""
        self._peeked = self._decode = None

    def _request(self) -> Request:
        made: Request = self.call.request
        return made


class Relay:
    """One request to a gateway and its answer in bytes. What comes in events is given back to who asks."""

    def __init__(self, exchange: Exchange, lifecycle: Lifecycle, sweep: Sweep, route: RelayRoute) -> None:
        self._exchange = exchange
        self._route = route
        self._lifecycle = lifecycle
        self._sweep = sweep

    async def run(self, gateway: Gateway, asking: Asking) -> EventReply | None:
        """Ask, and send what comes as bytes. Raises HeadraceError while nothing is sent, and ClientGone."""
        exchange = self._exchange
        try:
            async with self._guard() as guard:
                ask = asking.ask()
                if ask.shape.is_stream and self._route.keep_alive:
                    guard.on_silence = self._break_silence
                if exchange.sealing is not None:
                    WATCH.set(exchange.watch)
                reply = await gateway.ask(ask)
                del ask
                exchange.taken = reply.taken
                exchange.record.backend = reply.taken.backend or None
                if type(reply) is EventReply:
                    await self._decode(asking, reply)
                    return reply
                asking.forget()
                if type(reply) is RawReply:
                    await self._send_whole(guard, reply)
                elif type(reply) is RawStream:
                    await self._send_stream(guard, reply)
        except HeadraceError as caught:
            error = asking.reworded(caught) if isinstance(caught, InvalidRequest) else caught
            if not exchange.is_started:
                raise error from None
            exchange.record.outcome = error.code
            frame = self._route.errors.encode_frame(error, exchange.record.request_id)
            if exchange.sealing is not None:
                frame = exchange.sealing.cut(frame, self._route.content_type)
            async with self._guard() as guard:
                await guard.write(frame)
                await guard.end()
        return None

    @staticmethod
    async def _decode(asking: Asking, reply: EventReply) -> None:
        """What writes the answer needs the call, also of an answer that was kept."""
        try:
            asking.call  # noqa: B018
        except HeadraceError:
            await reply.events.aclose()
            raise
        asking.forget()

    def _guard(self) -> Guard:
        exchange = self._exchange
        return Guard(
            exchange.wire, exchange.receive, exchange.send, self._lifecycle, self._sweep, sealing=exchange.sealing
        )

    async def _send_whole(self, guard: Guard, reply: RawReply) -> None:
        exchange = self._exchange
        guard.on_silence = None  # while it waits for its record no comment begins the answer
        if exchange.is_started:  # a comment went out, because a stream was asked for
            raise EngineFault("the backend answered a stream in one piece; send the request again.")
        self._note(reply)
        headers, content_type = self._returning(reply) + exchange.body_headers(reply.body), _content_type(reply.headers)
        await exchange.keep([reply.body], content_type)
        await guard.respond(exchange.start(reply.status, content_type, headers), reply.body)

    async def _send_stream(self, guard: Guard, reply: RawStream) -> None:
        exchange, sealing = self._exchange, self._exchange.sealing
        async with aclosing(reply.chunks) as chunks:
            async for chunk in chunks:
                if not exchange.is_started:
                    self._note(reply)
                    headers = _STREAM_HEADERS + [one for one in self._returning(reply) if one[0] != b"cache-control"]
                    await guard.begin(exchange.start(reply.status, self._route.content_type, headers))
                if exchange.record.ttft_s is None:
                    exchange.record.ttft_s = self._sweep.pace.clock.monotonic_s() - exchange.started_s
                data = chunk if sealing is None else sealing.hold(chunk)
                if data:
                    await guard.write(data)
        if not exchange.is_started:
            raise EngineFault("the backend ended the answer without saying anything; send it again.")
        if sealing is not None:
            content_type = self._route.content_type
            data = await sealing.kept(b"", content_type) if sealing.waits else sealing.last(b"", content_type)
            if data:
                await guard.write(data)
        await guard.end()

    def _returning(self, reply: RawReply | RawStream) -> list[tuple[bytes, bytes]]:
        headers = returning(reply.headers)
        if reply.taken.receipt is None:
            return headers
        return [one for one in headers if one[0] not in _SAID_OF_RECORDED]

    async def _break_silence(self) -> None:
        exchange = self._exchange
        if not exchange.is_started:
            await exchange.send(exchange.start(200, self._route.content_type, _STREAM_HEADERS))
        await exchange.send({"type": "http.response.body", "body": self._route.keep_alive, "more_body": True})

    def _note(self, reply: RawReply | RawStream) -> None:
        if reply.taken.model:
            self._exchange.record.model = reply.taken.model[:200]


def _content_type(headers: Headers) -> bytes:
    for name, value in headers:
        if name == b"content-type" and not _is_broken((name, value)):
            return value
    return JSON
