"""Random packed matrices and the limits that products of them must keep, for the tests of this folder."""

import numpy as np
from numpy.typing import NDArray

from headrace.kernels import native
from headrace.kernels.grouped import GroupedMatrix, pack

# Largest error of a product relative to sum(|x| |w|): a float32 sum of at most 48 group products, seen at 4e-8.
PRODUCT_LIMIT = {4: 2e-7, 8: 2e-7}

VARIANTS = native.variants()


def random_matrix(
    rng: np.random.Generator, rows: int, cols: int, bits: int, *, has_minimum: bool, scale: float = 0.02
) -> GroupedMatrix:
    """Codes over the whole range, scales up to `scale`, minima that centre the 4-bit values on zero."""
    groups = -(-cols // 32)
    codes = np.zeros((rows, groups * 32), np.uint8 if bits == 4 else np.int8)
    low, high = (0, 16) if bits == 4 else (-128, 128)
    codes[:, :cols] = rng.integers(low, high, (rows, cols))
    scales = (scale * (0.1 + 0.9 * rng.random((rows, groups)))).astype(np.float16)
    minimum = (-8 * scales.astype(np.float32)).astype(np.float16) if has_minimum else None
    return GroupedMatrix(rows, cols, bits, codes, scales, minimum)


def packed(matrix: GroupedMatrix) -> native.Matrix:
    """The matrix as the kernels take it."""
    return native.Matrix(pack(matrix), matrix.rows, matrix.cols, matrix.bits, matrix.minimum is not None)


def as_quantised(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values that stand for x after quantisation to 8 bits, worked out here and not by a kernel."""
    num_tokens, cols = x.shape
    grouped = np.zeros((num_tokens, -(-cols // 32) * 32), np.float32)
    grouped[:, :cols] = x
    grouped = grouped.reshape(num_tokens, -1, 32)
    amax = np.abs(grouped).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0)
    scale = (amax / np.float32(127)).astype(np.float64)
    return (np.rint(grouped * inverse) * scale).reshape(num_tokens, -1)[:, :cols]


def product_and_bound(x: NDArray[np.float32], matrix: GroupedMatrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact product in double precision, and sum(|x| |w|) of codes and minima, which its error is measured by."""
    values = as_quantised(x)
    codes = matrix.codes.astype(np.float64).reshape(matrix.rows, -1, 32)
    weights = codes * matrix.scale.astype(np.float64)[:, :, None]
    size = np.abs(weights)
    if matrix.minimum is not None:
        weights = weights + matrix.minimum.astype(np.float64)[:, :, None]
        size = size + np.abs(matrix.minimum.astype(np.float64))[:, :, None]
    weights = weights.reshape(matrix.rows, -1)[:, : matrix.cols]
    size = size.reshape(matrix.rows, -1)[:, : matrix.cols]
    return values @ weights.T, np.abs(values) @ size.T
