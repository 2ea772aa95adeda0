"""A real model on a real text beside vectors of transformers in float32: likelihoods, divergences, first tokens.

Vectors are what scripts/record_smollm2_parity.py and record_gemma3_parity.py wrote: windows of up to 1,024 tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.load import LoadedModel, load_model

CHUNK = 128  # keeps the logits of a large vocabulary small
CLEAR_MARGIN = 0.3  # nats between the reference's first and second token


@dataclass(frozen=True)
class Measured:
    """Ours and theirs, per predicted token and per recorded position."""

    nll: np.ndarray
    their_nll: np.ndarray
    divergence: np.ndarray
    is_same_first: np.ndarray
    margin: np.ndarray

    @property
    def agreement(self) -> float:
        """Share of recorded positions with the same first token, where the reference is clear."""
        return float(self.is_same_first[self.margin > CLEAR_MARGIN].mean())


def measure(path: Path, vectors_path: Path) -> Measured:
    model = load_model(path, max_context=1024)
    threads = native.Threads(2)
    with np.load(vectors_path) as archive:
        vectors = dict(archive)
    nll, divergence, is_same_first = [], [], []
    for window, (first, last) in enumerate(zip(vectors["starts"][:-1], vectors["starts"][1:], strict=True)):
        tokens = vectors["tokens"][first:last]
        in_window = vectors["positions"][:, 0] == window
        for start, logprobs in chunks_of_logprobs(model, threads, tokens):
            following = tokens[start + 1 : start + 1 + len(logprobs)]
            nll.append(-logprobs[np.arange(len(following)), following])
            at = vectors["positions"][:, 1] - start
            rows = in_window & (at >= 0) & (at < len(logprobs))
            ours = logprobs[at[rows]]
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


def chunks_of_logprobs(model: LoadedModel, threads: native.Threads, tokens: np.ndarray):
    """Where each chunk starts and its log-probabilities [tokens, vocab]."""
    cache = model.plan.cache
    num_pages = -(-len(tokens) // PAGE_TOKENS)
    size = cache.head_dim * PAGE_TOKENS
    pool = np.zeros((num_pages, cache.num_layers, cache.num_kv_heads, 2, size), dtype=np.uint16)
    table = np.arange(num_pages, dtype=np.int32)[None]
    for first in range(0, len(tokens), CHUNK):
        chunk = tokens[first : first + CHUNK]
        starts, contexts = np.array([0, len(chunk)], dtype=np.int32), np.array([first], dtype=np.int32)
        selected = np.arange(len(chunk), dtype=np.int32)
        logits = np.empty((len(chunk), model.plan.vocab_size), dtype=np.float32)
        model.program.step(threads, pool, chunk, starts, contexts, table, selected, logits)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.array([np.log(np.exp(row).sum(dtype=np.float64)) for row in logits], dtype=np.float32)[:, None]
        yield first, logits


def divergences(ours: np.ndarray, top_ids: np.ndarray, top_logprobs: np.ndarray) -> np.ndarray:
    """KL(theirs || ours) over the 64 likeliest tokens and one bucket for the rest, which bounds the true one below."""
    q = np.take_along_axis(ours, top_ids.astype(np.int64), axis=1).astype(np.float64)
    p = top_logprobs.astype(np.float64)
    rest_p = np.maximum(1.0 - np.exp(p).sum(axis=1), 1e-12)
    rest_q = np.maximum(1.0 - np.exp(q).sum(axis=1), 1e-12)
    return (np.exp(p) * (p - q)).sum(axis=1) + rest_p * np.log(rest_p / rest_q)
