"""Whether two sets of vectors come from one distribution: the maximum mean discrepancy of Gretton et al. 2012 (JMLR
13), its unbiased estimate (lemma 6) with a Gaussian kernel as wide as the median distance (section 8).

Values only; permutations are drawn by whoever asks.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.trust.monitors.theft.embedding import Vectors

_LEAST_WIDTH: Final = 1e-6


def kernel_of(vectors: Vectors) -> NDArray[np.float32]:
    """The Gaussian kernel between all of them, as wide as the median distance. In single precision: a kernel's error is
    some 1e-6, of which a mean over thousands keeps less, and discrepancies are some 1e-2."""
    points = vectors.astype(np.float32)
    squares = np.einsum("ij,ij->i", points, points)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * (points @ points.T), 0.0)
    width = max(_median_apart(distances), _LEAST_WIDTH) if len(points) > 1 else 1.0
    np.fill_diagonal(distances, 0.0)
    kernel: NDArray[np.float32] = np.exp(distances / np.float32(-width))
    return kernel


def _median_apart(distances: NDArray[np.float32]) -> float:
    """The median of what lies off the diagonal, where every pair stands twice."""
    num = len(distances) * (len(distances) - 1)
    flat = distances.copy()
    np.fill_diagonal(flat, np.inf)
    middle = np.partition(flat.ravel(), (num // 2 - 1, num // 2))[num // 2 - 1 : num // 2 + 1]
    return float(middle.mean())


def discrepancy(one: Vectors, other: Vectors) -> float:
    """The unbiased estimate of the squared discrepancy of two samples; about 0 or below where they are alike. Raises
    ValueError for fewer than two of either."""
    if min(len(one), len(other)) < 2:
        raise ValueError("a discrepancy needs two vectors of each sample at least")
    kernel = kernel_of(np.concatenate([one, other]))
    return _estimate(kernel, np.arange(len(one) + len(other)) < len(one))


def permuted_share(
    one: Vectors, other: Vectors, random: np.random.Generator, num_permutations: int = 200
) -> tuple[float, float]:
    """The discrepancy, and the share of random partings of all vectors that show one as large: the p-value of "they
    are alike" (section 5.1 of the paper), at least 1 / (permutations + 1)."""
    kernel = kernel_of(np.concatenate([one, other]))
    member = np.arange(len(one) + len(other)) < len(one)
    seen = _estimate(kernel, member)
    num_above = sum(_estimate(kernel, random.permutation(member)) >= seen for _ in range(num_permutations))
    return seen, (1 + num_above) / (1 + num_permutations)


def _estimate(kernel: NDArray[np.float32], member: NDArray[np.bool_]) -> float:
    first = member.astype(np.float64)
    second = 1.0 - first
    m, n = first.sum(), second.sum()
    towards_first = kernel @ first
    diagonal = np.diagonal(kernel)
    within_first = (first @ towards_first - diagonal @ first) / (m * (m - 1))
    within_second = (second @ (kernel @ second) - diagonal @ second) / (n * (n - 1))
    return float(within_first + within_second - 2.0 * (second @ towards_first) / (m * n))
