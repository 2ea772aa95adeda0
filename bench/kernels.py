"""Question: how fast is each compute kernel by itself on one thread, how far from the ceiling, and how exact?

`python -m bench.kernels [--variant avx2 ...] [--model gemma3-270m ...] [--only kernels|sampler] [--json PATH]`. A
row's peer is the machine:
what one thread reaches when it only multiplies (`native.multiply_rate` of the variant) or only reads
(`read_bandwidth`), whichever bounds that kernel first; `ratio` is the share of it. Weights, keys and values lie in as
many copies as the caches cannot hold. Times are the best of many short runs, since a shared machine only ever makes
them longer; `spread` compares the median with the best.

`error` is the largest difference from the NumPy reference: of `linear` relative to sum(|x| |w|), of `gated` and
`attention` relative to the largest magnitude of the expected result, of `quantize` in codes.
Attention is compared with a softmax over the numbers that the pages hold. The sampler, on two threads and beside NumPy
and torch, is a row of its own: `sampling.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, publish
from bench.sampling import NUM_THREADS, sampler_row
from headrace.engine.roofline import Ceilings
from headrace.kernels import native, reference, reference_pages
from headrace.kernels.grouped import GroupedMatrix, pack
from headrace.kernels.plan import PAGE_TOKENS, Activation, CacheShape, KvKind


@dataclass(frozen=True, slots=True)
class Shapes:
    """A model's products as (rows, columns, bits), and its heads."""

    linear: dict[str, tuple[int, int, int]]
    gated: tuple[int, int, int]
    heads: int
    kv_heads: int
    head_dim: int


MODELS = {
    "smollm2-135m": Shapes(
        {"qkv": (960, 576, 4), "attention-output": (576, 576, 4), "down": (576, 1536, 4), "head": (49152, 576, 8)},
        (3072, 576, 4),
        heads=9,
        kv_heads=3,
        head_dim=64,
    ),
    "gemma3-270m": Shapes(
        {"qkv": (1536, 640, 8), "attention-output": (640, 1024, 4), "down": (640, 2048, 4), "head": (262144, 640, 8)},
        (4096, 640, 4),
        heads=4,
        kv_heads=1,
        head_dim=256,
    ),
}
TOKENS = (1, 2, 4, 8, 32, 512)
MOST_HEAD_TOKENS = 32
COMPARED_ROWS = 4096
CONTEXTS = (128, 1024, 4096)
SECONDS_EACH = 0.2
CALLS = 8  # of one sample, over as many copies
UNCACHED_BYTES = 96 * 10**6


def seconds(work: Callable[[], object], calls: int = CALLS) -> list[float]:
    """Durations of one call, averaged over a few; at least five samples."""
    work()
    samples: list[float] = []
    end = time.perf_counter() + SECONDS_EACH
    while time.perf_counter() < end or len(samples) < 5:
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        samples.append((time.perf_counter() - begin) / calls)
    return samples


def _less(samples: list[float], other: Callable[[], object]) -> list[float]:
    """Durations less the best one of what was done besides."""
    overhead = min(seconds(other, 1))
    return [sample - overhead for sample in samples]


@dataclass(frozen=True, slots=True)
class Bench:
    """One variant beside one thread's ceilings."""

    variant: str
    ceilings: Ceilings
    rng: np.random.Generator

    def floats(self, *shape: int) -> NDArray[np.float32]:
        """Values as activations are."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def row(self, measure: str, operations: float, num_bytes: float, samples: list[float], error: float) -> Row:
        """The best sample's rate beside what the machine allows; bytes alone where nothing is multiplied."""
        best, median = min(samples), statistics.median(samples)
        reading = num_bytes / self.ceilings.read_bandwidth
        multiplying = operations / self.ceilings.multiply_rate
        amount, unit = (operations, "GOP/s") if operations else (num_bytes, "GB/s")
        least = max(reading, multiplying)
        if not operations:
            return Row(f"{self.variant}-{measure}", unit, amount / best / 1e9, spread=median / best - 1, error=error)
        return Row(
            f"{self.variant}-{measure}",
            unit,
            amount / best / 1e9,
            amount / least / 1e9,
            "reading" if reading > multiplying else "multiplying",
            least / best,
            median / best - 1,
            len(samples),
            error=error,
        )

    def matrix(self, rows: int, cols: int, bits: int) -> tuple[GroupedMatrix, Iterator[native.Matrix], int]:
        """Random weights, copies of them in turn, and the bytes of one."""
        groups = cols // 32
        low, high = (0, 16) if bits == 4 else (-128, 128)
        integers = self.rng.integers(low, high, (rows, cols))
        codes = integers.astype(np.uint8) if bits == 4 else integers.astype(np.int8)
        scales = (0.02 * (0.1 + 0.9 * self.rng.random((rows, groups)))).astype(np.float16)
        minimum = (-8 * scales.astype(np.float32)).astype(np.float16) if bits == 4 else None
        matrix = GroupedMatrix(rows, cols, bits, codes, scales, minimum)
        tiles = pack(matrix)
        copies = -(-UNCACHED_BYTES // tiles.nbytes)
        packed = [native.Matrix(tiles.copy(), rows, cols, bits, minimum is not None) for _ in range(copies)]
        return matrix, cycle(packed), tiles.nbytes

    def linear(self, name: str, rows: int, cols: int, bits: int) -> Iterator[Row]:
        """Products for every number of tokens; the time to quantise the activations is taken off."""
        matrix, copies, num_bytes = self.matrix(rows, cols, bits)
        compared = slice(0, min(rows, COMPARED_ROWS))
        weights = matrix.dequantize()[compared].astype(np.float64)
        for num_tokens in [n for n in TOKENS if name != "head" or n <= MOST_HEAD_TOKENS]:
            x = self.floats(num_tokens, cols)
            values = _as_quantized(x)
            bound = np.abs(values) @ np.abs(weights).T
            got = native.linear(x, next(copies), self.variant)[:, compared]
            error = float((np.abs(got - values @ weights.T) / bound).max())
            samples = self._less_quantizing(x, lambda x=x: native.linear(x, next(copies), self.variant))  # type: ignore[misc]
            yield self.row(f"{name}-{num_tokens}", 2.0 * num_tokens * rows * cols, num_bytes, samples, error)

    def gated(self, rows: int, cols: int, bits: int) -> Iterator[Row]:
        """Gate and up with SiLU between them."""
        matrix, copies, num_bytes = self.matrix(rows, cols, bits)
        weights = matrix.dequantize().astype(np.float64).reshape(-1, 2, 32, cols)
        for num_tokens in TOKENS:
            x = self.floats(num_tokens, cols)
            gate, up = (_as_quantized(x) @ weights[:, part].reshape(-1, cols).T for part in (0, 1))
            expected = gate / (1 + np.exp(-gate)) * up
            got = native.gated(x, next(copies), Activation.SILU, self.variant)
            run = lambda x=x: native.gated(x, next(copies), Activation.SILU, self.variant)  # noqa: E731
            yield self.row(
                f"gate-up-{num_tokens}",
                2.0 * num_tokens * rows * cols,
                num_bytes,
                self._less_quantizing(x, run),
                _relative(got, expected),
            )

    def _less_quantizing(self, x: NDArray[np.float32], work: Callable[[], object]) -> list[float]:
        calls = CALLS if len(x) <= MOST_HEAD_TOKENS else 1
        return _less(seconds(work, calls), lambda: native.quantize(x, self.variant))

    def attention(self, shapes: Shapes, kind: KvKind) -> Iterator[Row]:
        """One token, and 32, behind a context; for one token's keys and values there are copies, as of many layers."""
        cache = CacheShape(1, shapes.kv_heads, shapes.head_dim)
        scale = shapes.head_dim**-0.5
        for context in CONTEXTS:
            num_keys = context + PAGE_TOKENS
            num_pages = -(-num_keys // PAGE_TOKENS)
            table = np.arange(num_pages, dtype=np.int32)
            pool = reference_pages.new_pool(cache, num_pages, kind)
            stored = (self.floats(num_keys, *(shapes.kv_heads, shapes.head_dim)) for _ in range(2))
            reference_pages.store_kv(pool, 0, table, 0, tuple(stored))  # type: ignore[arg-type]
            pools = cycle([pool.copy() for _ in range(-(-UNCACHED_BYTES // pool.nbytes))])
            keys, values = reference_pages.load_kv(pool, 0, table, num_keys)
            for num_tokens in (1, PAGE_TOKENS):
                q = self.floats(num_tokens, shapes.heads * shapes.head_dim)

                def run(q: NDArray[np.float32] = q, context: int = context) -> NDArray[np.float32]:
                    return native.attention(q, next(pools), table, context, scale, variant=self.variant)  # noqa: B023

                seen = context + num_tokens
                expected = reference.attention(
                    q.reshape(num_tokens, shapes.heads, -1), keys[:seen], values[:seen], context, reference.Sight(scale)
                )
                operations = 4.0 * q.shape[1] * sum(context + i + 1 for i in range(num_tokens))
                num_bytes = pool.nbytes * seen / num_keys
                error = _relative(run(), expected.reshape(num_tokens, -1))
                name = f"attention-{kind.name.lower()}-{context}-{num_tokens}"
                # What a call costs whatever the context: its checks, and fresh memory to work in.
                samples = _less(seconds(run), partial(run, self.floats(1, q.shape[1]), 0))
                yield self.row(name, operations, num_bytes, samples, error)

    def quantize(self, cols: int) -> Row:
        """Activations to 8 bits; the bytes read."""
        x = self.floats(512, cols)
        codes = native.quantize(x, self.variant)[0]
        error = float(np.abs(codes[:, :cols].astype(np.int32) - reference.quantize(x)[0][:, :cols]).max())
        return self.row("quantize-512", 0.0, x.nbytes, seconds(lambda: native.quantize(x, self.variant), 1), error)


def _as_quantized(x: NDArray[np.float32]) -> NDArray[np.float64]:
    codes, scales, _ = reference.quantize(x)
    return reference.dequantize(codes, scales)[:, : x.shape[1]].astype(np.float64)


def _relative(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def rows_of(bench: Bench, shapes: Shapes) -> Iterator[Row]:
    """Every kernel at a model's shapes."""
    for part, shape in shapes.linear.items():
        yield from bench.linear(part, *shape)
    yield from bench.gated(*shapes.gated)
    cache = CacheShape(1, shapes.kv_heads, shapes.head_dim)
    for kind in KvKind:
        if cache.supports(kind):
            yield from bench.attention(shapes, kind)
    yield bench.quantize(shapes.gated[1])


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--variant", action="append", choices=native.variants(), help="default: the one in use")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="whose shapes; default: SmolLM2's")
    parser.add_argument("--only", choices=["kernels", "sampler"], help="a part of it")
    parser.add_argument("--json", type=Path, help="also write the JSON line there")
    arguments = parser.parse_args()
    variants = [] if arguments.only == "sampler" else arguments.variant or [native.variant()]
    models = arguments.model or ["smollm2-135m"]
    thread = native.Threads(1)
    rows, ceilings = [], {}
    for variant in variants:
        # Several times, since a shared machine only ever lowers a ceiling.
        measured = Ceilings(
            max(native.read_bandwidth(thread) for _ in range(3)),
            max(native.multiply_rate(thread, variant) for _ in range(3)),
        )
        ceilings[variant] = {"multiply_rate": measured.multiply_rate, "read_bandwidth": measured.read_bandwidth}
        for model in models:
            bench = Bench(variant, measured, np.random.default_rng(0))
            made = list(rows_of(bench, MODELS[model]))
            for row in made:
                row.measure = row.measure if len(models) == 1 else f"{model}-{row.measure}"
            rows += made
    thread.close()
    if arguments.only != "kernels":
        rows.append(sampler_row())
    config = {"threads": 1, "sampler_threads": NUM_THREADS, "variants": variants, "models": models}
    publish("kernels", config | {"ceilings": ceilings}, rows, arguments.json)


if __name__ == "__main__":
    main()
