"""OpenAI's model routes: cards become `GET /v1/models` and `GET /v1/models/{id}`.

Beside OpenAI's four fields each model says its context length, its digest and its tasks, which OpenAI's clients ignore.
Adapters are models with a parent, as vLLM lists them; `loaded` says whether one is in memory.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.request import Request, Task

# A task, of one model and of several.
_SAID = {
    Task.GENERATE: ("generates text", "generate text"),
    Task.EMBED: ("embeds texts", "embed texts"),
    Task.SCORE: ("scores pairs of texts", "score pairs of texts"),
    Task.COUNT: ("counts tokens", "count tokens"),
}
_MAX_NAMED = 8


def encode_models(cards: Iterable[ModelCard]) -> bytes:
    """The list of models, one entry per model; aliases are named inside it."""
    return msgspec.json.encode({"object": "list", "data": [encode_card(card) for card in cards]})


def encode_model(cards: Iterable[ModelCard], name: str) -> bytes:
    """One model by id or alias. Raises NotFound."""
    return msgspec.json.encode(encode_card(find_card(cards, name)))


def find_card(cards: Iterable[ModelCard], name: str) -> ModelCard:
    """A model by id or alias. Raises NotFound."""
    card = _find(cards, name)
    if card is None:
        raise NotFound(f"model: {name[:200]!r} is not served here; GET /v1/models lists the names.", param="model")
    return card


def check_task(cards: Iterable[ModelCard], request: Request) -> None:
    """Raise InvalidRequest for a model that does not do what is asked; one that is not among the cards is let pass."""
    cards = tuple(cards)
    card = _find(cards, request.model)
    if card is None or request.task in card.tasks:
        return
    wanted = _SAID[request.task][1]
    does = " and ".join(said for task, (said, _) in _SAID.items() if task in card.tasks and task is not Task.COUNT)
    others = [other.id for other in cards if request.task in other.tasks and other.parent is None]
    named = ", ".join(others[:_MAX_NAMED]) + (", ..." if len(others) > _MAX_NAMED else "")
    remedy = f"models here that {wanted}: {named}" if others else f"no model here can {wanted}"
    raise InvalidRequest(
        f"model: {request.model[:200]!r} {does} and cannot {wanted}; {remedy}.",
        param="model",
        code="unsupported_task",
    )


def _find(cards: Iterable[ModelCard], name: str) -> ModelCard | None:
    return next((card for card in cards if name == card.id or name in card.aliases), None)


def encode_card(card: ModelCard) -> dict[str, Any]:
    """One entry of the list."""
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "context_length": card.context_length,
        "digest": card.digest or None,
        "parent": card.parent,
        "loaded": card.is_loaded,
        "aliases": card.aliases,
        "tasks": sorted(card.tasks),
    }
