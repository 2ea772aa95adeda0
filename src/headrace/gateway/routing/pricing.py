"""What a request can cost at most on a target, and what its prices are: the arithmetic behind `Bound`.

A bound holds for every ledger whose prompt and output it covers: all of the prompt at the dearest price that input can
have there, written to a cache for an hour included. Knows no budgets.
"""

import math
from dataclasses import dataclass
from typing import Final

from headrace.core.ledger import LONG_TTL_S, PER_TOKENS, SHORT_TTL_S, Ledger, PriceList, Prices
from headrace.core.request import Task
from headrace.core.shape import Shape
from headrace.core.usage import NANOS
from headrace.gateway.contract import Bound
from headrace.gateway.settings import GatewaySettings, ModelSettings, Target

FREE: Final = Bound(0, 0)


@dataclass(frozen=True, slots=True)
class Rate:
    """Billionths a token: the dearest that input can be, output, input that is computed, input that was cached."""

    dearest: float = 0.0
    output: float = 0.0
    fresh: float = 0.0
    cached: float = 0.0

    @classmethod
    def of(cls, prices: Prices | None) -> "Rate":
        """The rate of some prices; what has none costs nothing."""
        if prices is None:
            return cls()
        one = PER_TOKENS  # a million tokens are the unit in which prices are exact
        fresh = prices.cost(Ledger(prompt_tokens=one, completion_tokens=0))
        cached = prices.cost(Ledger(prompt_tokens=one, completion_tokens=0, cached_tokens=one))
        written = [
            prices.cost(Ledger(prompt_tokens=one, completion_tokens=0, writes=((ttl_s, one),)))
            for ttl_s in (SHORT_TTL_S, LONG_TTL_S, 0.0)
        ]
        scale = NANOS / PER_TOKENS
        return cls(max(fresh, cached, *written) * scale, prices.output * scale, fresh * scale, cached * scale)


def prices_of(settings: GatewaySettings, prices: PriceList, target: Target) -> Prices | None:
    """The prices of a target: its own entry's, else the list's for `backend/model` or for the model; an adapter costs
    what its model does."""
    backend = settings.backends.get(target.backend)
    base = target.model.rpartition(":")[0]
    entries = {} if backend is None else backend.models
    for name in (target.model, base):
        entry = entries.get(name)
        if entry is not None and entry.prices is not None:
            return entry.prices
    for name in (str(target), target.model, f"{target.backend}/{base}", base):
        if (listed := prices.models.get(name)) is not None:
            return listed
    return None


def cut_of(shape: Shape, model: ModelSettings, default: int | None) -> int | None:
    """What an answer has to be cut to there: None if the request's own bound holds. `default` bounds what neither the
    request nor the model's entry does."""
    cap = model.max_output_tokens
    if shape.max_tokens is None:
        return default if cap is None else cap
    return cap if cap is not None and shape.max_tokens > cap else None


def bound_of(shape: Shape, model: ModelSettings, rate: Rate, max_tokens: int) -> Bound:
    """The most that a request can take there, if an answer has at most `max_tokens`."""
    if shape.task is Task.COUNT:
        return FREE
    prompt = shape.prompt_bound
    if shape.num_media:
        prompt += shape.num_media * model.media_tokens
    output = max_tokens * shape.num_choices if shape.task is Task.GENERATE else 0
    if not rate.dearest and not rate.output:
        return Bound(prompt + output, 0)
    # One more than the sum: products of floats may fall short of it in their last digit.
    return Bound(prompt + output, math.ceil(prompt * rate.dearest + output * rate.output) + 1)
