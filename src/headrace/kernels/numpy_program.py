"""The NumPy reference behind the signature of `native.Program.step`, so that the engine can serve with it.

For debugging: thousands of times slower than the compiled kernels, one thread, weights in float32. Knows no pages'
owners and no requests.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.low_rank import LowRank
from headrace.kernels.plan import Plan
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_sampling import Sampled, sample


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
        output: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
        adapters: Sequence[Mapping[int, LowRank] | None] | None = None,
        segments: NDArray[np.int32] | None = None,
    ) -> Sampled | None:
        """Run the plan on one ragged batch; see `native.pyi`. Arrays are not checked before they are used."""
        # What is not a number shows in the tokens, as it does natively, and needs no warning on the way.
        with np.errstate(invalid="ignore"):
            rows = self._program.step(
                pool, tokens, starts, contexts, page_tables, selected, adapters, segments=segments
            )
        if output is not None:
            output[:] = rows
        return None if sampling is None else _sampled(rows, sampling)


def _sampled(rows: NDArray[np.float32], sampling: dict[str, NDArray[Any]]) -> Sampled:
    """As the native program returns it: only rows that ask get a log-probability."""
    tokens, logprobs, top_tokens, top_logprobs = sample(rows, sampling)
    asked = np.zeros(len(rows), np.bool_)
    for name, least in (("logprobs", 1), ("num_top", 1), ("targets", 0)):
        if name in sampling:
            asked |= sampling[name] >= least
    logprobs[~asked] = np.nan
    return tokens, logprobs, top_tokens, top_logprobs
