"""A remote backend as an `Upstream`: one protocol's codec over the connections to one address.

    run    Request --encode--> POST --> server-sent events --reader--> events
    relay  RawBody --reframe--> POST --> the same bytes, looked at by a scanner

Owns what must hold of every answer whatever its protocol: redirects are not followed, the type of the content is the
one that was asked for, and a stream's beginning is read before it counts as an answer. Credentials are in the head that
`Head` keeps, and in no message or repr. Knows no policy: one attempt each.
"""

import ssl
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Final

import msgspec

from headrace.api.outbound.codec import OutboundCall, OutboundCodec, Quirks, Scanner
from headrace.api.outbound.frames import FrameParser
from headrace.api.trace_context import without_context, write_context
from headrace.core.errors import HeadraceError, InvalidRequest, UpstreamFault
from headrace.core.events import Event, Usage
from headrace.core.gateway import Headers, RawBody
from headrace.core.request import Request
from headrace.core.tracing import TRACE
from headrace.gateway.contract import UpstreamReply
from headrace.gateway.settings import BackendSettings, Dialect, Target, Timeouts
from headrace.gateway.upstreams.address import Address, read_url
from headrace.gateway.upstreams.answer import Answer
from headrace.gateway.upstreams.http import Head, headers_down, headers_up
from headrace.gateway.upstreams.pool import Pool, PoolSettings, Security, open_tls

MAX_ERROR_BYTES: Final = 1024 * 1024
"""Of a refusal's body, or of an answer where a stream should be."""

_JSON: Final = b"application/json"
# Credentials are the operator's: what a backend says of them may repeat them, and no caller can mend them.
_NOT_THEIRS: Final = frozenset({401, 403, 407})
_EVENTS: Final = b"text/event-stream"


class Remote:
    """One backend. Its connections are opened when they are needed; `close` lets go of them."""

    def __init__(
        self,
        settings: BackendSettings,
        codec: OutboundCodec,
        *,
        quirks: Quirks | None = None,
        secret: str | None = None,
        tls: ssl.SSLContext | Security | None = None,
        bearer: Callable[[], str] | None = None,
    ) -> None:
        """`tls` None: the system's authorities. `bearer` gives the token of now, for a backend that is shown one.

        Raises ValueError, which names the setting, for a URL or headers that cannot be, and OSError if TLS is needed
        and there are no authorities.
        """
        address = read_url(settings.url)
        self._name = settings.name
        self._settings = settings
        self._codec = codec
        self._quirks = quirks or Quirks()
        # A closure: nothing that is printed has the text.
        self._repeats_key: Callable[[str], bool] = lambda text: secret is not None and secret in text
        self._bearer = bearer
        fixed = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in settings.headers.items()]
        named = frozenset(name for name, _ in fixed)
        if secret is not None:
            shown = codec.secret_header(secret)
            fixed = [*(one for one in fixed if one[0] != shown[0]), shown]
        if b"content-type" not in named:
            fixed.append((b"content-type", _JSON))
        self._named = named
        self._head = Head(address, fixed)
        self._root = Head(Address(address.is_tls, address.host, address.port), fixed)
        if settings.health.path is not None:
            try:
                self._root.write("GET", settings.health.path, (), 0)
            except InvalidRequest as error:
                raise ValueError(f"health.path: {error.message}") from None
        tls = (tls or open_tls()) if address.is_tls else None
        name, patience_s = f"backend {settings.name!r}", settings.health.timeout_s
        self._pool = Pool(
            address,
            PoolSettings(timeouts=settings.timeouts, max_connections=settings.max_concurrency),
            tls=tls,
            name=name,
        )
        # Checks do not wait for requests: a backend that is busy is not one that is ill.
        patience = Timeouts(connect_s=patience_s, whole_s=patience_s, idle_s=patience_s)
        self._checks = Pool(address, PoolSettings(timeouts=patience, max_idle=1), tls=tls, name=name)

    def __repr__(self) -> str:
        return f"Remote({self._name})"

    @property
    def dialects(self) -> frozenset[str]:
        """Those of `RawBody` that it takes as bytes."""
        return self._codec.takes

    @property
    def pool(self) -> Pool:
        """Its connections, for who counts them."""
        return self._pool

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer in events; see `Upstream`."""
        request, model = request.asked, request.model
        call = self._codec.encode(request, model, self._quirks)
        answer = await self._send(call, call.headers)
        if not call.is_stream:
            for event in self._codec.decode(request, model, self._body_of(answer, await answer.read())):
                yield event
            return
        try:
            await self._check_stream(answer)
            frames, reader = FrameParser(), self._codec.reader(request, model)
            while not reader.is_done and (data := await answer.more()):
                for name, said in frames.feed(data):
                    for event in reader.feed(name, said):
                        answer.begin()
                        yield event
            if reader.is_done:
                answer.leave()
            else:
                for event in reader.end():
                    yield event
        finally:
            answer.close_unless_left()

    async def relay(self, raw: RawBody, target: Target, *, max_tokens: int | None) -> "UpstreamReply | RemoteStream":
        """Answer in bytes; see `Upstream`."""
        call = self._codec.reframe(raw, target.model, max_tokens, self._quirks)
        answer = await self._send(call, self._headers(call, raw))
        if not call.is_stream:
            body = self._body_of(answer, await answer.read())
            return UpstreamReply(
                status=answer.status,
                headers=headers_down(answer.headers),
                body=body,
                usage=self._codec.usage_of(body),
            )
        try:
            await self._check_stream(answer)
            scanner = self._codec.scanner(raw)
            first = await _read_first(answer, scanner)
        except BaseException:
            answer.close()
            raise
        answer.begin()
        return RemoteStream(answer, scanner, first)

    async def check(self) -> None:
        """Ask the path of the health check, which begins at the server's root, or for the list of models."""
        path = self._settings.health.path
        models = "/v1/models" if self._settings.dialect is Dialect.MESSAGES else "/models"
        shown = self._credentials()
        head = self._root.write("GET", path, shown, 0) if path else self._head.write("GET", models, shown, 0)
        answer = await self._checks.ask(head, b"", is_whole=True)
        if not 200 <= answer.status < 300:
            raise UpstreamFault(f"backend {self._name!r} answers its health check with status {answer.status}.")

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.close()
        await self._checks.close()

    def _headers(self, call: OutboundCall, raw: RawBody) -> Headers:
        """The protocol's and the client's; a client's goes before the protocol's, the operator's before both."""
        given = raw.headers
        if not given:
            return call.headers
        headers = headers_up(given)
        named = {name for name, _ in headers} | self._named
        kept = [one for one in call.headers if one[0] not in named and one not in given]
        return [*kept, *(one for one in headers if one[0] not in self._named)]

    def _credentials(self) -> Headers:
        """Those that change. Raises UpstreamFault if there are none now."""
        if self._bearer is None:
            return ()
        try:
            return ((b"authorization", b"Bearer " + self._bearer().encode("ascii")),)
        except HeadraceError as error:
            raise UpstreamFault(f"backend {self._name!r} cannot be asked: {error.message}") from error

    async def _send(self, call: OutboundCall, headers: Headers) -> Answer:
        if self._bearer is not None:
            headers = (*headers, *self._credentials())
        if (place := TRACE.get()) is not None:
            headers = (*without_context(headers), *write_context(place.context))
        head = self._head.write("POST", call.path, headers, len(call.body))
        return await self._pool.ask(head, call.body, is_whole=not call.is_stream)

    def _body_of(self, answer: Answer, body: bytes) -> bytes:
        """The body of a whole answer that is one. Raises what it says instead."""
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, body)
        if not _is_of_type(answer.headers, _JSON):
            raise self._wrong_type(answer, "JSON")
        if body.startswith(b'{"error"') and (error := self._hidden_error(answer, body)) is not None:
            raise error
        return body

    async def _check_stream(self, answer: Answer) -> None:
        """See that a stream of events begins. Raises what the answer says instead."""
        if 200 <= answer.status < 300 and _is_of_type(answer.headers, _EVENTS):
            return
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, await answer.read(MAX_ERROR_BYTES))
        if _is_of_type(answer.headers, _JSON):
            error = self._hidden_error(answer, await answer.read(MAX_ERROR_BYTES))
            if error is not None:
                raise error
        raise self._wrong_type(answer, "a stream of events")

    def _refusal(self, answer: Answer, body: bytes) -> HeadraceError:
        status = answer.status
        if status < 400:
            return UpstreamFault(
                f"backend {self._name!r} answers with status {status}; redirects are not followed: correct its url."
            )
        if status in _NOT_THEIRS:
            return UpstreamFault(
                f"backend {self._name!r} does not let this gateway in (status {status}); an operator must mend its key."
            )
        return self._read_error(status, answer, body)

    def _read_error(self, status: int, answer: Answer, body: bytes) -> HeadraceError:
        """What a refusal means. One that repeats our key says no more than its status."""
        error = self._codec.read_error(status, answer.headers, body)
        if self._repeats_key(f"{error.message}{error.param}"):
            return type(error)(f"backend {self._name!r} refused the request with status {status}.")
        return error

    def _hidden_error(self, answer: Answer, body: bytes) -> HeadraceError | None:
        """The error that some servers send with status 200."""
        try:
            error = msgspec.json.decode(body, type=_Hidden).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if error is None:
            return None
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return self._read_error(status, answer, body)

    def _wrong_type(self, answer: Answer, wanted: str) -> UpstreamFault:
        found = next((value for name, value in answer.headers if name == b"content-type"), b"")
        shown = repr(found[:80].decode("latin-1")) if found else "no content-type"
        return UpstreamFault(
            f"backend {self._name!r} answers with {shown} where {wanted} was asked for; correct its url or dialect."
        )


class RemoteStream:
    """A streamed answer that has begun; see `UpstreamStream`."""

    __slots__ = ("_answer", "_pieces", "_scanner", "headers", "status")

    def __init__(self, answer: Answer, scanner: Scanner, first: bytes) -> None:
        self._answer = answer
        self._scanner = scanner
        self._pieces = _Pieces(answer, scanner, first)
        self.status = answer.status
        self.headers: Headers = headers_down(answer.headers)

    @property
    def usage(self) -> Usage | None:
        """What the pieces so far told."""
        return self._scanner.usage

    @property
    def num_output_bytes(self) -> int:
        """Bytes of answer text so far."""
        return self._scanner.num_output_bytes

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Whole events, in order; closing them closes the connection of an answer that is not over."""
        return self._pieces


class _Pieces(AsyncGenerator[bytes, None]):
    """The pieces of one stream. A class, because closing a generator that was not begun would run none of it."""

    __slots__ = ("_answer", "_first", "_is_over", "_scanner")

    def __init__(self, answer: Answer, scanner: Scanner, first: bytes) -> None:
        self._answer = answer
        self._scanner = scanner
        self._first = first
        self._is_over = False
        if scanner.is_done:
            answer.leave()

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        scanner = self._scanner
        if self._is_over or scanner.is_done:
            raise StopAsyncIteration
        try:
            while data := await self._answer.more():
                piece = scanner.feed(data)
                if scanner.is_done:
                    self._answer.leave()
                if piece:
                    return piece
                if scanner.is_done:
                    raise StopAsyncIteration
        except HeadraceError:
            await self.aclose()
            raise
        self._is_over = True
        if scanner.can_end:
            raise StopAsyncIteration
        raise _cut_off()

    async def asend(self, value: None) -> bytes:
        """As `__anext__`."""
        return await self.__anext__()

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """Close it and raise."""
        await self.aclose()
        raise typ

    async def aclose(self) -> None:
        """Nothing more of it is wanted."""
        if not self._is_over:
            self._is_over = True
            self._first = b""
            self._answer.close_unless_left()


async def _read_first(answer: Answer, scanner: Scanner) -> bytes:
    """The stream up to its first event. Raises the error that it begins with, or UpstreamFault if there is none."""
    first = b""
    while data := await answer.more():
        first += scanner.feed(data)
        if first and (scanner.is_done or not _is_comment(first)):
            return first
    if first and scanner.can_end:
        return first
    raise _cut_off()


def _cut_off() -> UpstreamFault:
    return UpstreamFault("the backend ended its answer before it was whole.")


def _is_comment(frames: bytes) -> bool:
    return frames.startswith(b":") and all(not line or line.startswith(b":") for line in frames.splitlines())


def _is_of_type(headers: Headers, wanted: bytes) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value[: len(wanted)].lower() == wanted and value[len(wanted) : len(wanted) + 1] in {b"", b";", b" "}
    return False


class _Hidden(msgspec.Struct):
    error: Any = None
