"""From settings to routes: options with their prices and sightings joined, once for as long as the settings hold.

Knows no requests.
"""

from collections.abc import Mapping
from typing import Final

from headrace.core.backend import ModelCard
from headrace.core.ledger import PriceList
from headrace.gateway.routing.option import ENGINE_CAN, Option, Route
from headrace.gateway.routing.policies import complete
from headrace.gateway.routing.pricing import Rate, prices_of
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.settings import (
    ENGINE,
    BackendSettings,
    CandidateSettings,
    GatewaySettings,
    ModelSettings,
    Policy,
    RouteSettings,
    Target,
)

KEEPS_PREFIXES: Final = frozenset({Policy.CACHE_AFFINITY, Policy.LOWEST_COST})
"""Policies that ask who has read what."""

TELLING: Final = frozenset({Policy.CACHE_AFFINITY, Policy.COMPLEXITY})
"""Policies by which a candidate's place has a reason of its own."""

OPEN_MODEL: Final = ModelSettings()
"""What is believed of a model that nobody describes."""


class Builder:
    """Makes routes. Raises ValueError for a target whose backend the settings do not name."""

    def __init__(self, settings: GatewaySettings, prices: PriceList, sightings: RouteSightings) -> None:
        self._settings = settings
        self._prices = prices
        self._sightings = sightings
        self._price_classes: dict[object, int] = {}

    def route(self, settings: RouteSettings, names: frozenset[str], cards: Mapping[str, ModelCard]) -> Route:
        """A route. `cards` are those of the engine's models, by each of their names."""
        is_named = settings.name in self._settings.routes
        options = tuple(
            self._option(one, place, cards, is_named=is_named) for place, one in enumerate(settings.candidates)
        )
        policies = complete(settings.policies)
        if len(options) > 1 and not KEEPS_PREFIXES.isdisjoint(policies):
            for option in options:
                option.state.keeps_prefixes = True
        return Route(
            name=settings.name,
            names=names,
            options=options,
            policies=policies,
            settings=settings,
            asked_target=_asked(options) if Policy.CACHE_AFFINITY in policies else None,
            is_plain=len(options) == 1 and not (settings.fallbacks or settings.canary or settings.shadow),
            has_tiers=Policy.COMPLEXITY in policies,
            tells=not TELLING.isdisjoint(policies),
            reason=f"{','.join(policies)} of {len(options)}" if len(options) > 1 else "only candidate",
            canary=self._trial(settings.canary, cards),
            shadow=self._trial(settings.shadow, cards),
        )

    def _trial(self, target: Target | None, cards: Mapping[str, ModelCard]) -> Option | None:
        return None if target is None else self._option(CandidateSettings(target=target), 0, cards, is_named=True)

    def _option(
        self, settings: CandidateSettings, place: int, cards: Mapping[str, ModelCard], *, is_named: bool
    ) -> Option:
        target = settings.target
        backend = self._settings.backends.get(target.backend)
        is_engine = target.backend == ENGINE
        if backend is None:
            if not is_engine:
                raise ValueError(f"{target}: there is no backend {target.backend}; name one of [backends].")
            backend = BackendSettings(name=ENGINE, kind="engine")
        model = _engine_model(backend, target.model, cards) if is_engine else _model(backend, target.model)
        rate = Rate.of(prices_of(self._settings, self._prices, target))
        kind = (rate, model.max_output_tokens, model.media_tokens, model.context_length if is_engine else None)
        # Names that clients make up are forgotten again; those of settings stay.
        is_fixed = is_named or target.model in backend.models
        return Option(
            target=target,
            backend=backend,
            model=model,
            state=self._sightings.pin(target) if is_fixed else self._sightings.state(target),
            rate=rate,
            price_class=self._price_classes.setdefault(kind, len(self._price_classes)),
            place=place,
            weight=settings.weight,
            tier=settings.tier,
            is_engine=is_engine,
            says_itself=is_engine and not is_named,
        )


def _asked(options: tuple[Option, ...]) -> Target | None:
    """The engine's target, where it is one of several."""
    return next((one.target for one in options if one.is_engine), None) if len(options) > 1 else None


def _model(backend: BackendSettings, model: str) -> ModelSettings:
    """What the settings say of a remote model; an adapter is as its model is."""
    return backend.models.get(model) or backend.models.get(model.rpartition(":")[0]) or OPEN_MODEL


def _engine_model(backend: BackendSettings, model: str, cards: Mapping[str, ModelCard]) -> ModelSettings:
    """What the settings say of a model of the engine, else what its card does."""
    card = cards.get(model) or cards.get(model.rpartition(":")[0])
    known = () if card is None else (card.id, *card.aliases)
    for name in (model, *known):
        if name in backend.models:
            return backend.models[name]
    if card is None:
        return ModelSettings(can=ENGINE_CAN)
    return ModelSettings(context_length=card.context_length, can=ENGINE_CAN, tasks=card.tasks, created=card.created)
