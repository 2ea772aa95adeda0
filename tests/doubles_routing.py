"""What tests of routing are written with: settings of few words, shapes, and a planner whose world is held by hand."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.doubles import ManualClock

from headrace.core.backend import ModelCard
from headrace.core.ledger import NO_PRICES, PriceList, Prices
from headrace.core.request import Principal, Request, Task
from headrace.core.shape import Shape
from headrace.gateway.contract import Plan, Standing
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import (
    BackendSettings,
    CandidateSettings,
    Dialect,
    GatewaySettings,
    ModelSettings,
    RouteSettings,
    Target,
    TenantRule,
)

PRICES = Prices(input=3.0, output=15.0)


def target(text: str) -> Target:
    """`backend/model`."""
    return Target(*text.split("/", 1))


def backend(name: str, *models: str, entry: ModelSettings | None = None, **fields: Any) -> BackendSettings:
    """A remote backend; its models are all alike."""
    entries = {model: entry or ModelSettings() for model in models or ("m",)}
    return BackendSettings(name=name, kind="openai", dialect=Dialect.CHAT, models=entries, **fields)


def route(name: str, *candidates: str | CandidateSettings, **fields: Any) -> RouteSettings:
    """A route over targets."""
    listed = tuple(CandidateSettings(target=target(one)) if isinstance(one, str) else one for one in candidates)
    return RouteSettings(name=name, candidates=listed, **fields)


def settings(
    backends: Iterable[BackendSettings], routes: Iterable[RouteSettings] = (), **fields: Any
) -> GatewaySettings:
    """Of backends and routes by their own names."""
    return GatewaySettings(
        backends={one.name: one for one in backends}, routes={one.name: one for one in routes}, **fields
    )


def shape(model: str = "r", **fields: Any) -> Shape:
    """A small request."""
    given: dict[str, Any] = {"id": "q1", "task": Task.GENERATE, "principal": Principal(), "num_bytes": 400}
    return Shape(**(given | {"model": model} | fields))


def card(name: str, **fields: Any) -> ModelCard:
    """A model of the engine."""
    given: dict[str, Any] = {"created": 1, "owned_by": "headrace", "context_length": 8192, "digest": ""}
    return ModelCard(id=name, **(given | fields))


@dataclass
class Hand:
    """A planner and everything around it."""

    settings: GatewaySettings
    cards: Sequence[ModelCard] = ()
    prices: PriceList = NO_PRICES
    seed: int = 1
    out: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.sightings = RouteSightings(self.clock)
        self.planner = RoutePlanner(
            self.settings,
            self.sightings,
            World(
                clock=self.clock,
                rng=random.Random(self.seed),
                served=lambda: self.cards,
                standings=self,
                prices=self.prices,
            ),
        )

    @property
    def is_clear(self) -> bool:
        """See `gateway.contract.Standings`."""
        return not self.out and not self.shares

    def standing(self, target: Target) -> Standing:
        """See `gateway.contract.Standings`."""
        if target.backend in self.out:
            return Standing(0.0, self.out[target.backend], 7.0)
        return Standing(self.shares.get(target.backend, 1.0))

    def plan(self, model: str = "r", decode: Callable[[], Request] | None = None, **fields: Any) -> Plan:
        """A plan for a small request."""
        return self.planner.plan(shape(model, **fields), decode=decode)

    def names(self, model: str = "r", **fields: Any) -> list[str]:
        """Its candidates, in order."""
        return [str(one.target) for one in self.plan(model, **fields).candidates]

    def first(self, model: str = "r", **fields: Any) -> str:
        """The backend of its first candidate."""
        return self.plan(model, **fields).candidates[0].target.backend


def rules(*given: TenantRule) -> Mapping[str, TenantRule]:
    """Of tenants, by their names."""
    return {rule.tenant: rule for rule in given}
