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
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.clock import Clock
from headrace.core.errors import DeadlineExceeded, EngineFault, HeadraceError, Overloaded, Unavailable
from headrace.core.watching import LiveModel
from headrace.engine import sequence as sequences
from headrace.engine.admission import check_fits
from headrace.engine.batch import Batch, Drawn, Sampled
from headrace.engine.config import EngineConfig
from headrace.engine.item import Begun, Dropped, Embedded, Failed, Item, PromptScored, Token
from headrace.engine.kv.prefix import chain_hash
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel, Lane, ModelSnapshot
from headrace.engine.mailbox import Mailbox, Outbox
from headrace.engine.pace import course_of
from headrace.engine.picture import picture
from headrace.engine.pooled import Pooled
from headrace.engine.provision import provide
from headrace.engine.queue import Rank
from headrace.engine.rows import adjustments_for
from headrace.engine.sequence import State, Work
from headrace.engine.ticket import Ticket, exchanges_of
from headrace.engine.times import Times
from headrace.kernels.plan import PAGE_TOKENS
from headrace.observe.logs import log_fields

_log = logging.getLogger("headrace.engine")


class Engine:
    """See the file's head. `threads` is what programs take as their first argument (`native.Threads`); `rank` puts
    some work of a tenant before other work of it (`queue.py`); `num_sharing` is how many models there will be at most,
    who share the memory for keys and values (None: those given)."""

    def __init__(
        self,
        config: EngineConfig,
        models: Sequence[EngineModel],
        threads: Any,
        clock: Clock,
        *,
        rank: Rank | None = None,
        num_sharing: int | None = None,
    ) -> None:
        self.config = config
        self._clock = clock
        self._threads = threads
        self._rank = rank
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        # Never written to, only replaced: whoever reads it, on whatever thread, sees all of a change or nothing of it.
        self._lanes = {model.name: self._make_lane(model, num_sharing or len(models)) for model in models}
        self._leaving: list[tuple[Lane, Future[list[object]]]] = []
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

    def add_model(self, model: EngineModel, num_sharing: int) -> None:
        """Serve one more model from the next step on. Its pages are reserved here, in the calling thread.

        Raises ValueError if there is one of this name or no page fits, Unavailable when draining.
        """
        lane = self._make_lane(model, num_sharing)
        with self._lock:
            self._check_accepting()
            if model.name in self._lanes:
                raise ValueError(f"model: {model.name} is there already; remove it first.")
            self._lanes = {**self._lanes, model.name: lane}

    def remove_model(self, name: str) -> "Future[list[object]]":
        """Let go of a model between two steps, once nothing runs or waits in it; what was large of it is to be cleared.

        Whoever calls this submits nothing more to it. Raises Unavailable when draining.
        """
        done: Future[list[object]] = Future()
        with self._lock:
            self._check_accepting()
            lane = self._lanes[name]
            self._inbox.append(lambda: self._leaving.append((lane, done)))
        self._wake.set()
        if self._thread.ident is None:  # nobody else would
            self._inbox.pop()()
            self._part()
        return done

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

    def warm_tokens(self, model: str, salt: Salt, tokens: bytes, page_bytes: int = PAGE_TOKENS * 4) -> int:
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

    def submit(self, work: Work, mailbox: Mailbox, index: int = 0, *, is_more: bool = False) -> Ticket:
        """Queue work, one sequence per choice, counted from `index`; its items arrive in the mailbox.

        `is_more`: part of a request of many inputs whose first one was accepted, so that no full queue refuses it.
        Raises ContextTooLong for what can never fit, Unavailable when draining.
        """
        lane = self._lanes[work.model]
        check_fits(work, lane.model.context_length, lane.pool.num_pages)
        with self._lock:
            self._check_accepting()
            self._arrivals += 1
            ticket = Ticket(lane, mailbox, [])
            now = self._clock.monotonic_s()
            ticket.sequences = [
                sequences.Sequence(work, self._arrivals, index + choice, ticket, arrived=now)
                for choice in range(work.sampling.num_drawn)
            ]
            for sequence in ticket.sequences:
                sequence.adjustments = adjustments_for(work.sampling)
            self._idle.clear()
            self._inbox.append(lambda: self._accept(ticket, work, is_more=is_more))
        self._wake.set()
        return ticket

    def cancel(self, ticket: Ticket, choice: int | None = None) -> None:
        """End one choice (the mailbox is told when) or all: what they held is free after the current step."""
        self._post_call(lambda: self._drop(ticket, choice))

    def release(self, session: str, tenant: str = "") -> None:
        """Let go of what is pinned for a tenant's session, after the current step."""
        for lane in self._lanes.values():
            self._post_call(partial(lane.release, tenant, session))

    def look(self, *, is_whole: bool = True) -> "Future[tuple[LiveModel, ...]]":
        """Every model as it is after the current step: who watches asks, and nothing is made for anybody else.

        Raises Unavailable once the engine has stopped.
        """
        looked: Future[tuple[LiveModel, ...]] = Future()
        with self._lock:
            if self._stopping or not self._thread.is_alive():
                raise Unavailable("The engine has stopped, and there is nothing to see; start the server again.")
            self._inbox.append(lambda: self._show(looked, is_whole))
        self._wake.set()
        return looked

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

    def _check_accepting(self) -> None:
        if not self._accepting:
            raise Unavailable("The engine is stopping; send the request to another server or try again later.")

    def _make_lane(self, model: EngineModel, num_sharing: int) -> Lane:
        pages = provide(self.config, num_sharing, model.footing)
        return Lane(model, self.config, pages.num_pages, self._threads, self._post_call, self._rank)

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
            if self._leaving:
                self._part()
            if not self._step_all():
                self._rest()

    def _show(self, looked: "Future[tuple[LiveModel, ...]]", is_whole: bool) -> None:
        if looked.set_running_or_notify_cancel():
            now, most = self._clock.monotonic_s(), self.config.max_sequences
            looked.set_result(tuple(picture(lane, now, most, is_whole=is_whole) for lane in self._lanes.values()))

    def _part(self) -> None:
        """Let go of the models that are to leave and have nothing to do any more."""
        staying = []
        for lane, done in self._leaving:
            if not lane.can_leave():
                staying.append((lane, done))
                continue
            with self._lock:
                self._lanes = {name: one for name, one in self._lanes.items() if one is not lane}
            done.set_result(lane.close())
        self._leaving = staying

    def _step_all(self) -> bool:
        """One step of every model that has work; whether any had."""
        busy = [lane for lane in self._lanes.values() if lane.has_work()]
        for lane in busy:
            # Streams of one model wait for the steps of all.
            is_awaited = any(other.has_streams() for other in busy if other is not lane)
            self._step(lane, self.config.max_gap_s / len(busy), is_awaited=is_awaited)
        return bool(busy)

    def _rest(self) -> None:
        for lane in self._lanes.values():
            lane.record()
        self._hand_over()
        if self.config.checks:
            self.check()
        with self._lock:
            if not self._inbox and not any(lane.scheduler.waiting for lane in self._lanes.values()):
                self._idle.set()
        # Whoever fills the inbox sets the event afterwards: what comes after the clearing is heard by the next rest.
        self._wake.wait(self._until_deadline())
        self._wake.clear()
        self._last_end = self._clock.monotonic_s()
        for lane in self._lanes.values():
            lane.scheduler.retention.move_to(self._last_end)
            if self._last_end >= lane.next_deadline:
                self._expire(lane, self._last_end)

    def _until_deadline(self) -> float | None:
        """Seconds until somebody's time is up who waits for the disk; None if nobody's can be."""
        ends = [lane.next_deadline for lane in self._lanes.values() if lane.scheduler.waiting]
        nearest = min(ends, default=math.inf)
        return None if nearest == math.inf else min(max(0.0, nearest - self._last_end), threading.TIMEOUT_MAX)

    def _step(self, lane: Lane, gap_s: float, *, is_awaited: bool) -> None:
        if self._last_end >= lane.next_deadline:
            self._expire(lane, self._last_end)
        batch = lane.scheduler.schedule(self._last_end, gap_s, is_awaited=is_awaited)
        if batch.sequences:
            for sequence in batch.admitted:
                lane.note_admitted(sequence, self._last_end)
                self._begin(sequence)
            try:
                computed = self._compute(lane, batch)
                if isinstance(computed, Drawn):
                    self._hand_out(lane, batch, lane.scheduler.complete(batch, computed))
                else:
                    self._hand_out_pooled(lane, lane.scheduler.complete_pooled(batch, computed))
            except Exception as error:  # the engine's step is one of three places that may catch everything
                self._fail_batch(lane, batch, error)
        lane.publish()
        if batch.num_preempted:
            lane.count_preempted(batch.num_preempted)

    def _compute(self, lane: Lane, batch: Batch) -> Drawn | NDArray[np.float32]:
        """The native call: with all the waking up that is due just before it, and the time taken just after."""
        execute = lane.prepare(batch)
        self._hand_over()
        start = self._clock.monotonic_s()
        try:
            return execute()
        finally:
            end = self._clock.monotonic_s()
            native_s, busy_s = end - start, end - self._last_end
            self._last_end = end
            self._num_steps += 1
            self._native_s += native_s
            self._busy_s += busy_s
            lane.scheduler.measure(batch, busy_s)
            lane.note_step(batch, native_s, busy_s)

    def _hand_out(self, lane: Lane, batch: Batch, sampled: list[Sampled]) -> None:
        lane.note_drawn(sampled, self._last_end)
        for sequence, details in batch.scored:
            ticket: Any = sequence.owner
            if ticket.sequences:
                self._post(ticket.mailbox, PromptScored(details, sequence.choice))
        for outcome in sampled:
            ticket = outcome.sequence.owner
            if outcome.token < 0:
                self._fail_row(lane, outcome.sequence)
                continue
            # A sibling's fault in this very step may have ended the request already.
            if ticket.sequences:
                if outcome.reason is not None:
                    self._post(ticket.mailbox, course_of(outcome.sequence))
                self._post(
                    ticket.mailbox, Token(outcome.sequence.choice, outcome.token, outcome.reason, outcome.detail)
                )

    def _hand_out_pooled(self, lane: Lane, pooled: list[Pooled]) -> None:
        for sequence, vector in pooled:
            if vector is None:
                self._fail_row(lane, sequence)
            else:
                ticket: Any = sequence.owner
                self._post(ticket.mailbox, Embedded(sequence.choice, vector))

    def _fail_row(self, lane: Lane, sequence: "sequences.Sequence") -> None:
        self._count_fault(lane)
        fault = sequence.fault or EngineFault("The model computed no number for this request; try it again.")
        self._fail(sequence.owner, fault)

    def _accept(self, ticket: Ticket, work: Work, *, is_more: bool) -> None:
        lane = ticket.lane
        if not is_more and not lane.scheduler.has_room(len(ticket.sequences), work.tenant):
            waiting = lane.scheduler.num_waiting
            self._end(ticket, Overloaded(f"{waiting} sequences are waiting already; try again.", retry_after_s=1.0))
            return
        lane.next_deadline = min(lane.next_deadline, work.deadline)
        first, *siblings = ticket.sequences
        lane.scheduler.add(first, siblings)
        lane.loading.begin(first)

    def _begin(self, sequence: "sequences.Sequence") -> None:
        ticket: Any = sequence.owner
        if ticket.begun:
            return
        ticket.begun = True
        retention = ticket.lane.scheduler.retention
        disk_tokens = retention.disk_tokens(sequence)
        miss = retention.explain(sequence) if sequence.work.explains else None
        writes = retention.cache_writes(sequence)
        self._post(ticket.mailbox, Begun(sequence.num_reused, disk_tokens, writes, miss, self._last_end))
        ticket.lane.note_begun(sequence, disk_tokens)

    def _drop(self, ticket: Ticket, choice: int | None) -> None:
        for sequence in ticket.sequences:
            if choice is None:
                ticket.lane.scheduler.remove(sequence)
            elif sequence.choice == choice:
                was_live = sequence.state is not State.FINISHED
                # One choice is ended because a stop string has: its answer is complete.
                ticket.lane.scheduler.retention.finish(sequence)
                ticket.lane.scheduler.remove(sequence)
                if was_live:
                    self._post(ticket.mailbox, course_of(sequence))
                self._post(ticket.mailbox, Dropped(choice, was_live))
        ticket.lane.publish()

    def _expire(self, lane: Lane, now: float) -> None:
        scheduler = lane.scheduler
        lane.next_deadline = math.inf
        for sequence in [*scheduler.running, *scheduler.waiting]:
            if now >= sequence.work.deadline:
                ticket: Any = sequence.owner
                self._fail(ticket, DeadlineExceeded("The request's time limit passed before its answer was complete."))
            else:
                lane.next_deadline = min(lane.next_deadline, sequence.work.deadline)

    def _fail_batch(self, lane: Lane, batch: Batch, error: Exception) -> None:
        said = f"A step with {len(batch.sequences)} sequences failed; its requests fail, the engine goes on."
        log_fields(_log, logging.ERROR, said, {"request_ids": exchanges_of(batch)}, with_traceback=True)
        self._count_fault(lane)
        for sequence in batch.sequences:
            lane.scheduler.discard(sequence)
            fault = EngineFault("A step of the engine failed with this request in it; try it again.")
            fault.__cause__ = error
            ticket: Any = sequence.owner
            self._fail(ticket, fault)

    def _fail(self, ticket: Any, error: HeadraceError) -> None:
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
            for _, done in self._leaving:
                if not done.done():
                    done.set_result([])
            self._idle.set()

    def _post_call(self, call: Callable[[], None]) -> None:
        self._inbox.append(call)
        self._wake.set()

    def _count_fault(self, lane: Lane) -> None:
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
