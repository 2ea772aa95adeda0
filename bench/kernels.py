"""Speed of the compute kernels on one thread: products in GOP/s and weights read in GB/s, attention in GFLOP/s.

`python -m bench.kernels [--variant avx2 ...] [--json PATH]`. Shapes are SmolLM2-135M's. Times are the best of many
short runs, since a shared machine only ever makes them longer; `spread` compares the median with the best.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.report import Row, publish
from headrace.kernels import native
from headrace.kernels.grouped import tile_bytes
from headrace.kernels.plan import PAGE_TOKENS

SHAPES = {"qkv": (960, 576, 4), "gate-up": (3072, 576, 4), "down": (576, 1536, 4), "head": (49152, 576, 8)}
TOKENS = (1, 2, 4, 8, 32, 512)
HEAD_TOKENS = (1, 2, 4, 8, 32)
CONTEXTS = (128, 1024, 4096)
SECONDS_EACH = 0.2


def seconds(work: Callable[[], object]) -> list[float]:
    """Durations of repeated runs, at least five."""
    work()
    samples: list[float] = []
    end = time.perf_counter() + SECONDS_EACH
    while time.perf_counter() < end or len(samples) < 5:
        begin = time.perf_counter()
        work()
        samples.append(time.perf_counter() - begin)
    return samples


def rate(measure: str, unit: str, amount: float, samples: list[float]) -> Row:
    """Billions per second in the best sample."""
    best, median = min(samples), statistics.median(samples)
    return Row(measure, unit, amount / best / 1e9, spread=median / best - 1, n=len(samples))


def random_tiles(rng: np.random.Generator, rows: int, cols: int, bits: int) -> native.Matrix:
    """A packed matrix of random codes with every scale and minimum 0.01; 8-bit ones have no minima, as in Q8_0."""
    has_minimum = bits == 4
    size = tile_bytes(bits, has_minimum)
    tiles = rng.integers(0, 256, (rows // 16 * (cols // 32), size), dtype=np.uint8)
    num_halves = 32 if has_minimum else 16
    tiles[:, -2 * num_halves :] = np.full(num_halves, 0.01, np.float16).view(np.uint8)
    return native.Matrix(tiles.reshape(-1), rows, cols, bits, has_minimum)


def products(variant: str, rng: np.random.Generator) -> list[Row]:
    """Every shape times every number of tokens; the time to quantise the activations is taken off."""
    rows = []
    for name, (num_rows, cols, bits) in SHAPES.items():
        matrix = random_tiles(rng, num_rows, cols, bits)
        for num_tokens in HEAD_TOKENS if name == "head" else TOKENS:
            x = rng.standard_normal((num_tokens, cols)).astype(np.float32)
            overhead = min(seconds(lambda x=x: native.quantize(x, variant)))  # type: ignore[misc]
            samples = [t - overhead for t in seconds(lambda x=x, m=matrix: native.linear(x, m, variant))]  # type: ignore[misc]
            operations = 2.0 * num_tokens * num_rows * cols
            rows.append(rate(f"{variant}-{name}-{num_tokens}", "GOP/s", operations, samples))
            if num_tokens == 1:
                num_bytes = num_rows // 16 * (cols // 32) * tile_bytes(bits, bits == 4)
                rows.append(rate(f"{variant}-{name}-read", "GB/s", num_bytes, samples))
    return rows


def attention(variant: str, rng: np.random.Generator) -> list[Row]:
    """One token, and 32, behind a context; 9 query heads share 3 KV heads of 64 features."""
    rows = []
    for context in CONTEXTS:
        num_pages = -(-(context + 32) // PAGE_TOKENS)
        pool = rng.standard_normal((num_pages, 1, 3, 2, 64 * PAGE_TOKENS)).astype(np.float16).view(np.uint16)
        pages = np.arange(num_pages, dtype=np.int32)
        for num_tokens in (1, 32):
            q = rng.standard_normal((num_tokens, 9 * 64)).astype(np.float32)
            work = lambda q=q, c=context, p=pool, t=pages: native.attention(q, p, t, c, 0.125, variant=variant)  # noqa: E731
            operations = 4.0 * 9 * 64 * sum(context + i + 1 for i in range(num_tokens))
            rows.append(rate(f"{variant}-attention-{context}-{num_tokens}", "GFLOP/s", operations, seconds(work)))
    return rows


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", action="append", choices=native.variants(), help="default: the one in use")
    parser.add_argument("--json", type=Path, help="also write the JSON line there")
    arguments = parser.parse_args()
    variants = arguments.variant or [native.variant()]
    rng = np.random.default_rng(0)
    rows = [r for variant in variants for measure in (products, attention) for r in measure(variant, rng)]
    publish("kernels", {"threads": 1, "variants": variants}, rows, arguments.json)


if __name__ == "__main__":
    main()
