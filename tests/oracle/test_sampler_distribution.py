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
    tokens, *_ = native.sample(threads, np.tile(logits.astype(np.float32), (DRAWS, 1)), sampling)
    threads.close()
    return np.bincount(tokens, minlength=len(logits))


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


@pytest.mark.parametrize("cut", [(1.0, 0, 1.0, 0.0), (0.8, 9, 1.0, 0.0), (1.2, 0, 0.9, 0.0)], ids=str)
def test_tokens_of_several_blocks_come_with_their_exact_probabilities(cut: tuple[float, int, float, float]) -> None:
    """Peaks in five blocks of noise, two of them next to each other."""
    logits = np.random.default_rng(3).normal(-7.0, 0.5, 300).round(2)
    logits[[3, 63, 64, 130, 190, 250, 299]] = [1.0, 0.5, 0.8, 1.2, 0.1, -0.4, 0.9]
    expected = exact(logits, *cut) * DRAWS
    counts = draw(logits, cut, seed=99)
    likely = expected > 5
    observed = np.append(counts[likely], counts[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum())
    present = wanted > 0
    assert observed[~present].sum() == 0
    statistic = ((observed[present] - wanted[present]) ** 2 / wanted[present]).sum()
    assert statistic < limit(int(present.sum()) - 1)


def test_noise_within_a_block_is_independent_and_identically_distributed() -> None:
    """Waiting times are drawn top-down, the shortest first: nothing of that may be seen in them."""
    rows = 6000
    times = np.exp(-np.stack([native.gumbel_noise(7, 0, row, 0, 128) for row in range(rows)]).astype(np.float64))
    uniform = 1.0 - np.exp(-times)
    for token in (0, 1, 31, 62, 63, 64, 100):
        ordered = np.sort(uniform[:, token])
        assert np.abs(ordered - (np.arange(rows) + 0.5) / rows).max() < 2.2 / np.sqrt(rows)  # Kolmogorov, p = 1e-4
    correlation = np.corrcoef(uniform.T) - np.eye(128)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(rows)
    # Extremes come together only by chance: both of two tokens among their own shortest twentieth.
    early = uniform < 0.05
    together = (early.T.astype(np.float64) @ early)[~np.eye(128, dtype=bool)]
    assert abs(together.mean() - rows * 0.05**2) < 0.5
    firsts = np.bincount(times[:, :64].argmin(axis=1), minlength=64)
    assert ((firsts - rows / 64) ** 2 / (rows / 64)).sum() < limit(63)


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
