"""What an attempt is charged: what its backend told, or a bound of it where it told nothing. Values in, values out.

Told counts are charged as they are. Without them a prompt is charged at its bound and an answer at its bytes, which no
tokenizer makes more tokens of, but never above what was set aside for the attempt. The process's own engine counts
every token as it comes, so that for it nothing is estimated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headrace.core.errors import EngineFault
from headrace.core.events import Usage
from headrace.core.ledger import Ledger, Prices
from headrace.core.request import Task
from headrace.core.shape import Shape
from headrace.core.usage import to_nanos
from headrace.gateway.contract import Candidate
from headrace.gateway.settings import ENGINE, BackendSettings, ModelSettings, Target


@dataclass(frozen=True, slots=True)
class Charge:
    """Tokens, and their price in billionths; `saved_nanos` is what cached tokens would have cost more."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    saved_nanos: int = 0
    is_estimated: bool = False

    def plus(self, other: "Charge") -> "Charge":
        """Both together."""
        return Charge(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.written_tokens + other.written_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cost_nanos + other.cost_nanos,
            self.saved_nanos + other.saved_nanos,
            self.is_estimated or other.is_estimated,
        )


NOTHING: Final = Charge()
_UNKNOWN: Final = ModelSettings()


class Tariffs:
    """What the settings say of each target. An adapter of a model, `model:adapter`, costs what the model does."""

    def __init__(self, backends: Mapping[str, BackendSettings]) -> None:
        self._backends = backends

    def model(self, target: Target) -> ModelSettings:
        """The settings of a target's model, those of one that nothing is said of if there are none."""
        backend = self._backends.get(target.backend)
        if backend is None:
            return _UNKNOWN
        models = backend.models
        return models.get(target.model) or models.get(target.model.rpartition(":")[0]) or _UNKNOWN


def told(usage: Usage, prices: Prices | None) -> Charge | None:
    """What told counts cost; None if they contradict each other or are estimates, which is as good as none."""
    if usage.is_estimated:
        return None
    try:
        ledger = Ledger.of(usage)
    except EngineFault:
        return None
    cost = saved = 0
    if prices is not None:
        cost = to_nanos(prices.cost(ledger))
        if ledger.cached_tokens:
            uncached = Ledger(
                prompt_tokens=ledger.prompt_tokens,
                completion_tokens=ledger.completion_tokens,
                writes=ledger.writes,
                reasoning_tokens=ledger.reasoning_tokens,
            )
            saved = max(0, to_nanos(prices.cost(uncached)) - cost)
    return Charge(
        ledger.prompt_tokens,
        ledger.completion_tokens,
        ledger.cached_tokens,
        ledger.written_tokens,
        ledger.reasoning_tokens,
        cost,
        saved,
    )


@dataclass(slots=True)
class Heard:
    """What was heard of an answer so far. `prompt_tokens` is None where it was not told; `num_bytes` are those of
    text; `num_tokens` those that the backend counted."""

    prompt_tokens: int | None = None
    cached_tokens: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    has_begun: bool = False


def estimated(shape: Shape, candidate: Candidate, model: ModelSettings, heard: Heard, *, is_whole: bool) -> Charge:
    """What an answer that told no counts is charged. `is_whole`: it would have come in one piece, so that nobody knows
    how far it had got."""
    if candidate.target.backend == ENGINE:
        if not heard.has_begun:
            return NOTHING
        usage = Usage(heard.prompt_tokens or 0, heard.num_tokens, min(heard.cached_tokens, heard.prompt_tokens or 0))
        return told(usage, model.prices) or NOTHING
    bound = candidate.bound
    prompt = heard.prompt_tokens or shape.prompt_bound + shape.num_media * model.media_tokens
    prompt = min(prompt, bound.tokens)
    room = bound.tokens - prompt
    completion = 0
    if shape.task is Task.GENERATE:
        completion = room if is_whole else min(heard.num_bytes, room)
    charge = told(Usage(prompt, completion), model.prices) or NOTHING
    cost = min(charge.cost_nanos, bound.nanos)
    return Charge(prompt, completion, cost_nanos=cost, is_estimated=True)
