"""Samples against the exact distribution, by chi-squared, for every combination of rules. Seeds are fixed: no chance.

The expected probabilities are computed here from the definitions, without the sampler's reference.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.kernels import native

VOCAB = 23
DRAWS = 20_000
# 99.99 % quantile of chi-squared by degrees of freedom, Wilson and Hilferty's approximation: z = 3.719.
QUANTILE_Z = 3.719


@dataclass(frozen=True, slots=True)
class Rules:
    """What a row asks; off where not given."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    bias: bool = False
    penalties: bool = False
    mask: bool = False


LOGITS = np.random.default_rng(11).normal(0.0, 1.2, VOCAB).round(2)
BIASES = {2: 1.5, 7: -2.0, 20: 0.75}
REPETITION, REPEATED = 1.4, (0, 2, 3, 11)  # tokens of prompt or answer
PRESENCE, FREQUENCY, COUNTS = 0.4, 0.15, {3: 1, 11: 4, 15: 2}  # occurrences in the answer
FORBIDDEN = (1, 7, 8, 22)


def changed(rules: Rules) -> NDArray[np.float64]:
    """The logits that the row draws from: bias, then repetition, then presence and frequency, then the mask."""
    logits = LOGITS.copy()
    for token in range(VOCAB):
        if rules.bias:
            logits[token] += BIASES.get(token, 0.0)
        if rules.penalties:
            if token in REPEATED:
                logits[token] = logits[token] / REPETITION if logits[token] > 0 else logits[token] * REPETITION
            if token in COUNTS:
                logits[token] -= PRESENCE + FREQUENCY * COUNTS[token]
        if rules.mask and token in FORBIDDEN:
            logits[token] = -np.inf
    return logits


def exact(logits: NDArray[np.float64], rules: Rules) -> NDArray[np.float64]:
    """Every token's probability by the definitions."""
    order = np.argsort(-logits, kind="stable")
    weights = np.exp((logits - logits.max()) / rules.temperature)
    kept = np.zeros(len(logits), dtype=bool)
    mass, first = 0.0, order[: rules.top_k or len(order)]
    total = weights[first].sum()
    for token in first:
        kept[token] = True
        mass += weights[token]
        if mass >= rules.top_p * total:
            break
    kept &= (weights >= rules.min_p) & (weights > 0)
    if rules.typical_p < 1:
        p = np.where(kept, weights, 0.0) / weights[kept].sum()
        surprise = -np.log(p, where=kept, out=np.full(len(p), np.inf))
        entropy = (p[kept] * surprise[kept]).sum()
        mass, left = 0.0, kept
        kept = np.zeros(len(logits), dtype=bool)
        for token in np.argsort(np.abs(surprise - entropy), kind="stable"):
            kept[token] = left[token]
            mass += p[token]
            if mass >= rules.typical_p:
                break
    return np.asarray(np.where(kept, weights, 0.0) / weights[kept].sum())


def limit(freedom: int) -> float:
    return freedom * (1 - 2 / (9 * freedom) + QUANTILE_Z * np.sqrt(2 / (9 * freedom))) ** 3


def arrays(rules: Rules, seed: int) -> dict[str, NDArray[Any]]:
    """The rules as the sampler reads them, the same for all rows."""
    sampling: dict[str, NDArray[Any]] = {
        "temperature": np.full(DRAWS, rules.temperature, dtype=np.float32),
        "top_k": np.full(DRAWS, rules.top_k, dtype=np.int32),
        "top_p": np.full(DRAWS, rules.top_p, dtype=np.float32),
        "min_p": np.full(DRAWS, rules.min_p, dtype=np.float32),
        "typical_p": np.full(DRAWS, rules.typical_p, dtype=np.float32),
        "seed": np.full(DRAWS, seed, dtype=np.uint64),
        "choice": np.arange(DRAWS, dtype=np.uint32) % 5,
        "position": np.arange(DRAWS, dtype=np.uint32) // 5,
    }
    biases = BIASES if rules.bias else {}
    repeated, counts = (REPEATED, COUNTS) if rules.penalties else ((), {})
    tokens = sorted({*biases, *repeated, *counts})
    values = {
        "bias": [biases.get(token, 0.0) for token in tokens],
        "repetition": [REPETITION if token in repeated else 1.0 for token in tokens],
        "minus": [PRESENCE + FREQUENCY * counts[token] if token in counts else 0.0 for token in tokens],
    }
    if tokens:
        sampling["adjust_starts"] = np.arange(DRAWS + 1, dtype=np.int32) * len(tokens)
        sampling["adjust_tokens"] = np.tile(np.array(tokens, np.int32), DRAWS)
        for name, entries in values.items():
            sampling[f"adjust_{name}"] = np.tile(np.array(entries, np.float32), DRAWS)
    if rules.mask:
        word = sum(1 << token for token in range(VOCAB) if token not in FORBIDDEN)
        sampling |= {"masks": np.array([[word]], np.uint32), "mask_rows": np.zeros(DRAWS, np.int32)}
    return sampling


def check(rules: Rules) -> None:
    threads = native.Threads(2)
    rows = np.tile(LOGITS.astype(np.float32), (DRAWS, 1))
    tokens, *_ = native.sample(threads, rows, arrays(rules, seed=1234))
    threads.close()
    counts = np.bincount(tokens, minlength=VOCAB)
    expected = exact(changed(rules), rules) * DRAWS
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


@pytest.mark.parametrize(
    "cut", list(itertools.product((0.6, 1.0, 2.5), (0, 5, 12), (1.0, 0.9, 0.4), (0.0, 0.08))), ids=str
)
def test_tokens_come_with_their_exact_probabilities(cut: tuple[float, int, float, float]) -> None:
    check(Rules(*cut))


EVERY_COMBINATION = list(
    itertools.product((0.7, 1.8), (0, 11), (1.0, 0.9), (0.0, 0.12), (1.0, 0.75), *[(False, True)] * 3)
)


@pytest.mark.parametrize("values", EVERY_COMBINATION, ids=str)
def test_every_combination_of_rules_draws_with_exact_probabilities(
    values: tuple[float, int, float, float, float, bool, bool, bool],
) -> None:
    check(Rules(*values))


def test_every_rule_changes_the_distribution_that_is_tested() -> None:
    """Otherwise the combinations above would prove less than they say."""
    usual = exact(changed(Rules()), Rules())
    for name, value in {
        "temperature": 0.7, "top_k": 11, "top_p": 0.9, "min_p": 0.12, "typical_p": 0.75,
        "bias": True, "penalties": True, "mask": True,
    }.items():  # fmt: skip
        rules = replace(Rules(), **{name: value})
        assert np.abs(exact(changed(rules), rules) - usual).sum() > 0.05, name
