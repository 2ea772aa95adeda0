"""Two ways to ask a server for responses, each over one connection that counts the bytes that it sends.

HTTP/1.1 kept alive with server-sent events, and a WebSocket; both parse what comes as a client does. Neither has an
SDK's headers or retries, so that what is compared is the protocols.
"""

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

Event = dict[str, Any]


class CountingSocket(socket.socket):
    """A TCP socket that counts what is sent through it."""

    num_sent = 0

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything, and count it."""
        self.num_sent += len(data)
        super().sendall(data, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send what goes, and count it."""
        sent = super().send(data, flags)
        self.num_sent += sent
        return sent


def _dial(port: int) -> CountingSocket:
    link = CountingSocket(socket.AF_INET, socket.SOCK_STREAM)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.settimeout(600)
    link.connect(("127.0.0.1", port))
    return link


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished response: the object, and seconds until the first piece of the model's answer."""

    response: Mapping[str, Any]
    ttft_s: float


class Wire(Protocol):
    """A connection to a server."""

    @property
    def num_sent(self) -> int:
        """Bytes sent so far, handshake and headers included."""
        ...

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """One response, from its order to its end."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


def _follow(events: Iterator[Event], began: float) -> Answer:
    ttft_s: float | None = None
    for event in events:
        kind = event["type"]
        if ttft_s is None and kind.endswith(".delta"):
            ttft_s = time.perf_counter() - began
        if kind in ("response.completed", "response.incomplete"):
            assert ttft_s is not None
            return Answer(event["response"], ttft_s)
        if kind in ("response.failed", "error"):
            raise RuntimeError(f"the response failed: {event}")
    raise RuntimeError("the answer ended without saying how")


class HttpWire:
    """`POST /v1/responses`, streamed, on one connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._link = _dial(port)
        self._http = http.client.HTTPConnection("127.0.0.1", port)
        self._http.sock = self._link

    @property
    def num_sent(self) -> int:
        """See Wire."""
        return self._link.num_sent

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """See Wire."""
        began = time.perf_counter()
        data = json.dumps({**body, "stream": True}, separators=(",", ":")).encode()
        self._http.request("POST", "/v1/responses", data, {"Content-Type": "application/json"})
        reply = self._http.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"status {reply.status}: {reply.read().decode()[:500]}")
        answer = _follow(self._events(reply), began)
        reply.read()
        return answer

    @staticmethod
    def _events(reply: http.client.HTTPResponse) -> Iterator[Event]:
        for line in reply:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])

    def close(self) -> None:
        """See Wire."""
        self._http.close()


class SocketWire:
    """`wss /v1/responses`, without compression and without a thread of its own."""

    def __init__(self, port: int) -> None:
        self._link = _dial(port)
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/v1/responses"), max_size=None)
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING:
            self._read()
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc
        self._protocol.events_received()

    @property
    def num_sent(self) -> int:
        """See Wire."""
        return self._link.num_sent

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """See Wire."""
        began = time.perf_counter()
        data = json.dumps({"type": "response.create", **body}, separators=(",", ":")).encode()
        self._protocol.send_text(data)
        self._flush()
        return _follow(self._events(), began)

    def _events(self) -> Iterator[Event]:
        while True:
            for frame in self._protocol.events_received():
                assert isinstance(frame, Frame)
                if frame.opcode is Opcode.CLOSE:
                    raise RuntimeError(f"the server closed the connection: {frame.data!r}")
                if frame.opcode is Opcode.TEXT:
                    yield json.loads(bytes(frame.data))
            self._read()

    def _read(self) -> None:
        self._protocol.receive_data(self._link.recv(65536))
        self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._link.sendall(data)

    def close(self) -> None:
        """See Wire."""
        self._link.close()
