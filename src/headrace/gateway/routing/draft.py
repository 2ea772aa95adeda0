"""One plan in the making: filters, policies and bounds applied to a route, then to its fallbacks.

Made for one request and thrown away. Knows no names.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from headrace.gateway.contract import Bound, Candidate
from headrace.gateway.routing.affinity import PrefixIndex
from headrace.gateway.routing.choice import is_chosen
from headrace.gateway.routing.filters import fit, likely_tokens, refuse, sieve
from headrace.gateway.routing.measures import scores_of
from headrace.gateway.routing.option import OUT, Option, Refusal, Route, Sieved
from headrace.gateway.routing.policies import order
from headrace.gateway.routing.pricing import bound_of, cut_of
from headrace.gateway.routing.scene import Query, Scene
from headrace.gateway.routing.sightings import TargetState
from headrace.gateway.routing.world import World
from headrace.gateway.settings import Policy, Target

SPARE: Final = 2
"""Candidates of a plan beyond those that its attempts can use: one may have gone out by then, or not fit a budget."""

_NOTHING: Final[Mapping[Target, str]] = {}


class Draft:
    """Candidates, in order, and why others are none. `takes_all`: as many as there are, not as many as are needed;
    `keeps_scores`: each with what policies measured of it."""

    __slots__ = (
        "_bounds",
        "_index",
        "_keeps_scores",
        "_query",
        "_scene",
        "_seen",
        "_sieves",
        "_standings",
        "_world",
        "candidates",
        "refused",
        "takes_all",
    )

    def __init__(
        self, world: World, index: PrefixIndex, query: Query, *, takes_all: bool = False, keeps_scores: bool = False
    ) -> None:
        self.candidates: list[Candidate] = []
        self.refused: dict[Target, Refusal] = {}  # found out now; those of `_sieves` were known
        self.takes_all = takes_all
        self._world = world
        self._standings = None if world.standings.is_clear else world.standings
        self._index = index
        self._keeps_scores = keeps_scores
        self._scene: Scene | None = None  # of the route that is being taken, if it has to choose
        self._query = query
        self._sieves: list[Sieved] = []
        self._seen: set[TargetState] = set()  # one for each target; found without hashing names
        self._bounds: dict[int, tuple[Bound, int | None]] = {}

    def take(self, route: Route, *, is_fallback: bool = False) -> None:
        """Put a route's options behind what is there, but for those that are there already.

        Those that are full come after the others: there a request waits.
        """
        world, shape = self._world, self._query.shape
        sieved = sieve(route, shape, self._query.rule)
        self._sieves.append(sieved)
        reason = f"fallback {route.name}" if is_fallback else ""
        if route.canary is not None and is_chosen(route.name, shape, route.settings.canary_share, world.rng):
            self._take_trial(route.canary, is_fallback=is_fallback)
        options: Iterable[Option] = sieved.options
        scene: Scene | None = None
        is_tight = likely_tokens(shape) > sieved.min_context
        if is_tight or len(sieved.options) > 1:
            scene = Scene(world, self._index, route, self._query)
            options = self._ordered(scene, sieved, is_tight=is_tight)
            self._scene = scene if self._keeps_scores else None
        num_left = len(sieved.options) if route.has_tiers else route.settings.retry.max_attempts + SPARE
        full: list[Option] = []
        for option in options:
            if not self._admit(option):
                continue
            most = option.backend.max_concurrency
            if most is not None and option.state.backend.in_flight >= most:
                full.append(option)
                continue
            self._add(option, scene.reason(option) if scene and route.tells and not reason else reason, is_fallback)
            num_left -= 1
            if not num_left and not self.takes_all:
                break
        for option in full if self.takes_all else full[:num_left]:
            self._add(option, reason or "busy", is_fallback)
        cheapest = sieved.cheapest
        if cheapest is not None and cheapest.target not in self.refused and self._admit(cheapest):
            self._add(cheapest, reason, is_fallback)
        self._scene = None

    def shadow(self, route: Route) -> Candidate | None:
        """Who gets a copy of the request, under the same filters."""
        option = route.shadow
        if option is None or self._world.rng.random() >= route.settings.shadow_share:
            return None
        if refuse(option, self._query.shape, self._query.rule) is not None or self._stand(option) is not None:
            return None
        return self._candidate(option, "shadow", False)

    @property
    def refusals(self) -> list[Refusal]:
        """All of them."""
        return [*self.refused.values(), *(one for sieved in self._sieves for one in sieved.refused.values())]

    @property
    def texts(self) -> Mapping[Target, str]:
        """Why each target that is not there is not."""
        known = self._sieves[0].texts if self._sieves else _NOTHING
        if not self.refused and len(self._sieves) == 1:
            return known
        texts = {target: text for sieved in self._sieves for target, text in sieved.texts.items()}
        return texts | {target: refusal.text for target, refusal in self.refused.items()}

    def _ordered(self, scene: Scene, sieved: Sieved, *, is_tight: bool) -> Iterable[Option]:
        policies = scene.route.policies
        options: Sequence[Option] = sieved.options
        tight: list[Option] = []
        if is_tight:
            options, tight, refused = fit(sieved.options, self._query.shape)
            self.refused |= refused
        if Policy.CACHE_AFFINITY in policies:  # its cap is of the mean load of those that can be asked
            options = [option for option in options if self._admit(option)]
        ordered = order(scene, options, policies)
        return chain(ordered, tight) if tight else ordered

    def _admit(self, option: Option) -> bool:
        if option.state in self._seen:
            return False
        if self._standings is not None and (refusal := self._stand(option)) is not None:
            self.refused[option.target] = refusal
            return False
        return True

    def _stand(self, option: Option) -> Refusal | None:
        standing = self._world.standings.standing(option.target)
        return None if standing.share > 0 else Refusal(OUT, standing.reason, retry_after_s=standing.retry_after_s)

    def _take_trial(self, option: Option, *, is_fallback: bool) -> None:
        refusal = refuse(option, self._query.shape, self._query.rule)
        if refusal is not None:
            self.refused[option.target] = refusal
        elif self._admit(option) and not is_full(option):
            self._add(option, "canary", is_fallback)

    def _add(self, option: Option, reason: str, is_fallback: bool) -> None:
        self._seen.add(option.state)
        self.candidates.append(self._candidate(option, reason, is_fallback))

    def _candidate(self, option: Option, reason: str, is_fallback: bool) -> Candidate:
        bound, cut = self._bounds.get(option.price_class) or self._bound(option)
        return Candidate(
            target=option.target,
            bound=bound,
            max_tokens=cut,
            reason=reason,
            tier=option.tier,
            is_fallback=is_fallback,
            scores=() if self._scene is None else scores_of(self._scene, option),
        )

    def _bound(self, option: Option) -> tuple[Bound, int | None]:
        found = self._bounds[option.price_class] = limits_of(option, self._query)
        return found


def limits_of(option: Option, query: Query) -> tuple[Bound, int | None]:
    """What a request can take at most at an option, and what its answer is cut to there."""
    shape, model = query.shape, option.model
    asked = shape.max_tokens
    cut = cut_of(shape, model, query.default_max_tokens)
    output = cut if cut is not None else asked if asked is not None else query.default_max_tokens
    if option.is_engine:
        output = min(output, model.context_length)  # it stops there by itself
    if not query.is_cut and asked is None and model.max_output_tokens is None:
        cut = None
    return bound_of(shape, model, option.rate, output), cut


def is_full(option: Option) -> bool:
    """Whether a backend has as many requests as it may have at once."""
    most = option.backend.max_concurrency
    return most is not None and option.state.backend.in_flight >= most
