"""A WebSocket to a server under test: sends frames as they are told, reads frames as they come, knows no SDK."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.doubles_http import HandClock, HandTimers, make_app
from tests.loopback import listening
from tests.scripted import Scripted, Turn
from tests.scripted_services import scripted_services
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from headrace.core.identity import Authenticator
from headrace.core.sessions import SessionSeal
from headrace.server.app import App
from headrace.server.config import ServerConfig
from headrace.server.serve import Server

LAST = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
LOOKUP = {"type": "function", "name": "lookup", "parameters": {"type": "object", "properties": {}}}


class SocketClient:
    """One connection. `frames` is everything that came, in its order."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[dict[str, Any]] = []

    async def send(self, frame: Mapping[str, Any] | str | bytes) -> None:
        """A frame; a text or bytes go as they are."""
        await self.connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def create(self, given: Any = "Hi", **fields: Any) -> None:
        """An order of a response that is not stored, unless the fields say otherwise."""
        await self.send({"type": "response.create", "model": "scripted", "store": False, "input": given} | fields)

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        text = await self.connection.recv()
        assert isinstance(text, str)
        frame: dict[str, Any] = json.loads(text)
        self.frames.append(frame)
        return frame

    async def until(self, *types: str, stream_id: str | None = None) -> dict[str, Any]:
        """The next frame of one of these types, on that lane if one is named."""
        while True:
            frame = await self.receive()
            if frame["type"] in types and (stream_id is None or frame.get("stream_id") == stream_id):
                return frame

    async def turn(self, given: Any = "Hi", **fields: Any) -> dict[str, Any]:
        """A response from its order to its last frame, which is given back."""
        await self.create(given, **fields)
        return await self.until(*LAST)

    async def closed(self) -> int | None:
        """The code that the server closes with; frames before it are read."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.receive()
        return self.connection.close_code


class Place:
    """A running server with its backend and its time."""

    def __init__(self, app: App, server: Server, port: int, clock: HandClock, timers: HandTimers) -> None:
        self.app, self.server, self.port, self.clock, self.timers = app, server, port, clock, timers

    @contextlib.asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[SocketClient]:
        """A connection that ends with the block."""
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"ws://127.0.0.1:{self.port}/v1/responses"
        async with connect(url, additional_headers=shown, compression=None, ping_interval=None) as connection:
            yield SocketClient(connection)


@contextlib.asynccontextmanager
async def serving(
    turns: Iterable[Turn] | Any,
    config: ServerConfig | None = None,
    *,
    keys: Any = None,
    authenticators: Sequence[Authenticator] = (),
    session_seal: SessionSeal | None = None,
) -> AsyncIterator[tuple[Place, Any]]:
    """A server over a script (or over a backend), and the backend."""
    backend: Any = Scripted(turns) if isinstance(turns, list | tuple) else turns
    clock, timers = HandClock(), HandTimers()
    settings = config or ServerConfig(port=0)
    with tempfile.TemporaryDirectory() as folder:
        async with scripted_services(backend, Path(folder)) as services:
            app = make_app(
                backend, settings, keys=keys, clock=clock, timers=timers, responses=services.responses,
                conversations=services.conversations, authenticators=authenticators, session_seal=session_seal,
            )  # fmt: skip
            async with listening(app) as (server, port):
                yield Place(app, server, port, clock, timers), backend


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until what follows from the last step has happened."""
    while not condition():  # noqa: ASYNC110 - there is no event to wait for: it is somebody else's clean-up
        await asyncio.sleep(0)
