"""Why a request would go where it would: a question about a request that nobody makes, and the answer. Values only."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the request would be. `needs` are names of `core.shape.Need`; `text` is what its user would say, where a
    policy reads it."""

    model: str
    tenant: str = "local"
    user: str | None = None
    session: str | None = None
    labels: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    prompt_tokens: int = 100
    max_tokens: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """About one target. `place` is where it stands in the order, from 1, None if it is not asked; `route` is whose
    candidate it is. `scores` are what each policy of that route measured, None where nothing is known. `cost_nanos`
    (billionths) and `num_tokens` are bounds; an answer is cut to `max_tokens` there."""

    target: str
    route: str
    place: int | None
    reason: str
    scores: tuple[tuple[str, float | None], ...] = ()
    num_tokens: int = 0
    cost_nanos: int = 0
    max_tokens: int | None = None
    is_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The order and its reasons. `num_used` is how many of it a plan has; `refusal` is what a client would be told if
    nobody is asked."""

    model: str
    route: str
    policies: tuple[str, ...]
    reason: str
    verdicts: tuple[Verdict, ...]
    num_used: int = 0
    shadow: str | None = None
    refusal: str | None = None


class Explaining(Protocol):
    """Who can say why."""

    def explain(self, question: Question) -> Explanation:
        """What would happen now to such a request; nothing is sent. Raises NotFound for a model that is not there, and
        InvalidRequest for a need that does not exist."""
        ...
