"""A backend that costs next to nothing: canned answers of Chat Completions on loopback, whole or streamed.

It reads no more of a request than its length and whether it asks for a stream, so that it alone answers several times
what any gateway in front of it can pass on. One process; prints its port. Knows no gateway.
"""

import argparse
import asyncio
import json
import re
from typing import Any, cast

import uvloop

MODEL = "fast-model"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_STREAM = re.compile(rb'"stream": ?true')
_TEXT = "The headrace carries water to the wheel, and the wheel turns the stone. " * 2
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: "
_USAGE = {"prompt_tokens": 200, "completion_tokens": 32, "total_tokens": 232}


def whole() -> bytes:
    """A whole answer, headers and all."""
    choice = {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
    body = _json({"object": "chat.completion", "choices": [choice], "usage": _USAGE})
    return _HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def pieces(num_tokens: int) -> list[bytes]:
    """A streamed answer: headers with the first event, then one chunk an event, usage and the end."""
    first: dict[str, Any] = {"role": "assistant", "content": ""}
    deltas: list[dict[str, Any]] = [first, *({"content": " water"} for _ in range(num_tokens))]
    choices: list[list[dict[str, Any]]] = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    events: list[dict[str, Any]] = [*({"choices": one} for one in choices), {"choices": [], "usage": _USAGE}]
    frames = [_frame(b"data: " + _json({"object": "chat.completion.chunk", **event}) + b"\n\n") for event in events]
    frames[-1] += _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [_HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + frames[0], *frames[1:]]


def _json(said: dict[str, Any]) -> bytes:
    return json.dumps({"id": "chatcmpl-1", "created": 1, "model": MODEL, **said}, separators=(",", ":")).encode()


def _frame(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Answering(asyncio.Protocol):
    """One connection. The pieces of a stream go out in turns of the loop of their own, as a model's tokens do."""

    def __init__(self, whole_answer: bytes, stream: list[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._whole, self._stream, self._loop = whole_answer, stream, loop
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(data, 0, end + 2)
        length = int(found[1]) if found else 0
        if len(data) < end + 4 + length:
            return
        self._data = b""
        if data[:4] == b"GET ":  # a peer's look at its backends
            self._transport.write(_HEAD + b"application/json\r\ncontent-length: 2\r\n\r\n{}")
        elif _STREAM.search(data, end):
            self._tell(0)
        else:
            self._transport.write(self._whole)

    def _tell(self, index: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._stream[index])
            if index + 1 < len(self._stream):
                self._loop.call_soon(self._tell, index + 1)


async def _serve(port: int, num_tokens: int) -> None:
    loop = asyncio.get_running_loop()
    given = whole(), pieces(num_tokens)
    server = await loop.create_server(lambda: Answering(*given, loop), "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=32, help="events of text in a streamed answer")
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.tokens))


if __name__ == "__main__":
    main()
