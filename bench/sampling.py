"""The sampler alone at a large vocabulary, beside NumPy and torch: a row of `bench.kernels`. Knows no model.

Temperature 0.8, top-k 50, top-p 0.95 over 64 rows of 151,936 normal logits (39 MB: a step's batch, too much for the
caches of a core), two threads for everybody, in turn. NumPy is the best way found there: a partition instead of a sort,
then 50 numbers a row. torch is the usual softmax, sort, multinomial; it is measured where it is installed, and the row
says so where it is not. `error` is the share of our tokens that NumPy had cut.
"""

import importlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, row
from headrace.kernels import native

VOCAB = 151_936
NUM_ROWS = 64
NUM_THREADS = 2
TEMPERATURE, TOP_K, TOP_P = 0.8, 50, 0.95
NUM_SAMPLES = 9
CALLS = 3  # of one sample


def candidates(logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Tokens of each row, the likeliest first, and their running probabilities, 0 after the last that is kept."""
    top = np.argpartition(logits, -TOP_K, axis=1)[:, -TOP_K:]
    values = np.take_along_axis(logits, top, axis=1)
    order = np.argsort(-values, axis=1)
    top, values = np.take_along_axis(top, order, axis=1), np.take_along_axis(values, order, axis=1)
    weights = np.exp((values - values[:, :1]) / np.float32(TEMPERATURE))
    reached = np.cumsum(weights, axis=1)
    weights[(reached - weights) >= TOP_P * reached[:, -1:]] = 0.0
    return top, weights


def numpy_sampler(logits: NDArray[np.float32]) -> Callable[[], object]:
    """Draws by inversion; NumPy lets go of the GIL where it partitions, so threads help."""
    rngs = [np.random.default_rng(seed) for seed in range(NUM_THREADS)]
    pool = ThreadPoolExecutor(NUM_THREADS)

    def draw(part: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
        top, weights = candidates(part)
        reached = np.cumsum(weights, axis=1)
        wanted = rng.random((len(part), 1), dtype=np.float32) * reached[:, -1:]
        place = (reached <= wanted).sum(axis=1).clip(max=TOP_K - 1)
        drawn: NDArray[np.int64] = top[np.arange(len(part)), place]
        return drawn

    return lambda: list(pool.map(draw, np.array_split(logits, NUM_THREADS), rngs))


def torch_sampler(logits: NDArray[np.float32]) -> Callable[[], object] | None:
    """What frameworks do, or None where torch is not installed."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(NUM_THREADS)
    rows = torch.from_numpy(logits)

    def draw() -> object:
        ordered, tokens = torch.softmax(rows / TEMPERATURE, dim=-1).sort(dim=-1, descending=True)
        ordered[:, TOP_K:] = 0.0
        reached = ordered.cumsum(dim=-1)
        ordered[(reached - ordered) >= TOP_P * reached[:, -1:]] = 0.0
        return tokens.gather(1, torch.multinomial(ordered, 1))

    return draw


def sampler_row() -> Row:
    """Rows per second of ours and of each peer, alternating; the ratio is of medians of pairs."""
    logits = (np.random.default_rng(0).standard_normal((NUM_ROWS, VOCAB), dtype=np.float32) * np.float32(2.5)).copy()
    sampling: dict[str, NDArray[Any]] = {
        "temperature": np.full(NUM_ROWS, TEMPERATURE, np.float32),
        "top_k": np.full(NUM_ROWS, TOP_K, np.int32),
        "top_p": np.full(NUM_ROWS, TOP_P, np.float32),
        "min_p": np.zeros(NUM_ROWS, np.float32),
        "seed": np.arange(NUM_ROWS, dtype=np.uint64),
        "choice": np.zeros(NUM_ROWS, np.uint32),
        "position": np.zeros(NUM_ROWS, np.uint32),
    }
    threads = native.Threads(NUM_THREADS)
    ours = partial(native.sample, threads, logits, sampling)
    runs: dict[str, Callable[[], object]] = {"ours": ours, "numpy": numpy_sampler(logits)}
    torch_run = torch_sampler(logits)
    if torch_run is not None:
        runs["torch"] = torch_run
    top, weights = candidates(logits)
    drawn = ours()[0]
    missed = 1.0 - float(((top == drawn[:, None]) & (weights > 0)).any(axis=1).mean())
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(NUM_SAMPLES):
        for name, run in runs.items():
            begin = time.perf_counter()
            for _ in range(CALLS):
                run()
            samples[name].append(CALLS * NUM_ROWS / (time.perf_counter() - begin))
    threads.close()
    made = row(f"sampler-{VOCAB}", "rows/s", samples.pop("ours"), samples)
    made.error = missed
    others = [f"{name} {statistics.median(rates):,.0f}" for name, rates in samples.items() if name != made.peer_name]
    made.peer_name = f"{made.peer_name}; {', '.join(others) or 'torch is not installed'}"
    return made
