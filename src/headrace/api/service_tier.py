"""OpenAI's service tiers: words for how urgent a request is, within what its key allows.

    auto            as urgent as the key allows, as without the field
    default         no more urgent than a key without a priority
    flex            after everybody who asked for no tier
    priority        as urgent as the key allows, and so scale, fast and ultrafast

An answer names the tier that it was really served in: `priority` only if the key has a priority above 0.
"""

from dataclasses import replace
from typing import Final

from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest
from headrace.core.request import Principal

TIERS: Final = ("auto", "default", "flex", "priority", "scale", "fast", "ultrafast")
"""What a body may name."""

_FLEX: Final = -1


def serve_in_tier(tier: str | None, principal: Principal) -> tuple[Principal, str | None]:
    """Who asks, as urgent as the tier says, and the tier as the answer names it. Raises InvalidRequest."""
    if tier is None:
        return principal, None
    if tier not in TIERS:
        raise InvalidRequest(f"service_tier: {show(tier)} is none of {', '.join(TIERS)}.", param="service_tier")
    if tier == "flex":
        return replace(principal, priority=min(principal.priority, 0) + _FLEX), "flex"
    if tier == "default" or principal.priority <= 0:
        return replace(principal, priority=min(principal.priority, 0)), "default"
    return principal, "priority"
