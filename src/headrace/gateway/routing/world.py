"""What a planner is told from outside, each as a function that is asked when it is needed. Decides nothing."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.core.backend import ModelCard
from headrace.core.clock import Clock
from headrace.core.ledger import NO_PRICES, PriceList
from headrace.gateway.contract import Standing, Standings
from headrace.gateway.settings import Target


def nothing_served() -> Sequence[ModelCard]:
    """No engine, or one without models."""
    return ()


class _AllWell:
    """Nothing is known to be wrong with anybody."""

    is_clear = True

    def standing(self, target: Target) -> Standing:
        """As good as can be."""
        return Standing()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`served`: the engine's models now. `standings`: who can be asked at all. `is_bounded`: whether a budget or limit
    of tokens holds for anybody, so that every answer needs a bound; None: the settings tell."""

    clock: Clock
    rng: random.Random
    served: Callable[[], Sequence[ModelCard]] = nothing_served
    standings: Standings = field(default_factory=_AllWell)
    is_bounded: Callable[[], bool] | None = None
    prices: PriceList = NO_PRICES
