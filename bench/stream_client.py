"""A streaming HTTP client that costs little, so that what is measured is the server. One process, many connections.

Reads one JSON line {"port": p, "bodies": [...]} per round on stdin, sends every body to /v1/completions at once, and
answers with {"seconds": from first byte sent to last stream's end, "tokens": completion tokens by the usage chunks,
"first": [seconds to first text per stream], "frames": SSE frames seen}. Loopback only.
"""

import asyncio
import json
import sys
import time
from typing import Any, cast

import uvloop


class Stream(asyncio.Protocol):
    """Sends one request, counts `data:` frames, keeps the tail in which the usage chunk arrives."""

    def __init__(self, body: bytes, done: asyncio.Future[None]) -> None:
        self.body, self.done = body, done
        self.frames, self.first, self.tail = 0, 0.0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + self.body)

    def data_received(self, data: bytes) -> None:
        frames = data.count(b"data: ")
        if frames and not self.frames:
            self.first = time.perf_counter()
        self.frames += frames
        self.tail = (self.tail + data)[-2048:]
        if b"data: [DONE]" in self.tail:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def measure(port: int, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """One round: all bodies at once."""
    loop = asyncio.get_running_loop()
    streams = [Stream(json.dumps(body).encode(), loop.create_future()) for body in bodies]
    started = time.perf_counter()
    for stream in streams:
        await loop.create_connection(lambda stream=stream: stream, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.wait_for(asyncio.gather(*(stream.done for stream in streams)), timeout=600)
    seconds = time.perf_counter() - started
    tokens = 0
    for stream in streams:
        usage = stream.tail.rpartition(b'"completion_tokens":')[2]
        if not usage:
            raise RuntimeError(f"no usage in the answer: {stream.tail[-400:]!r}")
        tokens += int(usage.split(b",")[0].split(b"}")[0])
    return {
        "seconds": seconds,
        "tokens": tokens,
        "first": [stream.first - started for stream in streams],
        "frames": sum(stream.frames for stream in streams),
    }


def main() -> None:
    """Serve rounds until stdin ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(uvloop.run(measure(**json.loads(line)))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
