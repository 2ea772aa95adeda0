"""A gateway that says what a test tells it to, and notes what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from tests.doubles_http import Pause, ScriptedBackend, Step, answer

from headrace.core.backend import ModelCard
from headrace.core.gateway import Ask, EventReply, Headers, RawReply, RawStream, Reply, Taken
from headrace.core.request import Principal, Request

TAKEN: dict[str, Any] = {"route": "cheap", "backend": "east", "model": "tiny", "num_attempts": 1, "queue_s": 0.0015}


class ScriptedGateway(ScriptedBackend):
    """`reply(ask)` says what comes; pauses among a stream's pieces are waited for, exceptions raised."""

    def __init__(self, reply: "Replying", script: Callable[[Request], Iterable[Step]] | None = None) -> None:
        super().__init__(answer("Hi") if script is None else script)
        self._reply = reply
        self.asks: list[Ask] = []
        self.before: Pause | Exception | None = None
        self.num_streams_closed = 0
        self.passed = True
        self.closed = asyncio.Event()

    async def ask(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        if isinstance(self.before, Pause):
            self.before.reached.set()
            await self.before.go.wait()
        elif self.before is not None:
            raise self.before
        return self._reply(self, ask)

    def models_for(self, principal: Principal) -> tuple[ModelCard, ...]:
        return self.models()

    def passes(self, model: str, dialect: str) -> bool:
        return self.passed

    async def chunks(self, pieces: Iterable[bytes | Pause | Exception]) -> AsyncGenerator[bytes, None]:
        try:
            for piece in pieces:
                if isinstance(piece, Pause):
                    piece.reached.set()
                    await piece.go.wait()
                elif isinstance(piece, Exception):
                    raise piece
                else:
                    yield piece
        finally:
            self.num_streams_closed += 1
            self.closed.set()


Replying = Callable[[ScriptedGateway, Ask], Reply]


def whole(body: bytes, headers: Headers = (), **taken: Any) -> Replying:
    """Every request gets this body."""
    return lambda _, __: RawReply(status=200, headers=headers, body=body, taken=Taken(**{**TAKEN, **taken}))


def streamed(*pieces: bytes | Pause | Exception, headers: Headers = ()) -> Replying:
    """Every request gets these pieces."""
    return lambda gateway, _: RawStream(
        status=200, headers=headers, chunks=gateway.chunks(pieces), taken=Taken(**TAKEN)
    )


def told(gateway: ScriptedGateway, ask: Ask) -> Reply:
    """The scripted backend's events, of the decoded request."""
    return EventReply(events=gateway.run(ask.decode()), taken=Taken(**TAKEN))
