"""What a policy may look at while one request is planned: its shape, the time, and what was measured of it so far.

Made once for a plan; what costs something to know (who is warm, how hard it is) is found out when a policy first asks.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from headrace.core.request import Request
from headrace.core.shape import Shape
from headrace.gateway.routing.affinity import PrefixIndex
from headrace.gateway.routing.difficulty import difficulty
from headrace.gateway.routing.option import Option, Route
from headrace.gateway.routing.sightings import size_class
from headrace.gateway.routing.world import World
from headrace.gateway.settings import Policy, Target, TenantRule

USUAL_OUTPUT_TOKENS = 256.0
"""Of an answer, where nothing was seen yet."""


class Query(NamedTuple):
    """What a plan is made for. `default_max_tokens` bounds what nothing else does; `is_cut`: answers are cut to it.
    `engine_share` is the engine's own word on how much of the input it has, None if it was not asked."""

    shape: Shape
    rule: TenantRule | None
    decode: Callable[[], Request] | None
    default_max_tokens: int
    is_cut: bool
    engine_share: float | None = None


class Scene:
    """One request under one route."""

    __slots__ = (
        "_difficulty",
        "_index",
        "_now_s",
        "_query",
        "_warm",
        "_world",
        "rng",
        "route",
        "shape",
        "size",
        "standings",
    )

    def __init__(self, world: World, index: PrefixIndex, route: Route, query: Query) -> None:
        self.rng = world.rng
        self.standings = None if world.standings.is_clear else world.standings
        self.route = route
        self.shape = query.shape
        self.size = size_class(query.shape.num_bytes)
        self._world = world
        self._index = index
        self._now_s: float | None = None
        self._query = query
        self._warm: tuple[Mapping[Target, int], int] | None = None
        self._difficulty: float | None = None

    @property
    def now_s(self) -> float:
        """Monotonic seconds, one reading for a plan."""
        if self._now_s is None:
            self._now_s = self._world.clock.monotonic_s()
        return self._now_s

    def share(self, option: Option) -> float:
        """The weight that an option has now."""
        if self.standings is None:
            return option.weight
        return option.weight * self.standings.standing(option.target).share

    def load(self, option: Option) -> float:
        """Requests on the way for each unit of weight, this one included: what is idle goes by its weight."""
        share = self.share(option)
        return (option.state.backend.in_flight + 1) / share if share > 0 else inf

    def warm_share(self, option: Option) -> float:
        """What share of the input a target has read lately, from 0 to 1."""
        if option.is_engine and self._query.engine_share is not None:
            return self._query.engine_share
        if self._warm is None:
            self._warm = self._index.warm(self.shape, has_engine=any(one.is_engine for one in self.route.options))
        found, num_blocks = self._warm
        return found.get(option.target, 0) / num_blocks if found else 0.0

    def output_tokens(self, options: Sequence[Option]) -> float:
        """Tokens that an answer will have, from what was seen of these targets."""
        seen = [value for one in options if (value := one.state.output_tokens.value(self.now_s)) is not None]
        expected = sum(seen) / len(seen) if seen else USUAL_OUTPUT_TOKENS
        limit = self.shape.max_tokens
        return expected if limit is None else min(expected, limit)

    def reason(self, option: Option) -> str:
        """Why an option stands where it does, of what was measured and is not in the route's own reason."""
        if Policy.CACHE_AFFINITY in self.route.policies and (share := self.warm_share(option)):
            return f"warm {share:.2f}"  # a header cannot hold a percent sign as it is
        if self._difficulty is not None:
            return f"tier {option.tier} for difficulty {self._difficulty:.2f}"
        return ""

    @property
    def difficulty(self) -> float:
        """How hard the request looks, from 0 to 1."""
        if self._difficulty is None:
            self._difficulty = difficulty(self.shape, self._query.decode)
        return self._difficulty
