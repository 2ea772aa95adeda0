"""The tiny plan of the kernel tests with its adapted twin, and random adapters for it."""

from dataclasses import dataclass

import numpy as np
from tests.unit.kernels import tiny_plan
from tests.unit.kernels.tiny_plan import Model

from headrace.adapters.factors import Factors, quantize_factors
from headrace.adapters.plan import Target, adapted
from headrace.kernels import native
from headrace.kernels.low_rank import LowRank, pack
from headrace.kernels.plan import OpKind, Plan


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A model, the adapted plan, and the native program of it."""

    model: Model
    plan: Plan
    program: native.Program


def build() -> AdaptedModel:
    model = tiny_plan.build()
    plan = adapted(model.plan)
    buffers, ops = tiny_plan.operands(plan)
    shape = (plan.cache.num_layers, plan.cache.num_kv_heads, plan.cache.head_dim)
    program = native.Program(
        buffers,
        ops,
        tiny_plan.bind(model.matrices),
        model.vectors,
        shape,
        plan.vocab_size,
        plan.max_positions,
        plan.output,
    )
    return AdaptedModel(model, plan, program)


def random_factors(plan: Plan, seed: int, rank: int, *, every: int = 1) -> dict[int, LowRank]:
    """An adapter of every, or every second, matrix that can have one; matrices of gate and up get two parts."""
    rng = np.random.default_rng(seed)
    found = {}
    indices = sorted({op.ints[1] for op in plan.ops if op.kind is OpKind.ADAPT})
    for index in indices[::every]:
        spec = plan.matrices[index]
        targets = [Target(index, spec.rows, spec.cols, 0)]
        if spec.layout == "interleave":
            targets = [Target(index, spec.rows // 2, spec.cols, 32 * part, 64) for part in range(2)]
        elif spec.name.startswith("qkv"):  # only what lies in the middle, as for an adapter of keys alone
            targets = [Target(index, spec.rows // 4, spec.cols, spec.rows // 2)]
        found[index] = quantize_factors([(target, _factors(rng, target, rank)) for target in targets])
    return found


def _factors(rng: np.random.Generator, target: Target, rank: int) -> Factors:
    a = rng.normal(0, target.cols**-0.5, (rank, target.cols)).astype(np.float32)
    b = rng.normal(0, 0.5 * rank**-0.5, (target.rows, rank)).astype(np.float32)
    return Factors(a, b, 0.8)


def bind(program: native.Program, factors: dict[int, LowRank]) -> native.Adapter:
    matrices = []
    for index, low_rank in factors.items():
        parts, first = [], 0
        for part in low_rank.parts:
            shape = (first, part.rank, len(part.codes))
            parts.append((*shape, part.offset, part.block_step, part.factor, pack(part)))
            first += part.rank
        matrices.append((index, *tiny_plan.bind([low_rank.a]), parts))
    return native.Adapter(program, matrices)
