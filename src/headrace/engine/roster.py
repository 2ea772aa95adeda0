"""What is served: the names, and of each model in memory what is made of it once, its lanes and its adapters.

Brings a loaded model into the engine and takes it out again; both may take their time and are called on one thread at a
time. The event loop only reads. Knows no requests, and not why a model comes or goes.
"""

import hashlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest, NotFound
from headrace.engine.config import KV_TYPES
from headrace.engine.draft.drafter import Drafter
from headrace.engine.engine import Engine
from headrace.engine.kv.disk import DiskTier
from headrace.engine.kv.gate import Decision, choose_kind, kernel_variant
from headrace.engine.kv.page_file import PageLayout
from headrace.engine.lane import EngineModel
from headrace.engine.lanes import generating_lane, pooling_lane
from headrace.engine.provision import provide
from headrace.engine.residency import Need
from headrace.engine.retention import DiskLink
from headrace.engine.served import Served, Setup
from headrace.engine.shelves import Shelves
from headrace.engine.source import held_bytes
from headrace.kernels.plan import PAGE_TOKENS
from headrace.observe.metrics import Metrics

if TYPE_CHECKING:
    from headrace.models.load import LoadedModel

_log = logging.getLogger("headrace.engine")


class Roster:
    """Models by served name. `cards` are those of all that are ever served, in their order; `num_sharing` of them take
    a share of the memory for keys and values."""

    def __init__(
        self,
        engine: Engine,
        cards: Iterable[ModelCard],
        num_sharing: int,
        *,
        metrics: Metrics,
        disk: DiskTier | None,
    ) -> None:
        self.kv_decisions: dict[str, Decision] = {}
        self.shelves: Shelves | None = None
        self._engine = engine
        self._config = engine.config
        self._cards = {card.id: card for card in cards}
        self.names = {alias: card.id for card in self._cards.values() for alias in card.aliases}
        self.names |= {name: name for name in self._cards}
        self._num_sharing = num_sharing
        self._metrics = metrics
        self._disk = disk
        self._served: dict[str, Served] = {}

    def find(self, name: str) -> tuple[str, str | None]:
        """The served name behind a model's name or alias, and the adapter of `model:adapter`. Raises NotFound."""
        model, _, adapter = name.rpartition(":")
        if self.shelves is not None and name not in self.names and model in self.names:
            return self.names[model], adapter
        if name in self.names:
            return self.names[name], None
        names = ", ".join(sorted(self._cards))
        raise NotFound(
            f"Model {name[:200]} is not served here; served: {names}.", param="model", code="model_not_found"
        )

    def card(self, name: str) -> ModelCard:
        """What is known of a model, in memory or not."""
        return self._cards[name]

    def served(self, name: str) -> Served:
        """A model that is in memory."""
        return self._served[name]

    def cards(self) -> tuple[ModelCard, ...]:
        """All models, each followed by the adapters that there are for it if it is in memory."""
        found: list[ModelCard] = []
        for name, card in self._cards.items():
            served = self._served.get(name)
            found.append(card if served is None else served.card)
            if served is not None and self.shelves is not None:
                found += self.shelves.cards(name)
        return tuple(found)

    def open(self, model: "LoadedModel", setup: Setup, threads: Any) -> Need:
        """Serve a model that was loaded; what it takes. `threads` measure what 8-bit keys and values cost it.

        Raises InvalidRequest if not even one page fits, or the model cannot have the configured `kv_type`.
        """
        name = model.name
        served = Served(model, self._metrics, setup)
        added: list[str] = []
        try:
            for lane in self._lanes(served, threads):
                self._engine.add_model(lane, self._num_sharing)
                added.append(lane.name)
        except BaseException as error:
            self._take_out(served, added)
            if isinstance(error, ValueError):  # a budget that no page of this model fits into
                raise InvalidRequest(str(error), param="kv_memory_bytes") from error
            raise
        served.lanes = tuple(added)
        sizes = [provide(self._config, self._num_sharing, footing).num_bytes for footing in served.footings]
        need = Need(held_bytes(model), sum(sizes))
        served.metrics.held_bytes.set(need.total_bytes)
        served.metrics.loads.inc()
        self._served[name] = served
        return need

    def close(self, name: str) -> None:
        """Take a model out of the engine, when nobody uses it, and let go of it."""
        served = self._served.pop(name)
        self._take_out(served, served.lanes)
        served.metrics.held_bytes.set(0)

    def close_all(self) -> None:
        """Stop what runs on behalf of the models, after the engine has stopped."""
        for served in self._served.values():
            served.close()

    def _take_out(self, served: Served, lanes: Iterable[str]) -> None:
        try:
            for lane in lanes:
                # Dropped on this thread: giving back memory takes a while, for which no stream is to wait.
                self._engine.remove_model(lane).result().clear()
        finally:
            if self.shelves is not None:
                self.shelves.remove(served.model.name)
            served.close()

    def _lanes(self, served: Served, threads: Any) -> list[EngineModel]:
        lanes = []
        if served.generates:
            program = served.model.program if self.shelves is None else self.shelves.add(served)
            decision = choose_kind(served.model, KV_TYPES[self._config.kv_type], threads)
            _log.info("%s: keys and values in %s: %s", served.model.name, decision.kv_type, decision.reason)
            self.kv_decisions[served.model.name] = decision
            served.digests["keys_and_values"] = decision.kv_type
            lanes.append(
                generating_lane(
                    served,
                    program=program,
                    kv_kind=decision.kind,
                    speculator=Drafter() if self._config.speculation == "auto" else None,
                    disk=self._link(served.model, decision),
                )
            )
        if served.pooled_plan is not None:
            lanes.append(pooling_lane(served))
        served.footings = tuple(lane.footing for lane in lanes)
        return lanes

    def _link(self, model: "LoadedModel", decision: Decision) -> DiskLink | None:
        if self._disk is None:
            return None
        kind = decision.kind
        layout = PageLayout(
            model=model.digest,
            plan=hashlib.sha256(repr(model.plan).encode()).hexdigest(),
            kv_type=f"{kind.name} {kind.dtype}",
            variant=kernel_variant(),
            shape=model.plan.cache.pool_shape(kind, 1)[1:],
            page_tokens=PAGE_TOKENS,
            page_bytes=model.plan.cache.page_bytes(kind),
        )
        return DiskLink(self._disk, layout)
