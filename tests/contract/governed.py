"""A whole server whose models are behind a gate: the real server, gate, planner and client of backends, and one backend
on loopback that a test scripts. `Book` stands for the accounts: it sees that every request is settled once.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.contract.provider import Provider
from tests.doubles_gateway import PRICES, Book
from tests.doubles_http import make_app
from tests.loopback import listening
from tests.scripted import Scripted
from tests.scripted_services import scripted_services
from tests.upstreams import Upstream, upstream

from headrace.api.outbound.registry import CODECS
from headrace.core.clock import SystemClock
from headrace.core.request import Task
from headrace.core.shape import Need
from headrace.gateway.admission import Admission
from headrace.gateway.charging import Tariffs
from headrace.gateway.gate import Gate
from headrace.gateway.parts import Parts
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import (
    ENGINE,
    BackendSettings,
    CandidateSettings,
    GatewaySettings,
    ModelSettings,
    RetrySettings,
    RouteSettings,
    Target,
)
from headrace.gateway.standing import StandingBook
from headrace.gateway.upstreams.engine import Engine
from headrace.gateway.upstreams.remote import Remote
from headrace.server.config import ServerConfig

SECRET = "sk-upstream-secret"
MODEL = "m"
ROUTE = "scripted"

# Where a protocol's own path begins.
_ROOTS = {"chat": "/v1", "responses": "/v1", "messages": "", "gemini": "/v1beta"}


@dataclass(slots=True)
class Governed:
    """A running server; `up` is None where the engine's double answers."""

    url: str
    book: Book
    up: Upstream | None

    @property
    def is_quiet(self) -> bool:
        """Whether every request was settled, and no load is left."""
        return all(one.is_settled for one in self.book.reserved)


@contextlib.asynccontextmanager
async def governed(provider: Provider | None, engine: Scripted | None = None) -> AsyncIterator[Governed]:
    """A server before one backend: a provider's, or the engine's double."""
    async with contextlib.AsyncExitStack() as stack:
        up = await stack.enter_async_context(upstream()) if provider is not None else None
        book, clock = Book(), SystemClock()
        target = Target("up", MODEL) if provider is not None else Target(ENGINE, ROUTE)
        settings = GatewaySettings(backends=_backends(provider, up), routes={ROUTE: _route(target)})
        sightings = RouteSightings(clock)
        served = (lambda: ()) if engine is None else engine.models
        upstreams: dict[str, Any] = {}
        if provider is not None:
            remote = Remote(settings.backends["up"], CODECS[provider.name], secret=SECRET)
            stack.push_async_callback(remote.close)
            upstreams["up"] = remote
        if engine is not None:
            upstreams[ENGINE] = Engine(engine)
        gate = Gate(
            Parts(
                settings=settings,
                planner=RoutePlanner(settings, sightings, World(clock=clock, rng=Random(7), served=served)),
                accounts=book,
                upstreams=upstreams,
                sightings=sightings,
                standings=StandingBook(settings.backends, clock),
                admission=Admission(100, settings.backends, clock),
                tariffs=Tariffs(settings.backends),
                random=Random(7),
                engine=engine,
            )
        )
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        services = await stack.enter_async_context(scripted_services(gate, Path(folder)))  # type: ignore[arg-type]
        given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services) if one.name != "keys"}
        app = make_app(gate, ServerConfig(port=0), **given)
        _, port = await stack.enter_async_context(listening(app))
        yield Governed(f"http://127.0.0.1:{port}", book, up)
        assert sightings.num_in_flight == 0


def _backends(provider: Provider | None, up: Upstream | None) -> dict[str, BackendSettings]:
    if provider is None or up is None:
        return {}
    model = ModelSettings(
        prices=PRICES, can=frozenset(Need) - {Need.VISION, Need.AUDIO}, tasks=frozenset({Task.GENERATE, Task.COUNT})
    )
    return {
        "up": BackendSettings(
            name="up",
            kind="openai-compatible",
            dialect=provider.dialect,
            url=up.url + _ROOTS[provider.name],
            models={MODEL: model},
        )
    }


def _route(target: Target) -> RouteSettings:
    return RouteSettings(
        name=ROUTE, candidates=(CandidateSettings(target=target),), retry=RetrySettings(max_attempts=1)
    )
