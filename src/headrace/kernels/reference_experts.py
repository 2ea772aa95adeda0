"""What the kernels of a mixture of experts compute, in plain NumPy; `reference.py` runs them as part of a plan.

Written to be read: one loop over the experts that were chosen. Knows rows and weights, no plan and no quantisation.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def route(x: F32, weight: F32, count: int, *, renormalise: bool) -> F32:
    """Numbers of the `count` most probable experts of each row, then their probabilities, [n, 2 count].

    x [n, D], weight [experts, D]. Equal ones go to the lower number; logits that are no numbers count as smallest.
    """
    logits = np.stack([x @ row for row in weight], axis=1)  # one by one, so that equal experts have equal logits
    keys = np.where(np.isnan(logits), -np.inf, logits)
    chosen = np.argsort(-keys, axis=1, kind="stable")[:, :count]
    powers = np.exp(logits - np.take_along_axis(logits, chosen[:, :1], axis=1))
    picked = np.take_along_axis(powers, chosen, axis=1)
    total = (picked if renormalise else powers).sum(axis=1, keepdims=True)
    return np.concatenate([chosen.astype(np.float32), picked / total], axis=1)


def mix(x: F32, routes: F32, weights: tuple[Sequence[F32], Sequence[F32]], inner: Callable[[F32], F32]) -> F32:
    """Sum over a row's experts of probability * inner(x both^T) down^T, [n, rows of a down]; routes are `route`'s.

    weights: gates and ups of each expert, then its down; `inner` makes of their product what down takes.
    """
    count = routes.shape[1] // 2
    chosen = routes[:, :count].astype(np.int64)
    both, downs = weights
    given = np.zeros((len(x), count, len(downs[0])), dtype=np.float32)
    for expert in np.unique(chosen):
        rows, slots = np.nonzero(chosen == expert)
        product = x[rows, : both[expert].shape[1]] @ both[expert].T
        given[rows, slots] = inner(product)[:, : downs[expert].shape[1]] @ downs[expert].T
    mixed: F32 = np.einsum("nj,njw->nw", routes[:, count:], given)
    return mixed


def add_gated(x: F32, weight: F32, y: F32, out: F32) -> F32:
    """Out + sigmoid(x . weight) * y, row by row."""
    gate: F32 = (1.0 / (1.0 + np.exp(-(x @ weight.reshape(-1))))).astype(np.float32)
    return out + gate[:, None] * y
