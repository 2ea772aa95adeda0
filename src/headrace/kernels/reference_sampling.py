"""What the native sampler computes, in plain NumPy: one full sort per row, no blocks, no early ends.

The rules are told in `native/sampler.h`: cuts in the order top-k, top-p, min-p; the token is the candidate with the
largest z + g, where g is Gumbel noise from Philox4x32-10, a function of (seed, choice, position, token) alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTER_TAG = 0x48656164
"""Last word of every counter, so that no other use of the generator shares its numbers."""

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


def gumbel_noise(seed: int, choice: int, position: int, first_token: int, count: int) -> NDArray[np.float32]:
    """The noise of `count` consecutive tokens."""
    tokens = np.arange(first_token, first_token + count, dtype=np.uint64)
    counters = np.zeros((count, 4), dtype=np.uint32)
    counters[:, 0] = tokens // 4
    counters[:, 1:] = position, choice, COUNTER_TAG
    words = philox(counters, seed)[np.arange(count), tokens % 4]
    u = ((words >> np.uint32(9)).astype(np.float64) + 0.5) * 2.0**-23
    return (-np.log(-np.log(u))).astype(np.float32)


def candidates(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float
) -> NDArray[np.int64]:
    """Tokens of one row that may be drawn, the likeliest first; equal logits in order of index."""
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
    tokens = np.empty(len(logits), dtype=np.int32)
    for row, values in enumerate(logits):
        temperature = np.float32(sampling["temperature"][row])
        if temperature == 0:
            tokens[row] = values.argmax()
            continue
        cuts = (int(sampling["top_k"][row]), float(sampling["top_p"][row]), float(sampling["min_p"][row]))
        kept = candidates(values, float(temperature), *cuts)
        seed, choice, position = (int(sampling[name][row]) for name in ("seed", "choice", "position"))
        noise = gumbel_noise(seed, choice, position, 0, len(values))
        drawn = (values[kept] - values.max()) / temperature + noise[kept]
        tokens[row] = kept[drawn == drawn.max()].min()
    return tokens, _logprobs(logits, tokens)


def _logprobs(logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    chosen: NDArray[np.float64] = shifted[np.arange(len(tokens)), tokens]
    log_total: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1))
    return (chosen - log_total).astype(np.float32)
