"""The engine: one thread that owns every sequence, page and tree, and turns submitted work into tokens.

    any thread    submit, cancel, drain, close   ->  inbox (a deque and an event)
    engine thread inbox -> schedule -> hand-over of the last step's tokens, once per loop -> one native step (no GIL)
    any thread    snapshot, times, warm_tokens  <-  values the engine's thread publishes, never its state

Tokens are handed over when the next step is ready to start: the loops then wake up while the kernels run, instead of
competing for the GIL with the few lines between two steps, for which every core waits. A kernel that raises fails the
requests of its batch, a row that is not a number its own request; the engine goes on.
Several models take turns, step by step. Knows token ids only: no text, no protocol.
"""

import logging
import math
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from headrace.core.clock import Clock
from headrace.core.errors import ContextTooLong, DeadlineExceeded, EngineFault, HeadraceError, Overloaded, Unavailable
from headrace.core.events import FinishReason
from headrace.engine import sequence as sequences
from headrace.engine.config import EngineConfig, pages_for
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import chain_hash
from headrace.engine.mailbox import Mailbox, Outbox
from headrace.engine.runner import Runner, StepProgram
from headrace.engine.scheduler import Batch, Sampled, Scheduler
from headrace.engine.sequence import State, Work
from headrace.kernels.plan import PAGE_TOKENS, CacheShape, KvKind
from headrace.observe.metrics import ModelMetrics

_log = logging.getLogger("headrace.engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """A model as the engine sees it."""

    name: str
    program: StepProgram
    cache: CacheShape
    context_length: int
    kv_kind: KvKind = KvKind.HALF
    metrics: ModelMetrics | None = None


class Begun(NamedTuple):
    """First item of a mailbox: the first choice was scheduled; so many prompt tokens were found in the tree."""

    cached_tokens: int


class Token(NamedTuple):
    """A choice's next token; `reason` is set on its last."""

    choice: int
    token: int
    reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Answer to the cancellation of one choice: what it held is free. `was_live`: it had not ended by itself before."""

    choice: int
    was_live: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """Last item of a mailbox whose request failed."""

    error: HeadraceError


Item = Begun | Token | Dropped | Failed


class ModelSnapshot(NamedTuple):
    """One model's state as of its last step. `idle_pages` are cached and unused, so as good as free."""

    total_pages: int
    free_pages: int
    idle_pages: int
    running: int
    waiting: int


class Times(NamedTuple):
    """How the engine's thread spent its time since it started, resting excluded.

    `busy_s` counts from the end of a native call, or from the arrival of work, to the end of the next one; `native_s`
    of it was inside the calls. One minus their ratio is the share of a step outside the kernels.
    """

    num_steps: int
    native_s: float
    busy_s: float


class Ticket:
    """A submitted request; opaque to callers, who pass it to `cancel`."""

    __slots__ = ("begun", "lane", "mailbox", "sequences")

    def __init__(self, lane: "_Lane", mailbox: Mailbox, members: "list[sequences.Sequence]") -> None:
        self.lane = lane
        self.mailbox = mailbox
        self.sequences = members
        self.begun = False


class _Lane:
    """What one model owns inside the engine."""

    def __init__(self, model: EngineModel, config: EngineConfig, num_pages: int, threads: Any) -> None:
        self.model = model
        self.pool = PagePool.allocate(model.cache, num_pages, model.kv_kind)
        self.scheduler = Scheduler(config, self.pool)
        self.runner = Runner(config, model.program, threads, self.pool)
        self.capacity = min(model.context_length, num_pages * PAGE_TOKENS)
        self.next_deadline = math.inf
        self.snapshot = ModelSnapshot(num_pages, num_pages, 0, 0, 0)

        self.step_seconds: list[float] = []  # these and what follows: what the metrics have not been told yet
        self.native_s, self.num_generated = 0.0, 0

    def publish(self) -> None:
        """Show the state if it has changed, and tell the metrics."""
        scheduler = self.scheduler
        free, idle = len(self.pool.free), scheduler.tree.num_idle
        total = self.pool.num_pages
        state = (total, free, idle, len(scheduler.running), len(scheduler.waiting))
        if state == self.snapshot:
            return
        self.snapshot = snapshot = ModelSnapshot(*state)
        if (metrics := self.model.metrics) is not None:
            metrics.running.set(snapshot.running)
            metrics.waiting.set(snapshot.waiting)
            metrics.kv_usage.set((total - free - idle) / total)
        self.record()

    def record(self) -> None:
        """Tell the metrics of the steps since the last time; many at once, because the first one finds cold caches."""
        if (metrics := self.model.metrics) is not None and self.step_seconds:
            for seconds in self.step_seconds:
                metrics.step.observe(seconds)
            metrics.native.inc(self.native_s)
            metrics.generation_tokens.inc(self.num_generated)
        self.step_seconds.clear()
        self.native_s, self.num_generated = 0.0, 0


class Engine:
    """See the file's head. `threads` is what programs take as their first argument (`native.Threads`)."""

    def __init__(self, config: EngineConfig, models: Sequence[EngineModel], threads: Any, clock: Clock) -> None:
        if config.kv_memory_bytes is None:
            raise ValueError("kv_memory_bytes: None; call engine.config.resolve before.")
        share = config.kv_memory_bytes // max(1, len(models))
        self.config = config
        self._clock = clock
        self._threads = threads
        self._lanes = {
            model.name: _Lane(
                model,
                config,
                pages_for(share, model.cache.page_bytes(model.kv_kind), config.max_sequences, model.context_length),
                threads,
            )
            for model in models
        }
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._arrivals = 0
        self._accepting = True
        self._stopping = False
        self._parcels: defaultdict[Outbox, list[tuple[Mailbox, Any]]] = defaultdict(list)
        self._num_steps = 0
        self._native_s = self._busy_s = 0.0
        self._last_end = 0.0  # of a native call or of a rest
        self._thread = threading.Thread(target=self._run, name="headrace-engine", daemon=True)
        self._old_switch_interval: float | None = None

    # -- any thread -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the engine's thread."""
        if self.config.switch_interval_s is not None:
            self._old_switch_interval = sys.getswitchinterval()
            sys.setswitchinterval(self.config.switch_interval_s)
        self._thread.start()

    def capacity(self, model: str) -> int:
        """The most tokens, prompt and answer together, that one choice can have."""
        return self._lanes[model].capacity

    def snapshot(self, model: str) -> ModelSnapshot:
        """The state last published for a model."""
        return self._lanes[model].snapshot

    @property
    def times(self) -> Times:
        """Seconds of all steps so far, native calls and what lies between them; exact while the engine rests."""
        return Times(self._num_steps, self._native_s, self._busy_s)

    def warm_tokens(self, model: str, salt: bytes, tokens: bytes, page_bytes: int = PAGE_TOKENS * 4) -> int:
        """How many leading tokens (int32 bytes) are cached now, by the published view of the prefix tree."""
        published = self._lanes[model].scheduler.tree.published
        chain = chain_hash(0, salt)
        warm = 0
        # As in a match, one token is left to compute.
        for start in range(0, (len(tokens) - 4) // page_bytes * page_bytes, page_bytes):
            chain = chain_hash(chain, tokens[start : start + page_bytes])
            if chain not in published:
                break
            warm += PAGE_TOKENS
        return warm

    def submit(self, work: Work, mailbox: Mailbox) -> Ticket:
        """Queue work, one sequence per choice; its items arrive in the mailbox.

        Raises ContextTooLong for what can never fit, Unavailable when draining.
        """
        lane = self._lanes[work.model]
        check_fits(work, lane.model.context_length, lane.pool.num_pages)
        with self._lock:
            if not self._accepting:
                raise Unavailable("The engine is stopping; send the request to another server or try again later.")
            self._arrivals += 1
            ticket = Ticket(lane, mailbox, [])
            ticket.sequences = [
                sequences.Sequence(work, self._arrivals, choice, ticket) for choice in range(work.sampling.num_choices)
            ]
            self._idle.clear()
            self._inbox.append(lambda: self._accept(ticket, work))
        self._wake.set()
        return ticket

    def cancel(self, ticket: Ticket, choice: int | None = None) -> None:
        """End one choice (the mailbox is told when) or all: what they held is free after the current step."""
        self._inbox.append(lambda: self._drop(ticket, choice))
        self._wake.set()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new work and wait for what is running; whether all of it ended in time."""
        with self._lock:
            self._accepting = False
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Stop the thread; requests still there fail with Unavailable. Closing twice is no error."""
        with self._lock:
            self._accepting = False
            self._stopping = True
        self._wake.set()
        if self._thread.ident is None:
            self._fail_everything()
        else:
            self._thread.join()
        if self._old_switch_interval is not None:
            sys.setswitchinterval(self._old_switch_interval)
            self._old_switch_interval = None

    def check(self) -> None:
        """Assert every invariant of every model; on the engine's thread, or when it is stopped."""
        for lane in self._lanes.values():
            lane.scheduler.check()

    # -- the engine's thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self.config.cpus:
                self._threads.pin_caller()
            self._serve()
        except Exception:
            # A broken invariant of ours: serving on could mix up requests, so everything ends, loudly.
            _log.exception("The engine's thread met a defect and stops.")
        finally:
            self._fail_everything()

    def _serve(self) -> None:
        self._last_end = self._clock.monotonic_s()
        while True:
            while self._inbox:
                self._inbox.popleft()()
            if self._stopping:
                return
            busy = False
            for lane in self._lanes.values():
                if lane.scheduler.running or lane.scheduler.waiting:
                    busy = True
                    self._step(lane)
            if not busy:
                self._rest()

    def _rest(self) -> None:
        for lane in self._lanes.values():
            lane.record()
        self._hand_over()
        if self.config.checks:
            self.check()
        with self._lock:
            if not self._inbox:
                self._idle.set()
        # Whoever fills the inbox sets the event afterwards: what comes after the clearing is heard by the next rest.
        self._wake.wait()
        self._wake.clear()
        self._last_end = self._clock.monotonic_s()

    def _step(self, lane: _Lane) -> None:
        if self._last_end >= lane.next_deadline:
            self._expire(lane, self._last_end)
        batch = lane.scheduler.schedule()
        if batch.sequences:
            for sequence in batch.admitted:
                self._begin(sequence)
            try:
                sampled = lane.scheduler.complete(batch, self._compute(lane, batch))
            except Exception as error:  # the engine's step is one of three places that may catch everything
                self._fail_batch(lane, batch, error)
            else:
                self._hand_out(lane, sampled)
        lane.publish()
        if batch.num_preempted and (metrics := lane.model.metrics) is not None:
            metrics.preemptions.inc(batch.num_preempted)

    def _compute(self, lane: _Lane, batch: Batch) -> list[int]:
        """The native call: with all the waking up that is due just before it, and the time taken just after."""
        arrays = lane.runner.prepare(batch)
        self._hand_over()
        start = self._clock.monotonic_s()
        try:
            return lane.runner.execute(arrays)
        finally:
            end = self._clock.monotonic_s()
            native_s, busy_s = end - start, end - self._last_end
            self._last_end = end
            self._num_steps += 1
            self._native_s += native_s
            self._busy_s += busy_s
            lane.step_seconds.append(busy_s)
            lane.native_s += native_s

    def _hand_out(self, lane: _Lane, sampled: list[Sampled]) -> None:
        for outcome in sampled:
            ticket: Any = outcome.sequence.owner
            if outcome.token < 0:
                self._count_fault(lane)
                self._fail(ticket, EngineFault("The model computed no number for this request; try it again."))
                continue
            # A sibling's fault in this very step may have ended the request already.
            if ticket.sequences:
                self._post(ticket.mailbox, Token(outcome.sequence.choice, outcome.token, outcome.reason))
        lane.num_generated += len(sampled)

    def _accept(self, ticket: Ticket, work: Work) -> None:
        lane = ticket.lane
        if not lane.scheduler.has_room(len(ticket.sequences)):
            waiting = len(lane.scheduler.waiting)
            self._end(ticket, Overloaded(f"{waiting} sequences are waiting already; try again.", retry_after_s=1.0))
            return
        lane.next_deadline = min(lane.next_deadline, work.deadline)
        for sequence in ticket.sequences:
            lane.scheduler.add(sequence)

    def _begin(self, sequence: "sequences.Sequence") -> None:
        ticket: Any = sequence.owner
        if ticket.begun:
            return
        ticket.begun = True
        self._post(ticket.mailbox, Begun(sequence.num_reused))
        if (metrics := ticket.lane.model.metrics) is not None:
            metrics.prompt_tokens.inc(sequence.num_prompt)
            metrics.prefix_queries.inc(sequence.num_prompt)
            metrics.prefix_hits.inc(sequence.num_reused)

    def _drop(self, ticket: Ticket, choice: int | None) -> None:
        for sequence in ticket.sequences:
            if choice is None:
                ticket.lane.scheduler.remove(sequence)
            elif sequence.choice == choice:
                was_live = sequence.state is not State.FINISHED
                ticket.lane.scheduler.remove(sequence)
                self._post(ticket.mailbox, Dropped(choice, was_live))
        ticket.lane.publish()

    def _expire(self, lane: _Lane, now: float) -> None:
        scheduler = lane.scheduler
        lane.next_deadline = math.inf
        for sequence in [*scheduler.running, *scheduler.waiting]:
            if now >= sequence.work.deadline:
                ticket: Any = sequence.owner
                self._fail(ticket, DeadlineExceeded("The request's time limit passed before its answer was complete."))
            else:
                lane.next_deadline = min(lane.next_deadline, sequence.work.deadline)

    def _fail_batch(self, lane: _Lane, batch: Batch, error: Exception) -> None:
        _log.exception("A step with %d sequences failed; its requests fail, the engine goes on.", len(batch.sequences))
        self._count_fault(lane)
        for sequence in batch.sequences:
            lane.scheduler.discard(sequence)
            fault = EngineFault("A step of the engine failed with this request in it; try it again.")
            fault.__cause__ = error
            ticket: Any = sequence.owner
            self._fail(ticket, fault)

    def _fail(self, ticket: Ticket, error: HeadraceError) -> None:
        """End all choices of a request with an error, once."""
        for sequence in ticket.sequences:
            ticket.lane.scheduler.remove(sequence)
        self._end(ticket, error)

    def _end(self, ticket: Ticket, error: HeadraceError) -> None:
        if ticket.sequences:
            ticket.sequences = []
            self._post(ticket.mailbox, Failed(error))

    def _fail_everything(self) -> None:
        with self._lock:
            self._accepting = False
        try:
            while self._inbox:
                self._inbox.popleft()()
            held = [
                (lane, sequence)
                for lane in self._lanes.values()
                for sequence in [*lane.scheduler.running, *lane.scheduler.waiting]
            ]
            # Everybody is told before anything is freed: after a defect, freeing may fail too.
            for _, sequence in held:
                ticket: Any = sequence.owner
                self._end(ticket, Unavailable("The server stopped before the answer was complete; try again."))
            self._hand_over()
            for lane, sequence in held:
                lane.scheduler.remove(sequence)
            for lane in self._lanes.values():
                lane.publish()
        except Exception:
            _log.exception("What the stopped engine's requests held cannot be freed.")
        finally:
            self._idle.set()

    def _count_fault(self, lane: _Lane) -> None:
        if (metrics := lane.model.metrics) is not None:
            metrics.faults.inc()

    def _post(self, mailbox: Mailbox, item: Item) -> None:
        self._parcels[mailbox.outbox].append((mailbox, item))

    def _hand_over(self) -> None:
        if not self._parcels:
            return
        for outbox, items in self._parcels.items():
            if not outbox.post(items):
                # Between two steps: the one that is about to start may still use what this frees.
                self._inbox.append(partial(self._abandon, outbox))
                self._wake.set()
        self._parcels.clear()

    def _abandon(self, outbox: Outbox) -> None:
        """A closed loop can neither read nor cancel: free what its requests hold."""
        for lane in self._lanes.values():
            for sequence in [*lane.scheduler.running, *lane.scheduler.waiting]:
                ticket: Any = sequence.owner
                if ticket.mailbox.outbox is outbox:
                    lane.scheduler.remove(sequence)


def check_fits(work: Work, context_length: int, num_pages: int) -> None:
    """Refuse what could never run, however long it waited. Raises ContextTooLong."""
    prompt = len(work.tokens)
    total = prompt + work.max_tokens
    if prompt + 1 > context_length:
        raise ContextTooLong(
            f"The prompt has {prompt} tokens and the model's context {context_length}; "
            f"shorten the prompt to {context_length - 1} tokens at most.",
            param=work.field,
        )
    if total > context_length:
        raise ContextTooLong(
            f"max_tokens: {work.max_tokens} tokens after a prompt of {prompt} exceed the model's context of "
            f"{context_length}; at most {context_length - prompt} are possible.",
            param="max_tokens",
        )
    if total > num_pages * PAGE_TOKENS:
        raise ContextTooLong(
            f"Prompt ({prompt}) and max_tokens ({work.max_tokens}) need more than the {num_pages * PAGE_TOKENS} tokens "
            "that the page pool holds; ask for less, or start the server with more --kv-memory.",
            param="max_tokens",
        )
