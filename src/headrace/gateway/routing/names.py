"""From the name that a client gives for a model to the route behind it, and what of both is shown in a list.

    1  a route of the settings                      smart
    2  a model of the engine, or one of its aliases, or `model:adapter`, unless the settings name such a model
    3  a model that exactly one backend names       claude-sonnet
    4  `backend/model`                              anthropic/claude-sonnet, local/smollm2
    5  any other name, if exactly one backend is open

One target has one route, whatever it is called, so that a budget on the route holds under every name. The engine's
models come and go: they are asked for again once a second, and when a name is not known. Knows no loads.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from headrace.core.backend import ModelCard
from headrace.core.clock import Clock
from headrace.core.errors import NotFound
from headrace.gateway.routing.option import Route, plain_route
from headrace.gateway.settings import ENGINE, BackendSettings, GatewaySettings, RouteSettings, Target, TenantRule

MAX_LOOSE_ROUTES: Final = 1024
"""Names of open backends' models, and of adapters, that are remembered."""

REFRESH_S: Final = 1.0
MAX_NAMES_TOLD: Final = 20

Build = Callable[[RouteSettings, frozenset[str], Mapping[str, ModelCard]], Route]
"""Makes a route of its settings, all its names, and the cards of the engine's models under each of theirs."""


class Names:
    """Names of routes and targets. `served` tells the models of the engine now."""

    def __init__(
        self, settings: GatewaySettings, served: Callable[[], Sequence[ModelCard]], clock: Clock, build: Build
    ) -> None:
        self._settings = settings
        self._served = served
        self._clock = clock
        self._build = build
        self._owners = _owners(settings.backends.values())
        self._open = [one.name for one in settings.backends.values() if one.is_open and one.name != ENGINE]
        self._fixed: dict[str, Route] = {}
        self._loose: OrderedDict[str, Route] = OrderedDict()
        self._cards: dict[str, ModelCard] | None = None
        self._aliases: dict[str, ModelCard] = {}
        self._fresh_until_s = float("-inf")
        self._listed: tuple[tuple[Route, ModelCard], ...] | None = None
        self._refresh()

    def find(self, name: str, rule: TenantRule | None = None) -> Route:
        """The route behind a name. Raises NotFound for one that leads nowhere, to several backends, or where the tenant
        may not go."""
        route = self._fixed.get(name) or self._find_engine(name) or self._find_loose(name)
        if route is None or not is_allowed(route, rule):
            raise self._unknown(name, rule)
        return route

    def _routes(self) -> list[Route]:
        """All that are known now, each once: those of the settings, of single targets, of the engine's models."""
        found = dict.fromkeys(self._fixed.values())
        for name in self._cards or ():
            if (route := self._fixed.get(name) or self._find_engine(f"{ENGINE}/{name}")) is not None:
                found[route] = None
        return list(found)

    def cards(self, rule: TenantRule | None = None, wanted: frozenset[str] = frozenset()) -> tuple[ModelCard, ...]:
        """What may be asked for: routes first, then targets, then the engine's models. `wanted` are the names that a
        key may use, empty: any."""
        self._refresh()
        if self._listed is None:
            self._listed = tuple((route, self._card(route)) for route in self._routes())
        return tuple(
            card
            for route, card in self._listed
            if is_allowed(route, rule) and not (wanted and wanted.isdisjoint(route.names))
        )

    def _find_engine(self, name: str) -> Route | None:
        if self._clock.monotonic_s() >= self._fresh_until_s:
            self._refresh()
        found = self._engine_model(name)
        if found is None and name not in self._loose:
            self._refresh()
            found = self._engine_model(name)
        if found is None:
            return None
        is_plain = found not in self._owners and found not in self._fixed
        return self._loose_route(found if is_plain else f"{ENGINE}/{found}", Target(ENGINE, found))

    def _engine_model(self, name: str) -> str | None:
        """The engine's own name of a model that is called so; None: it has none, or the settings call another so."""
        if name in self._owners:
            return None
        name = name.removeprefix(f"{ENGINE}/")
        known = self._aliases.get(name)
        if known is not None:
            return known.id
        model, _, adapter = name.rpartition(":")
        return f"{self._aliases[model].id}:{adapter}" if model in self._aliases and adapter else None

    def _find_loose(self, name: str) -> Route | None:
        backend, slash, model = name.partition("/")
        if slash and model and backend != ENGINE and backend in self._settings.backends:
            owner = self._settings.backends[backend]
            if model in owner.models or owner.is_open:
                return self._loose_route(name, Target(backend, model))
        if len(self._open) == 1 and name not in self._owners:
            return self._loose_route(f"{self._open[0]}/{name}", Target(self._open[0], name))
        return None

    def _loose_route(self, name: str, target: Target) -> Route:
        route = self._loose.get(name)
        if route is None:
            while len(self._loose) >= MAX_LOOSE_ROUTES:
                self._loose.popitem(last=False)
            route = self._loose[name] = self._build_plain(name, target)
        return route

    def _refresh(self) -> None:
        self._fresh_until_s = self._clock.monotonic_s() + REFRESH_S
        cards = {card.id: card for card in self._served()}
        if cards == self._cards:
            return
        self._cards = cards
        self._listed = None
        self._aliases = {alias: card for card in cards.values() for alias in card.aliases} | cards
        self._loose.clear()
        routes = self._settings.routes
        self._fixed = {name: self._build(route, frozenset({name}), self._aliases) for name, route in routes.items()}
        for target in sorted(_targets(self._settings.backends.values())):
            is_plain = len(self._owners[target.model]) == 1 and target.model not in routes
            name = target.model if is_plain else str(target)
            self._fixed[name] = self._fixed[str(target)] = self._build_plain(name, target)

    def _build_plain(self, name: str, target: Target) -> Route:
        names = {name, str(target)}
        if target.backend == ENGINE and (card := self._aliases.get(target.model)) is not None:
            names.update(card.aliases)
        return self._build(plain_route(name, target), frozenset(names), self._aliases)

    def _card(self, route: Route) -> ModelCard:
        target = route.options[0].target
        if target == Target(ENGINE, route.name) and (card := self._aliases.get(route.name)) is not None:
            return card
        models = [option.model for option in route.options]
        is_single = route.name not in self._settings.routes
        return ModelCard(
            id=route.name,
            created=max(model.created for model in models),
            owned_by=target.backend if is_single else "headrace",
            context_length=max(model.context_length for model in models),
            digest="",
            tasks=frozenset().union(*(model.tasks for model in models)),
        )

    def _unknown(self, name: str, rule: TenantRule | None) -> NotFound:
        owners = self._owners.get(name, ())
        if len(owners) > 1 and (rule is None or not rule.routes):
            ways = " or ".join(f"{owner}/{name}" for owner in owners)
            return NotFound(
                f"Model {name} is served by several backends; say which: {ways}.", param="model", code="model_not_found"
            )
        names = sorted(card.id for card in self.cards(rule))
        more = f" and {len(names) - MAX_NAMES_TOLD} more" if len(names) > MAX_NAMES_TOLD else ""
        told = ", ".join(names[:MAX_NAMES_TOLD]) or "nothing"
        return NotFound(
            f"Model {name[:200]} is not served here; served: {told}{more}.", param="model", code="model_not_found"
        )


def is_allowed(route: Route, rule: TenantRule | None) -> bool:
    """Whether a tenant may ask for a route."""
    return rule is None or not rule.routes or not rule.routes.isdisjoint(route.names)


def _owners(backends: Iterable[BackendSettings]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for backend in backends:
        for model in backend.models:
            owners.setdefault(model, []).append(backend.name)
    return owners


def _targets(backends: Iterable[BackendSettings]) -> Iterable[Target]:
    for backend in backends:
        for model in backend.models:
            yield Target(backend.name, model)
