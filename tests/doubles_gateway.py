"""Doubles of a gateway's parts, each implementing its contract: what a gate is joined of, in a test's hands.

`Book` checks what it is told: a reservation settled twice, or a request ended that never began, fails the test.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from types import TracebackType
from typing import Any

from headrace.core.backend import ModelCard
from headrace.core.errors import BudgetExceeded, HeadraceError, UpstreamFault
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, Usage
from headrace.core.gateway import Ask, EventReply, Headers, RawBody
from headrace.core.ledger import Prices
from headrace.core.request import Message, Principal, Request, Role, TextPart
from headrace.core.shape import Shape
from headrace.core.usage import UsageRecord
from headrace.gateway.admission import Admission
from headrace.gateway.charging import Tariffs
from headrace.gateway.contract import Bound, Candidate, Kept, Plan, UpstreamReply
from headrace.gateway.gate import Gate
from headrace.gateway.parts import Parts
from headrace.gateway.settings import (
    BackendSettings,
    CacheSettings,
    CandidateSettings,
    Dialect,
    GatewaySettings,
    ModelSettings,
    RetrySettings,
    RouteSettings,
    Target,
)
from headrace.gateway.standing import StandingBook

USAGE = Usage(prompt_tokens=100, completion_tokens=10)
WHOLE = UpstreamReply(status=200, headers=((b"x-vendor", b"1"),), body=b'{"ok":true}', usage=USAGE)
FAULT = UpstreamFault("it failed")
PRICES = Prices(input=1.0, output=10.0)
"""A prompt token costs 1,000 nanos and one of an answer 10,000."""


class HandClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        """As `Clock`."""
        return self.now_s

    def unix_s(self) -> float:
        """As `Clock`."""
        return 1_700_000_000.0 + self.now_s


@dataclass(slots=True)
class Reserved:
    """A reservation that may be settled once."""

    shape: Shape
    route: str
    bound: Bound
    book: "Book"
    is_settled: bool = False
    marks: tuple[tuple[str, str, int], ...] = (("tenant:t", "day", 0),)

    def settle(self, record: UsageRecord) -> None:
        """As `Reservation`; a second time fails the test."""
        assert not self.is_settled, f"{record.request_id} is settled twice"
        assert record.request_id == self.shape.id
        self.is_settled = True
        self.book.records.append(record)


class Book:
    """Accounts and sightings in one. `left_nanos`: what a budget has left for one request."""

    def __init__(self, left_nanos: int | None = None) -> None:
        self.left_nanos = left_nanos
        self.reserved: list[Reserved] = []
        self.records: list[UsageRecord] = []
        self.begun: list[Target] = []
        self.first: list[int] = []
        self.ended: dict[int, tuple[Usage | None, Exception | None, bool]] = {}

    async def reserve(self, shape: Shape, route: str, bound: Bound) -> Reserved:
        """As `Accounts`."""
        if self.left_nanos is not None and bound.nanos > self.left_nanos:
            raise BudgetExceeded(f"{bound.nanos} are more than {self.left_nanos}")
        reserved = Reserved(shape, route, bound, self)
        self.reserved.append(reserved)
        return reserved

    def begin(self, target: Target, shape: Shape) -> int:
        """As `Sightings`."""
        self.begun.append(target)
        return len(self.begun) - 1

    def first_event(self, number: int) -> None:
        """As `Sightings`."""
        assert number not in self.first
        assert number not in self.ended
        self.first.append(number)

    def end(self, number: int, usage: Usage | None, error: Exception | None, *, is_cancelled: bool = False) -> None:
        """As `Sightings`."""
        assert number < len(self.begun)
        assert number not in self.ended, f"{self.begun[number]} is ended twice"
        self.ended[number] = (usage, error, is_cancelled)

    @property
    def is_even(self) -> bool:
        """Whether nothing is left open."""
        return all(one.is_settled for one in self.reserved) and len(self.ended) == len(self.begun)


class Plans:
    """Plans its candidates for every request, or raises."""

    def __init__(self, plan: Plan | HeadraceError) -> None:
        self.plan_or_error = plan

    def plan(
        self, shape: Shape, *, decode: Callable[[], Request] | None = None, engine_share: float | None = None
    ) -> Plan:
        """As `Planner`."""
        if isinstance(self.plan_or_error, HeadraceError):
            raise self.plan_or_error
        return self.plan_or_error

    def asks_engine(self, shape: Shape) -> Target | None:
        """As `Planner`; never."""
        return None

    def models(self, principal: Principal | None = None) -> tuple[ModelCard, ...]:
        """As `Planner`; none are told."""
        return ()

    def targets(self, model: str) -> tuple[Target, ...]:
        """As `Planner`."""
        plan = self.plan_or_error
        return () if isinstance(plan, HeadraceError) else tuple(one.target for one in plan.candidates)


@dataclass(slots=True)
class Wait:
    """A place in a script that is waited at until the test says go."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


Step = Event | bytes | HeadraceError | Wait | UpstreamReply
Script = Sequence[Step]

ANSWER: tuple[Event, ...] = (
    Started("r", "m", 100),
    TextDelta(0, "hello", 3),
    TextDelta(0, " world", 7),
    ChoiceFinished(0, FinishReason.STOP),
    Finished(USAGE),
)


class Pieces(AsyncGenerator[bytes, None]):
    """A stream's bytes by a script; `is_closed` once nobody reads it any more."""

    def __init__(self, owner: "ScriptedUpstream", script: Script) -> None:
        self._script = list(script)
        self._owner = owner
        self.is_closed = False
        self.num_bytes = 0
        owner.num_open += 1

    async def __anext__(self) -> bytes:
        while self._script and not self.is_closed:
            step = self._script.pop(0)
            if isinstance(step, Wait):
                step.reached.set()
                await step.go.wait()
            elif isinstance(step, HeadraceError):
                await self.aclose()
                raise step
            elif isinstance(step, bytes):
                self.num_bytes += len(step)
                return step
        await self.aclose()
        raise StopAsyncIteration

    async def asend(self, value: None) -> bytes:
        """As `__anext__`."""
        return await self.__anext__()

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """Close and raise."""
        await self.aclose()
        raise typ

    async def aclose(self) -> None:
        """As a backend's stream."""
        if not self.is_closed:
            self.is_closed = True
            self._owner.num_open -= 1


class Stream:
    """As `UpstreamStream`."""

    status = 200
    headers: Headers = ((b"x-vendor", b"1"),)

    def __init__(self, owner: "ScriptedUpstream", script: Script, usage: Usage | None) -> None:
        self._pieces = Pieces(owner, script)
        self._usage = usage

    @property
    def usage(self) -> Usage | None:
        """Told with the last piece."""
        return self._usage if self._pieces.is_closed and not self._pieces._script else None

    @property
    def num_output_bytes(self) -> int:
        """Of all pieces so far."""
        return self._pieces.num_bytes

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """As `UpstreamStream`."""
        return self._pieces


class ScriptedUpstream:
    """Plays its scripts, one a call and the last for ever; tells what it was asked."""

    def __init__(
        self, *scripts: Script, takes: frozenset[str] = frozenset({"chat"}), usage: Usage | None = USAGE
    ) -> None:
        self._scripts = list(scripts) or [ANSWER]
        self._usage = usage
        self.dialects = takes
        self.requests: list[Request] = []
        self.relayed: list[tuple[RawBody, Target, int | None]] = []
        self.num_open = 0
        self.num_checks = 0
        self.check_error: HeadraceError | None = None

    def _script(self) -> Script:
        return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """As `Upstream`."""
        self.requests.append(request)
        self.num_open += 1
        try:
            for step in self._script():
                if isinstance(step, Wait):
                    step.reached.set()
                    await step.go.wait()
                elif isinstance(step, HeadraceError):
                    raise step
                elif not isinstance(step, (bytes, UpstreamReply)):
                    yield step
        finally:
            self.num_open -= 1

    async def relay(self, raw: RawBody, target: Target, *, max_tokens: int | None) -> UpstreamReply | Stream:
        """As `Upstream`."""
        self.relayed.append((raw, target, max_tokens))
        script = list(self._script())
        while script and not isinstance(script[0], bytes):
            step = script.pop(0)
            if isinstance(step, Wait):
                step.reached.set()
                await step.go.wait()
            elif isinstance(step, HeadraceError):
                raise step
            elif isinstance(step, UpstreamReply):
                return step
        return Stream(self, script, self._usage)

    async def check(self) -> None:
        """As `Upstream`."""
        self.num_checks += 1
        if self.check_error is not None:
            raise self.check_error

    async def close(self) -> None:
        """As `Upstream`."""


class Shelf:
    """Keeps one answer; as `AnswerCache` and `Keeper`."""

    def __init__(self, kept: Sequence[Event] | None = None, source: str = "") -> None:
        self.kept = kept
        self.source = source
        self.told: list[Event] = []
        self.by: list[Target] = []

    async def find(self, ask: Ask, plan: Plan) -> Kept | None:
        """What is on it."""
        if self.kept is None:
            return None
        return Kept(kind="exact", target=Target("a", "m"), events=self._play(self.kept), source=self.source)

    async def _play(self, events: Sequence[Event]) -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    def keeper(self, ask: Ask, plan: Plan) -> "Shelf":
        """Itself."""
        return self

    def begin(self, target: Target) -> None:
        """Who gives it."""
        self.by.append(target)

    def add(self, event: Event) -> None:
        """Take in an event, or the whole answer."""
        self.told.append(event)
        if isinstance(event, Finished):
            self.kept = tuple(self.told)


class HandSleep:
    """Waits that a test ends."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._ends: list[asyncio.Event] = []
        self._is_asked = asyncio.Event()

    async def __call__(self, delay_s: float) -> None:
        self.asked.append(delay_s)
        end = asyncio.Event()
        self._ends.append(end)
        self._is_asked.set()
        await end.wait()

    async def end_next(self) -> None:
        """Let the wait that began first, and was not ended, end; waits for one to begin."""
        while not self._ends:
            self._is_asked.clear()
            await self._is_asked.wait()
        self._ends.pop(0).set()


async def read(reply: object) -> list[Event]:
    """Every event of a reply in events, which is closed then."""
    assert isinstance(reply, EventReply)
    try:
        return [event async for event in reply.events]
    finally:
        await reply.events.aclose()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, as one that is not."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


async def no_sleep(delay_s: float) -> None:
    """A wait that takes no time."""


def backend(name: str, **about: Any) -> BackendSettings:
    """A backend with one model, `m`."""
    models = {"m": ModelSettings(prices=PRICES)}
    return BackendSettings(**({"name": name, "kind": "vllm", "dialect": Dialect.CHAT, "models": models} | about))


def candidate(name: str, *, nanos: int = 5_000_000, **about: Any) -> Candidate:
    """The model `m` of a backend."""
    return Candidate(**({"target": Target(name, "m"), "bound": Bound(1000, nanos)} | about))


def shape(request_id: str = "r", *, priority: int = 0, is_stream: bool = True, **about: Any) -> Shape:
    """A request of somebody."""
    request = Request(
        id=request_id,
        model="smart",
        messages=(Message(Role.USER, (TextPart("hi"),)),),
        principal=Principal(tenant="t", key="k", priority=priority),
    )
    made = Shape.of(request)
    return replace(made, is_stream=is_stream, **about)


RAW = RawBody(dialect="chat", path="/v1/chat/completions", fields={"model": b'"smart"'})


def ask(of: Shape | None = None, *, raw: RawBody | None = RAW, error: HeadraceError | None = None) -> Ask:
    """Somebody's request in bytes, or in events with `raw` None; `error`: it cannot be decoded."""
    of = of or shape()

    def decode() -> Request:
        if error is not None:
            raise error
        return Request(id=of.id, model=of.model, messages=(Message(Role.USER, (TextPart("hi"),)),))

    return Ask(shape=of, decode=decode, raw=raw)


@dataclass(slots=True)
class Bench:
    """A gate and all that is around it."""

    gate: Gate
    book: Book
    clock: HandClock
    upstreams: Mapping[str, ScriptedUpstream]

    @property
    def leftovers(self) -> list[str]:
        """What is left: reservations, load, streams, places, deadlines, tasks but the test's own."""
        admission = self.gate.parts.admission
        lines = [admission.line(name) for name in self.upstreams]
        found = {
            "a reservation": any(not one.is_settled for one in self.book.reserved),
            "load": len(self.book.ended) != len(self.book.begun),
            "a stream": any(upstream.num_open for upstream in self.upstreams.values()),
            "a place": admission.num_in_flight or any(line.num_running or line.num_waiting for line in lines),
            "a deadline": len(self.gate.parts.deadlines) > 0,
            "a task": len(asyncio.all_tasks()) > 1,
        }
        return [what for what, is_left in found.items() if is_left]

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is left."""
        return not self.leftovers


def bench(
    upstreams: Mapping[str, ScriptedUpstream],
    *,
    plan: Plan | HeadraceError | None = None,
    route: RouteSettings | None = None,
    backends: Mapping[str, BackendSettings] | None = None,
    left_nanos: int | None = None,
    sleep: Callable[[float], Any] = no_sleep,
    max_in_flight: int = 100,
    cache_settings: CacheSettings | None = None,
    **parts: Any,
) -> Bench:
    """A gate before these upstreams, all of them candidates of the route `smart`, in order."""
    clock, book = HandClock(), Book(left_nanos)
    backends = backends or {name: backend(name) for name in upstreams}
    plan = plan or Plan(route="smart", candidates=tuple(candidate(name) for name in upstreams))
    route = route or RouteSettings(
        name="smart",
        candidates=tuple(CandidateSettings(target=Target(name, "m")) for name in upstreams),
        retry=RetrySettings(budget_floor=100.0),
    )
    settings = GatewaySettings(
        backends=backends, routes={"smart": route}, max_in_flight=max_in_flight, cache=cache_settings or CacheSettings()
    )
    gate = Gate(
        Parts(
            settings=settings,
            planner=Plans(plan),
            accounts=book,
            upstreams=upstreams,
            sightings=book,
            standings=StandingBook(backends, clock),
            admission=Admission(max_in_flight, backends, clock),
            tariffs=Tariffs(backends),
            random=Random(7),
            clock=clock,
            sleep=sleep,
            **parts,
        )
    )
    return Bench(gate, book, clock, upstreams)
