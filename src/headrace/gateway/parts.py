"""Everything that a gate is joined of, as one value, so that a reload puts another in its place at once.

A request keeps the parts that it began with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from headrace.core.backend import Backend
from headrace.core.clock import Clock, SystemClock
from headrace.core.usage import UsageRecord
from headrace.gateway.admission import Admission
from headrace.gateway.charging import Tariffs
from headrace.gateway.contract import Accounts, AnswerCache, Overseer, Planner, Sightings, Upstream
from headrace.gateway.deadlines import Deadlines
from headrace.gateway.paths import PathBook
from headrace.gateway.settings import GatewaySettings
from headrace.gateway.standing import StandingBook


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Parts:
    """`upstreams` by name of backend; `engine` is the one embedded, if there is one; `on_record` is told every record
    after it was settled; `overseers` judge and record every request, in their order; `paths` remembers which way
    requests went, None: nobody does; `random` draws jitter; `sleep` waits for a backoff and a hedge."""

    settings: GatewaySettings
    planner: Planner
    accounts: Accounts
    upstreams: Mapping[str, Upstream]
    sightings: Sightings
    standings: StandingBook
    admission: Admission
    tariffs: Tariffs
    random: Random
    clock: Clock = field(default_factory=SystemClock)
    cache: AnswerCache | None = None
    engine: Backend | None = None
    on_record: Callable[[UsageRecord], None] | None = None
    overseers: tuple[Overseer, ...] = ()
    deadlines: Deadlines = field(default_factory=Deadlines)
    paths: PathBook | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
