"""Adapters of served models, for the event loop: `model:adapter` names, loading beside the loop, cards.

Holds one shelf (`adapters/shelf.py`) for each model in memory. Files are read in a thread of their own, one after the
other. Whoever opens an adapter holds a lease on it until the request has ended. Knows no engine and no protocol.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest, NotFound, Unavailable
from headrace.core.service import AdapterState
from headrace.engine.guests import Hold
from headrace.engine.runner import StepProgram
from headrace.engine.served import Served

if TYPE_CHECKING:
    from headrace.adapters.load import LoadedAdapter
    from headrace.adapters.shelf import Lease, Shelf
    from headrace.models.load import LoadedModel

Holder = Callable[[str], Awaitable[Hold]]


class Shelves:
    """The adapters of several models; implements `core.service.Adapters`. `names` lead from names and aliases to
    models; `hold` has a model in memory until it is released; `check` raises for an adapter that must not be read."""

    def __init__(
        self,
        names: Mapping[str, str],
        folder: Path,
        memory_bytes: int,
        hold: Holder,
        check: Callable[[Path], object] | None = None,
    ) -> None:
        self._names = names
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._hold = hold
        self._check = check
        self._shelves: dict[str, Shelf] = {}
        self._cards: dict[str, ModelCard] = {}
        self._reader = ThreadPoolExecutor(1, "headrace-adapters")

    def add(self, served: Served) -> StepProgram:
        """A shelf for a model that came, and its program with room for adapters."""
        name = served.model.name
        program, self._shelves[name] = _shelf(served.model, self._folder, self._memory_bytes, self._check)
        self._cards[name] = served.card
        return program

    def remove(self, name: str) -> None:
        """A model goes and its adapters with it; one that has no shelf is no error."""
        self._shelves.pop(name, None)
        self._cards.pop(name, None)

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def open(self, served: Served, name: str) -> "tuple[Served, Lease]":
        """A model with an adapter over it, and the lease to release in the end. Raises what `Shelf.load` raises."""
        lease = await self._lease(served.model.name, name)
        return served.adapted(lease.adapter), lease

    def cards(self, model: str) -> list[ModelCard]:
        """One per adapter that the folder offers for a model in memory; digests are known of those in memory."""
        shelf, base = self._shelves.get(model), self._cards.get(model)
        if shelf is None or base is None:
            return []
        loaded = shelf.loaded()
        return [_card(base, name, loaded.get(name)) for name in sorted({*shelf.offered(), *loaded})]

    async def load_adapter(self, name: str) -> ModelCard:
        """See `core.service.Adapters`; the model is loaded first, if it is not there."""
        model, adapter = self._split(name)
        hold = await self._hold(model)
        try:
            lease = await self._lease(model, adapter)
            lease.release()
            return _card(self._cards[model], adapter, lease.adapter)
        finally:
            hold.release()

    async def unload_adapter(self, name: str) -> None:
        """See `core.service.Adapters`."""
        model, adapter = self._split(name)
        shelf = self._shelves.get(model)
        if shelf is None:
            raise NotFound(f"lora_name: {name[:200]!r} is not loaded, nor is its model.", param="lora_name")
        shelf.unload(adapter)

    def adapters(self) -> tuple[AdapterState, ...]:
        """See `core.service.Adapters`."""
        found: list[AdapterState] = []
        for model, shelf in sorted(self._shelves.items()):
            loaded = shelf.loaded()
            for name in sorted({*shelf.offered(), *loaded}):
                adapter = loaded.get(name)
                size = 0 if adapter is None else adapter.num_bytes
                found.append(
                    AdapterState(name=f"{model}:{name}", model=model, is_loaded=adapter is not None, num_bytes=size)
                )
        return tuple(found)

    def _split(self, name: str) -> tuple[str, str]:
        model, colon, adapter = name.rpartition(":")
        served = sorted(set(self._names.values()))
        if not colon and len(served) == 1:
            (model,) = served
        if model in self._names:
            return self._names[model], adapter
        raise NotFound(
            f"lora_name: {name[:200]!r} names no served model; write model:adapter, models are: {', '.join(served)}.",
            param="lora_name",
        )

    async def _lease(self, model: str, name: str) -> "Lease":
        shelf = self._shelves.get(model)
        if shelf is None:
            raise InvalidRequest(f"model: {model} does not generate, and takes no adapters.", param="model")
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


def _shelf(
    model: "LoadedModel", folder: Path, memory_bytes: int, check: Callable[[Path], object] | None
) -> "tuple[StepProgram, Shelf]":
    from headrace.adapters.program import AdaptableProgram  # noqa: PLC0415 - needs the compiled module
    from headrace.adapters.shelf import Shelf  # noqa: PLC0415

    program = AdaptableProgram.of(model)
    return program, Shelf(folder, program, model.architecture, memory_bytes, check)


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
