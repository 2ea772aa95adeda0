"""The quality number that travels with every speed number: mean negative log-likelihood against float32 transformers.

The reference values were recorded once (`scripts/record_smollm2_parity.py`); this file only runs our side.
"""

import statistics
from pathlib import Path

import numpy as np

from bench.report import Row
from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.load import LoadedModel

VECTORS = Path(__file__).parents[1] / "tests" / "oracle" / "vectors" / "smollm2.npz"
CHUNK = 256


def nll_of(model: LoadedModel, threads: native.Threads, windows: list[list[int]]) -> list[float]:
    """Negative log-likelihood of every token but the first of each window, in natural units."""
    longest = max(len(window) for window in windows)
    pages = -(-longest // PAGE_TOKENS)
    shape = model.plan.cache
    pool = np.zeros((pages, shape.num_layers, shape.num_kv_heads, 2, shape.head_dim * PAGE_TOKENS), np.uint16)
    table = np.arange(pages, dtype=np.int32)[None, :]
    values = []
    for window in windows:
        for start in range(0, len(window), CHUNK):
            piece = np.array(window[start : start + CHUNK], np.int32)
            logits = np.empty((len(piece), model.plan.vocab_size), np.float32)
            model.program.step(
                threads,
                pool,
                piece,
                np.array([0, len(piece)], np.int32),
                np.array([start], np.int32),
                table,
                np.arange(len(piece), dtype=np.int32),
                logits,
            )
            following = window[start + 1 : start + 1 + len(piece)]
            rows = logits[: len(following)].astype(np.float64)
            peak = rows.max(axis=1)
            total = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1))
            values.extend((total - rows[np.arange(len(following)), following]).tolist())
    return values


def measure_nll(model: LoadedModel, threads: native.Threads) -> Row:
    """The row `nll`: ours beside the recorded float32 values; ratio above 1 would mean that ours is lower."""
    with np.load(VECTORS) as recorded:
        tokens, starts, reference = recorded["tokens"], recorded["starts"], recorded["nll"]
    windows = [piece.tolist() for piece in np.split(tokens, starts[1:-1])]
    ours = statistics.fmean(nll_of(model, threads, windows))
    peer = float(np.mean(reference, dtype=np.float64))
    return Row("nll", "nats/token", ours, peer, "transformers, float32, dequantised weights", peer / ours, 0.0, 1)
