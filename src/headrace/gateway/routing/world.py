"""What a planner is told from outside, each as a function that is asked when it is needed. Decides nothing."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.core.backend import ModelCard
from headrace.core.clock import Clock
from headrace.core.ledger import NO_PRICES, PriceList


def nothing_served() -> Sequence[ModelCard]:
    """No engine, or one without models."""
    return ()


def nobody_out(_: str) -> str | None:
    """Every backend can be asked."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`served`: the engine's models now. `is_out`: why a backend cannot be asked now, None if it can. `ramp`: the share
    of its load that a backend gets now, above 0 and at most 1; None if all get all of theirs. `is_bounded`: whether
    anybody's budget or token limit holds, so that every answer needs a bound; None: the settings tell."""

    clock: Clock
    rng: random.Random
    served: Callable[[], Sequence[ModelCard]] = nothing_served
    is_out: Callable[[str], str | None] = nobody_out
    ramp: Callable[[str], float] | None = None
    is_bounded: Callable[[], bool] | None = None
    prices: PriceList = NO_PRICES
