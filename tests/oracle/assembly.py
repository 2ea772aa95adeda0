"""A plan and its weights straight from a checkpoint, without the packing and caching that `models.load` does."""

from dataclasses import dataclass

import numpy as np

from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.plan import PAGE_TOKENS, Plan
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import new_pool
from headrace.models.checkpoint import Checkpoint
from headrace.models.expert_weights import stacked_experts
from headrace.models.load import read_matrix, read_vector
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
    matrices = [
        stacked_experts(spec, checkpoint) if spec.num_experts else read_matrix(spec, checkpoint)
        for spec in plan.matrices
    ]
    vectors = [read_vector(spec, checkpoint) if spec.parts else computed[spec.name] for spec in plan.vectors]
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
