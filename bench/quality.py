"""The quality number that travels with every speed number: mean negative log-likelihood on a recorded text.

Beside float32 transformers, whose values were recorded once (`scripts/record_*_parity.py`), and, token by token, beside
the peer on the same file.
"""

import math
import statistics
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.report import Row
from headrace.engine.kv.pool import PagePool
from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS, KvKind
from headrace.models.load import LoadedModel

VECTORS = Path(__file__).parents[1] / "tests" / "oracle" / "vectors"
RECORDED = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": VECTORS / "smollm2.npz",
    "gemma-3-270m-q4_k_m.gguf": VECTORS / "gemma3.npz",
}
CHUNK = 256


class Judge(Protocol):
    """A peer that can tell the likelihood of a text."""

    name: str

    def nll(self, tokens: list[int]) -> list[float]:
        """Negative log-likelihood of tokens[1:]."""
        ...


def nll_of(model: LoadedModel, threads: native.Threads, kv: KvKind, windows: list[list[int]]) -> list[float]:
    """Negative log-likelihood of every token but the first of each window, in natural units."""
    longest = max(len(window) for window in windows)
    pages = -(-longest // PAGE_TOKENS)
    pool = PagePool.allocate(model.plan.cache, pages, kv)
    table = np.arange(pages, dtype=np.int32)[None, :]
    values: list[float] = []
    for window in windows:
        for start in range(0, len(window), CHUNK):
            piece = np.array(window[start : start + CHUNK], np.int32)
            logits = np.empty((len(piece), model.plan.vocab_size), np.float32)
            model.program.step(
                threads,
                pool.array,
                piece,
                np.array([0, len(piece)], np.int32),
                np.array([start], np.int32),
                table,
                np.arange(len(piece), dtype=np.int32),
                output=logits,
            )
            values += _of_rows(logits, window[start + 1 : start + 1 + len(piece)])
    return values


def _of_rows(logits: NDArray[np.float32], following: list[int]) -> list[float]:
    values = []
    for row, token in zip(logits, following, strict=False):
        # One row at a time: in double, a chunk of rows of a large vocabulary would take gigabytes.
        wide = row.astype(np.float64)
        peak = wide.max()
        values.append(float(peak + np.log(np.exp(wide - peak).sum()) - wide[token]))
    return values


def measure_nll(path: Path, model: LoadedModel, threads: native.Threads, kv: KvKind, peer: Judge | None) -> list[Row]:
    """`nll`: ours beside float32; `nll-peer`: beside the peer, with the paired difference and its standard error."""
    recorded = RECORDED.get(path.name)
    if recorded is None or not recorded.exists():
        raise SystemExit(f"nll: no recorded values for {path.name}; a speed without its quality is not published.")
    with np.load(recorded) as values:
        tokens, starts, reference = values["tokens"], values["starts"], values["nll"]
    windows = [piece.tolist() for piece in np.split(tokens, starts[1:-1])]
    each = nll_of(model, threads, kv, windows)
    ours, exact = statistics.fmean(each), float(np.mean(reference, dtype=np.float64))
    rows = [Row("nll", "nats/token", ours, exact, "transformers, float32, dequantised weights", exact / ours, 0.0, 1)]
    if peer is not None:
        theirs = [value for window in windows for value in peer.nll(window)]
        mean = statistics.fmean(theirs)
        differences = [our - their for our, their in zip(each, theirs, strict=True)]
        row = Row("nll-peer", "nats/token", ours, mean, peer.name, mean / ours, 0.0, 1)
        row.samples = {
            "paired difference, ours less theirs": [statistics.fmean(differences)],
            "its standard error": [statistics.stdev(differences) / math.sqrt(len(differences))],
            "tokens": [float(len(differences))],
        }
        rows.append(row)
    return rows
