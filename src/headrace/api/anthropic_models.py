"""`GET /v1/models` and `GET /v1/models/{id}` as Anthropic's clients know them.

    {"data": [{"type": "model", "id", "display_name", "created_at", ...}], "has_more", "first_id", "last_id"}

Times are RFC 3339. A page has `limit` models (1 to 1000, 20 unless told) behind `after_id` or before `before_id`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.api.openai_models import find_card
from headrace.api.openai_refusal import show
from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest, NotFound

MAX_PAGE: Final = 1000
_PAGE: Final = 20
_FIELDS: Final = ("limit", "after_id", "before_id", "lifecycle", "lifecycle[]", "beta")


def encode_models(cards: Iterable[ModelCard], query: Mapping[str, Sequence[str]]) -> bytes:
    """A page of the models. Raises InvalidRequest, and NotFound for an id that is none."""
    for name in query:
        if name not in _FIELDS:
            known = ", ".join(_FIELDS[:3])
            raise InvalidRequest(f"{name[:80]}: is not a field of this query; known are {known}.", param=name[:80])
    stages = [*query.get("lifecycle", ()), *query.get("lifecycle[]", ())]
    found = list(cards) if not stages or "active" in stages else []
    limit, after, before = _limit(query), _last(query, "after_id"), _last(query, "before_id")
    if after is not None and before is not None:
        raise InvalidRequest("before_id: after_id is given as well; send one of them.", param="before_id")
    if before is not None:
        rest = found[: _place(found, before, "before_id")]
        page, has_more = rest[-limit:], len(rest) > limit
    else:
        rest = found if after is None else found[_place(found, after, "after_id") + 1 :]
        page, has_more = rest[:limit], len(rest) > limit
    ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return msgspec.json.encode({"data": [_info(card) for card in page], "has_more": has_more} | ends)


def encode_model(cards: Iterable[ModelCard], name: str) -> bytes:
    """One model by id or alias. Raises NotFound."""
    return msgspec.json.encode(_info(find_card(cards, name)))


def _info(card: ModelCard) -> dict[str, Any]:
    return {
        "type": "model",
        "id": card.id,
        "display_name": card.id,
        "created_at": datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "capabilities": None,
        "max_input_tokens": card.context_length,
        "max_tokens": card.context_length,
    }


def _limit(query: Mapping[str, Sequence[str]]) -> int:
    given = _last(query, "limit")
    if given is None:
        return _PAGE
    if not (given.isascii() and given.isdecimal() and len(given) <= 9 and 1 <= int(given) <= MAX_PAGE):
        raise InvalidRequest(f"limit: {show(given)} is not in [1, {MAX_PAGE}]; give a number inside.", param="limit")
    return int(given)


def _last(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = query.get(name)
    return values[-1] if values else None


def _place(cards: Sequence[ModelCard], name: str, param: str) -> int:
    for index, card in enumerate(cards):
        if card.id == name:
            return index
    raise NotFound(f"{param}: {show(name)} is no model that is served here.", param=param)
