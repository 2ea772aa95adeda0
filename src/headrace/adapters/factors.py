"""An adapter's factors from float32 to 8 bits, for one matrix of a plan.

Owns the balance between A and B: a rank may carry its size in either, so that it is moved into B by powers of two,
which cost no accuracy; then the codes of every output serve the ranks by what they contribute. What is left over of B's
size is one float per part. Knows no file and no program.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.adapters.plan import Target
from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.low_rank import LowRank, LowRankPart
from headrace.kernels.plan import padded
from headrace.models.regroup import quantize_rows

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Factors:
    """What an adapter adds to one linear layer: scale * B A, with A [rank, cols] and B [rows, rank] in float32."""

    a: F32
    b: F32
    scale: float


def quantize_factors(parts: Sequence[tuple[Target, Factors]]) -> LowRank:
    """The factors of all targets within one matrix, in 8 bits. ValueError for values that do not fit, naming none."""
    cols = parts[0][0].cols
    codes, scales, placed = [], [], []
    for target, factors in parts:
        a, b, factor = _balanced(factors)
        a_codes, a_scale = quantize_rows(_padded(a))
        b_codes, b_scale = quantize_rows(_padded(b))
        codes.append(a_codes)
        scales.append(a_scale)
        rank = len(a)
        placed.append(
            LowRankPart(np.ascontiguousarray(b_codes[:, :rank]), b_scale, factor, target.offset, target.block_step)
        )
    stacked = np.concatenate(codes)
    return LowRank(GroupedMatrix(len(stacked), cols, 8, stacked, np.concatenate(scales), None), tuple(placed))


def _balanced(factors: Factors) -> tuple[F32, F32, float]:
    """A with rows of at most 1, B with values of at most 1, and what both are to be multiplied by."""
    exponent = _exponent(np.abs(factors.a).max(axis=1))
    a = np.ldexp(factors.a, -exponent[:, None])
    b = factors.b.astype(np.float64) * np.ldexp(1.0, exponent)[None, :]
    size = int(_exponent(np.abs(b).max(initial=0.0)))
    factor = float(np.ldexp(factors.scale, size))
    if not abs(factor) <= float(np.finfo(np.float32).max):
        raise ValueError(f"holds factors whose product is too large ({factor:.3g})")
    return a, np.ldexp(b, -size).astype(np.float32), factor


def _exponent(values: NDArray[np.floating]) -> NDArray[np.int32]:
    """Of the power of two that is just above each value; 0 for 0."""
    return np.asarray(np.frexp(values)[1], dtype=np.int32)


def _padded(values: F32) -> F32:
    return np.pad(values, ((0, 0), (0, padded(values.shape[1]) - values.shape[1])))
