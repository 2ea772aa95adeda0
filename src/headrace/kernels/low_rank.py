"""Thin factors beside a matrix, `out += factor * B (A x)`, as adapters bring them: values in 8 bits, and B's blocks.

A is an ordinary matrix in groups [sum of ranks, cols]. B belongs to one of the checkpoint tensors that the plan's
matrix is made of (a part); its codes have one scale per output and group of 32 ranks. Knows no file and no plan.

Block (32 outputs), one after the other:

    ceil(rank / 2) * 64 B       codes int8: for every two ranks, of 32 outputs, the two side by side
    ceil(rank / 32) * 64 B      fp16 scales: for every group of ranks, of 32 outputs

so that a vector of codes is neighbouring outputs, to be multiplied by two values of A x, which are rounded to 16 bits
in groups of 32 ranks. The outputs of a block stand
together in the matrix; `block_step` says how far the next block is (64 where gate and up rows alternate by 32).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.plan import GROUP, padded

BLOCK = 32
"""Outputs of a block."""

MAX_RANK = 256

SMALLEST_MAGNITUDE = np.float32(2.0**-118)
"""Values of a group below this are zero; 32767 / amax would overflow."""


@dataclass(frozen=True, slots=True)
class LowRankPart:
    """B of one part: codes int8 [rows, rank], scale float16 [rows, ceil(rank / 32)]; `offset` is its first output."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float16]
    factor: float
    offset: int
    block_step: int = BLOCK

    @property
    def rank(self) -> int:
        """Columns."""
        return int(self.codes.shape[1])

    @property
    def features(self) -> NDArray[np.int64]:
        """Where the outputs stand in the matrix' output."""
        row = np.arange(len(self.codes))
        return self.offset + row // BLOCK * self.block_step + row % BLOCK

    def dequantize(self) -> NDArray[np.float32]:
        """Float32 [rows, rank], without the factor."""
        scale = np.repeat(self.scale.astype(np.float32), GROUP, axis=1)[:, : self.rank]
        return self.codes.astype(np.float32) * scale


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one matrix of a plan; the parts' ranks are the rows of `a`, in order."""

    a: GroupedMatrix
    parts: tuple[LowRankPart, ...]

    def product(self, x: NDArray[np.float32], width: int, *, exact: bool = False) -> NDArray[np.float32]:
        """What is added for activations [n, cols]: [n, width]. `exact`: the values between A and B are not rounded."""
        inner = x @ self.a.dequantize().T
        out = np.zeros((len(x), width), dtype=np.float32)
        first = 0
        for part in self.parts:
            of_part = inner[:, first : first + part.rank]
            if not exact:
                of_part = round_inner(of_part)
            out[:, part.features] += (of_part @ part.dequantize().T) * np.float32(part.factor)
            first += part.rank
        return out


def round_inner(inner: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values of a part [n, rank] as 16 bits hold them, in groups of 32 ranks."""
    rounded = inner.copy()
    for first in range(0, inner.shape[1], GROUP):
        group = inner[:, first : first + GROUP]
        amax = np.abs(group).max(axis=1, keepdims=True)
        is_zero = amax < SMALLEST_MAGNITUDE
        codes = np.rint(group * (np.float32(32767) / np.where(is_zero, np.float32(1), amax)))
        rounded[:, first : first + GROUP] = codes * np.where(is_zero, np.float32(0), amax / np.float32(32767))
    return rounded


def pack(part: LowRankPart) -> NDArray[np.uint8]:
    """The blocks of a part, 1-D; outputs padded with zeros to whole blocks."""
    num_rows, num_pairs = padded(len(part.codes), BLOCK), -(-part.rank // 2)
    codes = np.zeros((num_rows, 2 * num_pairs), dtype=np.int8)
    codes[: len(part.codes), : part.rank] = part.codes
    scale = np.zeros((num_rows, part.scale.shape[1]), dtype=np.float16)
    scale[: len(part.scale)] = part.scale
    pairs = codes.reshape(-1, BLOCK, num_pairs, 2).transpose(0, 2, 1, 3)
    scales = scale.reshape(-1, BLOCK, scale.shape[1]).transpose(0, 2, 1)
    pieces = [np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8) for values in (pairs, scales)]
    return np.concatenate(pieces, axis=1).reshape(-1)
