"""One response straight onto its connection: the bytes of HTTP/1.1, without the dictionaries of ASGI between.

An ASGI extension (`headrace.wire` in the scope) of `protocol.py`, for the routes on which microseconds count; whoever
finds none uses ASGI's own `send` and `receive`, with the same result. Knows uvicorn's cycle of request and response,
whose state it keeps as uvicorn would. Header names and values given here must be fit for a header: nobody looks again.
"""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, cast

EXTENSION: Final = "headrace.wire"

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Wire:
    """The connection of one request, as far as its response goes."""

    __slots__ = ("_cycle", "abort", "gone")

    def __init__(self, cycle: Any, abort: Callable[[], None]) -> None:
        self._cycle = cycle
        self.abort = abort
        self.gone: Callable[[], None] | None = None

    @staticmethod
    def of(scope: Mapping[str, Any]) -> "Wire | None":
        """That of a request, if its server has one."""
        found = scope.get("extensions", {}).get(EXTENSION)
        return None if found is None else cast(Wire, found["wire"])

    def take_body(self) -> bytes | None:
        """The request's whole body if it is here and was not asked for; else None, and it comes by `receive`."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.response_complete:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.message_event.clear()
        cycle.flow.resume_reading()
        return body

    def when_gone(self, gone: Callable[[], None]) -> None:
        """Let `gone` be called when the client is lost before it has its whole answer."""
        self.gone = gone
        if self._cycle.disconnected:
            gone()

    def lose(self) -> None:
        """The client is lost."""
        cycle = self._cycle
        cycle.disconnected = True
        cycle.message_event.set()
        if self.gone is not None:
            self.gone()

    def let_go(self) -> None:
        """The response is whole. Without this the request and its wire would refer to each other until the collector of
        garbage comes, which it then has to do for every request."""
        self.gone = None
        self._cycle.scope["extensions"] = {}

    @property
    def is_full(self) -> bool:
        """Whether the client must take something before more is sent."""
        cycle = self._cycle
        return bool(cycle.flow.write_paused and not cycle.disconnected)

    async def drain(self) -> None:
        """Wait for room."""
        await self._cycle.flow.drain()

    def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole response in one write. Its length is among the headers."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        head = self._head(status, headers, b"")
        cycle.response_started = True
        cycle.transport.write(head + body)
        self._complete()

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of a response whose length nobody knows."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.response_started = cycle.chunked_encoding = True
        cycle.transport.write(self._head(status, headers, b"transfer-encoding: chunked\r\n"))

    def write(self, data: bytes) -> None:
        """A piece of it, not empty."""
        cycle = self._cycle
        if not cycle.disconnected:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Its end."""
        cycle = self._cycle
        if not cycle.disconnected:
            cycle.transport.write(b"0\r\n\r\n")
            self._complete()

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]], more: bytes) -> bytes:
        cycle = self._cycle
        lines = [_STATUS_LINES[status]]
        is_closed = False
        for name, value in cycle.default_headers:
            lines.append(b"%b: %b\r\n" % (name, value))
        for name, value in headers:
            if name == b"connection":
                is_closed = True
            lines.append(b"%b: %b\r\n" % (name, value))
        if is_closed:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        cycle.waiting_for_100_continue = False
        lines.append(more)
        lines.append(b"\r\n")
        return b"".join(lines)

    def _complete(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
