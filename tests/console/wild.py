"""A backend that behaves as badly as one may: OpenAI's chat on loopback, whose answer the last message names.

    markup, bidi    text that wants to be obeyed                long      so many tokens, one an event
    line            one line of two million characters          hold      two words, and no more until somebody leaves
    calls           tool calls with hostile names               break     two words, and the connection breaks
    withheld        what a guard's sentence looks like          say TEXT  that text
    mail TO         a call of send_mail to TO, with markup

Knows no gateway and no browser. Each connection is a thread; `left` counts clients that went away while it held.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NUM_LONG = 100_000
MARKUP = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "<svg onload=\"document.title='taken'\"></svg> [a link](javascript:document.title='taken') "
    '<a href="https://example.com/leak">out</a> <style>*{display:none}</style> ![](https://example.com/leak.png)'
)
ODD = "safe \u202egnp.exe\u202c \u2066inner\u2069 zero\u200bwidth \x07bell \x1b[31mred\x1b[0m null\x00end"
WITHHELD = "[The call of 'send_mail' was withheld by agents-untrusted-egress: it was called with values of strangers.]"
IMAGE = "<img src=x onerror=\"document.title='taken'\">"
TEXTS = {"markup": MARKUP, "bidi": ODD, "line": "x" * 2_000_000, "withheld": WITHHELD}


def call(name: str, arguments: dict[str, str]) -> list[dict[str, Any]]:
    """One call of a tool, as a piece of a stream has it."""
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return [{"index": 0, "id": "call_1", "type": "function", "function": function}]


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One event of a chat's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "wild", "choices": [choice]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def ending(finish: str, num_tokens: int) -> bytes:
    """The last events."""
    usage = {"prompt_tokens": 10, "completion_tokens": num_tokens, "total_tokens": 10 + num_tokens}
    value = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "wild", "choices": [], "usage": usage}
    return frame({}, finish) + b"data: " + json.dumps(value).encode() + b"\n\ndata: [DONE]\n\n"


class Wild(ThreadingHTTPServer):
    """See above."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.left = threading.Semaphore(0)
        self.bodies: list[dict[str, Any]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave; nobody needs to hear of it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Wild

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name in the standard library)
        """Nothing is logged."""

    def do_POST(self) -> None:
        """A chat."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        asked = next(one["content"] for one in reversed(body["messages"]) if one["role"] in ("user", "tool"))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            for piece in self._answer(asked):
                self.wfile.write(piece)

    def _answer(self, asked: str) -> Iterator[bytes]:
        yield frame({"role": "assistant", "content": ""})
        if asked == "long":
            for start in range(0, NUM_LONG, 500):
                yield b"".join(frame({"content": f"word{at} "}) for at in range(start, start + 500))
            yield ending("stop", NUM_LONG)
        elif asked in ("hold", "break"):
            yield frame({"content": "one "}) + frame({"content": "two "})
            if asked == "hold":
                self.connection.recv(1)  # until the client leaves
                self.server.left.release()
        elif asked == "calls":
            yield frame({"tool_calls": call("look", {"q": MARKUP + ODD})}) + ending("tool_calls", 5)
        elif asked.startswith("mail "):
            mail = {"to": asked.removeprefix("mail "), "body": IMAGE + ODD}
            yield frame({"tool_calls": call("send_mail", mail)}) + ending("tool_calls", 5)
        else:
            text = TEXTS.get(asked, asked.removeprefix("say "))
            for start in range(0, len(text), 100_000):
                yield frame({"content": text[start : start + 100_000]})
            yield ending("content_filter" if asked == "withheld" else "stop", 5)


@contextmanager
def wild_backend() -> Iterator[Wild]:
    """One that runs, at `server_address`."""
    server = Wild()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
