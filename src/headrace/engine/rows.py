"""What rows ask of the sampler beyond their slot's values, as the arrays that the native step reads.

Log-probabilities and alternatives, the tokens of a prompt that is scored, and what changes logits: biases, and
penalties for tokens that were there before (`core.request.Sampling` states the order and the sources). Built only for
steps in which somebody asks. Knows sequences and rows; no pages and no kernel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.request import Sampling
from headrace.engine.batch import Row
from headrace.engine.sequence import Sequence


class Adjustments:
    """One sequence's changes of logits, kept in step with its tokens.

    Tokens of the prompt count for repetition alone, as in vLLM and transformers.
    """

    __slots__ = ("_bias", "_counts", "_num_seen", "_sampling", "_tokens")

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        biases = sorted(sampling.logit_bias)
        self._tokens = np.array([token for token, _ in biases], np.int32)
        self._bias = np.array([bias for _, bias in biases], np.float32)
        # How often the answer has a token; 0: the prompt does, -1: nobody.
        self._counts = np.full(len(biases), -1, np.int32)
        self._num_seen = 0

    def arrays(self, sequence: Sequence) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Tokens [K], ascending, and for each bias, repetition and what is subtracted [3, K]."""
        sampling = self._sampling
        if sampling.has_penalties:
            self._see(sequence)
        counts = self._counts
        values = np.empty((3, len(counts)), np.float32)
        values[0] = self._bias
        values[1] = np.where(counts >= 0, np.float32(sampling.repetition_penalty), np.float32(1.0))
        values[2] = sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * np.maximum(counts, 0)
        return self._tokens, values

    def _see(self, sequence: Sequence) -> None:
        """Count the tokens that came since the last time."""
        if self._num_seen == 0:
            if self._sampling.repetition_penalty != 1.0:
                places, _ = self._places(np.array(sequence.tokens[: sequence.num_prompt], np.int32))
                self._counts[places] = 0
            self._num_seen = sequence.num_prompt
        if self._num_seen < sequence.num_tokens:
            places, counts = self._places(np.array(sequence.tokens[self._num_seen :], np.int32))
            self._counts[places] = np.maximum(self._counts[places], 0) + counts
            self._num_seen = sequence.num_tokens

    def _places(self, tokens: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Where distinct tokens are, those that are new put in, and how often each was given."""
        fresh, counts = np.unique(tokens, return_counts=True)
        new = np.setdiff1d(fresh, self._tokens, assume_unique=True)
        if len(new):
            at = np.searchsorted(self._tokens, new)
            self._tokens = np.insert(self._tokens, at, new)
            self._bias = np.insert(self._bias, at, np.float32(0.0))
            self._counts = np.insert(self._counts, at, -1)
        return np.searchsorted(self._tokens, fresh), counts.astype(np.int32)


def adjustments_for(sampling: Sampling) -> Adjustments | None:
    """What changes a sequence's logits; None if nothing does."""
    return Adjustments(sampling) if sampling.logit_bias or sampling.has_penalties else None


def row_arrays(rows: list[tuple[Sequence, Row]]) -> dict[str, NDArray[Any]]:
    """The optional arrays of `native.Program.step`'s `sampling` that these rows need."""
    arrays: dict[str, NDArray[Any]] = {}
    wanted = [_num_top(sequence, row) for sequence, row in rows]
    if any(count is not None for count in wanted):
        arrays["logprobs"] = np.array([count is not None for count in wanted], np.bool_)
        arrays["num_top"] = np.array([count or 0 for count in wanted], np.int32)
    if any(row.target >= 0 for _, row in rows):
        arrays["targets"] = np.array([row.target for _, row in rows], np.int32)
    if any(sequence.adjustments is not None for sequence, _ in rows):
        arrays |= _adjustment_arrays(rows)
    return arrays


def _num_top(sequence: Sequence, row: Row) -> int | None:
    return sequence.work.logprobs if row.target < 0 else sequence.work.prompt_logprobs


def _adjustment_arrays(rows: list[tuple[Sequence, Row]]) -> dict[str, NDArray[Any]]:
    parts = [
        None if sequence.adjustments is None or row.target >= 0 else sequence.adjustments.arrays(sequence)
        for sequence, row in rows
    ]
    starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([0 if part is None else len(part[0]) for part in parts], out=starts[1:])
    given = [part for part in parts if part is not None]
    tokens = np.concatenate([part[0] for part in given]) if given else np.zeros(0, np.int32)
    values = np.concatenate([part[1] for part in given], axis=1) if given else np.zeros((3, 0), np.float32)
    return {
        "adjust_starts": starts,
        "adjust_tokens": tokens,
        "adjust_bias": np.ascontiguousarray(values[0]),
        "adjust_repetition": np.ascontiguousarray(values[1]),
        "adjust_minus": np.ascontiguousarray(values[2]),
    }
