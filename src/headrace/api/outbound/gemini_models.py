"""What is known of Google's models by the beginning of their names: how they are asked to think, and whether they want
their signatures back.

Source: ai.google.dev, thinking and thought signatures. A name that no row fits is asked nothing. Knows no bodies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.core.request import Effort, Reasoning

_LEVELS: Final = {Effort.LOW: "LOW", Effort.MEDIUM: "MEDIUM", Effort.HIGH: "HIGH", Effort.XHIGH: "HIGH"}
_BUDGETS: Final = {
    Effort.MINIMAL: 1_024,
    Effort.LOW: 1_024,
    Effort.MEDIUM: 8_192,
    Effort.HIGH: 24_576,
    Effort.XHIGH: 24_576,
}


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Models whose names begin with `prefix`. `efforts` are Gemini's own words for ours, level or tokens, empty for
    those that do not think. `has_signatures`: a call that comes back without what was signed about it is refused."""

    prefix: str
    efforts: Mapping[Effort, str | int] = field(default_factory=dict)
    has_signatures: bool = False


# The first that fits. Who cannot help thinking is asked to think as little as may be.
ROWS: Final = (
    ModelRow("gemini-1"),
    ModelRow("gemini-2.0"),
    ModelRow("gemini-2.5-pro", {Effort.NONE: 128, **_BUDGETS}),
    ModelRow("gemini-2.5", {Effort.NONE: 0, **_BUDGETS}),
    ModelRow("gemini-3-pro", {Effort.NONE: "LOW", Effort.MINIMAL: "LOW", **_LEVELS}, has_signatures=True),
    ModelRow("gemini-3.1-pro", {Effort.NONE: "LOW", Effort.MINIMAL: "LOW", **_LEVELS}, has_signatures=True),
    ModelRow("gemini-embedding"),
    ModelRow("gemini-", {Effort.NONE: "MINIMAL", Effort.MINIMAL: "MINIMAL", **_LEVELS}, has_signatures=True),
    ModelRow(""),
)


def row_of(model: str) -> ModelRow:
    """What is known of a model."""
    name = model.removeprefix("models/")
    return next(row for row in ROWS if name.startswith(row.prefix))


def thinking(reasoning: Reasoning, model: str) -> dict[str, Any] | None:
    """`thinkingConfig` for what is asked. A bound in tokens is passed on as it is; an effort is a wish."""
    if reasoning.max_tokens is not None and reasoning.effort is not Effort.NONE:
        return {"includeThoughts": True, "thinkingBudget": reasoning.max_tokens}
    given = None if reasoning.effort is None else row_of(model).efforts.get(reasoning.effort)
    if given is None:
        return None
    config: dict[str, Any] = {"thinkingBudget" if isinstance(given, int) else "thinkingLevel": given}
    return config if reasoning.effort is Effort.NONE else {"includeThoughts": True, **config}
