"""Packs `Sampling` values into the arrays that the native sampler reads, one row per sequence that draws a token.

Values are written once when a sequence gets its slot and gathered once a step. How a token is drawn is native code's
business (`kernels/native`): the noise is keyed by (seed, choice, position, token), so it depends on no batch.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.request import Sampling

_MAX_TOP_K = 2**31 - 1
_FIELDS: dict[str, type[np.generic]] = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "typical_p": np.float32,
    "seed": np.uint64,
    "choice": np.uint32,
}


class SamplingTable:
    """Sampling values by slot."""

    def __init__(self, num_slots: int) -> None:
        self._columns = {name: np.zeros(num_slots, dtype) for name, dtype in _FIELDS.items()}

    def set(self, slot: int, sampling: Sampling, seed: int, choice: int) -> None:
        """Write one slot's row; `seed` may be any integer, of which 64 bits count."""
        columns = self._columns
        columns["temperature"][slot] = sampling.temperature
        columns["top_k"][slot] = min(sampling.top_k, _MAX_TOP_K)
        columns["top_p"][slot] = sampling.top_p
        columns["min_p"][slot] = sampling.min_p
        columns["typical_p"][slot] = sampling.typical_p
        columns["seed"][slot] = seed & (2**64 - 1)
        columns["choice"][slot] = choice

    def gather(self, slots: NDArray[np.intp], positions: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
        """The rows of `slots`, in order; `positions` are those of the tokens about to be drawn."""
        rows: dict[str, NDArray[Any]] = {name: column[slots] for name, column in self._columns.items()}
        rows["position"] = positions
        return rows
