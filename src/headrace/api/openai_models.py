"""OpenAI's model routes: cards become `GET /v1/models` and `GET /v1/models/{id}`.

Beside OpenAI's four fields each model says its context length and its digest, which OpenAI's clients ignore. Adapters
are models with a parent, as vLLM lists them; `loaded` says whether one is in memory.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.core.backend import ModelCard
from headrace.core.errors import NotFound


def encode_models(cards: Iterable[ModelCard]) -> bytes:
    """The list of models, one entry per model; aliases are named inside it."""
    return msgspec.json.encode({"object": "list", "data": [encode_card(card) for card in cards]})


def encode_model(cards: Iterable[ModelCard], name: str) -> bytes:
    """One model by id or alias. Raises NotFound."""
    for card in cards:
        if name == card.id or name in card.aliases:
            return msgspec.json.encode(encode_card(card))
    raise NotFound(f"model: {name[:200]!r} is not served here; GET /v1/models lists the names.", param="model")


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
    }
