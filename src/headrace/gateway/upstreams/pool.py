"""The connections to one backend: opened when needed, kept warm, bounded in number, watched by one timer for all.

Owns who gets which connection (the one used last goes first, so that a quiet time closes the rest), the retry on a kept
connection that the backend had given up, and every deadline: answers only say when theirs is, and one timer sleeps
until the next of all. Knows no protocol above HTTP and no secrets: heads come written.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final, Protocol

from headrace.core.errors import Overloaded, UpstreamFault, UpstreamTimeout
from headrace.gateway.settings import Timeouts
from headrace.gateway.upstreams.address import Address, check_machine
from headrace.gateway.upstreams.answer import NEVER, Answer
from headrace.gateway.upstreams.connection import Connection

_MAX_PLACES: Final = 4
"""Machines of one name that are tried for one connection."""


class Security(Protocol):
    """What connections are secured with, where that changes or more is asked of the other end than TLS itself does."""

    def context(self) -> ssl.SSLContext:
        """With what to open a connection now. Raises UpstreamFault."""
        ...

    def admit(self, connection: ssl.SSLObject | None) -> float:
        """For how many seconds the other end of a new connection is whom we want. Raises UpstreamFault."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """`max_connections` None: without bound. Idle connections are closed after `max_idle_s`, and beyond `max_idle`."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    max_connections: int | None = None
    max_idle: int = 128
    max_idle_s: float = 60.0


class Pool:
    """Connections to one address."""

    def __init__(
        self,
        address: Address,
        settings: PoolSettings,
        *,
        tls: ssl.SSLContext | Security | None = None,
        name: str = "",
        check: Callable[[str], None] = check_machine,
    ) -> None:
        """`tls` is needed for an https address. Errors call the backend by its `name`, because where it is concerns no
        caller. `check` raises ValueError for an IP address that must not be asked. Opens nothing."""
        assert (tls is not None) == address.is_tls
        self._address = address
        self._name = name or address.authority
        self._settings = settings
        self._tls = tls
        self._check = check
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._num_taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = NEVER
        self._is_closed = False

    @property
    def num_busy(self) -> int:
        """Connections on which an answer is under way or that are being opened."""
        return self._num_taken

    @property
    def num_idle(self) -> int:
        """Connections that are kept."""
        return len(self._idle)

    async def ask(self, head: bytes, body: bytes, *, is_whole: bool, timeouts: Timeouts | None = None) -> Answer:
        """Send a request and wait for the head of its answer, or for all of it if `is_whole`.

        A kept connection that turns out to be dead before a byte of an answer is replaced once. Raises UpstreamFault,
        UpstreamTimeout, and Overloaded if no connection came free in the time to connect. Cancelling closes it all.
        """
        limits = timeouts or self._settings.timeouts
        connection = self._take() or await self._open(limits)
        is_kept = connection.is_used
        answer = self._send(connection, head, body, limits, is_whole=is_whole)
        try:
            await answer.head()
        except UpstreamTimeout:
            raise
        except UpstreamFault:
            if not is_kept or answer.num_received or self._is_closed:
                raise
            connection = await self._open(limits, is_new=True)
            answer = self._send(connection, head, body, limits, is_whole=is_whole)
            await answer.head()
        return answer

    async def close(self) -> None:
        """Close every connection; answers under way end with a fault, later requests too."""
        self._is_closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        while self._waiting:
            self._give_back()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, connection: Connection, head: bytes, body: bytes, limits: Timeouts, *, is_whole: bool) -> Answer:
        self._busy.add(connection)
        answer = connection.ask(head, body, limits, is_whole=is_whole)
        if answer.deadline_s < self._timer_s:
            self._watch(answer.deadline_s)
        return answer

    # Who gets which connection

    def _take(self) -> Connection | None:
        """A kept connection, if there is room for one more request."""
        idle = self._idle
        if not idle or self._waiting or not self._has_room():
            return None
        connection = self._pop()
        if connection is not None:
            self._num_taken += 1
        return connection

    def _pop(self) -> Connection | None:
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive and self._is_admitted(connection, now_s):
                return connection
            connection.close()
        return None

    def _has_room(self) -> bool:
        return self._settings.max_connections is None or self._num_taken < self._settings.max_connections

    async def _open(self, limits: Timeouts, *, is_new: bool = False) -> Connection:
        """A connection that came free while there were too many, or a new one."""
        try:
            async with asyncio.timeout(limits.connect_s):
                await self._wait_for_room()
        except TimeoutError:
            raise Overloaded(
                f"all {self._settings.max_connections} connections that this backend allows are in use; try again.",
                retry_after_s=1.0,
            ) from None
        if not is_new and (connection := self._pop()) is not None:
            return connection
        try:
            async with asyncio.timeout(limits.connect_s):
                return await self._connect(limits.connect_s)
        except TimeoutError:
            self._give_back()
            raise UpstreamTimeout(f"no connection to {self._name} in {limits.connect_s:g} s.") from None
        except BaseException:
            self._give_back()
            raise

    async def _wait_for_room(self) -> None:
        """Take one of the places, in order of asking."""
        if self._has_room() and not self._waiting:
            self._num_taken += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give_back()  # It came too late to be used.
            elif waiter in self._waiting:  # else a place that came free has passed it over already
                self._waiting.remove(waiter)
            raise

    def _give_back(self) -> None:
        """A place is free: the next who waits has it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._num_taken -= 1

    def _over(self, connection: Connection, is_clean: bool) -> None:
        """The answer on a connection is over."""
        self._busy.discard(connection)
        if is_clean:
            if self._is_closed:
                connection.close()
            else:
                self._keep(connection)
        self._give_back()

    def _keep(self, connection: Connection) -> None:
        now_s = asyncio.get_running_loop().time()
        connection.idle_since_s = now_s
        self._idle.append(connection)
        if len(self._idle) > self._settings.max_idle:
            self._idle.pop(0).close()
        self._watch(now_s + self._settings.max_idle_s)

    # Opening one

    async def _connect(self, connect_s: float) -> Connection:
        """A new connection to one of the machines that the address names, in the order that the resolver tells."""
        if self._is_closed:
            raise UpstreamFault("the gateway lets go of this backend.")
        places = (await self._resolve())[:_MAX_PLACES]
        # A machine that swallows what is sent to it leaves time for the next.
        patience_s = connect_s / len(places)
        loop = asyncio.get_running_loop()
        tls = self._tls if self._tls is None or isinstance(self._tls, ssl.SSLContext) else self._tls.context()
        wrong: Exception | None = None
        for family, host in places:
            try:
                async with asyncio.timeout(patience_s):
                    _, connection = await loop.create_connection(
                        lambda: Connection(loop, self._over, self._watch),
                        host,
                        self._address.port,
                        family=family,
                        ssl=tls,
                        server_hostname=self._address.host if tls else None,
                        ssl_handshake_timeout=connect_s if tls else None,
                    )
            except OSError as error:  # TimeoutError is one
                wrong = error
            else:
                return self._admit(connection, tls, loop.time())
        if isinstance(wrong, TimeoutError):
            raise wrong
        raise UpstreamFault(f"no connection to {self._name}: {_why(wrong)}.") from None

    def _is_admitted(self, connection: Connection, now_s: float) -> bool:
        """Whether both ends are still whom they showed that they are. What was opened with something older than what is
        shown now is not used again: the other end may know already that it holds no more."""
        if self._tls is None or isinstance(self._tls, ssl.SSLContext):
            return True
        try:
            return now_s < connection.admitted_until_s and connection.context is self._tls.context()
        except UpstreamFault:
            return False

    def _admit(self, connection: Connection, tls: ssl.SSLContext | None, now_s: float) -> Connection:
        """A connection that is open, if whoever is at its other end is whom it was opened to."""
        if self._tls is not None and not isinstance(self._tls, ssl.SSLContext):
            try:
                connection.admitted_until_s = now_s + self._tls.admit(connection.tls)
                connection.context = tls
            except BaseException:
                connection.close()
                raise
        return connection

    async def _resolve(self) -> list[tuple[int, str]]:
        """Machines by family and number, families taking turns. What a name resolves to is held to the same rule as
        what is written."""
        address = self._address
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except (OSError, UnicodeError) as error:
            raise UpstreamFault(f"{self._name}: the name of its host cannot be resolved ({_why(error)}).") from None
        places = [(int(family), str(where[0])) for family, _, _, _, where in found]
        for _, host in places:
            try:
                self._check(host)
            except ValueError as error:
                raise UpstreamFault(f"{self._name} leads to a machine that can be none: {error}.") from None
        first = [place for place in places if place[0] == places[0][0]]
        other = [place for place in places if place[0] != places[0][0]]
        return [place for pair in zip_longest(first, other) for place in pair if place is not None]

    # Time

    def _watch(self, deadline_s: float) -> None:
        """See to it that the timer goes off by then."""
        if deadline_s >= self._timer_s or self._is_closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = deadline_s
        self._timer = asyncio.get_running_loop().call_at(deadline_s, self._sweep)

    def _sweep(self) -> None:
        """End what is overdue, close what was idle for too long, and sleep until the next of both."""
        now_s = asyncio.get_running_loop().time()
        self._timer, self._timer_s, next_s = None, NEVER, NEVER
        for connection in tuple(self._busy):
            answer = connection.answer
            if answer is None:
                continue
            if answer.deadline_s <= now_s:
                answer.fail(UpstreamTimeout(f"{self._name} {answer.overdue()}."))
            else:
                next_s = min(next_s, answer.deadline_s)
        while self._idle and self._idle[0].idle_since_s + self._settings.max_idle_s <= now_s:
            self._idle.pop(0).close()
        if self._idle:
            next_s = min(next_s, self._idle[0].idle_since_s + self._settings.max_idle_s)
        if next_s < NEVER:
            self._watch(next_s)


def open_tls(ca_file: str | None = None) -> ssl.SSLContext:
    """How backends are recognised: by the system's authorities, or those of a file. Raises OSError and ssl.SSLError."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _why(error: Exception | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({error.verify_message})"
    if isinstance(error, ConnectionRefusedError):
        return "it was refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
