"""Which sequences take part in the next step, with how many tokens; who gets pages, and who must give them up.

No phases: a sequence has `num_computed` and `num_tokens` and catches up inside the step's budget. Rules, in order:

1. Running sequences go first, by (priority, arrival, choice). One that lacks a single token (a decode) always gets it;
   the others share what is left, or `prefill_chunk` while anybody decodes.
2. When pages run out, unused cached pages are evicted, then the last running sequence is preempted: its full pages
   stay in the tree for as long as nobody needs them, and it waits again with its priority and arrival, so in front.
   The first sequence can therefore always proceed, and what was accepted always ends.
3. If nobody was preempted, waiting sequences are admitted in the same order while slots, budget and pages last.
4. Nobody is admitted to compute a page that a sequence in this very step computes: it waits and then finds the page in
   the tree. The rule looks at one step only, so it cannot outlive a cancellation. Where two compute the same page all
   the same (equal answers), the first to be complete is kept.

Values in, values out: no I/O, no clock, no kernel. `Engine` owns the thread that calls it; `Runner` executes `Batch`.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from headrace.core.events import FinishReason
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import Node, PrefixTree
from headrace.engine.sequence import Change, Sequence, State
from headrace.kernels.plan import PAGE_TOKENS

_order = attrgetter("order")


@dataclass(slots=True)
class Batch:
    """One step: `counts[i]` tokens of `sequences[i]`. `admitted` are those among them that have a new slot.

    `is_ragged`: not every sequence lacks just one token, which it gets.
    """

    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    is_ragged: bool = False
    num_preempted: int = 0


class Sampled(NamedTuple):
    """What a step gave one sequence. `token` is -1 if its row was not a number: the sequence has failed."""

    sequence: Sequence
    token: int
    reason: FinishReason | None


class Scheduler:
    """The sequences of one model, its pages and its prefix tree."""

    def __init__(self, config: EngineConfig, pool: PagePool) -> None:
        self._config = config
        self.pool = pool
        self.tree = PrefixTree(pool)
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self._slots = list(range(config.max_sequences - 1, -1, -1))
        self._claimed: set[tuple[Node, bytes]] = set()

    @property
    def num_available(self) -> int:
        """Pages that are free or could be at once."""
        return len(self.pool.free) + self.tree.num_idle

    def has_room(self, count: int) -> bool:
        """Whether `count` more sequences may queue up; an idle scheduler always has room."""
        room = self._config.max_waiting + self._config.max_sequences - len(self.running) - len(self.waiting)
        return count <= room or not (self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        insort(self.waiting, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """End a sequence, wherever it is; all that it held is free afterwards. An ended one is left alone."""
        if sequence.state is State.FINISHED:
            return
        queue = self.running if sequence.state is State.RUNNING else self.waiting
        del queue[bisect_left(queue, sequence.order, key=_order)]
        self._release(sequence)
        sequence.change(Change.END)

    def schedule(self) -> Batch:
        """Decide the next step. Empty only when there is nothing to do."""
        batch = Batch()
        self._claimed.clear()
        decodes = [sequence.num_tokens - sequence.num_computed for sequence in self.running].count(1)
        prefill = self._config.max_batch_tokens - decodes
        if decodes:
            prefill = min(prefill, self._config.prefill_chunk)
        prefill = self._schedule_running(batch, prefill)
        if not batch.num_preempted and self.waiting:
            self._admit(batch, prefill)
        return batch

    def complete(self, batch: Batch, tokens: list[int]) -> list[Sampled]:
        """Record that a step was computed; `tokens` has one entry per sequence that has caught up, in order."""
        results: list[Sampled] = []
        for index, sequence in enumerate(batch.sequences):
            computed = sequence.num_computed = sequence.num_computed + batch.counts[index]
            token, reason = 0, None
            if computed == sequence.num_tokens:
                token = tokens[len(results)]
                if token >= 0:
                    sequence.append(token)
                    reason = _finish_reason(sequence, token)
                results.append(Sampled(sequence, token, reason))
            # A row that failed leaves doubtful pages, which must not be shared.
            if token >= 0 and computed // PAGE_TOKENS > sequence.num_cached:
                self._cache_pages(sequence)
            if token < 0:
                self.discard(sequence)
            elif reason is not None:
                self.remove(sequence)
        return results

    def discard(self, sequence: Sequence) -> None:
        """End a sequence whose pages are in doubt, and uncache those that only it used."""
        node = sequence.node
        self.remove(sequence)
        if node is not None:
            self.tree.forget(node)

    def check(self) -> None:
        """Assert that sequences, tree and pool agree on every page."""
        self.pool.check()
        self.tree.check()
        held = [0] * self.pool.num_pages
        for sequence in self.running:
            assert sequence.state is State.RUNNING, "a sequence that does not run is among the running"
            for page in sequence.pages:
                held[page] += 1
        for sequence in self.waiting:
            assert sequence.state is State.WAITING and not sequence.pages, "a waiting sequence holds pages"
        cached = sum(self.pool.refs) - sum(held)
        assert cached == self.tree.num_nodes, f"{cached - self.tree.num_nodes} page references are lost"
        slots = {sequence.slot for sequence in self.running}
        assert len(slots) == len(self.running), "two sequences share a slot"
        assert slots.isdisjoint(self._slots) and len(slots) + len(self._slots) == self._config.max_sequences

    def _schedule_running(self, batch: Batch, prefill: int) -> int:
        running = self.running
        index = 0
        while index < len(running):
            sequence = running[index]
            index += 1
            count = sequence.num_tokens - sequence.num_computed
            lacks_more = count > 1
            if lacks_more:
                count = min(count, prefill)
                if count == 0:
                    continue
                prefill -= count
            needed = -(-(sequence.num_computed + count) // PAGE_TOKENS) - len(sequence.pages)
            if needed > 0 and not self._make_room(sequence, needed, batch):
                break
            self._put(batch, sequence, count, needed)
            batch.is_ragged |= lacks_more
        return prefill

    def _make_room(self, sequence: Sequence, needed: int, batch: Batch) -> bool:
        """Preempt from the end until `needed` pages are available; false if that hit `sequence` itself."""
        while self.num_available < needed:
            victim = self.running.pop()
            self._release(victim)
            victim.change(Change.PREEMPT)
            insort(self.waiting, victim, key=_order)
            batch.num_preempted += 1
            if victim is sequence:
                return False
        return True

    def _admit(self, batch: Batch, prefill: int) -> None:
        promised = sum(max(0, _all_pages(sequence) - len(sequence.pages)) for sequence in self.running)
        index = 0
        while index < len(self.waiting) and prefill > 0 and self._slots:
            sequence = self.waiting[index]
            node, pages = self.tree.match(sequence.work.salt, sequence.reusable_keys())
            sequence.node, sequence.pages, sequence.num_cached = node, pages, len(pages)
            sequence.num_computed = len(pages) * PAGE_TOKENS
            # Only a page that it could take over whole is worth waiting for: one token is always left to compute.
            if (len(pages) + 1) * PAGE_TOKENS < sequence.num_tokens and _claim(sequence) in self._claimed:
                self._release(sequence)
                index += 1
                continue
            # Beyond the prompt, leave a page for each running sequence: admitting only to preempt helps nobody.
            wanted = _all_pages(sequence) - len(pages)
            if self.running and wanted + promised + len(self.running) > self.num_available:
                self._release(sequence)
                break
            del self.waiting[index]
            self._start(sequence)
            lacking = sequence.num_tokens - sequence.num_computed
            count = min(lacking, prefill)
            prefill -= count
            promised += wanted
            needed = -(-(sequence.num_computed + count) // PAGE_TOKENS) - len(pages)
            self._put(batch, sequence, count, needed)
            promised -= needed
            batch.admitted.append(sequence)
            batch.is_ragged |= lacking > 1

    def _start(self, sequence: Sequence) -> None:
        sequence.change(Change.ADMIT)
        sequence.slot = self._slots.pop()
        sequence.num_tabled = 0
        if sequence.num_tokens == sequence.num_prompt:
            sequence.num_reused = sequence.num_computed
        insort(self.running, sequence, key=_order)

    def _put(self, batch: Batch, sequence: Sequence, count: int, needed: int) -> None:
        if needed > 0:
            missing = needed - len(self.pool.free)
            if missing > 0:
                self.tree.evict(missing)
            sequence.pages.extend(self.pool.take() for _ in range(needed))
        # Only who waits asks what is claimed.
        if self.waiting and (claim := _claim(sequence)) is not None:
            self._claimed.add(claim)
        batch.sequences.append(sequence)
        batch.counts.append(count)

    def _cache_pages(self, sequence: Sequence) -> None:
        for index in range(sequence.num_cached, sequence.num_computed // PAGE_TOKENS):
            assert sequence.node is not None
            sequence.node = self.tree.insert(sequence.node, sequence.page_key(index), sequence.pages[index])
            if sequence.pages[index] != sequence.node.page:
                sequence.pages[index] = sequence.node.page
                sequence.num_tabled = min(sequence.num_tabled, index)
            sequence.num_cached = index + 1

    def _release(self, sequence: Sequence) -> None:
        for page in sequence.pages[sequence.num_cached :]:
            self.pool.release(page)
        if sequence.node is not None:
            self.tree.release(sequence.node)
        if sequence.slot >= 0:
            self._slots.append(sequence.slot)
        sequence.node, sequence.pages, sequence.slot = None, [], -1
        sequence.num_cached = sequence.num_computed = 0


def _claim(sequence: Sequence) -> tuple[Node, bytes] | None:
    """The next page of a sequence by its place in the tree, if all its tokens are known."""
    if (sequence.num_cached + 1) * PAGE_TOKENS > sequence.num_tokens or sequence.node is None:
        return None
    return sequence.node, sequence.page_key(sequence.num_cached)


def _all_pages(sequence: Sequence) -> int:
    """Pages for all tokens known now and the next one."""
    return sequence.num_tokens // PAGE_TOKENS + 1


def _finish_reason(sequence: Sequence, token: int) -> FinishReason | None:
    if token in sequence.work.stop_ids:
        return FinishReason.STOP
    if sequence.num_tokens - sequence.num_prompt >= sequence.work.max_tokens:
        return FinishReason.LENGTH
    return None
