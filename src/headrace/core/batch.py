"""Batches: many requests that may wait, run when nobody else needs the engine. Values, their life, and a protocol.

`LIFE` holds the legal changes of a batch's status and is the only place that knows them. How a batch looks on the wire
is `api/batches.py`'s, where it is kept `memory/batches.py`'s, who runs it `gateway/batches.py`'s knowledge.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from headrace.core.events import Usage
from headrace.core.file import ListQuery, Page
from headrace.core.request import Principal


class BatchStatus(StrEnum):
    """Where a batch stands."""

    VALIDATING = "validating"  # its input is being read; nothing ran
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  # every line has its end; results are being written
    COMPLETED = "completed"
    FAILED = "failed"  # the input was not valid; nothing ran
    EXPIRED = "expired"  # the time was over; what had finished is in the results
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


LIFE: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING, BatchStatus.EXPIRED}
    ),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
}
"""Status -> what may follow; what is missing here is an end."""

UNFINISHED = tuple(LIFE)
NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why the input of a batch is not valid; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """What a caller asks for. `dialect` says how its lines are read and its results written; `window_s` is how long it
    may take, `output_lifetime_s` how long results are kept (None: until they are deleted)."""

    dialect: str
    endpoint: str
    input_file_id: str
    window: str
    window_s: int
    metadata: Mapping[str, str] | None = None
    output_lifetime_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as it stands. Times are Unix seconds; `times_s` has one for each status that it has had.

    `num_ended` counts lines with any end, `num_failed` those of them with an error, `num_unrun` those of these that
    were never run because the batch ended first. `usage` adds up the lines that ran.
    """

    id: str
    principal: Principal
    order: BatchOrder
    status: BatchStatus
    created_s: int
    expires_s: int
    times_s: Mapping[BatchStatus, int] = field(default_factory=dict)
    model: str | None = None
    problems: tuple[LineProblem, ...] = ()
    num_lines: int = 0
    num_ended: int = 0
    num_failed: int = 0
    num_unrun: int = 0
    usage: Usage = NO_USAGE
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status not in LIFE


class Batches(Protocol):
    """Batches of tenants. Whoever names another tenant's batch is told that there is none: NotFound."""

    async def create(self, principal: Principal, order: BatchOrder) -> Batch:
        """Take a batch in; it runs when the engine is idle. Raises NotFound for its file, InvalidRequest."""
        ...

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """A batch as it stands. Raises NotFound."""
        ...

    async def list(self, tenant: str, query: ListQuery, dialect: str) -> Page[Batch]:
        """A page of the tenant's batches of one dialect. Raises NotFound if `query.after` is none of them."""
        ...

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Stop a batch; what has finished stays. Raises NotFound, and Conflict if it is over."""
        ...

    async def delete(self, tenant: str, batch_id: str) -> None:
        """Forget a batch that is over, and erase its results. Raises NotFound, and Conflict if it is not over."""
        ...
