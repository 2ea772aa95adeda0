"""Adapters of served models, for the event loop: `model:adapter` names, loading beside the loop, cards.

Holds one shelf (`adapters/shelf.py`) per model. Files are read in a thread of their own, one after the other. Whoever
opens an adapter holds a lease on it until the request has ended. Knows no engine and no protocol.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.core.backend import ModelCard
from headrace.core.errors import NotFound, Unavailable
from headrace.engine.runner import StepProgram
from headrace.engine.served import Served

if TYPE_CHECKING:
    from headrace.adapters.load import LoadedAdapter
    from headrace.adapters.shelf import Lease, Shelf
    from headrace.models.load import LoadedModel


class Shelves:
    """The adapters of several models; implements `core.service.Adapters`."""

    def __init__(self, served: Mapping[str, Served], folder: Path, memory_bytes: int) -> None:
        self._served = served
        self._shelves: dict[str, Shelf] = {}
        self.programs: dict[str, StepProgram] = {}
        for name, each in served.items():
            self.programs[name], self._shelves[name] = _shelf(each.model, folder, memory_bytes)
        self._reader = ThreadPoolExecutor(1, "headrace-adapters")

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def open(self, served: Served, name: str) -> "tuple[Served, Lease]":
        """A model with an adapter over it, and the lease to release in the end. Raises what `Shelf.load` raises."""
        lease = await self._lease(served.model.name, name)
        return served.adapted(lease.adapter), lease

    def cards(self, model: str) -> list[ModelCard]:
        """One per adapter that the folder offers for a model; digests are known of those in memory."""
        shelf, base = self._shelves[model], self._served[model].card
        loaded = shelf.loaded()
        return [_card(base, name, loaded.get(name)) for name in sorted({*shelf.offered(), *loaded})]

    async def load_adapter(self, name: str) -> ModelCard:
        """See `core.service.Adapters`."""
        model, adapter = self._split(name)
        lease = await self._lease(model, adapter)
        lease.release()
        return _card(self._served[model].card, adapter, lease.adapter)

    async def unload_adapter(self, name: str) -> None:
        """See `core.service.Adapters`."""
        model, adapter = self._split(name)
        self._shelves[model].unload(adapter)

    def _split(self, name: str) -> tuple[str, str]:
        model, colon, adapter = name.rpartition(":")
        if not colon and len(self._served) == 1:
            (model,) = self._served
        for known, served in self._served.items():
            if model == known or model in served.card.aliases:
                return known, adapter
        names = ", ".join(sorted(self._served))
        raise NotFound(
            f"lora_name: {name[:200]!r} names no served model; write model:adapter, models are: {names}.",
            param="lora_name",
        )

    async def _lease(self, model: str, name: str) -> "Lease":
        shelf = self._shelves[model]
        if (lease := shelf.take(name)) is not None:
            return lease
        try:
            job = self._reader.submit(shelf.load, name)
        except RuntimeError as error:  # the executor was shut down
            raise Unavailable("The server is stopping; try again.") from error
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            # Nobody waits any more for what may still be loaded.
            job.add_done_callback(_release)
            raise


def _release(job: "Future[Lease]") -> None:
    if not job.cancelled() and job.exception() is None:
        job.result().release()


def _shelf(model: "LoadedModel", folder: Path, memory_bytes: int) -> "tuple[StepProgram, Shelf]":
    from headrace.adapters.program import AdaptableProgram  # noqa: PLC0415 - needs the compiled module
    from headrace.adapters.shelf import Shelf  # noqa: PLC0415

    program = AdaptableProgram.of(model)
    return program, Shelf(folder, program, model.architecture, memory_bytes)


def _card(base: ModelCard, name: str, adapter: "LoadedAdapter | None") -> ModelCard:
    return ModelCard(
        id=f"{base.id}:{name}",
        created=base.created if adapter is None else adapter.created,
        owned_by=base.owned_by,
        context_length=base.context_length,
        digest="" if adapter is None else adapter.digest,
        parent=base.id,
        is_loaded=adapter is not None,
    )
