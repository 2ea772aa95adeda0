"""What can be seen of an engine from outside, as values, and the protocol by which it is asked.

Nothing here holds a prompt or an answer: counts, names and times only. Knows no engine, no server and no wire format.
"""

from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

ORIGIN: Final[ContextVar[object | None]] = ContextVar("headrace.origin", default=None)
"""What the work that begins in this context is done for: whatever object its server knows an open request by. An engine
gives it back and never looks into it."""


class Phase(StrEnum):
    """Where a request is. An engine's are QUEUED, PREFILL (its prompt is read) and DECODE (its answer is written)."""

    WAITING = "waiting"  # for a model, a backend, or its first byte
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    STREAMING = "streaming"  # what has come goes to its client


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSequence:
    """One choice, or one input, inside an engine. `age_s` since it came; so long after that its prompt began to be
    read (`begun_s`) and its first token was there (`first_s`), None: not yet. A larger `priority` goes first. Of its
    `prompt_tokens` so many are computed, of these `reused_tokens` were known already."""

    origin: object | None
    tenant: str
    phase: Phase
    priority: int
    age_s: float
    begun_s: float | None
    first_s: float | None
    prompt_tokens: int
    computed_tokens: int
    reused_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class TreeRun:
    """Pages of the prefix tree that follow each other without a fork. `parent` is the place of the run before it, -1
    below a root. `num_users` hold it now (sequences, and pins together as one more), `num_uses` counts how often its
    first page was found, `used_s` is when it was last used, on the engine's clock."""

    parent: int
    tenant: str
    num_tokens: int
    num_users: int
    num_uses: int
    used_s: float
    is_pinned: bool


@dataclass(frozen=True, slots=True)
class LiveTree:
    """A bounded picture of a prefix tree of `num_tokens`: the runs with the most tokens in and below them, parents
    before their children. What they do not sum up to is not in the picture."""

    runs: tuple[TreeRun, ...] = ()
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TenantHits:
    """Prompt tokens of a tenant's requests that were admitted, and those of them that were found in the tree."""

    tenant: str
    prompt_tokens: int
    reused_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePages:
    """Pages for keys and values: those in use, those that are cached and used by nobody, those that sessions keep
    (which are in use, too). `page_tokens` a page."""

    page_tokens: int = 0
    total: int = 0
    used: int = 0
    cached: int = 0
    pinned: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTotals:
    """What steps have done since the model came into memory, never less than before: so rates are differences.

    `num_sequences` and `num_tokens` are sums over all steps, of how many took part and of what they computed.
    `prompt_tokens` and `reused_tokens` are of admitted requests, `read_tokens` of prompts as they were computed.
    """

    num_steps: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    native_s: float = 0.0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    read_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    num_preempted: int = 0


NO_TOTALS: Final = LiveTotals()
NO_PAGES: Final = LivePages()
NO_TREE: Final = LiveTree()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveModel:
    """One model, or that part of it which pools (`MODEL/pooled`), as it was at `taken_s` on the engine's clock, between
    two steps.

    `state` is absent, waiting (for memory), loading, ready or leaving. `sequences` are the first of those that run and
    wait. `tenants` are those with the most prompt tokens; all others are the last, without a name.
    """

    name: str
    state: str = "ready"
    taken_s: float = 0.0
    is_pooled: bool = False
    num_running: int = 0
    num_waiting: int = 0
    max_running: int = 0
    totals: LiveTotals = NO_TOTALS
    pages: LivePages = NO_PAGES
    tree: LiveTree = NO_TREE
    sequences: tuple[LiveSequence, ...] = ()
    tenants: tuple[TenantHits, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveDisk:
    """What the disk tier of the prefix cache holds of what it may hold."""

    num_pages: int
    num_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class LiveEngine:
    """All models of an engine, and its disk tier if it has one."""

    models: tuple[LiveModel, ...]
    disk: LiveDisk | None = None


class Watching(Protocol):
    """An engine that lets itself be watched. What is not asked for is not made."""

    def look(self, *, is_whole: bool = True) -> Coroutine[Any, Any, LiveEngine]:
        """How it is now: asked of its thread, which answers between two steps and makes the values then, once for each
        call. If not `is_whole`, only the counts of models in memory: no sequences, trees, tenants, disk, and no model
        that is elsewhere. Raises Unavailable once it has stopped."""
        ...
