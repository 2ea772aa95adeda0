"""One HTTP request and its response over ASGI: read the body within bounds, answer once, remember what is logged.

Knows no routes and no protocol's shapes: `app.py` decides what is answered, and a dialect how an error reads.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

from headrace.api.errors import OPENAI, ErrorDialect, error_headers
from headrace.api.trace_context import RESPONSE, write_parent
from headrace.core.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    Unauthenticated,
)
from headrace.core.gateway import Taken
from headrace.core.tracing import Place
from headrace.observe.logs import AccessRecord
from headrace.server.config import ServerConfig
from headrace.server.feed import ClientGone, Message, Receive, Scope, Send
from headrace.server.hints import LISTS
from headrace.server.sealing import Sealing, content_digest
from headrace.server.taken import taken_headers
from headrace.server.wire import Wire

JSON: Final = b"application/json"
MAX_QUERY_FIELDS: Final = 64

# What may go from a client's header into our logs and headers.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class BodyBudget:
    """Bytes of all bodies being read, so that many clients together cannot exceed what one server bears."""

    limit: int
    used: int = 0

    def add(self, num_bytes: int) -> None:
        """Count more bytes. Raises Overloaded above the limit."""
        self.used += num_bytes
        if self.used > self.limit:
            raise Overloaded("too many request bodies are arriving at once; try again in a moment.", retry_after_s=1.0)


@dataclass(slots=True)
class Exchange:
    """A request, its response's state and its record. `closes` asks for the connection to end after the response.

    `params` are the variable parts of its path, `errors` is how its protocol says no; both are known once its route is.
    `body_digest` is the SHA-256 that the body must have, because its caller signed it. `session_key`: the digest
    of the API key that its caller's session began with (None: of a token), until when that is good, and the session's
    id. `sign` makes the headers of a signature over a whole answer, of its status and `content-digest`. `place` is
    where in a trace it stands, None where nobody traces. `body` is what was read of it already.
    """

    scope: Scope
    receive: Receive
    send: Send
    record: AccessRecord
    headers: dict[bytes, bytes]
    started_s: float
    closes: bool = False
    is_started: bool = False
    params: Mapping[str, str] = field(default_factory=dict)
    errors: ErrorDialect = OPENAI
    taken: Taken | None = None
    wire: Wire | None = None
    body_digest: bytes | None = None
    session_key: tuple[str | None, float, str] | None = None
    sign: "Callable[[Exchange, int, bytes], list[tuple[bytes, bytes]]] | None" = None
    sealing: Sealing | None = None
    place: Place | None = None
    body: bytes | None = None
    _extra: list[tuple[bytes, bytes]] = field(default_factory=list)

    @classmethod
    def open(cls, scope: Scope, receive: Receive, send: Send, new_id: str, started_s: float) -> "Exchange":
        """Begin; `new_id` names the request unless its client named it in x-request-id."""
        # Of a repeated header the first counts: what a proxy in front adds comes last and decides nothing here.
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers:
                # Lists mean all that is said: a label in a second header must not be lost.
                headers[name] = headers[name] + b"," + value if name in LISTS else headers[name]
            else:
                headers[name] = value
        given = headers.get(b"x-request-id")
        named = "" if given is None else given.decode("latin-1")
        request_id = named if named and _REQUEST_ID.fullmatch(named) else new_id
        record = AccessRecord(request_id=request_id, method=scope["method"])
        return cls(scope, receive, send, record, headers, started_s, wire=Wire.of(scope))

    @classmethod
    def open_socket(cls, scope: Scope, receive: Receive, send: Send, new_id: str, started_s: float) -> "Exchange":
        """Begin with a WebSocket's handshake: an HTTP request until it is accepted, and refused like any other."""

        async def refuse_or_send(message: Message) -> None:
            is_http = message["type"].startswith("http.")
            await send({**message, "type": "websocket." + message["type"]} if is_http else message)

        return cls.open({**scope, "method": "GET"}, receive, refuse_or_send, new_id, started_s)

    @property
    def is_socket(self) -> bool:
        """Whether the request is a WebSocket's handshake."""
        return bool(self.scope["type"] == "websocket")

    @property
    def waits(self) -> bool:
        """Whether the end of its answer is to wait for a record."""
        return self.sealing is not None and self.sealing.waits

    async def read_body(self, config: ServerConfig, budget: BodyBudget) -> bytes:
        """The whole body. Raises PayloadTooLarge as soon as it is too long, Unauthenticated if it is not what was
        signed, DeadlineExceeded, ClientGone."""
        if self.body is not None:
            return self.body
        body = await self._read_body(config, budget)
        if self.body_digest is not None:
            self._check_digest(hashlib.sha256(body).digest())
        return body

    def _check_digest(self, digest: bytes) -> None:
        if self.body_digest is not None and not hmac.compare_digest(digest, self.body_digest):
            raise Unauthenticated("content-digest: the body is not the one that was signed.", param="content-digest")

    async def _read_body(self, config: ServerConfig, budget: BodyBudget) -> bytes:
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > config.max_body_bytes:
            raise _too_large(config)
        whole = None if self.wire is None else self.wire.take_body()
        if whole is not None:
            if len(whole) > config.max_body_bytes:
                raise _too_large(config)
            return whole
        held = 0
        try:
            async with asyncio.timeout(config.body_timeout_s):
                chunks: list[bytes] = []
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk = message.get("body", b"")
                    held += len(chunk)
                    budget.add(len(chunk))
                    if held > config.max_body_bytes:
                        raise _too_large(config)
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError:
            self.closes = True
            raise DeadlineExceeded(
                f"the body did not arrive within {config.body_timeout_s:g} s; send it faster or send less."
            ) from None
        finally:
            budget.used -= held

    async def pieces(self, config: ServerConfig) -> AsyncGenerator[bytes, None]:
        """The body of an upload as it comes, none of it kept here.

        Raises PayloadTooLarge as soon as it is too long, Unauthenticated instead of giving the last piece of what is
        not as it was signed, DeadlineExceeded, ClientGone.
        """
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > config.max_upload_bytes:
            raise _upload_too_large(config)
        num_bytes, more = 0, True
        digest = None if self.body_digest is None else hashlib.sha256()
        while more:
            try:
                async with asyncio.timeout(config.body_timeout_s):
                    message = await self.receive()
            except TimeoutError:
                self.closes = True
                raise DeadlineExceeded(
                    f"nothing of the body arrived for {config.body_timeout_s:g} s; send it faster."
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            num_bytes += len(piece)
            if num_bytes > config.max_upload_bytes:
                raise _upload_too_large(config)
            more = message.get("more_body", False)
            if digest is not None:
                digest.update(piece)
                if not more:
                    self._check_digest(digest.digest())
            yield piece

    async def respond_pieces(
        self, config: ServerConfig, pieces: AsyncGenerator[bytes, None], num_bytes: int, content_type: bytes
    ) -> None:
        """Send a whole response of known length, piece by piece. Raises ClientGone if the client takes nothing."""
        async with contextlib.aclosing(pieces):
            begun = False
            async for piece in pieces:
                if not begun:
                    begun = True
                    await self.send(self.start(200, content_type, [(b"content-length", str(num_bytes).encode())]))
                try:
                    async with asyncio.timeout(config.write_timeout_s):
                        await self.send({"type": "http.response.body", "body": piece, "more_body": True})
                except TimeoutError:
                    raise ClientGone from None
        if begun:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self.respond(200, b"", content_type)

    async def respond(self, status: int, body: bytes, content_type: bytes = JSON) -> None:
        """Send a whole response. Raises HeadraceError, with nothing sent, if it waits for a record that is not kept."""
        await self.keep([body], content_type)
        await self._respond(status, body, content_type)

    async def _respond(self, status: int, body: bytes, content_type: bytes) -> None:
        await self.send(self.start(status, content_type, self.body_headers(body)))
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def keep(self, pieces: Sequence[bytes], content_type: bytes = JSON) -> None:
        """Wait until the record of a whole answer, these pieces, is in the log, if it is recorded so. Raises
        HeadraceError if it is not kept; then nothing of the answer may go out."""
        sealing = self.sealing
        if sealing is not None and sealing.waits:
            if self.taken is not None:
                sealing.name(self.taken)
            await sealing.keep(pieces, content_type)

    def body_headers(self, body: bytes) -> list[tuple[bytes, bytes]]:
        """What is said of a whole body: its length, and its digest where it is recorded or signed."""
        headers = [(b"content-length", b"%d" % len(body))]
        if self.sign is not None or (self.sealing is not None and self.sealing.is_recorded):
            headers.append((b"content-digest", content_digest(body)))
        return headers

    async def respond_empty(self) -> None:
        """Say that all is well, with nothing more to say (204, which has no body and no length)."""
        message = self.start(204, b"", [])
        message["headers"] = [one for one in message["headers"] if one[0] != b"content-type"]
        await self.send(message)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: HeadraceError) -> None:
        """Send an error as the whole response. It waits for no record: it is no answer."""
        self._extra += error_headers(error)
        await self._respond(self.errors.status(error), self.errors.body(error, self.record.request_id), JSON)

    def start(self, status: int, content_type: bytes, extra: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        """The message that begins the response, and the note that it has begun."""
        self.is_started = True
        self.record.status = status
        headers = [
            (b"content-type", content_type),
            (b"x-request-id", self.record.request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            *extra,
            *self._extra,
        ]
        if self.place is not None:
            headers.append((RESPONSE, write_parent(self.place.context)))
        if self.taken is not None:
            headers += taken_headers(self.taken)
            if self.sealing is not None:
                self.sealing.name(self.taken)
        if self.errors.id_header is not None:
            headers.append((self.errors.id_header, self.record.request_id.encode()))
        if self.closes:
            headers.append((b"connection", b"close"))
        if self.sign is not None and (digest := dict(extra).get(b"content-digest")) is not None:
            headers += self.sign(self, status, digest)
        return {"type": "http.response.start", "status": status, "headers": headers}

    def add_header(self, name: bytes, value: bytes) -> None:
        """A header for the response that is still to come."""
        self._extra.append((name, value))

    def watch(self, taken: Taken) -> None:
        """Which way a request of this exchange goes; of several the latest is told."""
        self.taken = taken
        if self.sealing is not None:
            self.sealing.claim(taken)

    def seal(self, config: ServerConfig) -> None:
        """Count the answer's bytes from now on, so that its record can be sealed over them."""
        self.sealing = Sealing.wanted(self.headers, is_usual=config.inlines_records)
        self.send = self.sealing.sending(self.send)

    def query(self) -> dict[str, list[str]]:
        """What stands behind the path's question mark. Raises InvalidRequest if it is no query."""
        try:
            text = self.scope["query_string"].decode("ascii")
            return parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
        except ValueError as error:
            raise InvalidRequest(
                f"query: it is not read ({error}); give at most {MAX_QUERY_FIELDS} fields in percent-encoded UTF-8."
            ) from error

    def shown_key(self) -> str | None:
        """The key the client shows, if it shows one: a bearer's, or as Anthropic's clients do it in x-api-key. Raises
        Unauthenticated for another kind of credentials."""
        given = self.headers.get(b"authorization")
        if given is None:
            plain = self.headers.get(b"x-api-key")
            return None if plain is None else plain.decode("latin-1").strip()
        kind, _, key = given.decode("latin-1").partition(" ")
        if kind.lower() != "bearer":
            raise Unauthenticated("authorization: only 'Bearer hr_...' is understood.", param="authorization")
        return key.strip()


def _upload_too_large(config: ServerConfig) -> PayloadTooLarge:
    return PayloadTooLarge(f"the form is longer than {config.max_upload_bytes} bytes; upload less at once.")


def _too_large(config: ServerConfig) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is longer than {config.max_body_bytes} bytes; send a shorter request.")
