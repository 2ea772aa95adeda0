"""One HTTP answer while it arrives: its head, then its body whole or in pieces, to the one who waits for it.

Owns what is refused in an answer: garbage, heads and stretches without content that are too long, bodies that are too
long, compression, lengths that do not hold. Everything that goes wrong is one UpstreamFault (or UpstreamTimeout), told
to whoever waits next. Each answer has a parser of its own, so that nothing of one is left for the next. Knows no
sockets: a `Line` takes care of them.
"""

import asyncio
from typing import Final, Protocol

import httptools

from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.gateway.settings import Timeouts

MAX_QUIET_BYTES: Final = 64 * 1024
"""Bytes that may arrive without a piece of a body among them: heads, trailers, extensions of chunks."""
MAX_BODY_BYTES: Final = 64 * 2**20
"""Of an answer that is read whole."""
MAX_AHEAD_BYTES: Final = 256 * 1024
"""Bytes of a stream that wait for their reader; beyond, the backend is not read from."""
LEAVE_S: Final = 1.0
"""How long a stream that has said its last word may take to end before its connection is closed."""

NEVER: Final = float("inf")


class Line(Protocol):
    """The connection below, as an answer needs it."""

    def pause(self) -> None:
        """Read nothing for now."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def watch(self, deadline_s: float) -> None:
        """A deadline of this answer moved to where it may be the next of all."""
        ...

    def finish(self, *, is_clean: bool) -> None:
        """The answer is over; a clean one leaves a connection that may carry another."""
        ...


class Answer:
    """What came so far. `status` and `headers` (names in lower case) hold once `head` returned. Used by one task."""

    __slots__ = (
        *("_ahead_bytes", "_clock", "_error", "_framing", "_has_surplus", "_is_interim", "_is_left", "_is_paused"),
        *(
            "_is_whole",
            "_keeps_alive",
            "_line",
            "_max_bytes",
            "_parser",
            "_pieces",
            "_quiet_bytes",
            "_timeouts",
            "_waiter",
        ),
        *("deadline_s", "has_begun", "has_head", "headers", "is_done", "num_received", "status"),
    )

    def __init__(self, line: Line, clock: asyncio.AbstractEventLoop, timeouts: Timeouts, *, is_whole: bool) -> None:
        """`is_whole`: nobody wants it before it is complete."""
        self._line = line
        self._clock = clock
        self._timeouts = timeouts
        self._is_whole = is_whole
        # None once it is over: the parser holds this answer, and each would keep the other until the collector comes.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._ahead_bytes = 0
        self._quiet_bytes = 0
        self._max_bytes = MAX_BODY_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._error: HeadraceError | None = None
        self._framing = False  # a length or chunks tell where the body ends
        self._is_interim = False
        self._is_paused = False
        self._is_left = False
        self._has_surplus = False
        self._keeps_alive = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.num_received = 0
        self.has_head = False
        self.has_begun = False
        self.is_done = False
        self.deadline_s = clock.time() + (timeouts.whole_s if is_whole else timeouts.first_event_s)

    # What its reader does.

    async def head(self) -> None:
        """Wait for status and headers; for all of it, if it is whole. Raises UpstreamFault."""
        while self._error is None and not (self.is_done or (self.has_head and not self._is_whole)):
            await self._wait()
        if self._error is not None and not (self.has_head and self._pieces and not self._is_whole):
            raise self._error

    async def more(self) -> bytes:
        """What has arrived since, at least a byte; nothing once it is over. Raises UpstreamFault behind the last byte
        that came."""
        while True:
            pieces = self._pieces
            if pieces:
                data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                pieces.clear()
                self._ahead_bytes = 0
                if self._is_paused:
                    self._is_paused = False
                    self.deadline_s = self._clock.time() + self._timeouts.idle_s
                    self._line.watch(self.deadline_s)
                    self._line.resume()
                return data
            if self._error is not None:
                raise self._error
            if self.is_done:
                return b""
            await self._wait()

    async def read(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """All of the body. Raises UpstreamFault, also for one longer than `max_bytes`."""
        if not self._is_whole:
            self._is_whole, self._max_bytes = True, max_bytes
            self._check_length()
            if self._ahead_bytes > max_bytes:
                self._refuse_length()
            self.begin()
        if self._is_paused:
            self._is_paused = False
            self._listen()
            self._line.resume()
        while self._error is None and not self.is_done:
            await self._wait()
        if self._error is not None:
            raise self._error
        return b"".join(self._pieces)

    def begin(self) -> None:
        """Its first event is here: from now on only silence is counted, and no longer the time since it was asked."""
        if not self.has_begun:
            self.has_begun = True
            self._listen()

    def leave(self) -> None:
        """Nothing more of it is wanted: its connection is kept if it ends at once, else closed."""
        self._pieces.clear()
        if not self.is_done and not self._is_left:
            self._is_left = True
            self.deadline_s = self._clock.time() + LEAVE_S
            self._line.watch(self.deadline_s)
            if self._is_paused:
                self._is_paused = False
                self._line.resume()

    def close_unless_left(self) -> None:
        """`close`, if `leave` was not called."""
        if not self._is_left:
            self.close()

    def close(self) -> None:
        """Nothing more of it is wanted, and the backend shall know: its connection is closed unless it is over."""
        if not self.is_done:
            self.fail(UpstreamFault("the answer was closed by its reader."))

    # What its connection does.

    def feed(self, data: bytes) -> None:
        """Bytes from the backend."""
        parser = self._parser
        if parser is None:
            return
        self.num_received += len(data)
        self._quiet_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(UpstreamFault("the backend switched to another protocol, which nobody asked for."))
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            if self.is_done:
                self._has_surplus = True
            else:
                self.fail(UpstreamFault(f"the backend's answer is not HTTP/1.1: {_said(error)}."))
        if self.is_done:
            del self._parser  # each refers to the other: without this only the collector would free them
            self._settle()
        elif self._quiet_bytes > MAX_QUIET_BYTES:
            what = "its body went on" if self.has_head else "its head ended"
            self.fail(UpstreamFault(f"the backend sent more than {MAX_QUIET_BYTES} bytes before {what}."))
        else:
            self._wake()

    def end(self) -> None:
        """The backend closed the connection, and nothing more comes."""
        if self.is_done:
            return
        if self.has_head and not self._framing and not (self._is_whole and 200 <= self.status < 300):
            # RFC 9112, section 6.3: the close is the end. A stream's own protocol says whether it was whole.
            self.is_done = True
            self._has_surplus = True
            self._settle()
            return
        if not self.num_received:
            why = "before it answered"
        elif not self.has_head:
            why = "in the midst of its head"
        elif not self._framing:
            why = "without having said how long its answer is, so that nobody knows whether it was whole"
        else:
            why = "in the midst of its answer"
        self.fail(UpstreamFault(f"the backend closed the connection {why}."))

    def fail(self, error: HeadraceError) -> None:
        """Something ended it."""
        if self.is_done or self._error is not None:
            return
        self._error = error
        self._parser = None
        self.is_done = True
        self.deadline_s = NEVER
        self._wake()
        self._line.finish(is_clean=False)

    def overdue(self) -> str:
        """What took too long, once the deadline has passed."""
        if self._is_left:
            return "did not end its answer"
        if not self.has_begun:
            limit_s = self._timeouts.whole_s if self._is_whole else self._timeouts.first_event_s
            return f"said nothing for {limit_s:g} s"
        return f"stopped in the midst of its answer for {self._timeouts.idle_s:g} s"

    # What its parser does.

    def on_message_begin(self) -> None:
        """A second message is not for us."""
        if self.is_done:
            self._has_surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; those of trailers say nothing that we need."""
        if not self.has_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole. An interim one (RFC 9110, section 15.2) is forgotten."""
        if self.is_done:
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._is_interim = True
            self.headers.clear()
            return
        self.status, self.has_head = status, True
        self._quiet_bytes = 0
        self._framing = status in {204, 304}
        for name, value in self.headers:
            if name == b"content-length":
                self._framing = True
            elif name == b"transfer-encoding":
                self._framing = True
                if value.strip().lower() != b"chunked":
                    self.fail(UpstreamFault(f"the backend's answer is coded as {_shown(value)}; it must be chunked."))
                    return
            elif name == b"content-encoding" and value.lower() not in {b"identity", b""}:
                self.fail(UpstreamFault(f"the backend compressed its answer ({_shown(value)}), though asked not to."))
                return
        self._check_length()
        if self._is_whole:
            self.has_begun = True
            self._listen()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._quiet_bytes = 0
        if self.is_done or self._is_left:
            return
        self._pieces.append(data)
        self._ahead_bytes += len(data)
        if self._is_whole:
            if self._ahead_bytes > self._max_bytes:
                self._refuse_length()
                return
        elif self._ahead_bytes > MAX_AHEAD_BYTES and not self._is_paused:
            self._is_paused = True
            self.deadline_s = NEVER
            self._line.pause()
            return
        if self.has_begun and not self._is_paused:
            self.deadline_s = self._clock.time() + self._timeouts.idle_s

    def on_message_complete(self) -> None:
        """The answer is whole, or an interim one is over."""
        if self._is_interim:
            self._is_interim = False
        elif not self.is_done:
            assert self._parser is not None
            self.is_done = True
            self._keeps_alive = self._parser.should_keep_alive()  # the parser forgets it right after

    def _check_length(self) -> None:
        if self._is_whole and self.has_head:
            for name, value in self.headers:
                if name == b"content-length" and int(value) > self._max_bytes:
                    self._refuse_length()

    def _refuse_length(self) -> None:
        self.fail(UpstreamFault(f"the backend's answer is longer than {self._max_bytes} bytes; ask for less."))

    def _listen(self) -> None:
        if not self._is_paused and not self.is_done:
            self.deadline_s = self._clock.time() + self._timeouts.idle_s
            self._line.watch(self.deadline_s)

    def _settle(self) -> None:
        self._parser = None
        self.deadline_s = NEVER
        self._wake()
        if self._error is None:
            self._line.finish(is_clean=self._keeps_alive and not self._has_surplus)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or (self._is_whole and not self.is_done) or not (self.has_head or self.is_done):
            return
        if not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._clock.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None


def _said(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin-1"))
