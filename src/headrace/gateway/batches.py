"""Batches as callers see them, and the one decision about them: how many lines may begin now.

Foreground requests go first, twice over: a line begins only while nobody waits for an answer (`num_to_start`), and what
runs has a priority so low that the engine's queue prefers everybody else. Only where the foreground never rests for
`patience_s` may a single line begin beside it, so that a batch is late and not forgotten. Lines are run by
`batch_runner.py`; rows are `memory/batches.py`'s.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from headrace.core.batch import Batch, BatchOrder, BatchStatus
from headrace.core.clock import Clock
from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.file import BATCH_INPUT, BATCH_SPOOL, ListQuery, Page
from headrace.core.request import Principal
from headrace.gateway.tracing import Origins
from headrace.memory import batches as rows
from headrace.memory.files import FileStore
from headrace.memory.store import Store

# Far below what a key or the queue's ageing (one priority in `aging_s`) brings anybody to within a batch's day.
BACKGROUND_PRIORITY: Final = -1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What batches may take: lines that run at once, lines and bytes of an input, bytes of a line, and batches of a
    tenant that are not over."""

    max_running: int = 8
    patience_s: float = 600.0
    max_lines: int = 50_000
    max_input_bytes: int = 200 * 10**6
    max_line_bytes: int = 10 * 2**20
    max_unfinished: int = 100

    def __post_init__(self) -> None:
        for name in ("max_running", "patience_s", "max_lines", "max_input_bytes", "max_line_bytes", "max_unfinished"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not above 0.")


@dataclass(frozen=True, slots=True)
class Load:
    """What goes on: requests of the foreground, lines that run, and seconds since a line last began."""

    num_foreground: int
    num_running: int
    idle_s: float


def num_to_start(load: Load, limits: BatchLimits) -> int:
    """How many lines may begin now."""
    if not load.num_foreground:
        return max(0, limits.max_running - load.num_running)
    return 1 if load.num_running == 0 and load.idle_s >= limits.patience_s else 0


def background(principal: Principal) -> Principal:
    """The same caller, behind everybody who waits for an answer."""
    return replace(principal, priority=min(principal.priority, 0) + BACKGROUND_PRIORITY)


class BatchService:
    """The batches of all tenants; implements `core.batch.Batches`. `on_change` is called when there is work."""

    def __init__(
        self, store: Store, files: FileStore, clock: Clock, new_id: Callable[[], str], limits: BatchLimits | None = None
    ) -> None:
        self.limits = limits or BatchLimits()
        self.on_change: list[Callable[[], None]] = []
        self.origins = Origins()
        self._store = store
        self._files = files
        self._clock = clock
        self._new_id = new_id

    async def create(self, principal: Principal, order: BatchOrder) -> Batch:
        """Take a batch in; it runs when the engine is idle.

        Raises NotFound for its file, InvalidRequest, and RateLimited if there are too many that are not over.
        """
        file = await self._files.get(principal.tenant, order.input_file_id)
        if file.purpose not in (BATCH_INPUT, BATCH_SPOOL):
            raise InvalidRequest(
                f"input_file_id: {file.id} has the purpose {file.purpose!r}; upload it with the purpose 'batch'.",
                param="input_file_id",
            )
        if file.num_bytes > self.limits.max_input_bytes:
            raise InvalidRequest(
                f"input_file_id: {file.id} has {file.num_bytes} bytes; a batch may have {self.limits.max_input_bytes}, "
                "split it into several.",
                param="input_file_id",
            )
        now_s = int(self._clock.unix_s())
        batch = Batch(
            id=f"batch_{self._new_id()}",
            principal=principal,
            order=order,
            status=BatchStatus.VALIDATING,
            created_s=now_s,
            expires_s=now_s + order.window_s,
            times_s={BatchStatus.VALIDATING: now_s},
        )
        await self._store.call(rows.insert_batch, batch, self.limits.max_unfinished)
        self.origins.note(batch.id)
        self._tell()
        return batch

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """A batch as it stands. Raises NotFound."""
        return await self._store.call(rows.find_batch, tenant, batch_id)

    async def list(self, tenant: str, query: ListQuery, dialect: str) -> Page[Batch]:
        """A page of the tenant's batches of one dialect. Raises NotFound if `query.after` is none of them."""
        return await self._store.call(rows.list_batches, tenant, query, dialect)

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Stop a batch; what has finished stays. Raises NotFound, and Conflict if it is over."""
        batch = await self._store.call(rows.cancel_batch, tenant, batch_id, int(self._clock.unix_s()))
        self._tell()
        return batch

    async def delete(self, tenant: str, batch_id: str) -> None:
        """Forget a batch that is over, and erase its results. Raises NotFound, and Conflict if it is not over."""
        batch = await self._store.call(rows.delete_batch, tenant, batch_id)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                with contextlib.suppress(NotFound):  # its owner may have erased it before
                    await self._files.delete(tenant, file_id)

    def _tell(self) -> None:
        for call in self.on_change:
            call()
