"""A model that can be loaded again: how, and what is known of it while it is not there. Values; loads nothing itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.core.backend import ModelCard
from headrace.core.request import Task
from headrace.engine.config import EngineConfig
from headrace.engine.lanes import footings
from headrace.engine.provision import Footing, provide
from headrace.engine.residency import Need
from headrace.engine.served import Setup, card_of
from headrace.kernels.plan import KvKind

if TYPE_CHECKING:
    from headrace.models.load import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A served model and the way to it. `load` may take its time and raises HeadraceError.

    `variants`: for each kind of keys and values that it may get, what its pools follow from. `ttl_s`: how long it stays
    unused.
    """

    name: str
    setup: Setup
    card: ModelCard
    weights_bytes: int
    variants: tuple[tuple[Footing, ...], ...]
    load: "Callable[[], LoadedModel]"
    ttl_s: float = math.inf

    @classmethod
    def of(
        cls, model: "LoadedModel", setup: Setup, load: "Callable[[], LoadedModel]", *, ttl_s: float = math.inf
    ) -> "Source":
        """What stays known of a model that was loaded once; nothing of it is held."""
        kinds = [KvKind.HALF, KvKind.INT8] if model.plan.cache.supports(KvKind.INT8) else [KvKind.HALF]
        return cls(
            name=model.name,
            setup=setup,
            card=card_of(model, setup),
            weights_bytes=held_bytes(model),
            variants=tuple(footings(model, kind) for kind in kinds),
            load=load,
            ttl_s=ttl_s,
        )

    @property
    def generates(self) -> bool:
        """Whether it takes a share of the memory for keys and values."""
        return Task.GENERATE in self.card.tasks

    def need(self, config: EngineConfig, num_sharing: int) -> Need:
        """The most that it can take, whatever kind its keys and values get. Raises ValueError if no page fits."""
        pools = [sum(provide(config, num_sharing, one).num_bytes for one in variant) for variant in self.variants]
        return Need(self.weights_bytes, max(pools))


def held_bytes(model: "LoadedModel") -> int:
    """Weights and tables of a model, in memory or mapped."""
    return model.weights_bytes + sum(4 * math.prod(vector.shape) for vector in model.plan.vectors)
