"""Whether a delegation covers something. Values in, values out; knows no tokens."""

from headrace.core.trust import Delegation, Effect


def refusal(
    delegation: Delegation,
    *,
    model: str | None = None,
    tool: str | None = None,
    effect: Effect | None = None,
    labels: frozenset[str] = frozenset(),
) -> str | None:
    """Why a delegation does not cover what is asked for, for its caller; None if it does. `labels` are those of what
    would be read: one that the delegation does not name is not its holder's to see."""
    if model is not None and delegation.models is not None and model not in delegation.models:
        return f"the delegation does not cover the model {model[:200]!r}"
    if tool is not None and delegation.tools is not None and tool not in delegation.tools:
        return f"the delegation does not cover the tool {tool[:200]!r}"
    if effect is not None and delegation.effects is not None and effect not in delegation.effects:
        return f"the delegation does not cover tools that {effect.name.lower()}"
    if delegation.labels is not None and not labels <= delegation.labels:
        return f"the delegation does not cover the label {min(labels - delegation.labels)[:200]!r}"
    return None
