"""A remote backend joined to a scripted upstream, and a request for it in each dialect: for tests of the gateway."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from tests.upstream_answers import ANSWERS, gemini_frames
from tests.upstreams import Upstream, upstream

from headrace.api.outbound.registry import CODECS
from headrace.core.events import Event, Finished, TextDelta, Usage
from headrace.core.gateway import Headers, RawBody
from headrace.core.request import Limits, Message, Request, Role, TextPart
from headrace.gateway.contract import UpstreamReply
from headrace.gateway.settings import BackendSettings, Dialect, Target, Timeouts
from headrace.gateway.upstreams.catalog import CATALOG, open_remote
from headrace.gateway.upstreams.remote import Remote

TARGET = Target("back", "m-1")
SECRET = "sk-very-secret"
KINDS = {
    Dialect.CHAT: "openai",
    Dialect.RESPONSES: "openai",
    Dialect.MESSAGES: "anthropic",
    Dialect.GEMINI: "gemini",
}
DIALECTS = tuple(dialect for dialect in Dialect if dialect in CODECS)
PASSING = tuple(dialect for dialect in DIALECTS if CODECS[dialect].takes)

_CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
BODIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", _CHAT),
    "completions": ("/v1/completions", {"prompt": "Say hello.", "max_tokens": 16}),
    "embeddings": ("/v1/embeddings", {"input": "Say hello."}),
    "messages": ("/v1/messages", _CHAT),
    "responses": ("/v1/responses", {"input": "Say hello.", "max_output_tokens": 16, "store": False}),
}


def raw_body(dialect: str, *, is_stream: bool, headers: Headers = (), **more: Any) -> RawBody:
    """A client's body in a dialect."""
    path, fields = BODIES[dialect]
    given = {"model": "route", **fields, **more} | ({"stream": True} if is_stream else {})
    return RawBody(
        dialect=dialect,
        path=path,
        fields={name: msgspec.json.encode(value) for name, value in given.items()},
        headers=headers,
    )


def request(**more: Any) -> Request:
    """A neutral request to the scripted model."""
    given = Request(
        id="req-1",
        model=TARGET.model,
        messages=(Message(Role.USER, (TextPart("Say hello."),)),),
        limits=Limits(max_tokens=16),
    )
    return replace(given, **more)


@dataclass
class Joined:
    """A remote backend and what it is joined to."""

    up: Upstream
    remote: Remote
    dialect: Dialect

    def frames(self) -> list[bytes]:
        """What a good stream of this dialect is made of."""
        if self.dialect is Dialect.GEMINI:
            return list(gemini_frames(self.up))
        fields = {"stream_options": {"include_usage": True}}
        name = {Dialect.CHAT: "chat/completions"}.get(self.dialect, self.dialect.value)
        make = ANSWERS[name][1]
        assert make is not None
        return list(make(self.up, TARGET.model, fields))

    def begun(self) -> list[bytes]:
        """The frames of a good stream up to its first word."""
        frames = self.frames()
        return frames[: 1 + next(index for index, one in enumerate(frames) if b"Hello" in one)]

    async def events(self, asked: Request | None = None) -> list[Event]:
        """A whole answer in events."""
        return [event async for event in self.remote.run(asked or request())]

    async def stream(self, **more: Any) -> bytes:
        """A whole streamed answer in bytes."""
        found = await self.remote.relay(raw_body(self.dialect, is_stream=True, **more), TARGET, max_tokens=None)
        assert not isinstance(found, UpstreamReply)
        async with aclosing(found.pieces()) as pieces:
            return b"".join([piece async for piece in pieces])

    async def whole(self, **more: Any) -> UpstreamReply:
        """A whole answer in bytes."""
        found = await self.remote.relay(raw_body(self.dialect, is_stream=False, **more), TARGET, max_tokens=None)
        assert isinstance(found, UpstreamReply)
        return found


def text_of(events: list[Event]) -> str:
    """What an answer says."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def usage_of(events: list[Event]) -> Usage:
    """What an answer's end tells."""
    assert isinstance(events[-1], Finished)
    return events[-1].usage


@asynccontextmanager
async def joined(dialect: Dialect, timeouts: Timeouts | None = None, **more: Any) -> AsyncIterator[Joined]:
    """A backend of a dialect for as long as the block runs; at its end no connection may be in use."""
    async with upstream() as up:
        version = CATALOG[KINDS[dialect]].url_of(dialect).partition("://")[2].partition("/")[2]
        settings = BackendSettings(
            name="back",
            kind=KINDS[dialect],
            dialect=dialect,
            url=f"{up.url}/{version}",
            timeouts=timeouts or Timeouts(),
            **more,
        )
        remote = open_remote(settings, secret=SECRET)
        try:
            yield Joined(up, remote, dialect)
        finally:
            async with asyncio.timeout(5):
                while remote.pool.num_busy:  # noqa: ASYNC110  one that has said its last word may still be ending
                    await asyncio.sleep(0)
            await remote.close()
            await up.wait_open(0)
