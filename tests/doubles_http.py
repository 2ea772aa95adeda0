"""Doubles for everything around the server: a backend that plays a script, a client without a socket, time by hand.

Each implements a real contract. `ScriptedBackend` counts what it opened and closed, so that tests can ask what is left.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from typing import Any

import uvloop

from headrace.core.backend import ModelCard, Probe
from headrace.core.errors import NotFound
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, Usage
from headrace.core.identity import Authenticator
from headrace.core.request import Request
from headrace.server.app import App, Surroundings, build_app
from headrace.server.config import ServerConfig
from headrace.server.services import Services

MODEL = ModelCard(
    id="tiny",
    created=1_700_000_000,
    owned_by="tests",
    context_length=4096,
    digest="sha256:0123456789abcdef0123",
    aliases=("tiny-alias",),
)


class Pause:
    """A place in a script where the backend waits until the test says go; `reached` says that it got there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()


Step = Event | Exception | Pause


class ScriptedBackend:
    """Plays `script(request)`: events are yielded, exceptions raised, pauses waited for."""

    def __init__(self, script: Callable[[Request], Iterable[Step]]) -> None:
        self._script = script
        self.requests: list[Request] = []
        self.num_open = 0
        self.num_closed = 0

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self.num_open += 1
        try:
            if request.model not in (MODEL.id, *MODEL.aliases):
                raise NotFound(f"model: {request.model!r} is not served here.", param="model")
            for step in self._script(request):
                if isinstance(step, Pause):
                    step.reached.set()
                    await step.go.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.num_open -= 1
            self.num_closed += 1

    def models(self) -> tuple[ModelCard, ...]:
        return (MODEL,)

    async def probe(self, request: Request) -> Probe:
        return Probe(prompt_tokens=1, warm_tokens=0, fits=True)

    async def release(self, session: str, tenant: str = "local") -> None:
        return None


def started(request: Request, prompt_tokens: int = 7, cached_tokens: int = 4) -> Started:
    return Started(request.id, MODEL.id, prompt_tokens, cached_tokens, {"model": MODEL.digest})


def answer(*words: str, reason: FinishReason = FinishReason.STOP) -> Callable[[Request], list[Step]]:
    """A script that gives every choice the same words, one token each."""

    def script(request: Request) -> list[Step]:
        choices = range(request.sampling.num_choices)
        deltas = [TextDelta(choice, word, 1) for word in words for choice in choices]
        ends = [ChoiceFinished(choice, reason) for choice in choices]
        usage = Usage(prompt_tokens=7, completion_tokens=len(deltas), cached_tokens=4)
        return [started(request), *deltas, *ends, Finished(usage)]

    return script


class HandClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return 1_700_000_000.0 + self.now_s


class HandTimer:
    """One timer of HandTimers."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class HandTimers:
    """Timers that fire when the test says so."""

    def __init__(self) -> None:
        self._timers: list[HandTimer] = []

    def call_later(self, delay: float, callback: Callable[[], None], /) -> HandTimer:
        assert delay > 0
        timer = HandTimer(callback)
        self._timers.append(timer)
        return timer

    def fire(self) -> None:
        """Fire every timer that is set now."""
        due, self._timers = self._timers, []
        for timer in due:
            if not timer.is_cancelled:
                timer.callback()

    @property
    def num_set(self) -> int:
        return sum(not timer.is_cancelled for timer in self._timers)


class Reply:
    """What an application sent for one request."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.lines: list[tuple[str, str]] = []
        self.writes: list[bytes] = []
        self.is_complete = False

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    def all(self, name: str) -> list[str]:
        """What every header of a name says."""
        return [value for one, value in self.lines if one == name]

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> Any:
        return self.json()["error"]

    def frames(self) -> list[Any]:
        """The data of a stream's frames: parsed JSON, or the text [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Client:
    """One ASGI request, driven by the test: what it sent so far is in `reply`, `leave` closes the connection."""

    def __init__(
        self,
        app: App,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.app = app
        self.reply = Reply()
        self.changed = asyncio.Event()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.num_received = 0
        self._left = asyncio.Event()
        self._chunks = [body] if isinstance(body, bytes) else list(body)
        given = {"host": "localhost:8000"} | (headers or {})
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path.partition("?")[0],
            "query_string": path.partition("?")[2].encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        }

    async def receive(self) -> dict[str, Any]:
        if self._chunks:
            chunk = self._chunks.pop(0)
            self.num_received += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.may_write.wait()
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.lines = [(name.decode(), value.decode()) for name, value in message["headers"]]
            self.reply.headers = dict(self.reply.lines)
        else:
            self.reply.writes.append(message["body"])
            self.reply.is_complete = not message["more_body"]
            if self.reply.is_complete:
                self._left.set()
        self.changed.set()

    async def run(self) -> Reply:
        """The whole exchange."""
        await self.app(self.scope, self.receive, self.send)
        return self.reply

    def start(self) -> asyncio.Task[Reply]:
        """The exchange as a task beside the test."""
        return asyncio.get_running_loop().create_task(self.run())

    async def until(self, condition: Callable[[Reply], bool]) -> None:
        """Wait until what was sent satisfies the condition."""
        while not condition(self.reply):
            self.changed.clear()
            await self.changed.wait()

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()


def make_app(
    backend: Any,
    config: ServerConfig | None = None,
    *,
    keys: Any = None,
    clock: HandClock | None = None,
    timers: HandTimers | None = None,
    authenticators: Sequence[Authenticator] = (),
    **services: Any,
) -> App:
    """An application that is ready, with time by hand and numbered ids; `services` are fields of `Services`."""
    numbers = iter(range(10**9))
    surroundings = Surroundings(
        clock=clock or HandClock(),
        timers=timers or HandTimers(),
        new_id=lambda: f"{next(numbers):04d}",
        version="1.2.3",
    )
    app = build_app(
        backend,
        config or ServerConfig(),
        keys=keys,
        surroundings=surroundings,
        services=Services(**services),
        authenticators=authenticators,
    )
    app.lifecycle.mark_ready()
    return app


def chat(**fields: Any) -> bytes:
    """A chat body with the fields given."""
    standard: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    return json.dumps(standard | fields).encode()


def run(main: Coroutine[Any, Any, None], limit_s: float = 5) -> None:
    """Run a test's coroutine; what should come at once must come within 5 seconds. No task may be left."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the loop that serves
        runner.run(bounded())
