"""What does a step of a mixture of experts cost beside a dense model with the same active parameters?

    moe-decode-1, -8, -32         milliseconds of a decode step for so many streams, one new token each behind 128;
                                  peer: the dense model, as wide inside as all experts together that a row uses

Both models are random and made here (4-bit weights, 8 layers): their programs are driven directly, beside no engine and
no tokenizer, and take turns. Every step has other tokens, so that it chooses other experts. `experts` in the document
holds what a step reads: the distinct experts of a layer, counted by the program, and megabytes of weights on each side.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, row
from headrace.engine.kv.pool import PagePool
from headrace.kernels import native
from headrace.kernels.grouped import tile_bytes
from headrace.kernels.plan import GROUP, PAGE_TOKENS, TILE_ROWS, KvKind, MatrixSpec, Plan, RopeStyle, padded
from headrace.models import llama, moe, rope
from headrace.models.decoder import ROPE, Config, computed_vectors
from headrace.models.family import ROLES
from headrace.models.load import bind
from headrace.models.packed import PackedMatrix

STREAMS = {"moe-decode-1": 1, "moe-decode-8": 8, "moe-decode-32": 32}
EXPERTS, USED, EXPERT_WIDTH = 64, 8, 512
CONTEXT = 128
SECONDS, BLOCKS = 4.0, 9  # of both models together for each measure, and how many samples that gives
_FILLED_AT_ONCE = 8
_SIZES: dict[str, Any] = {
    "num_layers": 8,
    "hidden": 1024,
    "num_heads": 16,
    "num_kv_heads": 4,
    "head_dim": 64,
    "feed_forward": USED * EXPERT_WIDTH,
    "vocab_size": 4096,
    "max_positions": 256,
    "norm_eps": 1e-6,
    "query_scale": 64**-0.5,
    "ropes": {ROPE: rope.Rope(theta=10_000.0, rotary_dim=64)},
    "rotations": (ROPE,) * 8,
    "rope_style": RopeStyle.HALVES,
    "windows": (0,) * 8,
}
_OF_EXPERTS: dict[str, Any] = {
    "num_experts": EXPERTS,
    "num_used": USED,
    "expert_width": EXPERT_WIDTH,
    "renormalises": True,
    "is_sparse": (True,) * 8,
}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models, ready to step."""

    program: native.Program
    plan: Plan
    matrix_bytes: tuple[int, ...]
    pool: PagePool

    def fill(self, threads: native.Threads, rng: np.random.Generator) -> None:
        """Put keys and values of random tokens into the pages of all streams."""
        for first in range(0, max(STREAMS.values()), _FILLED_AT_ONCE):
            tokens = rng.integers(0, self.plan.vocab_size, _FILLED_AT_ONCE * CONTEXT, dtype=np.int32)
            self._run(threads, tokens, 0, first)

    def step(self, threads: native.Threads, tokens: NDArray[np.int32]) -> float:
        """Seconds of a step with one new token for each stream behind its context."""
        begin = time.perf_counter()
        self._run(threads, tokens, CONTEXT, 0)
        return time.perf_counter() - begin

    def _run(self, threads: native.Threads, tokens: NDArray[np.int32], context: int, first: int) -> None:
        """As many new tokens for each of some streams, from `first` on, and logits of the last ones."""
        new = 1 if context else CONTEXT
        count, pages = len(tokens) // new, CONTEXT // PAGE_TOKENS + 1
        logits = np.empty((count, self.plan.vocab_size), dtype=np.float32)
        starts, contexts = np.arange(count + 1, dtype=np.int32) * new, np.full(count, context, dtype=np.int32)
        tables = np.arange(first * pages, (first + count) * pages, dtype=np.int32).reshape(count, pages)
        self.program.step(threads, self.pool.array, tokens, starts, contexts, tables, starts[1:] - 1, logits)

    def weight_bytes(self, experts_touched: float) -> float:
        """Bytes of weights that a step reads which touched so many experts over all layers."""
        of_experts = [i for i, spec in enumerate(self.plan.matrices) if spec.num_experts]
        dense = sum(self.matrix_bytes) - sum(self.matrix_bytes[i] for i in of_experts)
        per_expert = sum(self.matrix_bytes[i] for i in of_experts) / max(1, EXPERTS * len(of_experts) // 2)
        return dense + experts_touched * per_expert


def _random_tiles(rng: np.random.Generator, spec: MatrixSpec) -> PackedMatrix:
    """4-bit codes of any value, scales that keep what goes through the matrix about as large as it was."""
    blocks, groups = padded(spec.rows, TILE_ROWS) // TILE_ROWS, padded(spec.cols) // GROUP
    size = tile_bytes(4, has_minimum=True)
    memory = np.frombuffer(rng.bytes(blocks * groups * size + 64), dtype=np.uint8).copy()
    tiles = memory[-memory.ctypes.data % 64 :][: blocks * groups * size].reshape(blocks, groups, size)
    scale = np.float16(1 / (4.6 * np.sqrt(spec.cols)))
    halves = np.repeat(np.array([scale, -7.5 * scale], dtype=np.float16), TILE_ROWS)
    tiles[:, :, -halves.nbytes :] = halves.view(np.uint8)
    return PackedMatrix(spec.name, spec.rows, spec.cols, 4, has_minimum=True, tiles=tiles.reshape(-1))


def _side(config: Config, plan: Plan) -> Side:
    rng = np.random.default_rng(20261126)
    matrices = [_random_tiles(rng, spec) for spec in plan.matrices]
    computed = computed_vectors(config)
    vectors = [
        computed[spec.name]
        if spec.name in computed
        else np.ones(spec.shape, np.float32)
        if len(spec.shape) == 1
        else rng.normal(0, spec.shape[1] ** -0.5, spec.shape).astype(np.float32)
        for spec in plan.vectors
    ]
    pages = max(STREAMS.values()) * (CONTEXT // PAGE_TOKENS + 1)
    pool = PagePool.allocate(plan.cache, pages, KvKind.INT8)
    return Side(bind(plan, matrices, vectors), plan, tuple(m.tiles.nbytes for m in matrices), pool)


def _sides() -> tuple[Side, Side]:
    names = {**ROLES["safetensors"], **moe.ROUTED["safetensors"]}
    dense, sparse = Config(names=names, **_SIZES), moe.Config(names=names, **_SIZES, **_OF_EXPERTS)
    return _side(sparse, moe.record(sparse)), _side(dense, llama.record(dense))


def _take_turns(
    ours: Side, dense: Side, threads: native.Threads, streams: int, rng: np.random.Generator
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of a step, one sample a block of steps that alternate; and the experts that a step touches."""
    samples: dict[str, list[float]] = {"ours": [], "dense": []}
    touched = []
    for _ in range(BLOCKS):
        block: dict[str, list[float]] = {"ours": [], "dense": []}
        end = time.perf_counter() + SECONDS / BLOCKS
        while time.perf_counter() < end or not block["ours"]:
            tokens = rng.integers(0, ours.plan.vocab_size, streams).astype(np.int32)
            block["ours"].append(1e3 * ours.step(threads, tokens))
            touched.append(ours.program.num_experts_touched)
            block["dense"].append(1e3 * dense.step(threads, tokens))
        for name, times in block.items():
            samples[name].append(statistics.median(times))
    return samples, float(np.mean(touched))


def measure_experts(num_threads: int, wanted: Callable[[str], bool]) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows that were asked for, and what a step of each reads."""
    rows, facts = [], []
    threads = native.Threads(num_threads)
    ours, dense = _sides()
    rng = np.random.default_rng(1)
    try:
        for side in (ours, dense):
            side.fill(threads, rng)
        for measure, streams in STREAMS.items():
            if not wanted(measure):
                continue
            samples, touched = _take_turns(ours, dense, threads, streams, rng)
            peers = {f"dense, {_SIZES['feed_forward']} wide": samples["dense"]}
            rows.append(row(measure, "ms", samples["ours"], peers, lower_is_better=True))
            fact = {
                "measure": measure,
                "cost": statistics.median(a / b for a, b in zip(samples["ours"], samples["dense"], strict=True)),
                "experts_of_a_layer": touched / _SIZES["num_layers"],
                "megabytes": ours.weight_bytes(touched) / 1e6,
                "dense_megabytes": dense.weight_bytes(0) / 1e6,
            }
            facts.append(fact)
            print(
                f"  {measure}: {rows[-1].ours:.3g} ms, {fact['cost']:.2f} times the dense model's; "
                f"{fact['experts_of_a_layer']:.1f} of {EXPERTS} experts a layer, "
                f"{fact['megabytes']:.0f} MB of weights beside {fact['dense_megabytes']:.0f}",
                file=sys.stderr,
            )
    finally:
        threads.close()
    return rows, facts
