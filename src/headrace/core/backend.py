"""The one contract. The engine, a remote provider, a router, a cache, a budget and a test double all implement it.

A policy is a backend that holds another. Who holds a backend closes the streams it opened (`aclose` in `finally`).
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from headrace.core.events import Event
from headrace.core.request import Request, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What `GET /v1/models` says of one model. `created` is Unix time in seconds.

    An adapter's `parent` is the model that it is laid over. A digest is known (not empty) of what has been in memory.
    `tasks` are what it can be asked for.
    """

    id: str
    created: int
    owned_by: str
    context_length: int
    digest: str
    aliases: tuple[str, ...] = ()
    parent: str | None = None
    is_loaded: bool = True
    tasks: frozenset[Task] = frozenset({Task.GENERATE, Task.COUNT})


@dataclass(frozen=True, slots=True)
class Probe:
    """What a request would meet now, from a published snapshot: tokens, warm tokens, whether it can ever fit."""

    prompt_tokens: int
    warm_tokens: int
    fits: bool


class Backend(Protocol):
    """Anything that answers a request with events.

    `run` ends in one of three ways: `Finished`, one `HeadraceError`, or the caller closing the stream, which cancels
    the work and frees what it held. No other exception comes out. Nothing happens before the first `__anext__`.
    """

    def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer `request` with events in the order that `core.events` states."""
        ...

    def models(self) -> tuple[ModelCard, ...]:
        """Models that can be named in a request now."""
        ...

    async def probe(self, request: Request) -> Probe:
        """Say what the request would meet, without running it and without waiting for the engine's thread."""
        ...

    async def release(self, session: str, tenant: str = "local") -> None:
        """Free what is pinned for a tenant's session; unknown sessions are no error."""
        ...
