"""Turns a batch into the ragged arrays of one native call, and makes the call.

Everything that lives longer than a step is kept per slot (page table, sampling values) and only amended, so that a
step's Python is a handful of vectorised fills. Holds no request, decides nothing, and knows no thread but its caller's.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.sampler import SamplingTable
from headrace.engine.scheduler import Batch
from headrace.engine.sequence import Sequence


class StepProgram(Protocol):
    """What the runner needs of `native.Program`; `kernels/native.pyi` states the arrays."""

    def step(  # noqa: PLR0913 - the native signature
        self,
        threads: Any,
        pool: NDArray[Any],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        *,
        logits: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
        """Run one ragged batch."""
        ...


class Runner:
    """Executes batches of one model. The page table's width follows the longest sequence met so far."""

    def __init__(self, config: EngineConfig, program: StepProgram, threads: Any, pool: PagePool) -> None:
        self._program = program
        self._threads = threads
        self._pool = pool
        self._sampling = SamplingTable(config.max_sequences)
        self._table = np.zeros((config.max_sequences, 16), np.int32)
        self._tokens = np.zeros(config.max_batch_tokens, np.int32)
        self._starts = np.arange(config.max_sequences + 1, dtype=np.int32)
        self._rows = np.arange(config.max_sequences, dtype=np.int32)

    def run(self, batch: Batch) -> list[int]:
        """Compute a batch; returns one token per sequence that has caught up, -1 where its row was not a number."""
        for sequence in batch.admitted:
            self._sampling.set(sequence.slot, sequence.work.sampling, sequence.work.seed, sequence.choice)
        sequences = batch.sequences
        width = 0
        for sequence in sequences:
            size = len(sequence.pages)
            if sequence.num_tabled < size:
                self._write_table(sequence)
            width = max(width, size)
        slots = np.array([sequence.slot for sequence in sequences], np.intp)
        contexts = np.array([sequence.num_computed for sequence in sequences], np.int32)
        if max(batch.counts) == 1:
            tokens, starts, selected = self._fill_decodes(batch)
        else:
            tokens, starts, selected = self._fill_ragged(batch)
        if len(selected) == len(sequences):
            drawing = slots
            positions = contexts + np.array(batch.counts, np.int32)
        else:
            members = np.searchsorted(starts, selected, side="right") - 1
            drawing = slots[members]
            positions = contexts[members] + np.array(batch.counts, np.int32)[members]
        sampling = self._sampling.gather(drawing, positions.astype(np.uint32)) if len(selected) else None
        drawn = self._program.step(
            self._threads,
            self._pool.array,
            tokens,
            starts,
            contexts,
            self._table[slots, :width],
            selected,
            sampling=sampling,
        )
        return [] if drawn is None else drawn[0].tolist()

    def _fill_decodes(self, batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The common step: every sequence has one token, its last, or one token of a prompt that is cut there."""
        sequences = batch.sequences
        count = len(sequences)
        tokens = self._tokens[:count]
        selected = self._rows[:count]
        if all(sequence.num_tokens - sequence.num_computed == 1 for sequence in sequences):
            tokens[:] = [sequence.last_token for sequence in sequences]
            return tokens, self._starts[: count + 1], selected
        return self._fill_ragged(batch)

    def _fill_ragged(self, batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The plain way, for any mix of chunks and decodes."""
        starts = np.zeros(len(batch.counts) + 1, np.int32)
        np.cumsum(batch.counts, out=starts[1:])
        tokens = self._tokens[: starts[-1]]
        selected = []
        start = 0
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            computed, end = sequence.num_computed, start + count
            tokens[start:end] = sequence.tokens[computed : computed + count]
            if computed + count == sequence.num_tokens:
                selected.append(end - 1)
            start = end
        return tokens, starts, np.array(selected, np.int32)

    def _write_table(self, sequence: Sequence) -> None:
        size = len(sequence.pages)
        if size > self._table.shape[1]:
            grown = np.zeros((self._table.shape[0], max(size, 2 * self._table.shape[1])), np.int32)
            grown[:, : self._table.shape[1]] = self._table
            self._table = grown
        self._table[sequence.slot, sequence.num_tabled : size] = sequence.pages[sequence.num_tabled :]
        sequence.num_tabled = size
