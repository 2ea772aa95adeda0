"""Requests through a gate under any interleaving: answers, errors, waits, cancels and closes at any await point.

Whatever happens, each reservation is settled exactly once (the double fails otherwise), each attempt's load is released
once, every stream of a backend is closed, every place in a line is free, and no task is left. Who oversees requests
sees the end of every request whose beginning it saw, once, every record is sealed, and who is refused is never asked.
The way that each request took is remembered once, with every attempt that was made and no other.
All of them are traced: a span for each passage and for each attempt, once.
"""

import asyncio
import itertools
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import ManualClock
from tests.doubles_gateway import (
    ANSWER,
    USAGE,
    Bench,
    ScriptedUpstream,
    Shelf,
    Step,
    Wait,
    ask,
    backend,
    bench,
    candidate,
    shape,
)
from tests.doubles_oversight import ScriptedOverseer, ScriptedOversight

from headrace.core.errors import (
    Forbidden,
    HeadraceError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    UnsupportedField,
    UpstreamFault,
)
from headrace.core.events import Event, Finished
from headrace.core.gateway import EventReply, RawStream
from headrace.core.paths import PathQuery
from headrace.core.tracing import TRACE, Span
from headrace.gateway.contract import Plan, UpstreamReply
from headrace.gateway.paths import PathBook
from headrace.gateway.settings import (
    CandidateSettings,
    Escalation,
    GatewaySettings,
    Policy,
    RetrySettings,
    RouteSettings,
    Target,
)
from headrace.observe.traces import Tracing

NAMES = ("a", "b", "c")
WHOLE = UpstreamReply(status=200, headers=(), body=b"{}", usage=USAGE)
ERRORS = (
    UpstreamFault("broken"),
    RateLimited("slower", retry_after_s=0.01),
    RateLimited("much slower", retry_after_s=100.0),
    InvalidRequest("no"),
    UnsupportedField("no such field"),
    Overloaded("full"),
)


@dataclass(frozen=True)
class Client:
    """What one caller does: asks after so many turns of the loop, reads so many pieces, then closes; `cancel_after`
    turns it is cancelled."""

    is_raw: bool
    is_stream: bool
    priority: int
    starts_after: int
    num_reads: int
    cancel_after: int | None
    deadline_s: float | None


clients = st.builds(
    Client,
    is_raw=st.booleans(),
    is_stream=st.booleans(),
    priority=st.integers(0, 2),
    starts_after=st.integers(0, 6),
    num_reads=st.sampled_from([0, 1, 2, 100]),
    cancel_after=st.none() | st.integers(0, 20),
    deadline_s=st.sampled_from([None, None, 1e-9, 1000.0]),
)


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """An answer that may wait, fail or stop at any place."""
    steps: list[Step] = list(ANSWER) if draw(st.booleans()) else [b"one", b"two", b"three"]
    if draw(st.booleans()):
        steps = [WHOLE, *steps]
    if draw(st.booleans()):
        steps.insert(draw(st.integers(0, len(steps))), draw(st.sampled_from(ERRORS)))
    for _ in range(draw(st.integers(0, 2))):
        steps.insert(draw(st.integers(0, len(steps))), Wait())
    return steps


@st.composite
def overseers(draw: st.DrawFn) -> ScriptedOverseer:
    """One who may refuse a request, a backend, an event or bytes, say more or less than it heard, or be broken."""
    refuses_at, does = draw(st.integers(0, 12)), draw(st.sampled_from(["pass", "refuse", "break", "double", "hold"]))
    num_heard = 0

    def act(one: ScriptedOversight, event: Event) -> tuple[Event, ...]:
        nonlocal num_heard
        num_heard += 1
        if does == "hold":
            return tuple(one.heard) if isinstance(event, Finished) else ()
        if num_heard <= refuses_at or does == "pass":
            return (event,)
        if does == "double" and not isinstance(event, Finished):
            return (event, event)
        if does == "break":
            raise KeyError("a defect")
        raise Forbidden("no more of this")

    def add(one: ScriptedOversight, piece: bytes) -> None:
        act(one, ANSWER[0])

    return ScriptedOverseer(
        reads_answers=draw(st.booleans()),
        errors=draw(st.lists(st.sampled_from([None, None, Forbidden("no")]), max_size=4)),
        refuses=frozenset(draw(st.sets(st.sampled_from(NAMES), max_size=2))),
        on_hear=act,
        on_add=add,
    )


async def client(at: Bench, number: int, does: Client, tracer: Tracing) -> None:
    TRACE.set(tracer.begin(None))
    for _ in range(does.starts_after):
        await asyncio.sleep(0)
    of = shape(str(number), priority=does.priority, is_stream=does.is_stream, deadline_s=does.deadline_s)
    try:
        reply = await at.gate.ask(ask(of) if does.is_raw else ask(of, raw=None))
        stream = (
            reply.events if isinstance(reply, EventReply) else reply.chunks if isinstance(reply, RawStream) else None
        )
        if stream is None:
            return
        try:
            for _ in range(does.num_reads):
                await anext(stream)
        except StopAsyncIteration:
            pass
        finally:
            await stream.aclose()
    except HeadraceError:
        pass


async def play(at: Bench, plays: list[Client], waits: list[Wait], wait_order: list[int], tracer: Tracing) -> None:
    tasks = [asyncio.create_task(client(at, number, does, tracer)) for number, does in enumerate(plays)]
    for turn in range(40):
        await asyncio.sleep(0)
        for task, does in zip(tasks, plays, strict=True):
            if does.cancel_after == turn:
                task.cancel()
        if turn < len(wait_order) and waits:
            waits[wait_order[turn] % len(waits)].go.set()
    for wait in waits:
        wait.go.set()
    for _ in range(300):
        await asyncio.sleep(0)
    assert all(task.done() for task in tasks), "somebody waits for ever"
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert ended is None or isinstance(ended, asyncio.CancelledError), ended


def check_paths(at: Bench, paths: PathBook) -> None:
    """Every request that ended is told once, and its attempts are those that were made and charged."""
    told = [paths.find(one.record.request_id) for one in paths.page(PathQuery(limit=500)).briefs]
    assert len({one.brief.record.request_id for one in told}) == len(told)
    settled = {one.request_id: one for one in at.book.records}
    num_begun = 0
    for path in told:
        record = path.brief.record
        assert settled.pop(record.request_id, record) is record
        begun = [one for one in path.steps if one.was_asked or one.outcome == UnsupportedField.code]
        assert len(begun) == record.num_attempts
        num_begun += len(begun)
        if not record.cache:
            assert sum(one.cost_nanos for one in path.steps) == record.cost_nanos
        if record.outcome == "ok" and begun:
            assert any(one.outcome == "ok" for one in begun)
    assert not settled
    assert num_begun == len(at.book.begun)


def tracing(spans: list[Span]) -> Tracing:
    numbers = itertools.count(1)
    return Tracing(
        spans.append, sample_ratio=1.0, captures_content=False, clock=ManualClock(), draw=lambda _: next(numbers)
    )


def check_spans(spans: list[Span], num_attempts: int) -> None:
    """Each passage is told once, each attempt once, below its own passage and no later than that."""
    ids = [span.context.span_id for span in spans]
    assert len(set(ids)) == len(ids)
    passages = {span.context.span_id: span for span in spans if span.name.startswith("gateway")}
    attempts = [span for span in spans if span.context.span_id not in passages]
    own = [span for span in passages.values() if "shadow" not in span.name]  # a copy is in its original's trace
    assert len({span.context.trace_id for span in own}) == len(own)
    assert len(attempts) == num_attempts
    for attempt in attempts:
        assert attempt.parent_id in passages
        assert attempt.context.trace_id == passages[attempt.parent_id].context.trace_id


@settings(max_examples=600, deadline=None)
@given(
    played=st.lists(st.lists(scripts(), min_size=1, max_size=3), min_size=3, max_size=3),
    plays=st.lists(clients, min_size=1, max_size=4),
    wait_order=st.lists(st.integers(0, 20), max_size=30),
    max_concurrency=st.sampled_from([None, 1, 2]),
    max_in_flight=st.sampled_from([2, 100]),
    way=st.sampled_from(["plain", "hedged", "tiered", "kept", "shadowed"]),
    has_fallback=st.booleans(),
    max_queue=st.sampled_from([0, 1, 100]),
    chain=st.just([]) | st.lists(overseers(), min_size=1, max_size=3),
)
def test_every_request_is_settled_once_and_nothing_is_left(  # noqa: PLR0917
    played: list[list[list[Step]]],
    plays: list[Client],
    wait_order: list[int],
    max_concurrency: int | None,
    max_in_flight: int,
    way: str,
    has_fallback: bool,
    max_queue: int,
    chain: list[ScriptedOverseer],
) -> None:
    if chain:
        chain[-1].gives_receipts = True  # the recorder is the last
    waits = [step for each in played for script in each for step in script if isinstance(step, Wait)]
    upstreams = {name: ScriptedUpstream(*each) for name, each in zip(NAMES, played, strict=True)}
    backends = {name: backend(name, max_concurrency=max_concurrency) for name in NAMES}
    candidates = tuple(
        candidate(name, is_fallback=has_fallback and name == "c", tier=tier if way == "tiered" else 0)
        for tier, name in enumerate(NAMES)
    )
    route = RouteSettings(
        name="smart",
        candidates=tuple(CandidateSettings(target=Target(name, "m")) for name in NAMES),
        policies=(Policy.COMPLEXITY,) if way == "tiered" else (Policy.ORDERED,),
        escalation=Escalation(verifiers=("json",) if way == "tiered" else ()),
        retry=RetrySettings(budget_floor=1.0),
        max_queue=max_queue,
    )
    paths = PathBook(1000, 10.0, GatewaySettings)
    at = bench(
        upstreams,
        paths=paths,
        plan=Plan(
            route="smart",
            candidates=candidates,
            hedge_after_s=0.01 if way == "hedged" else None,
            shadow=candidate("c") if way == "shadowed" else None,
        ),
        route=route,
        backends=backends,
        max_in_flight=max_in_flight,
        cache=Shelf() if way == "kept" else None,
        overseers=tuple(chain),
    )

    spans: list[Span] = []

    async def go() -> None:
        await play(at, plays, waits, wait_order, tracing(spans))
        await at.gate.close()
        assert at.leftovers == []
        check_spans(spans, sum(record.num_attempts for record in at.book.records))
        for record, reserved in zip(
            sorted(at.book.records, key=lambda one: one.request_id),
            sorted(at.book.reserved, key=lambda one: one.shape.id),
            strict=True,
        ):
            assert record.cost_nanos <= reserved.bound.nanos
            assert record.prompt_tokens + record.completion_tokens <= reserved.bound.tokens
        check_paths(at, paths)
        for overseer in chain:
            assert [len(one.records) for one in overseer.begun] == [1] * len(overseer.begun)
            assert all(receipt.seals for receipt in overseer.receipts)
            for name in overseer.refuses:
                assert not upstreams[name].requests, "a target that is refused is asked in no way"
                assert not upstreams[name].relayed

    asyncio.run(go())
