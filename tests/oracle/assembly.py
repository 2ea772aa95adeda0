"""A plan and its weights straight from a checkpoint, without the packing and caching that `models.load` does."""

from dataclasses import dataclass

import numpy as np

from headrace.kernels.grouped import GroupedMatrix, interleave, stack
from headrace.kernels.plan import PAGE_TOKENS, Plan
from headrace.kernels.reference import ReferenceProgram, new_pool
from headrace.models.checkpoint import Checkpoint
from headrace.models.expert_weights import stacked_experts
from headrace.models.registry import architecture_for


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a program is bound to, in the plan's order."""

    plan: Plan
    matrices: list[GroupedMatrix]
    vectors: list[np.ndarray]


def assemble(checkpoint: Checkpoint, max_context: int | None = None) -> Assembled:
    architecture = architecture_for(checkpoint)
    config = architecture.read_config(checkpoint, max_context)
    plan = architecture.record(config)
    computed = architecture.computed_vectors(config)
    matrices = []
    for spec in plan.matrices:
        if spec.num_experts:
            matrices.append(stacked_experts(spec, checkpoint))
            continue
        parts = [checkpoint.grouped(name) for name in spec.parts]
        matrices.append(interleave(*parts) if spec.layout == "interleave" else stack(parts))
    vectors = []
    for vector in plan.vectors:
        pieces = [checkpoint.vector(name).reshape(-1) for name in vector.parts]
        stored = np.concatenate(pieces).reshape(vector.shape) + np.float32(vector.offset) if pieces else None
        vectors.append(computed[vector.name] if stored is None else stored)
    return Assembled(plan, matrices, vectors)


def reference_logits(model: Assembled, tokens: np.ndarray, pieces: tuple[int, ...], *, exact: bool) -> np.ndarray:
    """Logits of all tokens, run in pieces that end at these lengths."""
    program = ReferenceProgram(model.plan, model.matrices, model.vectors, exact=exact)
    pool = new_pool(model.plan.cache, 1 + -(-len(tokens) // PAGE_TOKENS), exact=exact)
    return in_pieces(program.step, pool, tokens, pieces)


def in_pieces(step, pool: np.ndarray, tokens: np.ndarray, pieces: tuple[int, ...]) -> np.ndarray:
    """Call a program's step piece by piece, through a page table that is not the identity; returns all logits."""
    table = np.arange(len(pool) - 1, -1, -1, dtype=np.int32)[None]
    results = []
    for first, last in zip((0, *pieces[:-1]), pieces, strict=True):
        count = last - first
        starts, contexts = np.array([0, count], dtype=np.int32), np.array([first], dtype=np.int32)
        results.append(step(pool, tokens[first:last], starts, contexts, table, np.arange(count, dtype=np.int32)))
    return np.concatenate(results)
