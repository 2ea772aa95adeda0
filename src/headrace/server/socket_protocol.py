"""A WebSocket on one connection (RFC 6455): uvicorn's protocol over `websockets`, with the limits that it lacks.

    what a client can do                            what bounds it
    a handshake that is no WebSocket's              400 here, where uvicorn would leave the connection open
    a message too large, in one frame or many       max_message_bytes, then close code 1009
    text that is not UTF-8                          close code 1007
    stop answering                                  a ping every ping_interval_s, dropped ping_timeout_s after one
    stop reading                                    `sockets.py` drops it; what it is owed is never more than one write
    never answer a close                            CLOSE_S, then the connection ends

Messages are not compressed: most are a hundred bytes, and a compressor is 64 KiB a connection. Connections are counted
with those of HTTP (`protocol.py`), which hands them over after the headers. Knows no routes and no messages.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from headrace.server.credentials import TLS_EXTENSION, client_certificates

# How long a client may take to answer a close, and to take what was sent before it.
CLOSE_S: Final = 10.0

_BAD_HANDSHAKE: Final = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class SocketControl:
    """What an application can do to its connection beside sending: the scope's extension `headrace.socket`.

    `on_drain` is called when the server is told to stop; whoever sets it closes the connection in its own time.
    """

    def __init__(self, abort: Callable[[], None]) -> None:
        self.abort = abort
        self.on_drain: Callable[[], None] | None = None


class LimitedSocketProtocol(WebSocketsSansIOProtocol):
    """One connection that was HTTP before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._control = SocketControl(self._abort)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse what is no handshake, which the library tells nobody."""
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def handle_connect(self, event: Any) -> None:
        """Begin; the application's task starts in the loop's next turn and sees the extension."""
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions["headrace.socket"] = self._control
            if certificates := client_certificates(self.transport):
                extensions[TLS_EXTENSION] = {"certificates": certificates}

    async def send(self, message: Any) -> None:
        """Send. Raises OSError once the connection ends, whoever ends it."""
        try:
            await super().send(message)
        except RuntimeError:
            if self.close_sent:  # by the library, for what the client did
                raise ClientDisconnected from None
            raise
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(CLOSE_S, self._abort)

    def keepalive_timeout(self) -> None:
        """Drop a client that does not answer pings, unless it has more to read first, or we do not read."""
        if self.transport.get_write_buffer_size() or self.read_paused:  # whoever reads nothing is `outbox.py`'s affair
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self.loop.call_later(CLOSE_S, self._abort)

    def handle_parser_exception(self) -> None:
        """Drop a client that breaks the protocol, also when it does not read."""
        super().handle_parser_exception()
        self.loop.call_later(CLOSE_S, self._abort)

    def shutdown(self) -> None:
        """The server stops: the application ends what runs and closes."""
        if self._control.on_drain is not None:
            self._control.on_drain()
        else:
            super().shutdown()

    def _abort(self) -> None:
        self.transport.abort()
