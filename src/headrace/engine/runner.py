"""Turns a batch into the ragged arrays of one native call, and makes the call.

Everything that lives longer than a step is kept per slot (page table, sampling values) and only amended. As long as the
same sequences decode, their arrays are kept too: a step then writes tokens, contexts and positions, and nothing else,
because between two native calls every line of Python runs on caches that the weights have just swept. Holds no request,
decides nothing, and knows no thread but its caller's.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.engine.batch import Batch, Detail, Drawn, Row, rows_of
from headrace.engine.config import EngineConfig
from headrace.engine.grammar.table import MaskTable
from headrace.engine.kv.pool import PagePool
from headrace.engine.page_tables import PageTables
from headrace.engine.rows import row_arrays
from headrace.engine.sampler import SamplingTable
from headrace.engine.sequence import Sequence

Results = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]
"""What a step draws: tokens, log-probabilities, alternatives and theirs; `kernels/native.pyi` states the arrays."""


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
        output: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
        adapters: list[Any] | None = None,
    ) -> Results | None:
        """Run one ragged batch; `adapters` is given only where a sequence has one."""
        ...


class Arrays(NamedTuple):
    """The arguments of one step, as `StepProgram.step` names them; good until the runner prepares the next."""

    tokens: NDArray[np.int32]
    starts: NDArray[np.int32]
    contexts: NDArray[np.int32]
    page_tables: NDArray[np.int32]
    selected: NDArray[np.int32]
    sampling: dict[str, NDArray[Any]] | None
    adapters: list[Any] | None = None


class Runner:
    """Executes batches of one model."""

    def __init__(self, config: EngineConfig, program: StepProgram, threads: Any, pool: PagePool) -> None:
        self._program = program
        self._threads = threads
        self._pool = pool
        self._sampling = SamplingTable(config.max_sequences)
        self._masks = MaskTable()
        self._tables = PageTables(config.max_sequences)
        self._tokens = np.zeros(config.max_batch_tokens, np.int32)
        self._starts = np.arange(config.max_sequences + 1, dtype=np.int32)
        # Of the last batch, if it only decoded: its sequences, the arrays made for them, and what writes those that
        # change: one call, because three assignments of lists to arrays cost several times as much on cold caches.
        self._members: list[Sequence] = []
        self._decodes: Arrays | None = None
        self._write: Callable[..., None] = Struct("").pack_into
        self._changing = np.zeros((3, 0), np.int32)

    def run(self, batch: Batch) -> Drawn:
        """Both at once, for callers with nothing to do in between."""
        return self.execute(self.prepare(batch))

    def prepare(self, batch: Batch) -> Arrays:
        """Write down what the step needs; changes nothing that a second call would not write again."""
        for sequence in batch.admitted:
            self._sampling.set(sequence.slot, sequence.work.sampling, sequence.work.seed, sequence.choice)
        has_new_pages = self._tables.update(batch.sequences)
        if batch.is_ragged or not batch.is_single:
            self._members = []
            return self._fill_ragged(batch)
        arrays = self._fill_decodes(batch, has_new_pages=has_new_pages)
        if batch.is_plain or arrays.sampling is None:
            return arrays
        optional = self._masks.fill_single(batch.sequences)
        if batch.asks_rows:
            rows = [(sequence, Row(0, sequence.num_tokens, sequence.choice)) for sequence in batch.sequences]
            optional |= row_arrays(rows)
        return arrays._replace(sampling=arrays.sampling | optional)

    def execute(self, arrays: Arrays) -> Drawn:
        """Compute a batch; returns what its rows drew, -1 where a row was not a number."""
        tokens, starts, contexts, page_tables, selected, sampling, adapters = arrays
        named: dict[str, Any] = {} if adapters is None else {"adapters": adapters}
        results = self._program.step(
            self._threads, self._pool.array, tokens, starts, contexts, page_tables, selected, sampling=sampling, **named
        )
        if results is None or sampling is None:
            return Drawn([])
        drawn = results[0].tolist()
        return Drawn(drawn, _details(results) if "logprobs" in sampling else [])

    def _fill_decodes(self, batch: Batch, *, has_new_pages: bool) -> Arrays:
        """The common step: every sequence lacks one token, its last."""
        sequences = batch.sequences
        arrays = self._decodes
        if arrays is None or batch.admitted or sequences != self._members:
            count = len(sequences)
            slots = np.array([sequence.slot for sequence in sequences], np.intp)
            self._members = sequences
            self._write = Struct(f"={3 * count}i").pack_into
            self._changing = np.zeros((3, count), np.int32)
            tokens, contexts, positions = self._changing
            self._decodes = arrays = Arrays(
                tokens=tokens,
                starts=self._starts[: count + 1],
                contexts=contexts,
                page_tables=self._tables.of(sequences),
                selected=self._starts[:count],
                sampling=self._sampling.gather(slots, positions.view(np.uint32)),
                adapters=_adapters(sequences),
            )
        elif has_new_pages:
            self._decodes = arrays = arrays._replace(page_tables=self._tables.of(sequences))
        self._write(
            self._changing,
            0,
            *[sequence.last_token for sequence in sequences],
            *[sequence.num_computed for sequence in sequences],
            *[sequence.num_tokens for sequence in sequences],
        )
        return arrays

    def _fill_ragged(self, batch: Batch) -> Arrays:
        """The plain way, for any mix of chunks and decodes."""
        sequences, counts = batch.sequences, batch.counts
        starts = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        tokens = self._tokens[: starts[-1]]
        contexts = np.array([sequence.num_computed for sequence in sequences], np.int32)
        selected: list[int] = []
        rows: list[tuple[Sequence, Row]] = []
        start = 0
        for sequence, count in zip(sequences, counts, strict=True):
            computed, end = sequence.num_computed, start + count
            known = sequence.tokens[computed : computed + count]
            tokens[start : start + len(known)] = known
            tokens[start + len(known) : end] = sequence.draft
            for row in rows_of(sequence, count):
                rows.append((sequence, row))
                selected.append(start + row.place)
            start = end
        sampling = self._sample_rows(rows, is_plain=batch.is_plain) if rows else None
        tables, adapters = self._tables.of(sequences), _adapters(sequences)
        return Arrays(tokens, starts, contexts, tables, np.array(selected, np.int32), sampling, adapters)

    def _sample_rows(self, rows: list[tuple[Sequence, Row]], *, is_plain: bool) -> dict[str, NDArray[Any]]:
        slots = np.array([sequence.slot for sequence, _ in rows], np.intp)
        positions = np.array([row.position for _, row in rows], np.uint32)
        sampling = self._sampling.gather(slots, positions)
        if not is_plain:
            # A sibling draws with its leader's values, but with noise of its own.
            sampling["choice"] = np.array([row.choice for _, row in rows], np.uint32)
            sampling |= row_arrays(rows) | self._masks.fill(rows)
        return sampling


def _adapters(sequences: list[Sequence]) -> list[Any] | None:
    """Each sequence's adapter or None; None as a whole where nobody has one."""
    adapters = [sequence.work.adapter for sequence in sequences]
    return adapters if any(adapter is not None for adapter in adapters) else None


def _details(results: Results) -> list[Detail]:
    _, logprobs, tokens, values = results
    return [
        Detail(logprob, tuple((token, value) for token, value in zip(*top, strict=True) if token >= 0))
        for logprob, *top in zip(logprobs.tolist(), tokens.tolist(), values.tolist(), strict=True)
    ]
