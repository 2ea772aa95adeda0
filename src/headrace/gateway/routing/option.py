"""A target as a route knows it: settings, prices and sightings of one candidate, joined once and not for each request.

Values only, but for the sightings, which others count. Knows no order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace.core.shape import Need
from headrace.gateway.routing.pricing import Rate
from headrace.gateway.routing.sightings import TargetState
from headrace.gateway.settings import (
    BackendSettings,
    CandidateSettings,
    ModelSettings,
    Policy,
    RouteSettings,
    Target,
)

ENGINE_CAN: Final = frozenset(Need) - {Need.VISION, Need.AUDIO}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Option:
    """One candidate. `place` is where it stands in the file; options of one `price_class` have equal bounds.
    `says_itself`: the engine alone is behind the name, and tells better than we what it cannot do."""

    target: Target
    backend: BackendSettings
    model: ModelSettings
    state: TargetState
    rate: Rate
    price_class: int
    place: int = 0
    weight: float = 1.0
    tier: int = 0
    is_engine: bool = False
    says_itself: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """A route with its options. `names` are all that it is known by; `policies` end with one that leaves nothing to
    the order of the file unless that is asked for. `asked_target` is that of the engine, if its own tree is to be asked
    before a plan; `tells`: a candidate's place has a reason of its own; `is_plain`: it leads to one target and nowhere
    else; `has_tiers`: an answer may be asked for again a tier up, so that a plan needs all of them."""

    name: str
    names: frozenset[str]
    options: tuple[Option, ...]
    policies: tuple[Policy, ...]
    settings: RouteSettings
    reason: str = ""
    asked_target: Target | None = None
    tells: bool = False
    is_plain: bool = False
    has_tiers: bool = False
    canary: Option | None = None
    shadow: Option | None = None
    sieved: dict[object, "Sieved"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Sieved:
    """What is left of a route's options for requests of one kind, and why the others are not. `min_context` is the
    smallest of theirs; `cheapest` is the one of lowest price, if prices differ."""

    options: tuple[Option, ...]
    refused: Mapping[Target, "Refusal"]
    texts: Mapping[Target, str]
    min_context: int
    cheapest: Option | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a target is not asked. A larger `stage` came nearer: not cleared, cannot, does not fit, out."""

    stage: int
    text: str
    needs: tuple[str, ...] = ()
    retry_after_s: float | None = None


NOT_CLEARED, CANNOT, TOO_LONG, OUT = range(4)


def plain_route(name: str, target: Target) -> RouteSettings:
    """The settings of a route that no settings name: one target, nothing else."""
    return RouteSettings(name=name, candidates=(CandidateSettings(target=target),), policies=(Policy.ORDERED,))
