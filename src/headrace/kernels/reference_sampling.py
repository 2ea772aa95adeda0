"""What the native sampler computes, in plain NumPy: one full sort per row, no blocks, no early ends.

The rules are told in `native/sampler.h`: cuts in the order top-k, top-p, min-p; the token is the candidate with the
largest logit / temperature + g, where g is Gumbel noise, a function of (seed, choice, position, token) alone, made from
Philox4x32-10 as `native/noise.h` tells.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKEN_TAG, BLOCK_TAG = 0x48656164, 0x48656165
"""Last words of counters, so that no two uses of the generator share its numbers."""

NOISE_BLOCK = 64
"""Tokens whose shortest waiting time is drawn first."""

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


def candidates(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
) -> NDArray[np.int64]:
    """Tokens of one row that may be drawn, the likeliest first; equal logits in order of index. No infinities, no NaN
    but minus infinity."""
    order = np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))
    order = order[logits[order] > -np.inf]
    if top_k > 0:
        order = order[:top_k]
    weights = np.exp(((logits[order] - logits.max()) / np.float32(temperature)).astype(np.float64))
    if top_p < 1.0:
        reached = np.cumsum(weights)
        order = order[: 1 + np.searchsorted(reached, top_p * reached[-1])]
    kept: NDArray[np.int64] = order[weights[: len(order)] >= min_p]
    return kept


def sample(
    logits: NDArray[np.float32], sampling: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """One token per row and its natural log-probability under the unmodified logits; arguments as `native.sample`."""
    tokens = np.full(len(logits), -1, dtype=np.int32)
    logits = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    for row, values in enumerate(logits):
        temperature = np.float32(sampling["temperature"][row])
        if values.max() == -np.inf:
            continue
        if temperature == 0 or values.max() == np.inf:
            tokens[row] = values.argmax()
            continue
        cuts = (int(sampling["top_k"][row]), float(sampling["top_p"][row]), float(sampling["min_p"][row]))
        kept = candidates(values, float(temperature), *cuts)
        seed, choice, position = (int(sampling[name][row]) for name in ("seed", "choice", "position"))
        noise = gumbel_noise(seed, choice, position, 0, len(values))
        drawn = values[kept].astype(np.float64) / np.float64(temperature) + noise[kept]
        tokens[row] = kept[np.lexsort((kept, -noise[kept], -drawn))[0]]
    return tokens, _logprobs(logits, tokens)


def _logprobs(logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):  # rows without a softmax have no probabilities: NaN
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        chosen: NDArray[np.float64] = shifted[np.arange(len(tokens)), tokens]
        log_total: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1))
        return (chosen - log_total).astype(np.float32)
