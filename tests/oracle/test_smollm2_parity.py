"""The native engine on the real model against transformers in float32 on the same dequantised weights.

The text is vectors/text.txt in windows of up to 1,024 tokens; scripts/record_smollm2_parity.py made the vectors.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.load import load_model

VECTORS = Path(__file__).parent / "vectors" / "smollm2.npz"
CHUNK = 256

MEAN_NLL_BOUND = 0.005  # relative
MEAN_DIVERGENCE_BOUND = 0.006  # nats
CLEAR_MARGIN = 0.3  # nats between the reference's first and second token
AGREEMENT_BOUND = 0.99


@dataclass(frozen=True)
class Measured:
    """Ours and theirs, per predicted token and per recorded position."""

    nll: np.ndarray
    their_nll: np.ndarray
    divergence: np.ndarray
    is_same_first: np.ndarray
    margin: np.ndarray


@pytest.fixture(scope="module")
def measured(smollm2_path):
    model = load_model(smollm2_path, max_context=1024)
    threads = native.Threads(2)
    with np.load(VECTORS) as archive:
        vectors = dict(archive)
    nll, divergence, is_same_first = [], [], []
    for window, (first, last) in enumerate(zip(vectors["starts"][:-1], vectors["starts"][1:], strict=True)):
        tokens = vectors["tokens"][first:last]
        logprobs = window_logprobs(model, threads, tokens)
        nll.append(-logprobs[np.arange(len(tokens) - 1), tokens[1:]])
        rows = vectors["positions"][:, 0] == window
        ours = logprobs[vectors["positions"][rows, 1]]
        divergence.append(divergences(ours, vectors["top_ids"][rows], vectors["top_logprobs"][rows]))
        is_same_first.append(ours.argmax(axis=1) == vectors["top_ids"][rows, 0])
    threads.close()
    top = vectors["top_logprobs"]
    return Measured(
        nll=np.concatenate(nll),
        their_nll=vectors["nll"],
        divergence=np.concatenate(divergence),
        is_same_first=np.concatenate(is_same_first),
        margin=top[:, 0] - top[:, 1],
    )


def window_logprobs(model, threads, tokens):
    """Log-probabilities [tokens, vocab], prefilled in chunks."""
    cache = model.plan.cache
    num_pages = -(-len(tokens) // PAGE_TOKENS)
    size = cache.head_dim * PAGE_TOKENS
    pool = np.zeros((num_pages, cache.num_layers, cache.num_kv_heads, 2, size), dtype=np.uint16)
    table = np.arange(num_pages, dtype=np.int32)[None]
    logits = np.empty((len(tokens), model.plan.vocab_size), dtype=np.float32)
    for first in range(0, len(tokens), CHUNK):
        chunk = tokens[first : first + CHUNK]
        starts, contexts = np.array([0, len(chunk)], dtype=np.int32), np.array([first], dtype=np.int32)
        selected = np.arange(len(chunk), dtype=np.int32)
        out = logits[first : first + CHUNK]
        model.program.step(threads, pool, chunk, starts, contexts, table, selected, out)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return logits


def divergences(ours, top_ids, top_logprobs):
    """KL(theirs || ours) over the 64 likeliest tokens and one bucket for the rest, which bounds the true one below."""
    q = np.take_along_axis(ours, top_ids.astype(np.int64), axis=1).astype(np.float64)
    p = top_logprobs.astype(np.float64)
    rest_p = np.maximum(1.0 - np.exp(p).sum(axis=1), 1e-12)
    rest_q = np.maximum(1.0 - np.exp(q).sum(axis=1), 1e-12)
    return (np.exp(p) * (p - q)).sum(axis=1) + rest_p * np.log(rest_p / rest_q)


def test_the_text_is_long_enough_to_judge_by(measured):
    assert len(measured.nll) == len(measured.their_nll) >= 4000
    assert (measured.margin > CLEAR_MARGIN).sum() >= 500


def test_mean_negative_log_likelihood_is_that_of_transformers(measured):
    assert measured.nll.mean() == pytest.approx(measured.their_nll.mean(), rel=MEAN_NLL_BOUND)


def test_first_tokens_agree_where_the_reference_is_clear(measured):
    is_clear = measured.margin > CLEAR_MARGIN
    assert measured.is_same_first[is_clear].mean() >= AGREEMENT_BOUND


def test_mean_divergence_is_small(measured):
    assert measured.divergence.mean() <= MEAN_DIVERGENCE_BOUND
