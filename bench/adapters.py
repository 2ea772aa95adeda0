"""What adapters cost: streams that decode with one each, beside the same streams without. A row of `engine.py`.

The quality beside it: logits of the model with an adapter against float32 weights into which it was merged, and for
comparison the model without one against its own weights in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.ours import Ours
from bench.report import Row, row
from headrace.adapters.factors import Factors, quantize_factors
from headrace.adapters.plan import Target
from headrace.adapters.program import AdaptableProgram, BoundAdapter
from headrace.kernels.plan import PAGE_TOKENS, Plan
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import new_pool
from headrace.models.load import LoadedModel, open_checkpoint, read_matrix, read_vector
from headrace.models.registry import architecture_for

STREAMS, RANK, ALPHA = 8, 16, 32.0
QUALITY_TOKENS = 48
PEER = "ours without adapters; llama.cpp cannot batch different ones"

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """As much of a matrix as the reference needs, in float32."""

    values: F32

    @property
    def rows(self) -> int:
        """Outputs."""
        return len(self.values)

    @property
    def cols(self) -> int:
        """Inputs."""
        return int(self.values.shape[1])

    def dequantize(self) -> F32:
        """The values."""
        return self.values


def random_factors(program: AdaptableProgram, seed: int) -> list[tuple[Target, Factors]]:
    """An adapter of all linear layers, about as large as training makes them: a few percent of the weights."""
    rng = np.random.default_rng(seed)
    return [
        (
            target,
            Factors(
                rng.normal(0.0, target.cols**-0.5, (RANK, target.cols)).astype(np.float32),
                rng.normal(0.0, 0.01, (target.rows, RANK)).astype(np.float32),
                ALPHA / RANK,
            ),
        )
        for target in program.targets.values()
    ]


def bound(program: AdaptableProgram, factors: list[tuple[Target, Factors]]) -> BoundAdapter:
    """The adapter as the program takes it."""
    by_matrix: dict[int, list[tuple[Target, Factors]]] = {}
    for target, each in factors:
        by_matrix.setdefault(target.matrix, []).append((target, each))
    return program.bind({matrix: quantize_factors(parts) for matrix, parts in by_matrix.items()})


def measure_adapters(
    path: Path, ours: Ours, prompts: Sequence[list[int]], new: int, repeats: int, name: str
) -> list[Row]:
    """Streams with an adapter each and without, in turn; `error` is the largest difference of a logit from merged ones.

    Samples hold the paired cost (time with / time without), and differences of logits as shares of their deviation.
    """
    program = AdaptableProgram.of(ours.model)
    factors = [random_factors(program, seed) for seed in range(STREAMS)]
    adapters = tuple(bound(program, each) for each in factors)
    stepped: Any = program  # it steps as the programs of models do
    with_them = Ours(replace(ours.model, program=stepped), ours.num_threads, ours.kv, adapters)
    rates: tuple[list[float], list[float]] = [], []
    try:
        for side in (ours, with_them):
            side.prepare(list(prompts))
            side.decode(new)
        for _ in range(repeats):
            for side, rate in zip((with_them, ours), rates, strict=True):
                rate.append(side.decode(new))
    finally:
        with_them.close()
    made = row(name, "tokens/s", rates[0], {PEER: rates[1]})
    made.samples["cost"] = [without / within for within, without in zip(*rates, strict=True)]
    tokens = np.array(prompts[0][:QUALITY_TOKENS], np.int32)
    for label, each, adapter in (("with", factors[0], adapters[0]), ("without", [], None)):
        difference, deviation = _difference(path, ours, program, tokens, each, adapter)
        worst, mean = float(np.abs(difference).max()), float(np.sqrt((difference**2).mean()))
        made.samples[f"largest and mean difference of logits, {label}"] = [worst / deviation, mean / deviation]
        if adapter is not None:
            made.error = worst
    return [made]


def _difference(
    path: Path,
    ours: Ours,
    program: AdaptableProgram,
    tokens: NDArray[np.int32],
    factors: list[tuple[Target, Factors]],
    adapter: BoundAdapter | None,
) -> tuple[F32, float]:
    """Our logits less those of float32 weights with the factors merged in, and the deviation of the latter."""
    cache, count = ours.model.plan.cache, len(tokens)
    arrays = (
        tokens,
        np.array([0, count], np.int32),
        np.zeros(1, np.int32),
        np.arange(-(-count // PAGE_TOKENS), dtype=np.int32)[None],
        np.arange(count, dtype=np.int32),
    )
    logits = np.empty((count, ours.model.plan.vocab_size), np.float32)
    program.step(ours.threads, new_pool(cache, len(arrays[3][0]), ours.kv), *arrays, output=logits, adapters=[adapter])
    exact = _merged(path, ours.model, factors).step(new_pool(cache, len(arrays[3][0]), exact=True), *arrays)
    return logits - exact, float(exact.std())


def _merged(path: Path, model: LoadedModel, factors: list[tuple[Target, Factors]]) -> ReferenceProgram:
    """The model in float32 with the factors in its weights."""
    checkpoint = open_checkpoint(path)
    architecture = architecture_for(checkpoint)
    config = architecture.read_config(checkpoint, model.context_length)
    plan: Plan = architecture.record(config)
    computed = architecture.computed_vectors(config)
    vectors = [read_vector(spec, checkpoint) if spec.parts else computed[spec.name] for spec in plan.vectors]
    matrices = [FloatMatrix(read_matrix(spec, checkpoint).dequantize()) for spec in plan.matrices]
    for target, each in factors:
        rows = np.arange(target.rows)
        places = target.offset + rows // 32 * target.block_step + rows % 32
        matrices[target.matrix].values[places] += np.float32(each.scale) * (each.b @ each.a)
    return ReferenceProgram(plan, matrices, vectors, exact=True)  # type: ignore[arg-type]
