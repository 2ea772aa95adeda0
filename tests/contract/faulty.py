"""A whole server before two scripted backends, for tests of what goes wrong: the real server, gate, planner, breakers
and client of backends, each backend of loopback failing as a test says. `Book` stands for the accounts.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.doubles_gateway import PRICES, Book, HandClock, no_sleep
from tests.doubles_http import make_app
from tests.loopback import listening
from tests.upstreams import Upstream, upstream

from headrace.api.outbound.registry import CODECS
from headrace.gateway.admission import Admission
from headrace.gateway.charging import Tariffs
from headrace.gateway.gate import Gate
from headrace.gateway.operations import GateOperations
from headrace.gateway.parts import Parts
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import (
    BackendSettings,
    CandidateSettings,
    Dialect,
    GatewaySettings,
    ModelSettings,
    Policy,
    RetrySettings,
    RouteSettings,
    Target,
    Timeouts,
)
from headrace.gateway.standing import StandingBook
from headrace.gateway.upstreams.remote import Remote
from headrace.server.config import ServerConfig

SECRET = "sk-very-secret"


@dataclass(slots=True)
class Faulty:
    """A running server. `up` is asked first under the name `smart`, `spare` only if that fails; `alone` leads to `up`
    and to nobody else."""

    port: int
    book: Book
    clock: HandClock
    gate: Gate
    sightings: RouteSightings
    up: Upstream
    spare: Upstream

    async def send(self, path: str, body: dict[str, Any], method: str = "POST") -> "Got":
        """Send a request on a connection of its own and read all of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(wire(path, body, method))
            return parse(await reader.read())
        finally:
            writer.close()

    def num_failed(self, backend: str = "up") -> int:
        """Failures that its breaker has counted."""
        breaker = self.gate.parts.standings.breakers(backend).get("m")
        return 0 if breaker is None else breaker.num_failed

    def word(self, backend: str = "up") -> str:
        """How its breaker stands."""
        breaker = self.gate.parts.standings.breakers(backend).get("m")
        return "closed" if breaker is None else breaker.word(self.clock.now_s)


@dataclass(frozen=True, slots=True)
class Got:
    """An answer as a client has it. `is_cut`: its connection broke before its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_cut: bool

    @property
    def error(self) -> dict[str, Any]:
        """The error of the body, or the one that ends its stream, in whichever protocol."""
        if self.status != 200:
            found = json.loads(self.body)["error"]
        else:
            frames = [line[6:] for line in self.body.splitlines() if line.startswith(b"data: {")]
            found = next(json.loads(frame)["error"] for frame in frames if b'"error"' in frame)
        assert isinstance(found, dict)
        return found


def wire(path: str, body: dict[str, Any], method: str = "POST") -> bytes:
    """A request for a connection that closes behind it."""
    data = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data


def parse(data: bytes) -> Got:
    """A whole answer, its chunks joined."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    is_cut = False
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, has_size, rest = rest.partition(b"\r\n")
            if not has_size or int(size, 16) == 0:
                is_cut = not has_size
                break
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    else:
        body = rest
    return Got(int(lines[0].split(" ")[1]), headers, body, is_cut)


@contextlib.asynccontextmanager
async def faulty(timeouts: Timeouts | None = None, **route: Any) -> AsyncIterator[Faulty]:
    """The server for as long as the block runs; `route` are fields of the route `smart`."""
    async with contextlib.AsyncExitStack() as stack:
        ups = {name: await stack.enter_async_context(upstream()) for name in ("up", "spare")}
        backends = {name: _backend(name, up.url, timeouts or Timeouts()) for name, up in ups.items()}
        clock, book = HandClock(), Book()
        settings = GatewaySettings(backends=backends, routes={"smart": _smart(**route), "alone": _alone()})
        remotes = {name: Remote(one, CODECS["chat"], secret=SECRET) for name, one in backends.items()}
        for remote in remotes.values():
            stack.push_async_callback(remote.close)
        sightings, standings = RouteSightings(clock), StandingBook(backends, clock)
        world = World(clock=clock, rng=Random(7), standings=standings)
        gate = Gate(
            Parts(
                settings=settings,
                planner=RoutePlanner(settings, sightings, world),
                accounts=book,
                upstreams=remotes,
                sightings=sightings,
                standings=standings,
                admission=Admission(100, backends, clock),
                tariffs=Tariffs(backends),
                random=Random(7),
                clock=clock,
                sleep=no_sleep,
            )
        )
        stack.push_async_callback(gate.close)
        app = make_app(gate, ServerConfig(port=0), operations=GateOperations(gate, sightings, clock))
        _, port = await stack.enter_async_context(listening(app))
        yield Faulty(port, book, clock, gate, sightings, ups["up"], ups["spare"])
        assert sightings.num_in_flight == 0
        assert book.is_even or not book.begun
        assert gate.parts.admission.num_in_flight == 0


def _backend(name: str, url: str, timeouts: Timeouts) -> BackendSettings:
    models = {"m": ModelSettings(prices=PRICES, max_output_tokens=100)}
    return BackendSettings(
        name=name,
        kind="openai-compatible",
        dialect=Dialect.CHAT,
        url=f"{url}/v1",
        models=models,
        timeouts=timeouts,
    )


def _smart(**about: Any) -> RouteSettings:
    fields: dict[str, Any] = {
        "name": "smart",
        "candidates": tuple(CandidateSettings(target=Target(name, "m")) for name in ("up", "spare")),
        "policies": (Policy.ORDERED,),
        "retry": RetrySettings(max_attempts=2, budget_floor=100.0),
    }
    return RouteSettings(**(fields | about))


def _alone() -> RouteSettings:
    return RouteSettings(
        name="alone",
        candidates=(CandidateSettings(target=Target("up", "m")),),
        retry=RetrySettings(max_attempts=1),
    )
