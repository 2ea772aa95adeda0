"""HTTP/1.1 on one connection: uvicorn's httptools protocol with the limits that it lacks.

    what a client can do                                   what bounds it
    open connections                                       max_connections, answered 503
    connect and say nothing, or send headers slowly        header_timeout_s, then 408
    send headers without end                               max_header_bytes (and one read of the socket), then 431
    go on sending a body that is already refused           DISCARD_FACTOR bodies and LINGER_S, then the connection ends
    stop reading a finished response                       the kernel's user timeout and the idle timeout
    ask for a WebSocket amid other requests                400; else `socket_protocol.py` takes the connection over
    ask for one with a header longer than it reads         431

A body that is still wanted is bounded by `exchange.py`; a stream that nobody reads by `feed.py`. Knows no routes.
"""

import asyncio
import math
import socket
import sys
from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.api.errors import encode_error
from headrace.core.errors import DeadlineExceeded, HeadraceError, InvalidRequest, Overloaded, PayloadTooLarge
from headrace.server.config import ServerConfig
from headrace.server.credentials import TLS_EXTENSION, client_certificates, half_life_s
from headrace.server.wire import EXTENSION, Wire

# A refused body is read and thrown away for a while, because a client that is reset while it sends loses the refusal.
LINGER_S: Final = 10.0
DISCARD_FACTOR: Final = 16
# `websockets` reads no longer line of a handshake, and would end it without a word.
MAX_SOCKET_LINE_BYTES: Final = 8192

_TOO_LARGE: Final = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. Its scopes carry the extension of `wire.py`."""

    def __init__(self, *args: Any, limits: ServerConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._num_bytes = 0  # of the headers or of the body that is arriving
        self._num_discarded = 0  # of that body, after its request was answered
        self._read_len = 0  # of what is being parsed
        self.url = b""
        self.headers = []
        self._is_in_headers = True
        self._has_begun = False  # headers that no timer runs for yet
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._certificates: tuple[bytes, ...] = ()  # that the client's TLS was opened with
        self._renews_s = math.inf  # from when on the client had better show newer ones
        # Pipelined requests wait here behind the one that is being answered.
        self._unanswered: deque[Wire] = deque()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection too many; give the client its time for the headers."""
        super().connection_made(transport)
        _set_tcp_options(transport, self._limits.write_timeout_s)
        self._certificates = client_certificates(transport)
        if self._certificates:
            self._renews_s = self.loop.time() + half_life_s(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(Overloaded("the server has as many connections as it takes; try again in a moment."))
        else:
            self._start_timer(self._limits.header_timeout_s, self._headers_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits for this client any more."""
        self._is_closed = True
        self._stop_timer()
        super().connection_lost(exc)
        # uvicorn tells only the latest request, which with pipelining is not the one that is being answered.
        for wire in self._unanswered:
            wire.lose()

    def data_received(self, data: bytes) -> None:
        """Count, then parse."""
        if self._is_closed:
            return
        self._num_bytes += len(data)
        self._read_len = len(data)
        super().data_received(data)
        if self._is_in_headers:
            # Most requests come in one piece, and never have a timer.
            if self._has_begun and not self._is_closed:
                self._has_begun = False
                self._start_timer(self._limits.header_timeout_s, self._headers_late)
            if self._num_bytes > self._limits.max_header_bytes:
                longest = longest_part(len(self.url), self.headers, self._num_bytes)
                error = PayloadTooLarge(
                    f"the headers are longer than {self._limits.max_header_bytes} bytes, most of that is {longest}; "
                    "send less."
                )
                self._refuse(error, _TOO_LARGE)
        elif self.cycle is not None and self.cycle.response_started:
            self._num_discarded += len(data)
            if self._num_discarded > DISCARD_FACTOR * self._limits.max_body_bytes:
                self._abort()

    def on_message_begin(self) -> None:
        """A request begins, maybe not the connection's first."""
        super().on_message_begin()
        self._is_in_headers = self._has_begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep headers; what comes after a chunked body is not wanted and not kept."""
        if self._is_in_headers:
            name = name.lower()
            if name == b"expect":
                super().on_header(name, value)
            else:  # as it would be kept there, without a call for each of twenty
                self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Hand the request over. What two servers could take for two things is no HTTP (RFC 9112, section 3.2)."""
        num_hosts = [name for name, _ in self.headers].count(b"host")
        if num_hosts != 1 and (num_hosts or self.parser.get_http_version() != "1.0"):
            raise ValueError("one host")  # the parser makes an error of its own of it, which is answered 400
        if self._timer is not None:
            self._stop_timer()
        self._is_in_headers = self._has_begun = False
        self._num_bytes = self._num_discarded = 0
        if self.parser.should_upgrade() and not self._should_upgrade():
            self._check_body()
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            self._check_upgrade()
            return
        # The request's task starts in the loop's next turn and sees this.
        wire = Wire(self.cycle, self._abort)
        self._unanswered.append(wire)
        extensions: dict[str, Any] = {EXTENSION: {"wire": wire}}
        if self._certificates:
            extensions[TLS_EXTENSION] = {"certificates": self._certificates}
            if self.loop.time() >= self._renews_s:
                self.cycle.keep_alive = False  # a connection that goes on would outlive what it was opened with
        self.scope["extensions"] = extensions

    def on_message_complete(self) -> None:
        """The body is all here; what follows is the next request's."""
        super().on_message_complete()
        self._stop_timer()
        self._is_in_headers = True
        self._num_bytes = 0

    def on_response_complete(self) -> None:
        """A response that came before its request was all here gives the rest a bounded time."""
        self._unanswered.popleft().let_go()
        super().on_response_complete()
        if not self._is_in_headers and not self._is_closed:
            self._start_timer(LINGER_S, self._abort)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, to a client that has waited for the answer as it must (RFC 6455, 4.1)."""
        error = sys.exception()
        assert isinstance(error, httptools.HttpParserUpgrade)
        if self._is_closed:
            return
        if error.args[0] < self._read_len:
            self.send_400_response("nothing may follow a WebSocket's handshake before it is answered")
        else:
            super().handle_websocket_upgrade()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, also when its client has not read what it was sent."""
        self._abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(InvalidRequest(f"the request is not valid HTTP/1.1: {msg}", code="invalid_http"))

    def _check_upgrade(self) -> None:
        headers = {name for name, _ in self.scope["headers"]}
        if self._unanswered or self.scope["method"] != "GET" or headers & {b"content-length", b"transfer-encoding"}:
            self.send_400_response("a WebSocket begins with a GET without a body, when nothing else is being answered")
            return
        for name, value in self.scope["headers"]:
            if len(name) + len(value) + 4 > MAX_SOCKET_LINE_BYTES:
                error = PayloadTooLarge(
                    f"{name.decode('latin-1')[:100]}: has {len(value)} bytes, and a header of a WebSocket's handshake "
                    f"at most {MAX_SOCKET_LINE_BYTES}; send less, such as a key in the place of a long token."
                )
                self._refuse(error, _TOO_LARGE)
                return

    def _check_body(self) -> None:
        """Refuse a body that comes with the wish for another protocol (Java's client by itself, `curl --http2`): the
        parser does not read it."""
        if {name for name, _ in self.headers} & {b"content-length", b"transfer-encoding"}:
            self.send_400_response(
                "a request with a body cannot upgrade the connection; send it without the header 'upgrade', as clients "
                "do that are told to speak HTTP/1.1"
            )
            raise ValueError("upgrade")  # nothing is parsed after it

    def _headers_late(self) -> None:
        self._refuse(DeadlineExceeded(f"the headers did not arrive within {self._limits.header_timeout_s:g} s."))

    def _refuse(self, error: HeadraceError, status: HTTPStatus | None = None) -> None:
        self._is_closed = True
        self._stop_timer()
        status = HTTPStatus(error.status) if status is None else status
        body = encode_error(error)
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()

    def _abort(self) -> None:
        self._is_closed = True
        self._stop_timer()
        self.transport.abort()

    def _start_timer(self, delay_s: float, callback: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(delay_s, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def longest_part(url_len: int, headers: Sequence[tuple[bytes, bytes]], num_bytes: int) -> str:
    """Which part of a request's head takes most of `num_bytes`, in words; of a header that has not come to its end only
    is known behind which one it stands."""
    sizes = {"its first line": url_len}
    last = "the first header"
    for name, value in headers:
        shown = f"'{name.decode('latin-1')[:100]}'"
        sizes[shown] = sizes.get(shown, 0) + len(name) + len(value) + 4
        last = f"the header behind {shown}"
    sizes.setdefault(last, num_bytes - sum(sizes.values()))
    return max(sizes, key=sizes.__getitem__)


def _set_tcp_options(transport: asyncio.Transport, timeout_s: float) -> None:
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # asyncio sets it only on sockets that were made with an explicit protocol number, which a listener's are not.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Linux: the kernel ends a connection whose peer has vanished without a word.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))
