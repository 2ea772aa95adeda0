"""A load generator that costs little: an open loop at a fixed rate, or a closed loop of a few connections.

One process. Each line of stdin is a round, as JSON with the fields of `Round`; each line of stdout is what it gave. In
the open loop a request has a time at which it is due, drawn beforehand, and its latency counts from that time, whenever
it could be sent: a server that stalls cannot hide what it did to those that had to wait (no coordinated omission).
Knows nothing of gateways: it is given a port, a path, headers and a body.
"""

import asyncio
import ctypes
import json
import os
import random
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

_LENGTH = b"content-length:"
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is sent. `rate` requests a second, None: each connection sends when its last answer is there. Of `requests`
    each is a path, headers and a body; they are sent in turn. `warm_s` are not counted."""

    port: int
    requests: list[tuple[str, dict[str, str], str]]
    seconds: float = 5.0
    warm_s: float = 1.0
    connections: int = 10
    rate: float | None = None
    seed: int = 1

    def wire(self) -> list[bytes]:
        """The requests as bytes."""
        made = []
        for path, headers, body in self.requests:
            lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{self.port}", "content-type: application/json"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            data = body.encode()
            made.append(("\r\n".join(lines) + f"\r\ncontent-length: {len(data)}\r\n\r\n").encode() + data)
        return made


@dataclass(slots=True)
class Told:
    """Seconds of the answers that count: to their end, and to their first byte."""

    whole_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    num_errors: int = 0
    error: str = ""


class Alarm:
    """Wakes at a moment of `time.perf_counter`, exact to some microseconds: the loop's own timers are of milliseconds,
    and to spin until then would take the core from the backend that runs beside. Linux."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        self._woken = loop.create_future()
        loop.add_reader(self._fd, self._wake)

    async def wait(self, moment_s: float) -> None:
        """Return at the moment, at once if it has passed."""
        if moment_s <= time.perf_counter():
            await asyncio.sleep(0)
            return
        self._woken = self._loop.create_future()
        seconds, nanos = divmod(int(moment_s * 1e9), 10**9)
        wanted = (ctypes.c_long * 4)(0, 0, seconds, nanos)
        self._libc.timerfd_settime(self._fd, 1, ctypes.byref(wanted), None)  # 1: the time is absolute
        await self._woken

    def close(self) -> None:
        """Let go of it."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _wake(self) -> None:
        os.read(self._fd, 8)
        if not self._woken.done():
            self._woken.set_result(None)


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._data = b""
        self._due = self._first = 0.0
        self._end = -1  # of the answer, in bytes from its begin; -1: not known
        self._is_chunked = self.is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, due: float) -> None:
        """Send a request that was to be sent at `due`."""
        self._data, self._due, self._first, self._end, self._is_chunked = b"", due, 0.0, -1, False
        self.is_busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        if self._end < 0 and not self._is_chunked:
            self._data = data = self._data + data
            head = data.find(b"\r\n\r\n")
            if head < 0:
                return
            lower = data[:head].lower()
            at = lower.find(_LENGTH)
            if at >= 0:
                end = lower.find(b"\r", at)
                self._end = head + 4 + int(lower[at + len(_LENGTH) : end if end >= 0 else head])
            else:
                self._is_chunked = True
        elif self._is_chunked:
            self._data = self._data[:16] + (self._data[16:] + data)[-16:]
        else:
            self._data += data
        if self._data.endswith(b"0\r\n\r\n") if self._is_chunked else len(self._data) >= self._end:
            self.is_busy = False
            self._load.done(self, self._data, self._due, self._first)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)


class Load:
    """One round."""

    def __init__(self, given: Round) -> None:
        self._given = given
        self._wire = given.wire()
        self._sent = 0
        self._free: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._all: list[Connection] = []
        self.told = Told()

    async def run(self) -> dict[str, Any]:
        """Send everything and say what it took."""
        self._loop = asyncio.get_running_loop()
        await asyncio.gather(*(self._connect() for _ in range(self._given.connections)))
        began = time.perf_counter()
        self._counts_from = began + self._given.warm_s
        self._ends_at = self._counts_from + self._given.seconds
        if self._given.rate is None:
            for connection in list(self._free):
                self._next(connection, time.perf_counter())
            await asyncio.sleep(self._ends_at - began)
        else:
            await self._open_loop(began, self._given.rate)
        self._ends_at = 0.0
        for _ in range(1000):
            if not any(one.is_busy for one in self._all):
                break
            await asyncio.sleep(0.01)
        self._all, closing = [], self._all
        for connection in closing:
            connection.transport.abort()
        return self._result()

    async def _open_loop(self, began: float, rate: float) -> None:
        chance = random.Random(self._given.seed)
        alarm = Alarm(self._loop)
        due = began
        while due < self._ends_at:
            await alarm.wait(due)
            while due <= time.perf_counter() and due < self._ends_at:
                if self._free:
                    self._next(self._free[-1], due)
                else:
                    self._waiting.append(due)
                due += chance.expovariate(rate)
        alarm.close()
        for _ in range(500):
            if not self._waiting:
                break
            await asyncio.sleep(0.02)
        self.told.num_errors += len(self._waiting)

    async def _connect(self) -> None:
        _, made = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._given.port)
        self._all.append(made)
        self._free.append(made)

    def _next(self, connection: Connection, due: float) -> None:
        if connection in self._free:
            self._free.remove(connection)
        self._sent += 1
        connection.ask(self._wire[self._sent % len(self._wire)], due)

    def done(self, connection: Connection, data: bytes, due: float, first: float) -> None:
        """An answer is whole."""
        now = time.perf_counter()
        if not data.startswith(b"HTTP/1.1 200"):
            self.told.num_errors += 1
            self.told.error = self.told.error or data[:400].decode("latin-1")
        elif due >= self._counts_from and (self._given.rate is not None or now <= self._ends_at):
            self.told.whole_s.append(now - due)
            self.told.first_s.append(first - due)
        if self._waiting:
            self._next(connection, self._waiting.popleft())
        elif self._given.rate is None and now < self._ends_at:
            self._next(connection, now)
        else:
            self._free.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection ended; while the round runs another takes its place."""
        if connection not in self._all:
            return
        self._all.remove(connection)
        if connection in self._free:
            self._free.remove(connection)
        if connection.is_busy:
            self.told.num_errors += 1
            self.told.error = self.told.error or "the connection was lost"
        self._loop.create_task(self._again())

    async def _again(self) -> None:
        await self._connect()
        if self._given.rate is None and time.perf_counter() < self._ends_at:
            self._next(self._free[-1], time.perf_counter())

    def _result(self) -> dict[str, Any]:
        told = self.told
        made: dict[str, Any] = {"num": len(told.whole_s), "errors": told.num_errors, "error": told.error}
        made["per_s"] = len(told.whole_s) / self._given.seconds
        for name, values in (("whole", sorted(told.whole_s)), ("first", sorted(told.first_s))):
            for share, at in _SHARES.items():
                made[f"{name}_{share}_ms"] = 1000 * values[int(at * (len(values) - 1))] if values else None
        return made


def main() -> None:
    """Run rounds until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(uvloop.run(Load(Round(**json.loads(line))).run())), flush=True)


if __name__ == "__main__":
    main()
