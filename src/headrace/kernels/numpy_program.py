"""The NumPy reference behind the signature of `native.Program.step`, so that the engine can serve with it.

For debugging: thousands of times slower than the compiled kernels, one thread, weights in float32. Knows no pages'
owners and no requests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.plan import Plan
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_sampling import sample


class NumpyProgram:
    """A plan bound to weights, both in the plan's order; `step` takes and returns what `native.Program.step` does."""

    def __init__(self, plan: Plan, matrices: Sequence[GroupedMatrix], vectors: Sequence[NDArray[np.float32]]) -> None:
        self._program = ReferenceProgram(plan, matrices, vectors)

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
        """Run the plan on one ragged batch; see `native.pyi`. Arrays are not checked before they are used."""
        # What is not a number shows in the tokens, as it does natively, and needs no warning on the way.
        with np.errstate(invalid="ignore"):
            rows = self._program.step(pool, tokens, starts, contexts, page_tables, selected)
        if logits is not None:
            logits[:] = rows
        return None if sampling is None else _sampled(rows, sampling)


def _sampled(
    rows: NDArray[np.float32], sampling: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    # As the native sampler treats them: NaN counts as -infinity, and a row of nothing else gives token -1.
    rows = np.where(np.isnan(rows), np.float32(-np.inf), rows)
    usable = rows.max(axis=1, initial=-np.inf) > -np.inf
    tokens = np.full(len(rows), -1, dtype=np.int32)
    logprobs = np.full(len(rows), np.nan, dtype=np.float32)
    tokens[usable], logprobs[usable] = sample(rows[usable], {name: array[usable] for name, array in sampling.items()})
    asked = sampling.get("logprobs", np.zeros(len(rows), dtype=np.bool_))
    logprobs[~asked] = np.nan
    return tokens, logprobs
