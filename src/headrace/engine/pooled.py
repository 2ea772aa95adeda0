"""Work that draws nothing: hidden states of some of a sequence's tokens become one vector, or the output of a head.

Which tokens count, how they are added up over the steps of a long input, and the native call of such a batch. Knows no
scheduler, no text, and not what vectors are for.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.page_tables import PageTables
from headrace.engine.runner import StepProgram
from headrace.engine.sequence import Sequence
from headrace.models.pooling import PoolingKind


class Pooled(NamedTuple):
    """What came of a sequence: its vector [width], float32; None where that is no number: it has failed."""

    sequence: Sequence
    vector: NDArray[np.float32] | None


def pooled_places(sequence: Sequence, count: int) -> range:
    """Of the next `count` tokens of a sequence, counted from the first of them, those whose hidden states count."""
    computed = sequence.num_computed
    if sequence.work.pooling is PoolingKind.MEAN:
        return range(sequence.num_pooled - computed, count)
    wanted = 0 if sequence.work.pooling is PoolingKind.FIRST else sequence.num_tokens - 1
    return range(wanted - computed, wanted - computed + 1) if computed <= wanted < computed + count else range(0)


def add_rows(sequence: Sequence, rows: NDArray[np.float32]) -> None:
    """Take in the hidden states [n, width] of what `pooled_places` named; sums are kept in float64."""
    if not len(rows):
        return
    total = rows.sum(axis=0, dtype=np.float64)
    sequence.pooled = total if sequence.pooled is None else sequence.pooled + total
    sequence.num_pooled += len(rows)


def vector_of(sequence: Sequence) -> NDArray[np.float32] | None:
    """The vector of a sequence whose rows are all there; None if it is no number."""
    assert sequence.pooled is not None
    vector: NDArray[np.float32] = (sequence.pooled / sequence.num_pooled).astype(np.float32)
    return vector if np.isfinite(vector).all() else None


class PooledArrays(NamedTuple):
    """The arguments of one step, and room for its output [rows, width]."""

    tokens: NDArray[np.int32]
    starts: NDArray[np.int32]
    contexts: NDArray[np.int32]
    page_tables: NDArray[np.int32]
    selected: NDArray[np.int32]
    output: NDArray[np.float32]
    segments: NDArray[np.int32] | None


class PooledRunner:
    """Executes batches of a program whose output is `width` features a row."""

    def __init__(self, config: EngineConfig, program: StepProgram, threads: Any, pool: PagePool, width: int) -> None:
        self._program = program
        self._threads = threads
        self._pool = pool
        self._width = width
        self._tables = PageTables(config.max_sequences)

    def prepare(self, batch: Batch) -> PooledArrays:
        """Write down what the step needs; changes nothing that a second call would not write again."""
        sequences, counts = batch.sequences, batch.counts
        self._tables.update(sequences)
        starts = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        tokens = np.empty(starts[-1], np.int32)
        segments: NDArray[np.int32] | None = None
        selected: list[NDArray[np.int32]] = []
        for sequence, count, start in zip(sequences, counts, starts.tolist(), strict=False):
            computed = sequence.num_computed
            tokens[start : start + count] = sequence.work.tokens[computed : computed + count]
            places = pooled_places(sequence, count)
            selected.append(np.arange(start + places.start, start + places.stop, dtype=np.int32))
            if sequence.work.segments is not None:
                segments = np.zeros(starts[-1], np.int32) if segments is None else segments
                segments[start : start + count] = sequence.work.segments[computed : computed + count]
        chosen = np.concatenate(selected)
        contexts = np.array([sequence.num_computed for sequence in sequences], np.int32)
        output = np.empty((len(chosen), self._width), np.float32)
        return PooledArrays(tokens, starts, contexts, self._tables.of(sequences), chosen, output, segments)

    def execute(self, arrays: PooledArrays) -> NDArray[np.float32]:
        """Compute a batch; the output's rows, those of one sequence behind each other."""
        tokens, starts, contexts, page_tables, selected, output, segments = arrays
        named: dict[str, Any] = {} if segments is None else {"segments": segments}
        self._program.step(
            self._threads, self._pool.array, tokens, starts, contexts, page_tables, selected, output=output, **named
        )
        return output
