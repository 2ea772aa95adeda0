"""Samples against the exact distribution, by chi-squared, for every combination of cuts. Seeds are fixed: no chance.

The expected probabilities are computed here from the definitions, without the sampler's reference.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.kernels import native

VOCAB = 23
DRAWS = 20_000
# 99.99 % quantile of chi-squared by degrees of freedom, Wilson and Hilferty's approximation: z = 3.719.
QUANTILE_Z = 3.719


def exact(logits: NDArray[np.float64], temperature: float, top_k: int, top_p: float, min_p: float) -> NDArray[Any]:
    order = np.argsort(-logits, kind="stable")
    weights = np.exp((logits - logits.max()) / temperature)
    kept = np.zeros(len(logits), dtype=bool)
    mass, first = 0.0, order[: top_k or len(order)]
    total = weights[first].sum()
    for token in first:
        kept[token] = True
        mass += weights[token]
        if mass >= top_p * total:
            break
    kept &= weights >= min_p
    return np.where(kept, weights, 0.0) / weights[kept].sum()


def limit(freedom: int) -> float:
    return freedom * (1 - 2 / (9 * freedom) + QUANTILE_Z * np.sqrt(2 / (9 * freedom))) ** 3


def draw(logits: NDArray[np.float64], cut: tuple[float, int, float, float], seed: int) -> NDArray[np.int64]:
    temperature, top_k, top_p, min_p = cut
    sampling = {
        "temperature": np.full(DRAWS, temperature, dtype=np.float32),
        "top_k": np.full(DRAWS, top_k, dtype=np.int32),
        "top_p": np.full(DRAWS, top_p, dtype=np.float32),
        "min_p": np.full(DRAWS, min_p, dtype=np.float32),
        "seed": np.full(DRAWS, seed, dtype=np.uint64),
        "choice": np.arange(DRAWS, dtype=np.uint32) % 5,
        "position": np.arange(DRAWS, dtype=np.uint32) // 5,
    }
    threads = native.Threads(2)
    tokens, _ = native.sample(threads, np.tile(logits.astype(np.float32), (DRAWS, 1)), sampling)
    threads.close()
    return np.bincount(tokens, minlength=VOCAB)


@pytest.mark.parametrize(
    "cut", list(itertools.product((0.6, 1.0, 2.5), (0, 5, 12), (1.0, 0.9, 0.4), (0.0, 0.08))), ids=str
)
def test_tokens_come_with_their_exact_probabilities(cut: tuple[float, int, float, float]) -> None:
    logits = np.random.default_rng(11).normal(0.0, 1.2, VOCAB).round(2)
    expected = exact(logits, *cut) * DRAWS
    counts = draw(logits, cut, seed=1234)
    assert counts[expected == 0].sum() == 0, "a token that was cut was drawn"
    likely = expected > 5
    rest = (expected > 0) & ~likely
    observed = np.append(counts[likely], counts[rest].sum() if rest.any() else [])
    wanted = np.append(expected[likely], expected[rest].sum() if rest.any() else [])
    freedom = len(wanted) - 1
    if freedom == 0:
        assert observed[0] == DRAWS
        return
    assert ((observed - wanted) ** 2 / wanted).sum() < limit(freedom)


def test_the_test_would_notice_a_wrong_temperature() -> None:
    logits = np.random.default_rng(11).normal(0.0, 1.2, VOCAB).round(2)
    expected = exact(logits, 1.1, 0, 1.0, 0.0) * DRAWS
    counts = draw(logits, (1.0, 0, 1.0, 0.0), seed=1234)
    assert ((counts - expected) ** 2 / expected).sum() > limit(VOCAB - 1)


def test_neighbouring_positions_and_choices_are_independent() -> None:
    """Noise of neighbours in every coordinate is uncorrelated."""
    noise = np.stack(
        [
            native.gumbel_noise(seed, choice, position, 0, 4096)
            for seed, choice, position in itertools.product((0, 1), (0, 1), (0, 1))
        ]
    )
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(4096)
    assert abs(noise.mean() - 0.5772) < 0.03
    assert abs(noise.var() - np.pi**2 / 6) < 0.06
