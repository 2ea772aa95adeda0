"""The list of models that a gateway's clients see: routes, models of remote backends, and the engine's own.

A model has its plain name where only one backend has it and no route is called so, else `backend/model`.
"""

from collections import Counter

from headrace.core.backend import ModelCard
from headrace.gateway.charging import Tariffs
from headrace.gateway.parts import Parts
from headrace.gateway.settings import ENGINE, GatewaySettings, RouteSettings


def model_cards(parts: Parts) -> tuple[ModelCard, ...]:
    """Every name that can be asked for, the engine's first."""
    settings = parts.settings
    own = () if parts.engine is None else parts.engine.models()
    own_names = {name for card in own for name in (card.id, *card.aliases)}
    routes = [_route_card(parts.tariffs, route) for route in settings.routes.values() if route.name not in own_names]
    return (*own, *routes, *_remote_cards(settings, own_names))


def _remote_cards(settings: GatewaySettings, own_names: set[str]) -> list[ModelCard]:
    remote = [backend for backend in settings.backends.values() if backend.name != ENGINE]
    counts = Counter(model for backend in remote for model in backend.models)
    cards = []
    for backend in remote:
        for model, about in backend.models.items():
            is_plain = counts[model] == 1 and model not in own_names and model not in settings.routes
            cards.append(
                ModelCard(
                    id=model if is_plain else f"{backend.name}/{model}",
                    created=about.created,
                    owned_by=backend.name,
                    context_length=about.context_length,
                    digest="",
                    tasks=about.tasks,
                )
            )
    return cards


def _route_card(tariffs: Tariffs, route: RouteSettings) -> ModelCard:
    models = [tariffs.model(candidate.target) for candidate in route.candidates]
    return ModelCard(
        id=route.name,
        created=max((model.created for model in models), default=0),
        owned_by="headrace",
        context_length=max((model.context_length for model in models), default=0),
        digest="",
        tasks=frozenset().union(*(model.tasks for model in models)),
    )
