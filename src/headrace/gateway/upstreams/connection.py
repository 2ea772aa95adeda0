"""One connection to a backend, on which one answer at a time arrives.

Owns the socket's events and nothing else: what they mean is the answer's matter, who gets the connection the pool's.
Bytes that nobody asked for end it, because what comes next could not be told from an answer.
"""

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import cast

from headrace.core.errors import UpstreamFault
from headrace.gateway.settings import Timeouts
from headrace.gateway.upstreams.answer import Answer

_COPY_BYTES = 128 * 1024
"""Up to here head and body are joined for one write; a longer body is handed over beside its head."""


class Connection(asyncio.Protocol):
    """A connection of a pool. `over` is told when an answer ends, with whether another may follow; `watch` of
    deadlines. `is_used`: it has carried an answer before, so that the backend may have given it up meanwhile. By
    `admitted_until_s` (the loop's time) and `context` the pool knows whether what both ends showed still holds."""

    __slots__ = (
        *("_answer", "_is_lost", "_loop", "_over", "_transport", "_watch"),
        *("admitted_until_s", "context", "idle_since_s", "is_used"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        over: Callable[["Connection", bool], None],
        watch: Callable[[float], None],
    ) -> None:
        self._loop = loop
        self._over = over
        self._watch = watch
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._is_lost = False
        self.is_used = False
        self.idle_since_s = 0.0
        self.admitted_until_s = math.inf
        self.context: ssl.SSLContext | None = None

    @property
    def is_alive(self) -> bool:
        """Whether a request may be sent on it."""
        return not self._is_lost and self._transport is not None and not self._transport.is_closing()

    @property
    def tls(self) -> ssl.SSLObject | None:
        """What it is secured with."""
        found: ssl.SSLObject | None = None if self._transport is None else self._transport.get_extra_info("ssl_object")
        return found

    @property
    def answer(self) -> Answer | None:
        """The answer that is under way."""
        return self._answer

    def ask(self, head: bytes, body: bytes, timeouts: Timeouts, *, is_whole: bool) -> Answer:
        """Send a request; its answer, of which nothing is here yet."""
        assert self._answer is None and self._transport is not None
        answer = Answer(self, self._loop, timeouts, is_whole=is_whole)
        self._answer = answer
        if len(body) <= _COPY_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return answer

    def close(self) -> None:
        """Close it, whatever was under way; what was not sent is not sent any more."""
        self._is_lost = True
        if self._transport is not None:
            self._transport.abort()
        if self._answer is not None:
            self._answer.fail(UpstreamFault("the connection was closed, because the gateway lets go of this backend."))

    # Line

    def pause(self) -> None:
        """Read nothing for now."""
        if self.is_alive and self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.is_alive and self._transport is not None:
            self._transport.resume_reading()

    def watch(self, deadline_s: float) -> None:
        """A deadline moved."""
        self._watch(deadline_s)

    def finish(self, *, is_clean: bool) -> None:
        """The answer is over. If the backend answered before it had read all of the request, the rest of it would be
        taken for the next: such a connection is not used again."""
        self._answer = None
        self.is_used = True
        transport = self._transport
        if is_clean and self.is_alive and transport is not None and not transport.get_write_buffer_size():
            self._over(self, True)
            return
        self._is_lost = True
        if transport is not None:
            transport.abort()
        self._over(self, False)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, or of none."""
        if self._answer is not None:
            self._answer.feed(data)
        elif not self._is_lost:
            self._is_lost = True
            assert self._transport is not None
            self._transport.abort()

    def eof_received(self) -> None:
        """The backend has nothing more to say."""
        self._is_lost = True
        if self._answer is not None:
            self._answer.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._is_lost = True
        if self._answer is not None:
            if exc is None:
                self._answer.end()
            else:
                self._answer.fail(UpstreamFault(f"the connection to the backend broke: {type(exc).__name__}."))
