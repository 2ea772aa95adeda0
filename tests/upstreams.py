"""A scripted backend on loopback that speaks every protocol a backend may, and every way to fail at it.

    async with upstream() as up:            # within a test's loop
        up.script.append(hang_before())     # what the next request meets; without one, it is answered well
        ...
        up.received[-1].headers

    python -m tests.upstreams --port 9100   # a process of its own, for benchmarks and by hand

Nothing sleeps: what hangs waits for `up.go` (an event of the test's) or for the client to leave. A script is a list of
steps: bytes that are written, HANG, CLOSE (the connection ends as is allowed), ABORT (it breaks).
"""

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import httptools
from tests.upstream_answers import ANSWERS, frame, gemini, gemini_frames

JSON = "application/json"
SSE = "text/event-stream"


class Step(Enum):
    """What a script does beside writing."""

    HANG = "hang"
    CLOSE = "close"
    ABORT = "abort"
    YIELD = "yield"  # let others run, so that what follows is read apart from what came before


@dataclass(frozen=True)
class Received:
    """A request as it came: `raw` is every byte of it, `headers` have names in lower case."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int
    raw: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of a header that may stand there once; an assertion if it stands there twice."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def fields(self) -> dict[str, Any]:
        """The body, decoded."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


Script = Iterable["bytes | Step"]
Respond = Callable[[Received], Script]


@dataclass
class Upstream:
    """A running backend. `script` holds what the next requests meet, in order; `text` and `usage` what good answers
    say; `respond`, if set, answers instead of the protocols' own answers."""

    url: str = ""
    port: int = 0
    script: deque[Script] = field(default_factory=deque)
    received: list[Received] = field(default_factory=list)
    respond: Respond | None = None
    text: str = "Hello there."
    usage: tuple[int, int] = (7, 3)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    num_connections: int = 0
    lines: "set[_Line]" = field(default_factory=set)
    records: bool = True
    server: asyncio.Server | None = None
    is_mute: bool = False
    _seen: asyncio.Event = field(default_factory=asyncio.Event)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def num_open(self) -> int:
        """Connections that the client holds open."""
        return len(self.lines)

    async def wait_received(self, count: int) -> None:
        """Until so many requests have come."""
        while len(self.received) < count:
            self._seen.clear()
            await self._seen.wait()

    async def wait_open(self, count: int) -> None:
        """Until the client holds only so many connections."""
        while self.num_open > count:
            self._gone.clear()
            await self._gone.wait()

    def refuse(self) -> None:
        """Listen no more: whoever connects is refused."""
        assert self.server is not None
        self.server.close()

    def drop(self) -> None:
        """Close every connection, as a backend does that restarts."""
        for line in tuple(self.lines):
            line.drop()

    def answer(self, request: Received) -> Script:
        """What this request meets."""
        if self.script:
            return self.script.popleft()
        return self.respond(request) if self.respond is not None else well(self, request)

    def note(self, request: Received) -> None:
        """A request has come."""
        if self.records:
            self.received.append(request)
            self._seen.set()

    def left(self, line: "_Line") -> None:
        """A connection is gone."""
        self.lines.discard(line)
        self._gone.set()


class _Line(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, up: Upstream) -> None:
        self._up = up
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None
        self._raw = bytearray()
        self._id = 0

    def drop(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._up.num_connections += 1
        self._id = self._up.num_connections
        self._up.lines.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        self._up.left(self)

    def data_received(self, data: bytes) -> None:
        if self._up.records:
            self._raw += data
        if not self._up.is_mute:
            self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", [], []  # type: ignore[var-annotated]

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower().decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        up = self._up
        request = Received(
            self._parser.get_method().decode(),
            self._url.decode(),
            tuple(self._headers),
            b"".join(self._body),
            self._id,
            bytes(self._raw),
        )
        self._raw.clear()
        up.note(request)
        steps = up.answer(request)
        if isinstance(steps, tuple) and len(steps) == 1 and isinstance(steps[0], bytes):
            assert self._transport is not None
            self._transport.write(steps[0])
            return
        self._task = asyncio.get_running_loop().create_task(self._run(steps))

    async def _run(self, steps: Script) -> None:
        assert self._transport is not None
        for step in steps:
            if isinstance(step, bytes):
                self._transport.write(step)
            elif step is Step.HANG:
                await self._up.go.wait()
            elif step is Step.YIELD:
                await asyncio.sleep(0)
            elif step is Step.CLOSE:
                self._transport.close()
            else:
                self._transport.abort()


@contextlib.asynccontextmanager
async def upstream(*, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Upstream]:
    """A backend for as long as the block runs."""
    loop = asyncio.get_running_loop()
    up = Upstream()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    up.server = await loop.create_server(lambda: _Line(up), host, 0, family=family, ssl=tls)
    up.port = up.server.sockets[0].getsockname()[1]
    name = "localhost" if tls else f"[{host}]" if ":" in host else host
    up.url = f"{'https' if tls else 'http'}://{name}:{up.port}"
    try:
        yield up
    finally:
        up.server.close()
        up.go.set()
        for line in tuple(up.lines):
            line.drop()
        await up.wait_open(0)


# Answers, well formed


def head(status: int = 200, content_type: str = JSON, *headers: tuple[str, str]) -> bytes:
    """A status line and headers, not ended."""
    lines = [
        f"HTTP/1.1 {status} Scripted",
        f"content-type: {content_type}",
        "x-request-id: up-1",
        *map(": ".join, headers),
    ]
    return ("\r\n".join(lines) + "\r\n").encode()


def whole(
    body: bytes | dict[str, Any], status: int = 200, *headers: tuple[str, str], content_type: str = JSON
) -> tuple[bytes]:
    """An answer of one piece with its length."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    return (head(status, content_type, *headers) + b"content-length: %d\r\n\r\n" % len(body) + body,)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = ("transfer-encoding", "chunked")
LAST_CHUNK = b"0\r\n\r\n"


def stream(pieces: Iterable[bytes], *headers: tuple[str, str], content_type: str = SSE) -> Script:
    """A chunked answer, a chunk a piece, each sent apart."""
    yield head(200, content_type, CHUNKED, *headers) + b"\r\n"
    for piece in pieces:
        yield Step.YIELD
        yield chunk(piece)
    yield LAST_CHUNK


def well(up: Upstream, request: Received) -> Script:
    """The answer of the protocol that the path belongs to."""
    path = request.path.partition("?")[0]
    fields = json.loads(request.body) if request.body else {}
    if request.method == "GET":
        return whole({"object": "list", "data": []})
    if ":" in path:
        if path.endswith(":countTokens"):
            return whole({"totalTokens": up.usage[0]})
        if path.endswith(":batchEmbedContents"):
            return whole({"embeddings": [{"values": [0.6, 0.8]} for _ in fields["requests"]]})
        frames = gemini_frames(up)
        return stream(frames) if "streamGenerateContent" in path else whole(gemini(up))
    name = path.rpartition("/v1/")[2] if "/v1/" in path else path.rpartition("/")[2]
    wholes, frames_of = ANSWERS.get(name) or ANSWERS["chat/completions"]
    model = str(fields.get("model", "scripted"))
    if fields.get("stream") and frames_of is not None:
        return stream(frames_of(up, model, fields))
    return whole(wholes(up, model, fields))


# Answers, ill


def hang_before() -> Script:
    """Nothing, until `up.go`; then the connection is closed."""
    return [Step.HANG, Step.CLOSE]


def hang_midstream(*frames: bytes) -> Script:
    """The first frames, then nothing until `up.go`."""
    return [head(200, SSE, CHUNKED) + b"\r\n", *map(chunk, frames), Step.HANG, Step.CLOSE]


def die_midstream(*frames: bytes) -> Script:
    """The first frames, then the connection breaks."""
    return [head(200, SSE, CHUNKED) + b"\r\n", *map(chunk, frames), Step.YIELD, Step.YIELD, Step.CLOSE]


def garbage(data: bytes = b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n") -> Script:
    """Bytes that are not HTTP."""
    return [data, Step.CLOSE]


def half_frame(whole_frames: Iterable[bytes], half: bytes) -> Script:
    """Frames, and one that breaks off where the answer ends as it should."""
    return [head(200, SSE, CHUNKED) + b"\r\n", *map(chunk, whole_frames), chunk(half), LAST_CHUNK]


def wrong_type(body: bytes = b"<html>Sign in</html>", content_type: str = "text/html") -> Script:
    """A 200 that is a page for people."""
    return whole(body, content_type=content_type)


def limited(retry_after: str | None = None) -> Script:
    """A 429 as OpenAI words it."""
    error = {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    return whole({"error": error}, 429, *([("retry-after", retry_after)] if retry_after is not None else []))


def failed(status: int = 500) -> Script:
    """A failure as OpenAI words it."""
    return whole({"error": {"message": "The server had an error", "type": "server_error", "code": None}}, status)


def drip(answer: Script) -> Script:
    """The same answer, a byte at a time."""
    for step in answer:
        if isinstance(step, bytes):
            for index in range(len(step)):
                yield step[index : index + 1]
                yield Step.YIELD
        else:
            yield step


def error_stream() -> Script:
    """A 200 whose stream begins with an error, as OpenAI-compatible servers tell it."""
    error = {"message": "The model is overloaded", "type": "server_error", "code": "overloaded"}
    return stream([frame({"error": error}), frame("[DONE]")])


# As a process of its own


def prepared(up: Upstream) -> Respond:
    """Good answers, each made once."""
    made: dict[tuple[str, bool, bool], Script] = {}

    def respond(request: Received) -> Script:
        is_stream = b'"stream":true' in request.body or b'"stream": true' in request.body
        key = request.path, is_stream, b"include_usage" in request.body
        found = made.get(key)
        if found is None:
            found = made[key] = tuple(well(up, request))
        return found

    return respond


async def _serve(port: int, text: str, num_bytes: int) -> None:
    up = Upstream(text=text if not num_bytes else ("word " * (num_bytes // 5)).rstrip(), records=False)
    up.respond = prepared(up)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Line(up), "127.0.0.1", port)
    print(f"Serving http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="A scripted backend that speaks every protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--text", default="Hello there.")
    parser.add_argument("--answer-bytes", type=int, default=0, help="length of the answer's text instead")
    options = parser.parse_args()
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(options.port, options.text, options.answer_bytes))


if __name__ == "__main__":
    main()
