"""One model inside the engine: its pages, its sequences, its runner, and what is shown of them to others.

The engine's thread owns a lane; other threads read `snapshot`, a value. Knows no requests and no mailboxes.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.core.watching import LiveTree
from headrace.engine.batch import Batch, Drawn, Sampled
from headrace.engine.config import EngineConfig
from headrace.engine.counts import Counts
from headrace.engine.draft.speculator import NO_DRAFTS, Speculator
from headrace.engine.kv.pool import PagePool
from headrace.engine.loading import Loading, Post
from headrace.engine.pace import note_drawn
from headrace.engine.pooled import PooledRunner
from headrace.engine.provision import Footing
from headrace.engine.queue import Rank
from headrace.engine.retention import DiskLink
from headrace.engine.runner import Runner, StepProgram
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence
from headrace.kernels.plan import PAGE_TOKENS, CacheShape, KvKind
from headrace.observe.metrics import ModelMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """A model as the engine sees it.

    `pooled_width`: its work is pooled, and its program's output is so wide; `is_whole`: sequences are computed whole,
    and their pages are scratch. `part` of the model's memory for keys and values is this lane's.
    """

    name: str
    program: StepProgram
    cache: CacheShape
    context_length: int
    kv_kind: KvKind = KvKind.HALF
    metrics: ModelMetrics | None = None
    speculator: Speculator | None = None
    disk: DiskLink | None = None
    pooled_width: int | None = None
    is_whole: bool = False
    part: float = 1.0

    @property
    def footing(self) -> Footing:
        """What the size of its pool follows from."""
        is_pooled = self.pooled_width is not None
        return Footing(self.cache, self.kv_kind, self.context_length, is_pooled=is_pooled, part=self.part)


class ModelSnapshot(NamedTuple):
    """One model's state as of its last step. `idle_pages` are cached and unused, so as good as free."""

    total_pages: int
    free_pages: int
    idle_pages: int
    running: int
    waiting: int


class _Gone:
    """In place of a program that was let go of."""

    def step(self, *_: Any, **__: Any) -> None:
        raise AssertionError("a step of a model that has left")


_GONE = _Gone()


class Lane:
    """What one model owns inside the engine. `post` runs something on its thread between two steps; `rank` is a
    program-aware order of what waits (`queue.py`)."""

    def __init__(
        self,
        model: EngineModel,
        config: EngineConfig,
        num_pages: int,
        threads: Any,
        post: Post,
        rank: Rank | None = None,
    ) -> None:
        self.model = model
        self.pool = PagePool.allocate(model.cache, num_pages, model.kv_kind)
        self.scheduler = Scheduler(config, self.pool, speculator=model.speculator, rank=rank, is_whole=model.is_whole)
        self.scheduler.retention.limit_pins(-(-min(model.context_length, num_pages * PAGE_TOKENS) // PAGE_TOKENS) + 1)
        self.scheduler.retention.disk = model.disk
        self.loading = Loading(self.scheduler, post)
        self.runner: Runner | PooledRunner
        if model.pooled_width is None:
            self.runner = Runner(config, model.program, threads, self.pool)
        else:
            self.runner = PooledRunner(config, model.program, threads, self.pool, model.pooled_width)
        self.capacity = min(model.context_length, num_pages * PAGE_TOKENS)
        self.next_deadline = math.inf
        self.snapshot = ModelSnapshot(num_pages, num_pages, 0, 0, 0)

        self.counts = Counts()
        self.drawn: tuple[tuple[int, ...], LiveTree] | None = None  # of the tree, and of what state of it
        self._steps: list[tuple[float, int]] = []  # these and what follows: what the metrics have not been told yet
        self._gaps: Counter[float] = Counter()
        self._native_s, self._num_generated = 0.0, 0
        if model.metrics is not None:
            model.metrics.state.block_size, model.metrics.state.num_blocks = PAGE_TOKENS, num_pages

    def count_preempted(self, num_preempted: int) -> None:
        """Sequences had to give up their pages in a step."""
        self.counts.num_preempted += num_preempted
        if (metrics := self.model.metrics) is not None:
            metrics.preemptions.inc(num_preempted)

    def has_work(self) -> bool:
        """Whether a step could do anything: somebody runs, or waits for something else than the disk."""
        scheduler = self.scheduler
        return bool(scheduler.running) or any(not one.is_loading for one in scheduler.waiting)

    def prepare(self, batch: Batch) -> Callable[[], Drawn | NDArray[np.float32]]:
        """Write down what a step needs; what is returned computes it."""
        runner: Any = self.runner  # either kind, with arrays of its own
        return partial(runner.execute, runner.prepare(batch))

    def has_streams(self) -> bool:
        """Whether somebody waits for the next of several tokens."""
        return any(one.num_computed >= one.num_prompt for one in self.scheduler.running)

    def can_leave(self) -> bool:
        """Whether nothing runs, waits, or is still to come from the disk."""
        return not self.scheduler.running and not self.scheduler.waiting and self.loading.is_idle()

    def close(self) -> list[object]:
        """Let go of the pages and the program, whoever still holds the lane; only when it `can_leave`.

        They are what is returned: giving back memory takes time, which whoever drops them last spends.
        """
        assert self.can_leave()
        self.record()
        if (metrics := self.model.metrics) is not None:
            for gauge in (metrics.running, metrics.waiting, metrics.kv_usage, metrics.pinned):
                gauge.set(0)
            metrics.state.num_blocks = None
        self.snapshot = ModelSnapshot(0, 0, 0, 0, 0)
        # Tickets and sequences of finished requests hold each other until the collector comes by, and with them the
        # lane; what is large must not wait for that. The disk's queue has its own hold on pages that it still writes.
        large: list[object] = [self.pool.array, self.model, self.runner]
        self.pool.array = self.pool.array[:0].copy()
        self.model = replace(self.model, program=_GONE)
        del self.runner
        return large

    def note_admitted(self, sequence: Sequence, now: float) -> None:
        """A sequence takes part in the step that begins; again, if it was preempted."""
        pace = sequence.pace
        if pace.scheduled_s is None:
            pace.scheduled_s, pace.begun_step = now, self.counts.num_steps

    def note_begun(self, sequence: Sequence, disk_tokens: int) -> None:
        """The first sequence of a request has its prompt looked up."""
        self.counts.begin(sequence.work.tenant, sequence.num_prompt, sequence.num_reused)
        if (metrics := self.model.metrics) is not None:
            metrics.prompt_tokens.inc(sequence.num_prompt)
            metrics.prefix_queries.inc(sequence.num_prompt)
            metrics.prefix_hits.inc(sequence.num_reused)
            metrics.disk_hits.inc(disk_tokens)

    def note_step(self, batch: Batch, native_s: float, busy_s: float) -> None:
        """A step has run: its seconds inside the kernels, and all of them."""
        self.counts.step(batch)
        self._steps.append((busy_s, batch.num_tokens))
        self._native_s += native_s

    def note_drawn(self, sampled: list[Sampled], now: float) -> None:
        """A step's tokens are there since `now`."""
        self._num_generated += len(sampled)
        note_drawn(sampled, now, self.counts.num_steps, self._gaps)

    def release(self, tenant: str, session: str) -> None:
        """Let go of what is pinned for a session, and show it: no step may come for long."""
        self.scheduler.retention.pins.unpin(tenant, session)
        self.publish()

    def publish(self) -> None:
        """Show the state if it has changed, and tell the metrics."""
        scheduler = self.scheduler
        free, idle = len(self.pool.free), scheduler.tree.num_idle
        total = self.pool.num_pages
        state = (total, free, idle, len(scheduler.running), scheduler.num_waiting)
        if state == self.snapshot:
            return
        self.snapshot = snapshot = ModelSnapshot(*state)
        if (metrics := self.model.metrics) is not None:
            metrics.running.set(snapshot.running)
            metrics.waiting.set(snapshot.waiting)
            metrics.kv_usage.set((total - free - idle) / total)
            metrics.pinned.set(scheduler.tree.num_pinned)
        self.record()

    def record(self) -> None:
        """Tell the metrics of the steps since the last time; many at once, because the first one finds cold caches."""
        if not self._steps:
            return
        counts, speculator = self.counts, self.model.speculator
        counts.native_s += self._native_s
        counts.output_tokens += self._num_generated
        drafts = NO_DRAFTS if speculator is None else speculator.tally()
        counts.drafted_tokens += drafts.num_drafted
        counts.accepted_tokens += drafts.num_accepted
        if (metrics := self.model.metrics) is not None:
            for seconds, num_tokens in self._steps:
                metrics.step.observe(seconds)
                metrics.step_tokens.observe(num_tokens)
            metrics.native.inc(self._native_s)
            metrics.generation_tokens.inc(self._num_generated)
            metrics.state.gaps.add_all(self._gaps.items())
            metrics.drafts.inc(drafts.num_drafts)
            metrics.draft_tokens.inc(drafts.num_drafted)
            metrics.accepted_tokens.inc(drafts.num_accepted)
        self._steps.clear()
        self._gaps.clear()
        self._native_s, self._num_generated = 0.0, 0
