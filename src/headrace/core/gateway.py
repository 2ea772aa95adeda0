"""What a server asks of a gateway, and what comes back: bytes of the caller's own protocol, or events.

A body whose protocol a backend speaks itself travels as bytes, unread but for what a policy must know or touch; every
other becomes a neutral request. Which of the two happens is decided for each attempt, so a caller brings both: the
bytes, and how they are decoded. Knows no policies.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from headrace.core.backend import Backend, ModelCard
from headrace.core.events import Event
from headrace.core.provenance import Receipt
from headrace.core.request import Principal, Request
from headrace.core.shape import Shape

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBody:
    """A request as it came. `dialect` is one of `chat`, `completions`, `embeddings`, `responses`, `messages`; `fields`
    are the body's top level, each value its own bytes, in order: what is sent on is written anew from them, so that a
    key that stands there twice means one thing to everybody. `headers` are those of the client that may travel on,
    names in lower case; a vendor's own among them."""

    dialect: str
    path: str
    fields: Mapping[str, bytes]
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to a gateway. `decode` makes a neutral request of it and raises what the caller's protocol refuses;
    `raw` is None where the caller's protocol has no bytes that a backend could take."""

    shape: Shape
    decode: Callable[[], Request]
    raw: RawBody | None = None


@dataclass(slots=True, kw_only=True)
class Taken:
    """Which way a request went and what it took: what response headers, logs and usage records tell.

    Filled in while it happens: `cost_nanos` (billionths of the price list's unit) and `saved_nanos` (what a cache
    spared) are None before the end, tokens 0. `cache` is empty, `exact` or `semantic`, and `source` then the request
    whose answer it was. Times in seconds. `receipt` is where the answer is recorded, None where none are: the gateway
    seals it when the request `is_settled`, unless somebody who makes the bytes of the answer has claimed that
    (`is_claimed`), and does it when they are all there.
    """

    route: str = ""
    reason: str = ""
    backend: str = ""
    model: str = ""
    num_attempts: int = 0
    cache: str = ""
    source: str = ""
    queue_s: float = 0.0
    overhead_s: float = 0.0
    cost_nanos: int | None = None
    saved_nanos: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    receipt: Receipt | None = None
    is_claimed: bool = False
    is_settled: bool = False


WATCH: Final[ContextVar[Callable[[Taken], None] | None]] = ContextVar("headrace.watch", default=None)
"""Who is shown the `Taken` of every request that `Gateway.run` begins in this context, and of every one that is
recorded as soon as its receipt is there: a server, also where its answer is made by a service between them."""

EXCHANGE_ID: Final[ContextVar[str]] = ContextVar("headrace.exchange_id", default="")
"""What a client knows the exchange by in which a request is made: the `x-request-id` of its answer, of a WebSocket's
turn the response's id. Empty: there is none. One exchange may ask several times, and all lines of the log that are
written meanwhile have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawReply:
    """A whole answer in the caller's protocol. It is settled by the time that it is here."""

    status: int
    headers: Headers
    body: bytes
    taken: Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class RawStream:
    """A streamed answer in the caller's protocol; nothing of `chunks` was read yet. Whoever has it closes them
    (`aclose`), which settles it; they may raise one HeadraceError."""

    status: int
    headers: Headers
    chunks: AsyncGenerator[bytes, None]
    taken: Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReply:
    """An answer as events, the first of them not read yet. Whoever has it closes them, which settles it."""

    events: AsyncGenerator[Event, None]
    taken: Taken = field(default_factory=Taken)


Reply = RawReply | RawStream | EventReply


class Gateway(Backend, Protocol):
    """A backend that also takes bytes. `run(request)` is `ask` with the request alone, so that every service that
    holds it as a backend is under the same policies; it shows its `Taken` to `WATCH`."""

    async def ask(self, ask: Ask) -> Reply:
        """Answer in the caller's protocol or in events. Raises one HeadraceError if nothing of an answer is there;
        a caller that is cancelled meanwhile has nothing to settle."""
        ...

    def models_for(self, principal: Principal) -> tuple[ModelCard, ...]:
        """Those of `models()` that somebody may ask for."""
        ...

    def passes(self, model: str, dialect: str) -> bool:
        """Whether every backend that a model's name can lead to, fallbacks too, takes bytes of a dialect: then a
        caller's `decode` is never called. False for a name that leads nowhere."""
        ...
