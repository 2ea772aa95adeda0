"""Decides who is asked: name -> route -> filters -> policies -> the order of candidates, with what each can cost.

Nothing is sent and nobody is waited for. A plan has as many candidates as attempts can use, and the cheapest among
them; fallbacks follow, under the same filters. Knows no budgets and no keys.
"""

from collections.abc import Callable, Collection

from headrace.core.backend import ModelCard
from headrace.core.errors import (
    ContextTooLong,
    Forbidden,
    HeadraceError,
    InvalidRequest,
    NotCleared,
    NotFound,
    Unavailable,
)
from headrace.core.explanation import Explanation, Question
from headrace.core.request import Principal, Request
from headrace.core.shape import Need, Shape
from headrace.gateway.contract import Candidate, Plan
from headrace.gateway.routing.builder import Builder
from headrace.gateway.routing.draft import Draft, is_full, limits_of
from headrace.gateway.routing.explanation import decoded, explanation_of, shape_of
from headrace.gateway.routing.filters import likely_tokens, sieve
from headrace.gateway.routing.names import Names
from headrace.gateway.routing.option import CANNOT, NOT_CLEARED, TOO_LONG, Refusal, Route
from headrace.gateway.routing.scene import Query, Scene
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import GatewaySettings, Target, TenantRule

_FIELDS = {
    Need.TOOLS.value: "tools",
    Need.SCHEMA.value: "response_format",
    Need.VISION.value: "messages",
    Need.AUDIO.value: "messages",
    Need.LOGPROBS.value: "logprobs",
    Need.REASONING.value: "reasoning",
    Need.SUFFIX.value: "suffix",
    Need.TOKENS.value: "prompt",
}


class RoutePlanner:
    """See `gateway.contract.Planner`. Made anew when settings change; the sightings go on."""

    def __init__(self, settings: GatewaySettings, sightings: RouteSightings, world: World) -> None:
        self._settings = settings
        self._sightings = sightings
        self._world = world
        self._is_bounded = world.is_bounded or _told_by(settings)
        sightings.unpin()
        builder = Builder(settings, world.prices, sightings)
        self._names = Names(settings, world.served, world.clock, builder.route)

    def plan(
        self, shape: Shape, *, decode: Callable[[], Request] | None = None, engine_share: float | None = None
    ) -> Plan:
        """See `gateway.contract.Planner`. `decode` lets the policy `complexity` look at the text."""
        rule = self._settings.tenants.get(shape.principal.tenant)
        route = self._find(shape, rule)
        query = self._query(shape, rule, decode, engine_share)
        if route.is_plain and (plan := self._plan_plain(route, query)) is not None:
            return plan
        draft = Draft(self._world, self._sightings.index, query, keeps_scores=self._settings.kept_requests > 0)
        draft.take(route)
        if route.settings.fallbacks:
            self._fall_back(draft, route)
        if not draft.candidates:
            raise _refusal(route, shape, rule, draft.refusals)
        candidates = tuple(draft.candidates)
        return Plan(
            route=route.name,
            candidates=candidates,
            refused=draft.texts,
            shadow=None if route.shadow is None else draft.shadow(route),
            hedge_after_s=route.settings.hedge_after_s,
            reason=route.reason,  # whoever is asked adds its own
        )

    def _plan_plain(self, route: Route, query: Query) -> Plan | None:
        """The plan of a route to one target alone, as most names are; None if anything stands against it, which the
        long way says."""
        sieved = sieve(route, query.shape, query.rule)
        if not sieved.options or likely_tokens(query.shape) > sieved.min_context:
            return None
        option, standings = sieved.options[0], self._world.standings
        if is_full(option) or not (standings.is_clear or standings.standing(option.target).share):
            return None
        bound, cut = limits_of(option, query)
        candidate = Candidate(target=option.target, bound=bound, max_tokens=cut, tier=option.tier)
        return Plan(route=route.name, candidates=(candidate,), hedge_after_s=None, reason=route.reason)

    def models(self, principal: Principal | None = None) -> tuple[ModelCard, ...]:
        """What somebody may ask for, None: everything that can be asked for."""
        if principal is None:
            return self._names.cards()
        return self._names.cards(self._settings.tenants.get(principal.tenant), principal.routes)

    def targets(self, model: str) -> tuple[Target, ...]:
        """Every target that a name can lead to, fallbacks and canaries too; none for one that leads nowhere."""
        found: dict[Target, None] = {}
        visited: set[str] = set()
        waiting = [model]
        for name in waiting:
            try:
                route = self._names.find(name)
            except NotFound:
                continue
            if route.name not in visited:
                visited.add(route.name)
                found |= dict.fromkeys(option.target for option in route.options)
                if route.canary is not None:
                    found[route.canary.target] = None
                waiting += route.settings.fallbacks
        return tuple(found)

    def explain(self, question: Question) -> Explanation:
        """See `core.explanation.Explaining`."""
        shape, decode = shape_of(question), decoded(question)
        rule = self._settings.tenants.get(question.tenant)
        route = self._names.find(question.model, rule)
        query = self._query(shape, rule, decode)
        draft = Draft(self._world, self._sightings.index, query, takes_all=True)
        draft.take(route)
        routes = [route, *self._fall_back(draft, route)]
        error = None if draft.candidates else _refusal(route, shape, rule, draft.refusals)
        scenes = {one.name: Scene(self._world, self._sightings.index, one, query) for one in routes}
        return explanation_of(question, routes, draft, scenes, error)

    def asks_engine(self, shape: Shape) -> Target | None:
        """See `gateway.contract.Planner`."""
        try:
            return self._find(shape, self._settings.tenants.get(shape.principal.tenant)).asked_target
        except HeadraceError:
            return None  # the plan will say what is wrong

    def _find(self, shape: Shape, rule: TenantRule | None) -> Route:
        route = self._names.find(shape.model, rule)
        if shape.principal.routes and shape.principal.routes.isdisjoint(route.names):
            raise _not_for_key(shape)
        return route

    def _query(
        self,
        shape: Shape,
        rule: TenantRule | None,
        decode: Callable[[], Request] | None,
        engine_share: float | None = None,
    ) -> Query:
        return Query(shape, rule, decode, self._settings.default_max_tokens, self._is_bounded(), engine_share)

    def _fall_back(self, draft: Draft, route: Route) -> list[Route]:
        """Breadth first, each route once, so that a cycle ends by itself; those that were taken."""
        visited, waiting, taken = {route.name}, list(route.settings.fallbacks), []
        for name in waiting:
            try:
                found = self._names.find(name)
            except NotFound:
                continue  # a model of the engine's that is not there now
            if found.name not in visited:
                visited.add(found.name)
                draft.take(found, is_fallback=True)
                taken.append(found)
                waiting += found.settings.fallbacks
        return taken


def _told_by(settings: GatewaySettings) -> Callable[[], bool]:
    is_bounded = bool(settings.budgets) or any(limit.tokens_per_minute is not None for limit in settings.limits)
    return lambda: is_bounded


def _refusal(route: Route, shape: Shape, rule: TenantRule | None, refusals: Collection[Refusal]) -> HeadraceError:
    """The error for a plan without candidates: of what came nearest to being asked."""
    nearest = max(refusals, key=lambda one: one.stage)
    if nearest.stage == NOT_CLEARED:
        labels = ", ".join(sorted(shape.labels | (rule.labels if rule else frozenset()))) or "those of its tenant"
        return NotCleared(
            f"No backend of {route.name} may see this request ({labels}); ask for another model or clear one for it."
        )
    if nearest.stage == CANNOT:
        need = ", ".join(nearest.needs)
        return InvalidRequest(
            f"No model of {route.name} can do what is asked: {need}; leave it out or ask for another model.",
            param=_FIELDS.get(nearest.needs[0], "model"),
        )
    if nearest.stage == TOO_LONG:
        return ContextTooLong(f"No model of {route.name} can hold it: {nearest.text}; shorten it.", param="messages")
    waits = [one.retry_after_s for one in refusals if one.retry_after_s is not None]
    return Unavailable(
        f"No backend of {route.name} can be asked now: {nearest.text}.", retry_after_s=min(waits, default=None)
    )


def _not_for_key(shape: Shape) -> Forbidden:
    names = ", ".join(sorted(shape.principal.routes))
    return Forbidden(
        f"model: the key {shape.principal.key or ''!r} may not ask for {shape.model[:200]!r}; it may ask for {names}.",
        param="model",
        code="model_not_allowed",
    )
