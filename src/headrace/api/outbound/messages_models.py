"""What is known of Anthropic's models by the beginning of their names: how long an answer may be where nobody said, and
how they are asked to think.

Source: platform.claude.com/docs, models overview and thinking. A name that no row fits is taken for a new model. Knows
no bodies.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from headrace.core.request import Effort, Reasoning

MIN_BUDGET: Final = 1024
"""Anthropic's own bound for `budget_tokens`; it must also be below max_tokens."""


class Thinks(Enum):
    """How a model is asked to think."""

    NEVER = "never"
    BUDGET = "budget"  # a number of tokens
    ADAPTIVE = "adaptive"  # an effort


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Models whose names begin with `prefix`; `max_tokens` is what an answer is bound to where nobody said."""

    prefix: str
    max_tokens: int
    thinks: Thinks


# The first that fits.
ROWS: Final = (
    ModelRow("claude-3-5", 8_192, Thinks.NEVER),
    ModelRow("claude-3-7", 64_000, Thinks.BUDGET),
    ModelRow("claude-3", 4_096, Thinks.NEVER),
    ModelRow("claude-opus-4-0", 32_000, Thinks.BUDGET),
    ModelRow("claude-opus-4-1", 32_000, Thinks.BUDGET),
    ModelRow("claude-opus-4-2025", 32_000, Thinks.BUDGET),
    ModelRow("claude-sonnet-4-0", 64_000, Thinks.BUDGET),
    ModelRow("claude-sonnet-4-2025", 64_000, Thinks.BUDGET),
    ModelRow("claude-opus-4-5", 64_000, Thinks.BUDGET),
    ModelRow("claude-sonnet-4-5", 64_000, Thinks.BUDGET),
    ModelRow("claude-haiku-4-5", 64_000, Thinks.BUDGET),
    ModelRow("claude-", 64_000, Thinks.ADAPTIVE),
    ModelRow("", 4_096, Thinks.ADAPTIVE),
)

_BUDGETS: Final = {
    Effort.MINIMAL: 1_024,
    Effort.LOW: 2_048,
    Effort.MEDIUM: 8_192,
    Effort.HIGH: 16_384,
    Effort.XHIGH: 32_768,
}
_EFFORTS: Final = {
    Effort.MINIMAL: "low",
    Effort.LOW: "low",
    Effort.MEDIUM: "medium",
    Effort.HIGH: "high",
    Effort.XHIGH: "xhigh",
}


def row_of(model: str) -> ModelRow:
    """What is known of a model."""
    return next(row for row in ROWS if model.startswith(row.prefix))


def thinking(reasoning: Reasoning, model: str, max_tokens: int) -> tuple[dict[str, Any] | None, str | None]:
    """`thinking` and `output_config.effort` for what is asked. A bound in tokens is passed on as it is; an effort is a
    wish, which a model that cannot think, or has no room to, leaves unfulfilled."""
    row, effort = row_of(model), reasoning.effort
    if effort is Effort.NONE:
        return (None if row.thinks is Thinks.NEVER else {"type": "disabled"}), None
    if reasoning.max_tokens is not None:
        return {"type": "enabled", "budget_tokens": reasoning.max_tokens}, None
    if effort is None or row.thinks is Thinks.NEVER:
        return None, None
    if row.thinks is Thinks.ADAPTIVE:
        return {"type": "adaptive"}, _EFFORTS[effort]
    budget = min(_BUDGETS[effort], max_tokens - 1)
    return ({"type": "enabled", "budget_tokens": budget} if budget >= MIN_BUDGET else None), None
