"""The parts of a gateway as they see each other: protocols and the values between them. No behaviour.

gate.py         joins the parts: plan, reserve, attempt, settle, record
routing/        Planner: a shape and what is known of the backends in, an order of candidates and the reasons out
accounts/       Accounts: budgets and limits, reserved before dispatch and settled once
upstreams/      Upstream: one backend, the engine or a remote one, asked in events or in its own bytes
answer_cache/   AnswerCache: answers that may be given again
standing.py     Standings: who can be asked at all, from breakers, health checks and drains
oversight/      Overseers: policy, tools, monitors and the recorder, each of which sees every request and its answer
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.core.backend import ModelCard
from headrace.core.events import Event, Usage
from headrace.core.gateway import Ask, Headers, RawBody, Taken
from headrace.core.request import Principal, Request
from headrace.core.shape import Shape
from headrace.core.trust import Decision, Label, ToolUse, Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.settings import Target


@dataclass(frozen=True, slots=True)
class Bound:
    """What a request cannot exceed: tokens of input and output, and their price in billionths."""

    tokens: int
    nanos: int


class Reservation(Protocol):
    """What is set aside for one request. Settled exactly once; a second time changes nothing."""

    @property
    def bound(self) -> Bound:
        """How much."""
        ...

    @property
    def marks(self) -> Sequence[tuple[str, str, int]]:
        """In which budgets: subject, window and when it began."""
        ...

    def settle(self, record: UsageRecord) -> None:
        """Charge what the record says (tokens and cost), give back the rest, and keep the record. Never waits; what was
        settled survives the process."""
        ...


class Accounts(Protocol):
    """Budgets and limits of everybody."""

    async def reserve(self, shape: Shape, route: str, bound: Bound) -> Reservation:
        """Set the bound aside in every budget and limit that the request falls under, in all of them or in none.

        Raises BudgetExceeded and RateLimited, naming the budget or limit, what is left, and when there is more.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A target that may be asked, its place in the plan given by its position. `bound` is what the request cannot
    exceed there; `tier` as in settings. `is_fallback`: it is not of the route itself, and asked only when
    none of the route's own is left. `scores` are what each policy measured, where somebody wants to know later."""

    target: Target
    bound: Bound
    max_tokens: int | None = None  # what an answer is cut to there, if the request itself says nothing or more
    reason: str = ""
    tier: int = 0
    is_fallback: bool = False
    scores: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who is asked, in order, fallbacks last. `refused` says of each target that is not there why. `shadow` is cleared
    for the request as candidates are."""

    route: str
    candidates: tuple[Candidate, ...]
    refused: Mapping[Target, str] = field(default_factory=dict)
    shadow: Candidate | None = None
    hedge_after_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a target can be asked. `share` is 0 if it cannot, 1 if nothing is wrong, and between while it warms up:
    what part of its usual requests it may get. `reason` and `retry_after_s` (None: unknown) say more where it is 0."""

    share: float = 1.0
    reason: str = ""
    retry_after_s: float | None = None


class Standings(Protocol):
    """Who can be asked at all: what breakers, health checks and operators' drains say together."""

    @property
    def is_clear(self) -> bool:
        """True if nothing is wrong with any target, so that none has to be looked at."""
        ...

    def standing(self, target: Target) -> Standing:
        """How a target stands now. A breaker that is due for a trial stands at share 1."""
        ...


class Planner(Protocol):
    """Decides, without I/O, from a shape and what was seen of the backends."""

    def plan(
        self, shape: Shape, *, decode: Callable[[], Request] | None = None, engine_share: float | None = None
    ) -> Plan:
        """The order of candidates; backends that are full come last of their route's. `decode` is asked where a policy
        wants to see the text; `engine_share` is how much of the input the engine has in its tree, None: not known.
        Raises NotFound for an unknown model, NotCleared, InvalidRequest if no backend can do
        what is asked (naming the need), ContextTooLong, Unavailable if all that could are out."""
        ...

    def asks_engine(self, shape: Shape) -> Target | None:
        """The target of the engine whose own tree a plan should know of, None for nearly all requests: it is one of
        several that are chosen by what they have read."""
        ...

    def models(self, principal: Principal | None = None) -> tuple[ModelCard, ...]:
        """Routes, targets and models of the engine that somebody may ask for, None: all of them."""
        ...

    def targets(self, model: str) -> tuple[Target, ...]:
        """Every target that a name can lead to, fallbacks too; none for a name that leads nowhere."""
        ...


class Sightings(Protocol):
    """What is seen of the backends while requests run; the planner decides from it."""

    def begin(self, target: Target, shape: Shape) -> int:
        """A request goes out; a number for the calls below."""
        ...

    def first_event(self, number: int) -> None:
        """Something of its answer is here."""
        ...

    def end(self, number: int, usage: Usage | None, error: Exception | None, *, is_cancelled: bool = False) -> None:
        """Its stream is over, or closed. Load counts until here."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamReply:
    """A whole answer in bytes. `usage` is None if it told none."""

    status: int
    headers: Headers
    body: bytes
    usage: Usage | None


class UpstreamStream(Protocol):
    """A streamed answer in bytes, its status and headers here, and its first piece read ahead: what begins with an
    error was raised as one."""

    @property
    def status(self) -> int:
        """HTTP status, 2xx."""
        ...

    @property
    def headers(self) -> Headers:
        """Those that may travel on."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What the pieces so far told."""
        ...

    @property
    def num_output_bytes(self) -> int:
        """Bytes of answer text so far: bounds the tokens where no usage was told."""
        ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Whole events, in order, unchanged but for usage that the client did not ask for. Raises UpstreamFault.

        Called once. Closing them lets go of the connection even if none was read: no plain async generator does that.
        """
        ...


class Upstream(Protocol):
    """One backend as the gateway asks it: one attempt, no policies."""

    @property
    def dialects(self) -> frozenset[str]:
        """Those of `RawBody` that it takes as bytes."""
        ...

    def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer in events; `request.model` is the backend's own name of the model. As `Backend.run`."""
        ...

    async def relay(self, raw: RawBody, target: Target, *, max_tokens: int | None) -> UpstreamReply | UpstreamStream:
        """Answer in bytes. An answer is cut to `max_tokens` where the body asks for more or says nothing.

        Raises UpstreamFault, UpstreamTimeout, and what the backend refused as the error it is.
        """
        ...

    async def check(self) -> None:
        """An active health check. Raises UpstreamFault."""
        ...

    async def close(self) -> None:
        """Let go of its connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A kept answer. `kind` is `exact` or `semantic`; `target` gave it once, and its prices hold for it, to the request
    `source`."""

    kind: str
    target: Target
    events: AsyncGenerator[Event, None]
    source: str = ""


class AnswerCache(Protocol):
    """Answers that may be given again."""

    async def find(self, ask: Ask, plan: Plan) -> Kept | None:
        """A kept answer, if there is one that this caller may get."""
        ...

    def keeper(self, ask: Ask, plan: Plan) -> "Keeper | None":
        """Who takes in the answer of this request, None if it may not be kept. It is then asked for in events."""
        ...


class Keeper(Protocol):
    """Takes in one answer as it passes."""

    def begin(self, target: Target) -> None:
        """Who gives it; called once, before the first event."""
        ...

    def add(self, event: Event) -> None:
        """The next event; nothing is kept before `Finished` has come."""
        ...


@dataclass(slots=True, kw_only=True)
class Case:
    """One request as its overseers see it, and what they say of it: gathered here, so that a record can tell it.

    `decode` makes the neutral request, once; it raises what the caller's protocol refuses. `plan` is None before it is
    made. `label` is that of everything that the model reads. `target` is who answers, once that is known.
    """

    ask: Ask
    decode: Callable[[], Request]
    taken: Taken
    started_unix_s: float
    plan: Plan | None = None
    target: Target | None = None
    label: Label | None = None
    decisions: list[Decision] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    tools: list[ToolUse] = field(default_factory=list)


class Oversight(Protocol):
    """What one overseer does with one request. Everything is called on the event loop and never waits."""

    @property
    def reads_answer(self) -> bool:
        """Whether it must see the answer's events: then it is asked for in events, and not passed on as bytes."""
        ...

    def allows(self, target: Target) -> bool:
        """Whether a target may be asked; what is said against it becomes one of the case's decisions."""
        ...

    def prepare(self, request: Request, target: Target) -> Request:
        """The request as a target is asked for it; also on every further attempt. Bytes that pass are not prepared: who
        must change requests reads the answer."""
        ...

    def hear(self, event: Event) -> Sequence[Event]:
        """The next event of the answer; what of it goes on, `Finished` always. Raises HeadraceError to end the answer.

        An answer that is given again is heard again; what a keeper kept of it is what the backend said."""
        ...

    def add(self, piece: bytes) -> None:
        """The next bytes of an answer that passes as bytes, all of them where it is whole."""
        ...

    def end(self, record: UsageRecord) -> None:
        """The request is settled, whichever way it ended. Called once."""
        ...


class Overseer(Protocol):
    """Judges or records requests: a policy, a monitor, the recorder. A defect of one ends the request that it met,
    unless it takes that upon itself: see the recorder."""

    @property
    def reads_answers(self) -> bool:
        """Whether any of its oversights may read an answer: then no name of a model passes bytes for sure."""
        ...

    def begin(self, case: Case) -> Oversight | None:
        """A request has come, and nothing is planned. None: it has no business here. Raises HeadraceError to refuse."""
        ...
