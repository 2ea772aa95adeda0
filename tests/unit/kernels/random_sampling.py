"""Sampling arrays at random: every kind of row, mixed, for a vocabulary. Knows no sampler."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def random_cuts(rng: np.random.Generator, count: int) -> Arrays:
    """The arrays that every step gives, and two that it may."""

    def choose(values: list[float], dtype: str) -> NDArray[Any]:
        return rng.choice(np.array(values), count).astype(dtype)

    return {
        "temperature": choose([0.0, 0.0, 0.3, 1.0, 1.0, 2.0, 50.0], "f4"),
        "top_k": choose([0, 0, 0, 1, 7, 40, 3000], "i4"),
        "top_p": choose([1.0, 1.0, 0.95, 0.5, 0.999], "f4"),
        "min_p": choose([0.0, 0.0, 0.0, 0.05], "f4"),
        "typical_p": choose([1.0, 1.0, 1.0, 0.9, 0.3], "f4"),
        "seed": rng.integers(0, 2**63, count).astype(np.uint64),
        "choice": rng.integers(0, 3, count).astype(np.uint32),
        "position": rng.integers(0, 2**32, count).astype(np.uint32),
        "logprobs": rng.random(count) < 0.3,
    }


def random_adjustments(rng: np.random.Generator, count: int, vocab: int) -> Arrays:
    """Bias and penalties: no row's or many tokens."""
    rows = [
        np.sort(rng.choice(vocab, min(vocab, int(rng.choice([0, 0, 1, 5, 300]))), replace=False)) for _ in range(count)
    ]
    total = sum(map(len, rows))
    return {
        "adjust_starts": np.cumsum([0, *map(len, rows)]).astype(np.int32),
        "adjust_tokens": np.concatenate(rows).astype(np.int32),
        "adjust_bias": rng.choice([0.0, 0.0, 4.0, -3.0, 100.0, -np.inf], total).astype(np.float32),
        "adjust_repetition": rng.choice([1.0, 1.0, 1.3, 0.7], total).astype(np.float32),
        "adjust_minus": rng.choice([0.0, 0.0, 0.5, -1.25], total).astype(np.float32),
    }


def random_masks(rng: np.random.Generator, count: int, vocab: int) -> Arrays:
    """Dense, thin and empty masks, each used by several rows or none; bits beyond the vocabulary are noise."""
    shares = (1.0, 0.5, 0.02, 0.0)
    bits = np.stack([rng.random(-(-vocab // 32) * 32) < share for share in shares])
    return {
        "masks": np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little")).view(np.uint32),
        "mask_rows": rng.choice([-1, -1, -1, 0, 1, 1, 2, 2, 3], count).astype(np.int32),
    }


def random_questions(rng: np.random.Generator, count: int, vocab: int) -> Arrays:
    """Alternatives and targets."""
    targets = np.where(rng.random(count) < 0.2, rng.integers(0, vocab, count), -1)
    return {"num_top": rng.choice([0, 0, 1, 5, 20], count).astype(np.int32), "targets": targets.astype(np.int32)}


def random_sampling(rng: np.random.Generator, count: int, vocab: int) -> Arrays:
    """Any of it."""
    arrays = random_cuts(rng, count)
    for more in (random_adjustments, random_masks, random_questions):
        if rng.random() < 0.7:
            arrays |= more(rng, count, vocab)
    return arrays


def rows_of(arrays: Arrays, rows: NDArray[np.int64] | list[int]) -> Arrays:
    """The arrays of some rows only, in this order."""
    taken = {}
    for name, array in arrays.items():
        if name == "masks":
            taken[name] = array
        elif not name.startswith("adjust_"):
            taken[name] = array[rows]
    if "adjust_starts" in arrays:
        starts = arrays["adjust_starts"]
        entries = np.concatenate([np.arange(0), *(np.arange(starts[row], starts[row + 1]) for row in rows)])
        taken["adjust_starts"] = np.cumsum([0, *(starts[row + 1] - starts[row] for row in rows)]).astype(np.int32)
        for name in ("adjust_tokens", "adjust_bias", "adjust_repetition", "adjust_minus"):
            taken[name] = arrays[name][entries.astype(np.int64)]
    return taken
