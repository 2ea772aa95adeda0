"""Joins the gateway: settings and secrets -> planner, accounts, upstreams, standings -> a gate; and joins it anew.

What was learned stays over a reload: what is spent and reserved, loads and times, breakers of backends whose settings
are what they were. A backend that has gone is closed when the last request that began with it has ended. Knows every
constructor and decides nothing.
"""

import asyncio
import os
import ssl
import weakref
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from headrace.cli.secret_text import SecretText
from headrace.core.backend import Backend
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import InvalidRequest
from headrace.core.explanation import Explanation, Question
from headrace.core.ledger import PriceList
from headrace.core.request import Task
from headrace.gateway.accounts.accounts import Accounts, Rhythm
from headrace.gateway.accounts.accounts import Surroundings as AccountsGround
from headrace.gateway.admission import Admission
from headrace.gateway.answer_cache.cache import GatewayAnswerCache
from headrace.gateway.answer_cache.store import AnswerStore
from headrace.gateway.backend_states import backend_states
from headrace.gateway.charging import Tariffs
from headrace.gateway.checks import HealthChecks
from headrace.gateway.contract import Overseer, Upstream
from headrace.gateway.gate import Gate
from headrace.gateway.operations import GateOperations
from headrace.gateway.parts import Parts
from headrace.gateway.paths import PathBook
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.pricing import prices_of
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import (
    ENGINE,
    BackendSettings,
    CacheSettings,
    GatewaySettings,
    ModelSettings,
    Secret,
    Target,
)
from headrace.gateway.standing import StandingBook
from headrace.gateway.upstreams.catalog import open_remote
from headrace.gateway.upstreams.engine import Engine
from headrace.memory.boot import boot_id
from headrace.memory.store import Store
from headrace.observe.gateway_metrics import BackendState, GatewayMetrics

if TYPE_CHECKING:
    from headrace.gateway.upstreams.pool import Security
    from headrace.gateway.workloads.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a gateway is to be: settings, the prices of models that have none of their own, and secrets by place."""

    settings: GatewaySettings
    prices: PriceList
    secrets: Mapping[Secret, SecretText]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a gateway stands on: the store, a folder for its journal, this process's engine, if it has one, and where
    its metrics are told. `overseers` judge and record what passes. `workload` gives this program its SVIDs."""

    store: Store
    folder: Path
    engine: Backend | None
    registry: CollectorRegistry | None = None
    overseers: tuple[Overseer, ...] = ()
    workload: "Source | None" = None


class JoinedGateway:
    """A gate, and how it is joined anew. `gate` stays the same object for as long as the server runs."""

    def __init__(self, wanted: Wanted, ground: Ground) -> None:
        self._ground = ground
        self._clock = SystemClock()
        # Choices between equals, not secrets.
        self._random = Random()  # noqa: S311
        self._tls: ssl.SSLContext | None = None
        self.sightings = RouteSightings(self._clock)
        self.standings = StandingBook(wanted.settings.backends, self._clock)
        self.admission = Admission(wanted.settings.max_in_flight, wanted.settings.backends, self._clock)
        around = AccountsGround(ground.store, ground.folder, self._clock, boot_id(), os.write)
        rhythm = Rhythm(usage_days=wanted.settings.usage_days)
        self.accounts = Accounts(around, wanted.settings.budgets, wanted.settings.limits, rhythm)
        self._wanted = wanted
        kept = wanted.settings
        self.paths = PathBook(kept.kept_requests, kept.slow_request_s, lambda: self._wanted.settings)
        self._upstreams: dict[str, Upstream] = {}
        self._upstreams = self._open_upstreams(wanted)
        self._retired = Retired()
        self.answers = open_answers(wanted.settings.cache, self._clock, ground.engine)
        self.metrics = GatewayMetrics(ground.registry, self._states, self._count_answers)
        self.gate = Gate(self._join(wanted))
        self._retired.watch(self.gate.parts)
        self.operations = GateOperations(self.gate, self.sightings, self._clock)
        self._checks = HealthChecks(self.standings)

    async def open(self) -> None:
        """Take in what an earlier process left, and begin. Raises Unavailable."""
        await self.accounts.open()
        await self._checks.replace(self._wanted.settings.backends, self._upstreams)

    async def replace(self, wanted: Wanted) -> None:
        """Go on as other settings say; running requests end as they began. Raises HeadraceError, and then nothing has
        changed."""
        upstreams = self._open_upstreams(wanted)
        settings = wanted.settings
        is_same = settings.cache == self._wanted.settings.cache
        answers = self.answers if is_same else open_answers(settings.cache, self._clock, self._ground.engine)
        await self.accounts.configure(settings.budgets, settings.limits)
        self.answers = answers
        before, self._wanted, self._upstreams = self._upstreams, wanted, upstreams
        self.standings.replace(settings.backends)
        self.admission.replace(settings.max_in_flight, settings.backends)
        self.paths.configure(settings.kept_requests, settings.slow_request_s)
        self.gate.replace(self._join(wanted))
        kept = set(map(id, upstreams.values()))
        self._retired.watch(self.gate.parts)
        self._retired.add(one for one in before.values() if id(one) not in kept)
        await self._checks.replace(settings.backends, upstreams)

    def explain(self, question: Question) -> Explanation:
        """See `core.explanation.Explaining`."""
        return self._planner.explain(question)

    async def close(self) -> None:
        """End, after the last request: backends' connections, then the accounts."""
        try:
            await self._checks.close()
            await self.gate.close()
            await self._retired.close()
            for upstream in self._upstreams.values():
                await upstream.close()
        finally:
            await self.accounts.close()

    def _join(self, wanted: Wanted) -> Parts:
        engine, settings = self._ground.engine, wanted.settings
        world = World(
            clock=self._clock,
            rng=self._random,
            served=tuple if engine is None else engine.models,
            standings=self.standings,
            prices=wanted.prices,
        )
        self._planner = RoutePlanner(settings, self.sightings, world)
        return Parts(
            settings=settings,
            planner=self._planner,
            accounts=self.accounts,
            upstreams=self._upstreams,
            sightings=self.sightings,
            standings=self.standings,
            admission=self.admission,
            tariffs=Tariffs(priced(settings, wanted.prices)),
            random=self._random,
            clock=self._clock,
            cache=self.answers,
            engine=engine,
            on_record=self.metrics.add,
            overseers=self._ground.overseers,
            paths=self.paths if self.paths.is_on else None,
        )

    def keep_answers_of(self, tenants: Collection[str]) -> None:
        """Drop kept answers of tenants that are no more."""
        if self.answers is not None:
            self.answers.keep_only(tenants)

    def _states(self) -> Iterable[BackendState]:
        return backend_states(self._wanted.settings.backends, self.standings, self.admission)

    def _count_answers(self) -> tuple[int, int]:
        return (0, 0) if self.answers is None else (len(self.answers.store), self.answers.store.num_bytes)

    def _open_upstreams(self, wanted: Wanted) -> dict[str, Upstream]:
        """Those whose settings and secrets are what they were stay, with their connections."""
        engine = self._ground.engine
        opened: dict[str, Upstream] = {} if engine is None else {ENGINE: Engine(engine)}
        for name, settings in wanted.settings.backends.items():
            if name != ENGINE:
                opened[name] = self._kept(name, settings, wanted) or self._open(settings, wanted)
        return opened

    def _kept(self, name: str, settings: BackendSettings, wanted: Wanted) -> Upstream | None:
        before = self._wanted.settings.backends.get(name)
        is_same = before == settings and _secret_of(settings, self._wanted) == _secret_of(settings, wanted)
        # What its files hold now may be newer.
        is_same = is_same and settings.ca_file is None and settings.client_certificate is None
        return self._upstreams.get(name) if is_same else None

    def _open(self, settings: BackendSettings, wanted: Wanted) -> Upstream:
        secret = _secret_of(settings, wanted)
        workload = self._ground.workload
        bearer = None if workload is None or not settings.audience else partial(workload.token, settings.audience)
        text = None if secret is None else secret.reveal()
        return open_remote(settings, secret=text, tls=self._security(settings), bearer=bearer)

    def _security(self, settings: BackendSettings) -> "ssl.SSLContext | Security | None":
        """How a backend's connections are secured."""
        if not settings.url.startswith("https:"):
            return None
        if settings.has_own_tls:
            # Imported here because it takes a moment, and most backends are secured as everybody's are.
            from headrace.gateway.upstreams.security import BackendSecurity
            from headrace.gateway.workloads.source import NoSource

            return BackendSecurity(settings, self._ground.workload or NoSource(), self._clock)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


class Retired:
    """Backends that no new request goes to: each is closed when no parts that hold it are held by any request."""

    def __init__(self) -> None:
        self._holders: dict[int, frozenset[int]] = {}
        self._waiting: dict[int, Upstream] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, parts: Parts) -> None:
        """Know when nobody holds these any more."""
        number = id(parts)
        self._holders[number] = frozenset(map(id, parts.upstreams.values()))
        weakref.finalize(parts, self._let_go, number).atexit = False

    def add(self, upstreams: Iterable[Upstream]) -> None:
        """Close these when they are not needed any more."""
        self._loop = asyncio.get_running_loop()
        self._waiting |= {id(one): one for one in upstreams}
        self._look()

    async def close(self) -> None:
        """Close all that are left."""
        self._holders.clear()
        self._look()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _let_go(self, number: int) -> None:
        self._holders.pop(number, None)
        if self._waiting and self._loop is not None:
            self._loop.call_soon_threadsafe(self._look)  # a collector may run anywhere

    def _look(self) -> None:
        held = frozenset().union(*self._holders.values())
        for key in self._waiting.keys() - held:
            task = asyncio.get_running_loop().create_task(self._waiting.pop(key).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def priced(settings: GatewaySettings, prices: PriceList) -> dict[str, BackendSettings]:
    """Backends with the prices that hold for their models: their own, else the list's. Of the engine and of backends
    that take any model, those that the list names."""
    found = {}
    for name, backend in {ENGINE: _PLAIN_ENGINE, **settings.backends}.items():
        models = dict(backend.models)
        if name == ENGINE or backend.is_open:
            listed = (one.removeprefix(f"{name}/") for one in prices.models)
            models = {model: ModelSettings() for model in listed} | models
        for model, about in models.items():
            models[model] = replace(about, prices=prices_of(settings, prices, Target(name, model)))
        found[name] = replace(backend, models=models)
    return found


_PLAIN_ENGINE = BackendSettings(name=ENGINE, kind="engine")


def open_answers(settings: CacheSettings, clock: Clock, engine: Backend | None) -> GatewayAnswerCache | None:
    """The cache of answers, if there is to be one. Raises InvalidRequest if nothing is there to compare questions."""
    if not settings.is_on:
        return None
    likeness = None
    if settings.semantic_threshold is not None:
        from headrace.gateway.answer_cache.semantic import EncoderLikeness

        cards = () if engine is None else engine.models()
        names = {name for card in cards if Task.EMBED in card.tasks for name in (card.id, *card.aliases)}
        if engine is None or settings.semantic_model not in names:
            raise InvalidRequest(
                f"answer_cache.semantic_model: {settings.semantic_model!r} is to embed questions in this process, and "
                "no model of that name is served that embeds; add one to guests, or take semantic_threshold out.",
                param="answer_cache.semantic_model",
            )
        likeness = EncoderLikeness(engine, settings.semantic_model, settings.semantic_threshold)
    store = AnswerStore(max_bytes=settings.max_bytes, ttl_s=settings.ttl_s)
    return GatewayAnswerCache(store, clock, likeness)


def _secret_of(backend: BackendSettings, wanted: Wanted) -> SecretText | None:
    return None if backend.secret is None else wanted.secrets[backend.secret]


@asynccontextmanager
async def open_gateway(wanted: Wanted, ground: Ground) -> AsyncIterator[JoinedGateway]:
    """A gateway for as long as the block runs. Raises HeadraceError if what it stands on cannot be used."""
    joined = JoinedGateway(wanted, ground)
    await joined.open()
    try:
        yield joined
    finally:
        await joined.close()
