"""Which sequences take part in the next step, with how many tokens; who gets pages, and who must give them up.

No phases: a sequence has `num_computed` and `num_tokens` and catches up inside the step's budget. Rules, in order:

1. Who decodes goes first, by (priority, arrival, choice), and always gets a token, and a draft where nobody waits.
2. Prompts share what is left. While anybody decodes, that is as much as keeps the step within the gap that a stream may
   have between two tokens, by the cost learnt from earlier steps (`cost.py`); before, `prefill_chunk`. Of one priority
   the tenant with the least service goes first (`fairness.py`).
3. When pages run out, unused cached pages are evicted, then the last running sequence is preempted: its full pages
   stay in the tree for as long as nobody needs them, and it waits again with its priority and arrival.
   The first sequence can therefore always proceed, and what was accepted always ends.
4. If nobody was preempted, waiting sequences are admitted (`queue.py`) while slots, budget and pages last.
5. Nobody is admitted to compute a page that a sequence in this very step computes: it waits and then finds the page in
   the tree. The rule looks at one step only, so it cannot outlive a cancellation. Where two compute the same page all
   the same (equal answers), the first to be complete is kept.
6. Choices of one request part where its prompt ends: each draws its own first token from the same row, shares the full
   pages and gets a copy of the last one; where slots or pages are short, it waits as if it had been preempted.

Values in, values out: no I/O, no clock, no kernel. `Engine` owns the thread that calls it; `Runner` executes `Batch`.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence as Many
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from headrace.core.events import FinishReason
from headrace.engine.audit import check_scheduler
from headrace.engine.batch import Batch, Drawn, Sampled, num_scored_rows
from headrace.engine.config import EngineConfig
from headrace.engine.continuation import append_token, take_token
from headrace.engine.cost import StepCost
from headrace.engine.draft.speculator import Speculator
from headrace.engine.fairness import FairShare
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import Node, PrefixTree
from headrace.engine.pooled import Pooled, add_rows, pooled_places, vector_of
from headrace.engine.queue import Rank, WaitingQueue
from headrace.engine.retention import Retention
from headrace.engine.sequence import Change, Sequence, State
from headrace.kernels.plan import PAGE_TOKENS

MIN_CHUNK = 16
"""Prompt tokens in a step at least, however long its decodes take: prompts end, too."""

MEASURED_DECODES = 8
"""Of so many steps that only decode, one teaches what a step costs."""

_order = attrgetter("order")


class Scheduler:
    """The sequences of one model, its pages and its prefix tree. `is_whole`: a sequence takes part with all its tokens
    or not at all (one longer than a step's budget has a step to itself), and its pages are of no use to others."""

    def __init__(
        self,
        config: EngineConfig,
        pool: PagePool,
        *,
        speculator: Speculator | None = None,
        rank: Rank | None = None,
        is_whole: bool = False,
    ) -> None:
        self._config = config
        self._is_whole = is_whole
        self.pool = pool
        self.tree = PrefixTree(pool)
        self.retention = Retention(config, pool, self.tree)
        self.cost = StepCost()
        self.shares = FairShare()
        self.running: list[Sequence] = []
        self.waiting = WaitingQueue(self.shares, config.aging_s, rank)
        self.num_held = 0
        self._speculator = speculator
        self.free_slots = list(range(config.max_sequences - 1, -1, -1))
        self._claimed: set[tuple[Node, bytes]] = set()
        self._forked: list[Sequence] = []
        self._num_measured = 0

    @property
    def num_available(self) -> int:
        """Pages that are free or could be at once."""
        return len(self.pool.free) + self.tree.num_idle

    @property
    def num_waiting(self) -> int:
        """Sequences that do not run, later choices of running requests included."""
        return len(self.waiting) + self.num_held

    def has_room(self, count: int, tenant: str = "") -> bool:
        """Whether `count` more sequences of a tenant may queue up; an idle scheduler always has room.

        The last quarter of the queue is for tenants that have nothing in it, if there are several.
        """
        if not (self.running or self.waiting):
            return True
        room = self._config.max_waiting + self._config.max_sequences - len(self.running) - self.num_waiting
        if self.shares.num_tenants > 1 and self.waiting.num_of(tenant):
            room -= self._config.max_waiting // 4
        return count <= room

    def add(self, sequence: Sequence, siblings: Many[Sequence] = ()) -> None:
        """Queue a new sequence; `siblings` are later choices of its request, which will part from it."""
        self.shares.enter(sequence.work.tenant)
        for sibling in siblings:
            sibling.change(Change.HOLD)
            self.shares.enter(sibling.work.tenant)
        sequence.siblings = list(siblings)
        self.num_held += len(siblings)
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """End a sequence, wherever it is; all that it held is free afterwards. An ended one is left alone."""
        if sequence.state is State.FINISHED:
            return
        if sequence.state is State.RUNNING:
            del self.running[bisect_left(self.running, sequence.order, key=_order)]
        elif sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        else:
            self._let_go(sequence)
        self._release(sequence)
        if sequence.siblings:
            self._promote(sequence)
        self._end(sequence)

    def schedule(self, now: float = 0.0, gap_s: float | None = None, *, is_awaited: bool = False) -> Batch:
        """Decide the next step. Empty only when there is nothing to do. `gap_s`: what streams may wait for their next
        token (None: as configured); `is_awaited`: streams of other models wait for this step."""
        batch = Batch(is_awaited=is_awaited)
        self.retention.move_to(now)
        self._claimed.clear()
        if self._forked:
            batch.admitted, self._forked = self._forked, []
        self._schedule_decodes(batch)
        gap_s = self._config.max_gap_s if gap_s is None else gap_s
        if batch.num_decodes < len(self.running):
            self._schedule_prompts(batch, gap_s)
        # Some that parted in the last step may have ended, or been preempted in this one.
        batch.admitted = [sequence for sequence in batch.admitted if sequence.state is State.RUNNING]
        if self.waiting and not batch.num_preempted:
            self._admit(batch, now, gap_s)
        return batch

    def complete(self, batch: Batch, drawn: Drawn) -> list[Sampled]:
        """Record that a step was computed; `drawn` has one entry per row, in the order of `batch.rows_of`."""
        results: list[Sampled] = []
        row = 0
        if not batch.is_single:
            for sequence, count in zip(batch.sequences, batch.counts, strict=True):
                row += self._complete_rows(batch, sequence, count, drawn.from_row(row), results)
            return results
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            sequence.num_computed += count
            token, reason = 0, None
            if sequence.num_computed == sequence.num_tokens:
                token = drawn.tokens[row]
                if sequence.matcher is None and token >= 0:  # the common case, and every line here is waited for
                    results.append(last := append_token(sequence, token, drawn.detail(row)))
                else:
                    results += (taken := take_token(sequence, token, drawn.detail(row)))
                    last = taken[-1]
                token, reason = last.token, last.reason
                row += 1
            self._settle(sequence, token, reason)
        return results

    def complete_pooled(self, batch: Batch, rows: NDArray[np.float32]) -> list[Pooled]:
        """The same for sequences that are pooled; `rows` are those that `pooled_places` names, in order."""
        results: list[Pooled] = []
        row = 0
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            num_rows = len(pooled_places(sequence, count))
            add_rows(sequence, rows[row : row + num_rows])
            row += num_rows
            sequence.num_computed += count
            if sequence.num_computed < sequence.num_tokens:
                self._settle(sequence, 0, None)
                continue
            results.append(Pooled(sequence, vector_of(sequence)))
            self._settle(sequence, -1 if results[-1].vector is None else 0, FinishReason.STOP)
        return results

    def measure(self, batch: Batch, seconds: float) -> None:
        """Learn from how long a step took."""
        # Steps that only decode are many and all alike; each line here is waited for.
        self._num_measured += 1
        if batch.num_prompt_tokens or self._num_measured % MEASURED_DECODES == 0:
            self.cost.observe(batch.load, seconds)
        if self._speculator is not None and not batch.num_prompt_tokens:
            self._speculator.observe_step(batch.num_decodes, batch.num_tokens - batch.num_decodes, seconds)

    def discard(self, sequence: Sequence) -> None:
        """End a sequence whose pages are in doubt, and uncache those that only it used."""
        node = sequence.node
        self.remove(sequence)
        if node is not None:
            self.tree.forget(node)

    def check(self) -> None:
        """Assert that sequences, tree and pool agree on every page."""
        check_scheduler(self, self._config.max_sequences, self._speculator)

    # -- deciding a step ---------------------------------------------------------------------------------------------

    def _schedule_decodes(self, batch: Batch) -> None:
        """Everybody who is behind its prompt, or lacks a single token, in order of importance."""
        decoding = [sequence for sequence in self.running if _is_decoding(sequence)]
        if not decoding:
            return
        spare = self._config.max_batch_tokens - len(decoding)
        limit = 0
        if self._speculator is not None and not self.waiting and len(decoding) == len(self.running):
            limit = self._speculator.limit(len(decoding))
        for sequence in decoding:
            if sequence.state is not State.RUNNING:  # preempted by one before it
                continue
            extra = min(sequence.num_tokens - sequence.num_computed - 1, spare)
            needed = _pages_for(sequence.num_computed + 1 + extra) - len(sequence.pages)
            if needed > 0 and not self._make_room(sequence, needed, batch):
                continue
            # Who still has choices that part from it, or prompt tokens to score, has its rows for these.
            if limit > 0 and extra == 0 and not sequence.siblings and sequence.num_to_score <= 0:
                needed = self._draft(sequence, min(limit, spare), needed)
            self._put(batch, sequence, 1 + extra + len(sequence.draft), needed)
            spare -= extra + len(sequence.draft)
            batch.num_decodes += 1

    def _draft(self, sequence: Sequence, limit: int, needed: int) -> int:
        """Give a sequence a draft that nobody has to make room for; returns the pages it needs then."""
        assert self._speculator is not None
        room = (len(sequence.pages) + self.num_available) * PAGE_TOKENS - sequence.num_tokens
        # The token behind the draft is drawn as well.
        left = sequence.work.max_tokens - (sequence.num_tokens - sequence.num_prompt) - 1
        limit = min(limit, room, left)
        if limit <= 0 or sequence.work.sampling.has_penalties:
            return needed
        sequence.draft = self._speculator.propose(sequence, limit)
        if sequence.matcher is not None:
            sequence.draft = sequence.draft[: sequence.matcher.allowed_prefix(sequence.draft)]
        return _pages_for(sequence.num_tokens + len(sequence.draft)) - len(sequence.pages)

    def _schedule_prompts(self, batch: Batch, gap_s: float) -> None:
        """Running sequences that still read: the tenant with the least service first."""
        reading = [sequence for sequence in self.running if not _is_decoding(sequence)]
        service = self.shares.service
        reading.sort(key=lambda one: (-one.work.priority, service(one.work.tenant), one.order))
        for sequence in reading:
            if sequence.state is not State.RUNNING:
                continue
            count = min(sequence.num_tokens - sequence.num_computed, self._chunk(batch, sequence, gap_s))
            if count <= 0:
                continue
            needed = _pages_for(sequence.num_computed + count) - len(sequence.pages)
            if needed > 0 and not self._make_room(sequence, needed, batch):
                continue
            self._put(batch, sequence, count, needed)
            batch.num_prompt_tokens += count

    def _chunk(self, batch: Batch, sequence: Sequence, gap_s: float) -> int:
        """How many prompt tokens of a sequence this step has room for."""
        spare = self._config.max_batch_tokens - batch.load.num_tokens
        if not batch.num_decodes and not batch.is_awaited:
            return spare
        room = self.cost.room(batch.load, sequence.num_computed, gap_s)
        if room is None:
            return min(spare, self._config.prefill_chunk - batch.num_prompt_tokens)
        return min(spare, max(room, MIN_CHUNK - batch.num_prompt_tokens))

    def _make_room(self, sequence: Sequence, needed: int, batch: Batch) -> bool:
        """Preempt from the end until `needed` pages are available, but nobody who is in the batch already and nobody
        more important; false if that was not enough, or hit `sequence` itself."""
        while self.num_available < needed:
            victim = self.running[-1]
            # Who is in the batch already: only prompts are scheduled out of order, so this is rare and short.
            if victim is not sequence and victim in batch.sequences:
                return False
            self.running.pop()
            self._release(victim)
            victim.change(Change.PREEMPT)
            self.waiting.add(victim)
            batch.num_preempted += 1
            if victim is sequence:
                return False
        return True

    def _admit(self, batch: Batch, now: float, gap_s: float) -> None:
        promised = sum(max(0, _all_pages(sequence) - len(sequence.pages)) for sequence in self.running)
        for sequence in self.waiting.candidates(now):
            if not self.free_slots:
                break
            if sequence.is_loading:
                continue
            keys = sequence.reusable_keys()
            node, pages = self.tree.match(sequence.work.salt, keys, now)
            sequence.node, sequence.pages, sequence.num_cached = node, pages, len(pages)
            sequence.num_computed = len(pages) * PAGE_TOKENS
            # Only a page that it could take over is worth waiting for.
            if len(pages) < len(keys) and _claim(sequence) in self._claimed:
                self._release(sequence)
                continue
            # Beyond the prompt, leave a page for each running sequence: admitting only to preempt helps nobody.
            wanted = _all_pages(sequence) - len(pages)
            lacking = sequence.num_tokens - sequence.num_computed
            count = min(lacking, self._chunk(batch, sequence, gap_s))
            if self._is_whole and count < lacking:
                count = 0 if batch.sequences else lacking
            if count <= 0 or (self.running and wanted + promised + len(self.running) > self.num_available):
                self._release(sequence)
                break
            self.waiting.remove(sequence)
            self._start(sequence)
            promised += wanted
            needed = _pages_for(sequence.num_computed + count) - len(pages)
            self._put(batch, sequence, count, needed)
            promised -= needed
            batch.num_prompt_tokens += count
            batch.admitted.append(sequence)

    def _start(self, sequence: Sequence) -> None:
        sequence.change(Change.ADMIT)
        sequence.slot = self.free_slots.pop()
        sequence.num_tabled = 0
        if sequence.num_tokens == sequence.num_prompt:
            sequence.num_reused = sequence.num_computed
        self.retention.keep(sequence)
        insort(self.running, sequence, key=_order)

    def _put(self, batch: Batch, sequence: Sequence, count: int, needed: int) -> None:
        if needed > 0:
            self._take_pages(sequence, needed)
        # Only who waits asks what is claimed.
        if self.waiting and (claim := _claim(sequence)) is not None:
            self._claimed.add(claim)
        batch.put(sequence, count)
        self.shares.charge(sequence.work.tenant, count - len(sequence.draft), sequence.work.share)

    def _take_pages(self, sequence: Sequence, count: int) -> None:
        missing = count - len(self.pool.free)
        if missing > 0:
            self.tree.evict(missing, self.retention.now)
        sequence.pages.extend(self.pool.take() for _ in range(count))

    # -- taking in what a step drew ----------------------------------------------------------------------------------

    def _complete_rows(self, batch: Batch, sequence: Sequence, count: int, drawn: Drawn, results: list[Sampled]) -> int:
        """The general way, for one sequence: scored prompt tokens, a draft, siblings. Returns the rows it had."""
        num_rows = num_scored_rows(sequence, count)
        if num_rows:
            batch.scored.append((sequence, drawn.details[:num_rows]))
            sequence.num_scored += num_rows
        draft, sequence.draft = sequence.draft, []
        if sequence.num_computed + count < sequence.num_tokens + len(draft):
            sequence.num_computed += count
            self._settle(sequence, 0, None)
            return num_rows
        sequence.num_computed = sequence.num_tokens
        token, reason = self._take_draft(sequence, draft, drawn.from_row(num_rows), results)
        num_rows += 1 + len(draft)
        siblings = sequence.siblings
        if siblings:
            self._cache_pages(sequence)
            self._part(sequence, drawn.from_row(num_rows), results)
            num_rows += len(siblings)
        self._settle(sequence, token, reason)
        return num_rows

    def _take_draft(
        self, sequence: Sequence, draft: list[int], drawn: Drawn, results: list[Sampled]
    ) -> tuple[int, FinishReason | None]:
        """Append what was drawn for as long as it is what was guessed, and the first that is not.

        Noise belongs to a position and not to a step, so that these are the tokens that single steps would have drawn.
        """
        num_accepted = 0
        last = Sampled(sequence, -1, None)
        for depth, guess in enumerate([*draft, -1]):
            token = drawn.tokens[depth]
            results += (taken := take_token(sequence, token, drawn.detail(depth), goes_on=token == guess))
            last = taken[-1]
            if last.token < 0 or last.reason is not None or token != guess:
                break
            sequence.num_computed += 1
            num_accepted += 1
        if draft and self._speculator is not None:
            self._speculator.observe(sequence, len(draft), num_accepted)
        return last.token, last.reason

    def _settle(self, sequence: Sequence, token: int, reason: FinishReason | None) -> None:
        """After its tokens were taken in: share full pages, and end what has ended."""
        # A row that failed leaves doubtful pages, which must not be shared.
        if token >= 0 and sequence.num_computed // PAGE_TOKENS > sequence.num_cached and not self._is_whole:
            self._cache_pages(sequence)
        if token < 0:
            self.discard(sequence)
        elif reason is not None:
            self.retention.finish(sequence)
            self.remove(sequence)

    def _part(self, leader: Sequence, drawn: Drawn, results: list[Sampled]) -> None:
        """The later choices have drawn their first tokens from the leader's row and go on by themselves."""
        siblings, leader.siblings = leader.siblings, []
        self.num_held -= len(siblings)
        for row, sibling in enumerate(siblings):
            sibling.change(Change.PART)
            sibling.num_scored = leader.num_scored
            results += (taken := take_token(sibling, drawn.tokens[row], drawn.detail(row)))
            if taken[-1].token < 0 or taken[-1].reason is not None:
                self._end(sibling)
            elif not self._fork(leader, sibling):
                self.waiting.add(sibling)

    def _fork(self, leader: Sequence, sibling: Sequence) -> bool:
        """Let a sibling run beside its leader on the same full pages and a copy of the last one; false: no room."""
        partial = leader.num_computed % PAGE_TOKENS > 0
        if not self.free_slots or leader.node is None or self.num_available < partial + len(self.running) + 1:
            return False
        self.tree.share(leader.node)
        sibling.node, sibling.num_cached = leader.node, leader.num_cached
        sibling.pages = leader.pages[: leader.num_cached]
        if partial:
            self._take_pages(sibling, 1)
            self.pool.array[sibling.pages[-1]] = self.pool.array[leader.pages[leader.num_cached]]
        sibling.num_computed = leader.num_computed
        self._start(sibling)
        self._forked.append(sibling)
        return True

    def _cache_pages(self, sequence: Sequence) -> None:
        for index in range(sequence.num_cached, sequence.num_computed // PAGE_TOKENS):
            assert sequence.node is not None
            sequence.node = self.tree.insert(sequence.node, sequence.page_key(index), sequence.pages[index])
            if sequence.pages[index] != sequence.node.page:
                sequence.pages[index] = sequence.node.page
                sequence.num_tabled = min(sequence.num_tabled, index)
            sequence.num_cached = index + 1
        self.retention.keep(sequence)

    # -- letting go --------------------------------------------------------------------------------------------------

    def _let_go(self, sibling: Sequence) -> None:
        for leader in [*self.running, *self.waiting]:
            if sibling in leader.siblings:
                leader.siblings.remove(sibling)
                self.num_held -= 1
                return
        raise AssertionError("nobody carries a later choice that is held")

    def _promote(self, leader: Sequence) -> None:
        """The leader ends before its siblings could part from it: the next one computes the prompt."""
        first, *rest = leader.siblings
        leader.siblings = []
        first.change(Change.PART)
        first.siblings = rest
        self.num_held -= 1
        self.waiting.add(first)

    def _end(self, sequence: Sequence) -> None:
        sequence.change(Change.END)
        self.shares.leave(sequence.work.tenant)
        if self._speculator is not None:
            self._speculator.end(sequence)

    def _release(self, sequence: Sequence) -> None:
        for page in sequence.pages[sequence.num_cached :]:
            self.pool.release(page)
        if sequence.node is not None:
            self.tree.release(sequence.node)
        if sequence.slot >= 0:
            self.free_slots.append(sequence.slot)
        sequence.node, sequence.pages, sequence.slot = None, [], -1
        sequence.num_cached = sequence.num_computed = sequence.num_kept = 0
        sequence.draft = []


def _is_decoding(sequence: Sequence) -> bool:
    """Whether it lacks one token, or behind its prompt a few that followed without being drawn."""
    lacking = sequence.num_tokens - sequence.num_computed
    return lacking == 1 or (lacking <= MIN_CHUNK and sequence.num_computed >= sequence.num_prompt)


def _pages_for(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_TOKENS)


def _claim(sequence: Sequence) -> tuple[Node, bytes] | None:
    """The next page of a sequence by its place in the tree, if all its tokens are known."""
    if (sequence.num_cached + 1) * PAGE_TOKENS > sequence.num_tokens or sequence.node is None:
        return None
    return sequence.node, sequence.page_key(sequence.num_cached)


def _all_pages(sequence: Sequence) -> int:
    """Pages for all tokens known now and the next one."""
    return sequence.num_tokens // PAGE_TOKENS + 1
