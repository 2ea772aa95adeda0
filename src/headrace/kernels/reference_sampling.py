"""What the native sampler computes, in plain NumPy: one full sort per row, no blocks, no early ends.

The rules are told in `native/sampler.h`: a row's logits are changed by its adjustments and then its mask; candidates
are cut in the order top-k, top-p, min-p, typical-p; the token is the candidate with the largest logit / temperature +
g, where g is Gumbel noise, a function of (seed, choice, position, token) alone, made from Philox4x32-10 as
`native/noise.h` tells. Log-probabilities are of the unchanged logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKEN_TAG, BLOCK_TAG = 0x48656164, 0x48656165
"""Last words of counters, so that no two uses of the generator share its numbers."""

NOISE_BLOCK = 64
"""Tokens whose shortest waiting time is drawn first."""

Sampled = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]
"""What `native.sample` returns: tokens, log-probabilities, alternatives, and theirs."""

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Salmon et al. 2011, Philox4x32
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = np.uint64(0xFFFFFFFF)


def philox(counters: NDArray[np.uint32], seed: int) -> NDArray[np.uint32]:
    """Philox4x32-10: random words [n, 4] of counters [n, 4]; the key is the seed's low and high half."""
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    keys = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(_ROUNDS):
        a, b = c0 * np.uint64(_MULTIPLIERS[0]), c2 * np.uint64(_MULTIPLIERS[1])
        c0, c2 = (b >> np.uint64(32)) ^ c1 ^ np.uint64(keys[0]), (a >> np.uint64(32)) ^ c3 ^ np.uint64(keys[1])
        c1, c3 = b & _LOW_32, a & _LOW_32
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _words(seed: int, choice: int, position: int, numbers: NDArray[np.uint64], tag: int) -> NDArray[np.uint32]:
    counters = np.zeros((len(numbers), 4), dtype=np.uint32)
    counters[:, 0] = numbers
    counters[:, 1:] = position, choice, tag
    return philox(counters, seed)


def _times(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Exponential with mean 1."""
    times: NDArray[np.float64] = -np.log((words.astype(np.float64) + 0.5) * 2.0**-32)
    return times


def gumbel_noise(seed: int, choice: int, position: int, first_token: int, count: int) -> NDArray[np.float32]:
    """The noise of `count` consecutive tokens: -log of waiting times whose shortest is drawn first in blocks of 64."""
    tokens = np.arange(first_token, first_token + count, dtype=np.uint64)
    blocks = _words(seed, choice, position, tokens // NOISE_BLOCK, BLOCK_TAG)
    words = _words(seed, choice, position, tokens // 4, TOKEN_TAG)[np.arange(count), tokens % 4]
    shortest = _times(blocks[:, 0]) / NOISE_BLOCK
    is_shortest = blocks[:, 1] >> np.uint32(26) == tokens % NOISE_BLOCK
    return (-np.log(shortest + np.where(is_shortest, 0.0, _times(words)))).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Cuts:
    """What limits the tokens of one row that may be drawn; off where not given."""

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0


def candidates(logits: NDArray[np.float32], temperature: float, cuts: Cuts) -> NDArray[np.int64]:
    """Tokens of one row that may be drawn, the likeliest first (with typical-p, the most typical first); equal ones in
    order of index. No infinities, no NaN but minus infinity."""
    order = np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))
    order = order[logits[order] > -np.inf]
    if cuts.top_k > 0:
        order = order[: cuts.top_k]
    depths = ((logits[order] - logits.max()) / np.float32(temperature)).astype(np.float64)
    weights = np.exp(depths)
    if cuts.top_p < 1.0:
        reached = np.cumsum(weights)
        order = order[: 1 + np.searchsorted(reached, cuts.top_p * reached[-1])]
    is_kept = weights[: len(order)] >= cuts.min_p
    kept: NDArray[np.int64] = order[is_kept]
    if cuts.typical_p < 1.0:
        kept = _most_typical(kept, depths[: len(order)][is_kept], cuts.typical_p)
    return kept


def _most_typical(tokens: NDArray[np.int64], depths: NDArray[np.float64], typical_p: float) -> NDArray[np.int64]:
    """The fewest tokens with the smallest |-log p - H| that reach typical_p, p being the softmax of `depths` and H its
    entropy (Meister et al. 2022, arXiv 2202.00666)."""
    weights = np.exp(depths)
    # -log p - H is the mean of the depths less a token's own. Where exp gives 0, the depth counts for nothing.
    mean = (weights * np.maximum(depths, -87.0)).sum() / weights.sum()
    order = np.lexsort((tokens, np.abs(depths - mean)))
    reached = np.cumsum(weights[order])
    kept: NDArray[np.int64] = tokens[order[: 1 + np.searchsorted(reached, typical_p * reached[-1])]]
    return kept


def changed_logits(logits: NDArray[np.float32], sampling: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What rows [R, vocab] draw from: their logits after adjustments and masks; see `native/logit_change.h`."""
    changed = logits.copy()
    if "adjust_starts" in sampling:
        starts = sampling["adjust_starts"]
        rows = np.repeat(np.arange(len(logits)), np.diff(starts))
        tokens = sampling["adjust_tokens"]
        biased = changed[rows, tokens] + sampling["adjust_bias"]
        repetition = sampling["adjust_repetition"]
        with np.errstate(invalid="ignore"):
            repeated = np.where(biased > 0, biased / repetition, biased * repetition)
            changed[rows, tokens] = repeated - sampling["adjust_minus"]
    if "masks" in sampling:
        allowed = np.unpackbits(sampling["masks"].view(np.uint8), axis=1, bitorder="little")[:, : logits.shape[1]]
        for row, mask in enumerate(sampling["mask_rows"]):
            if mask >= 0:
                changed[row, allowed[mask] == 0] = -np.inf
    return np.where(np.isnan(changed), np.float32(-np.inf), changed)


def sample(logits: NDArray[np.float32], sampling: Mapping[str, NDArray[Any]]) -> Sampled:
    """One token per row, its natural log-probability under the unchanged logits (of every row, asked for or not), and
    the likeliest alternatives; arguments and results as `native.sample`."""
    logits = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    changed = changed_logits(logits, sampling)
    targets = sampling.get("targets", np.full(len(logits), -1, np.int32))
    tokens = np.full(len(logits), -1, dtype=np.int32)
    for row, target in enumerate(targets):
        if target < 0:
            tokens[row] = _draw(changed[row], row, sampling)
        elif logits[row].max() > -np.inf:
            tokens[row] = target
    logprobs = _log_softmax(logits)
    is_drawn = tokens >= 0
    drawn = np.where(is_drawn, logprobs[np.arange(len(logits)), tokens], np.nan).astype(np.float32)
    return tokens, drawn, *_top(logits, logprobs, sampling.get("num_top", np.zeros(len(logits), np.int32)))


def _draw(logits: NDArray[np.float32], row: int, sampling: Mapping[str, NDArray[Any]]) -> int:
    """The token of one row of changed logits, -1 if there is none."""
    temperature = np.float32(sampling["temperature"][row])
    if logits.max() == -np.inf:
        return -1
    if temperature == 0 or logits.max() == np.inf:
        return int(logits.argmax())
    typical_p = float(sampling["typical_p"][row]) if "typical_p" in sampling else 1.0
    cuts = Cuts(int(sampling["top_k"][row]), float(sampling["top_p"][row]), float(sampling["min_p"][row]), typical_p)
    kept = candidates(logits, float(temperature), cuts)
    seed, choice, position = (int(sampling[name][row]) for name in ("seed", "choice", "position"))
    noise = gumbel_noise(seed, choice, position, 0, len(logits))
    drawn = logits[kept].astype(np.float64) / np.float64(temperature) + noise[kept]
    return int(kept[np.lexsort((kept, -noise[kept], -drawn))[0]])


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):  # rows without a softmax have no probabilities: NaN
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf)
        logprobs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logprobs


def _top(
    logits: NDArray[np.float32], logprobs: NDArray[np.float64], num_top: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    width = int(num_top.max(initial=0))
    tokens = np.full((len(logits), width), -1, np.int32)
    values = np.full((len(logits), width), np.nan, np.float32)
    for row, count in enumerate(num_top):
        order = np.argsort(-logits[row], kind="stable")[:count]
        order = order[logits[row, order] > -np.inf]
        tokens[row, : len(order)] = order
        values[row, : len(order)] = logprobs[row, order]
    return tokens, values
