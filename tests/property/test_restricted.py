"""Over random settings, policies, failures, hedges, shadows and tiers up: no backend is ever sent what it may not see.

The whole gate with the real planner, many requests at once; each backend looks at whose request reached it, and asks
the oracle of `test_clearance.py`, which reads the settings alone.
"""

import asyncio
import random
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given, settings
from tests.doubles_gateway import ANSWER, USAGE, Book, HandClock, ScriptedUpstream, Step, no_sleep
from tests.doubles_routing import card
from tests.property.test_clearance import NAMES, may_see, shapes, worlds

from headrace.core.errors import HeadraceError, RateLimited, UpstreamFault
from headrace.core.gateway import Ask, EventReply, RawBody, RawStream
from headrace.core.request import Message, Request, Role, TextPart
from headrace.core.shape import Shape
from headrace.gateway.admission import Admission
from headrace.gateway.charging import Tariffs
from headrace.gateway.contract import UpstreamReply
from headrace.gateway.gate import Gate
from headrace.gateway.parts import Parts
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import Escalation, GatewaySettings, RouteSettings, Target
from headrace.gateway.standing import StandingBook

SCRIPTS: tuple[tuple[Step, ...], ...] = (
    ANSWER,
    (b"data: a\n\n", b"data: b\n\n"),
    (UpstreamReply(status=200, headers=(), body=b"{}", usage=USAGE),),
    (UpstreamFault("broken"),),
    (RateLimited("slower", retry_after_s=0.01),),
    (*ANSWER[:2], UpstreamFault("died")),
)


class Watched(ScriptedUpstream):
    """Notes whose requests it was sent; `asked` are all that there are, by id."""

    def __init__(self, name: str, world: GatewaySettings, asked: dict[str, Shape], *scripts: tuple[Step, ...]) -> None:
        super().__init__(*scripts)
        self.target = Target(name, "m")
        self.world = world
        self.asked = asked
        self.leaks: list[str] = []
        self.num_seen = 0

    def look(self, request_id: str) -> None:
        self.num_seen += 1
        if not may_see(self.world, self.asked[request_id.partition(".")[0]], self.target):
            self.leaks.append(request_id)

    async def run(self, request: Request):  # type: ignore[no-untyped-def]
        self.look(request.id)
        async for event in super().run(request):
            yield event

    async def relay(self, raw: RawBody, target: Target, *, max_tokens: int | None):  # type: ignore[no-untyped-def]
        self.look(raw.fields["id"].decode())
        return await super().relay(raw, target, max_tokens=max_tokens)


def with_risks(route: RouteSettings, hedges: bool, verifiers: tuple[str, ...]) -> RouteSettings:
    """What sends a request to more than one backend."""
    escalation = Escalation(max_difficulty=(0.1, 0.5), verifiers=verifiers)
    return replace(route, hedge_after_s=0.0 if hedges else None, escalation=escalation)


def gate_of(world: GatewaySettings, upstreams: dict[str, Watched], seed: int) -> Gate:
    clock, chance = HandClock(), random.Random(seed)
    standings = StandingBook(world.backends, clock)
    sightings = RouteSightings(clock)
    around = World(clock=clock, rng=chance, served=lambda: [card("m")], standings=standings)
    return Gate(
        Parts(
            settings=world,
            planner=RoutePlanner(world, sightings, around),
            accounts=Book(),
            upstreams=upstreams,
            sightings=sightings,
            standings=standings,
            admission=Admission(100, world.backends, clock),
            tariffs=Tariffs(world.backends),
            random=chance,
            clock=clock,
            sleep=no_sleep,
        )
    )


async def ask_for(gate: Gate, of: Shape, is_raw: bool, num_reads: int) -> None:
    fields = {"model": b'"x"', "id": of.id.encode()}
    raw = RawBody(dialect="chat", path="/v1/chat/completions", fields=fields) if is_raw else None
    messages = (Message(Role.USER, (TextPart("hi"),)),)
    request = Request(id=of.id, model=of.model, messages=messages, labels=of.labels, principal=of.principal)
    try:
        reply = await gate.ask(Ask(shape=of, decode=lambda: request, raw=raw))
        if isinstance(reply, EventReply | RawStream):
            stream = reply.events if isinstance(reply, EventReply) else reply.chunks
            try:
                for _ in range(num_reads):
                    await anext(stream, None)
            finally:
                await stream.aclose()
    except HeadraceError:
        pass


@settings(max_examples=120, deadline=None)
@given(
    worlds(),
    st.lists(st.tuples(shapes, st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=8),
    st.fixed_dictionaries({name: st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=3) for name in NAMES}),
    st.booleans(),
    st.sampled_from([(), ("json",), ("finished",)]),
    st.integers(0, 2**32),
)
def test_no_backend_is_sent_what_it_may_not_see(
    world: GatewaySettings,
    asks: list[tuple[Shape, bool, bool, int]],
    scripts: dict[str, list[tuple[Step, ...]]],
    hedges: bool,
    verifiers: tuple[str, ...],
    seed: int,
) -> None:
    world = replace(world, routes={name: with_risks(one, hedges, verifiers) for name, one in world.routes.items()})
    asked: dict[str, Shape] = {}
    upstreams = {name: Watched(name, world, asked, *played) for name, played in scripts.items()}
    upstreams["local"] = Watched("local", world, asked, ANSWER)

    async def main() -> None:
        gate = gate_of(world, upstreams, seed)
        for place, (one, _, is_stream, _) in enumerate(asks):
            asked[f"q{place}"] = replace(one, id=f"q{place}", is_stream=is_stream)
        flags = [(is_raw, num_reads) for _, is_raw, _, num_reads in asks]
        waits = zip(asked.values(), flags, strict=True)
        async with asyncio.timeout(20):
            await asyncio.gather(*(ask_for(gate, of, is_raw, num_reads) for of, (is_raw, num_reads) in waits))
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)  # shadows

    asyncio.run(main())
    assert {name: one.leaks for name, one in upstreams.items() if one.leaks} == {}
