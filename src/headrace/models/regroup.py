"""Float values to 8-bit groups of 32, for every weight type whose own codes do not fit our groups.

Owns the rounding rule and its limits. Knows nothing of files: callers hand in rows and get a `GroupedMatrix`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix, rotate_groups
from headrace.kernels.plan import GROUP, padded

CHUNK_VALUES = 1 << 20
"""Values converted at a time: temporaries stay near 20 MB however large the tensor is."""

MAX_COLS = 1 << 24
"""Longest row that is accepted, so that even a chunk of one row stays under 256 MB of temporaries."""

_TOP_CODE = 127


def quantize_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Codes [rows, cols] and scales [rows, cols / 32] of float values; cols must be whole groups.

    Raises ValueError for NaN, infinity, or values too large for a scale in fp16.
    """
    rows = len(values)
    groups = values.reshape(rows, -1, GROUP)
    largest = np.maximum(groups.max(axis=2), -groups.min(axis=2))
    if not np.isfinite(largest).all():
        raise ValueError("holds NaN or infinity")
    with np.errstate(over="ignore"):
        scale = (largest / np.float32(_TOP_CODE)).astype(np.float16)
    # A scale that rounded down far enough (only subnormal ones can) would cut the largest value off.
    low = scale.astype(np.float32) * np.float32(_TOP_CODE + 0.5) < largest
    scale[low] = np.nextafter(scale[low], np.float16(np.inf))
    if not np.isfinite(scale).all():
        raise ValueError(f"holds {largest.max():.3g}, too large for a group scale in fp16")
    # Codes follow the rounded scale, so that its rounding costs no accuracy.
    rounded = scale.astype(np.float32)
    inverse = np.divide(np.float32(1), rounded, out=np.zeros_like(rounded), where=rounded > 0)
    scaled = groups * inverse[:, :, None]
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_TOP_CODE, _TOP_CODE, out=scaled)
    return scaled.astype(np.int8).reshape(rows, -1), scale


def rows_per_chunk(cols: int) -> int:
    """How many rows of this width to convert at a time. Raises ValueError for rows longer than MAX_COLS."""
    if cols > MAX_COLS:
        raise ValueError(f"has rows of {cols} values; at most {MAX_COLS} are supported")
    return max(1, CHUNK_VALUES // max(cols, 1))


def regroup(
    read: Callable[[int, int], NDArray[np.float32]], rows: int, cols: int, *, rotates: bool = False
) -> GroupedMatrix:
    """An 8-bit matrix from float rows; `read(first, last)` gives rows first..last-1 as float32 [n, cols].

    Columns beyond `cols` up to a whole group hold codes of zero. `rotates`: as `MatrixSpec` has it.
    """
    width = padded(cols)
    codes = np.zeros((rows, width), dtype=np.int8)
    scale = np.zeros((rows, width // GROUP), dtype=np.float16)
    step = rows_per_chunk(width)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        values = read(first, last)
        if width != cols:
            values = np.pad(values, ((0, 0), (0, width - cols)))
        if rotates:
            with np.errstate(over="ignore", invalid="ignore"):  # found below
                values = rotate_groups(values)
        codes[first:last], scale[first:last] = quantize_rows(values)
    return GroupedMatrix(rows, cols, 8, codes, scale, None)
