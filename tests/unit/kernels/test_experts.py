"""Mixtures of experts: routing and the experts' products equal the NumPy twins, whatever the sizes and the batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.kernels.random_matrices import VARIANTS
from tests.unit.kernels.tiny_plan import bind, operands, random_matrix

from headrace.kernels import native
from headrace.kernels.grouped import GroupedMatrix, interleave, stack
from headrace.kernels.plan import Activation, BufferKind, CacheShape, OpKind, Plan, Recorder, Rows, padded
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_experts import route

VOCAB = 150
F32 = NDArray[np.float32]

# Of values of size 1. A router's sums differ in their order; a row's products differ where a value of the activations
# between them is rounded to its other neighbour of 127 codes.
ROUTE_LIMIT = 2e-6
MIX_LIMIT = 0.03


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one layer of experts."""

    experts: int
    chosen: int
    width: int = 80
    inner: int = 96
    bits: int = 4
    renormalise: bool = True
    activation: Activation = Activation.SILU
    rows: Rows = Rows.TOKENS


SIZES = [
    Sizes(5, 2),
    Sizes(1, 1),
    Sizes(7, 1, renormalise=False),
    Sizes(4, 4, width=33, inner=40, bits=8),
    Sizes(13, 3, width=130, inner=70, activation=Activation.GELU_TANH),
    Sizes(64, 8, width=64, inner=32, bits=8, renormalise=False),
    Sizes(5, 2, rows=Rows.SELECTED),
]


def record(sizes: Sizes) -> Plan:
    """Embedding, router, experts added to the embedding, and a gated part of it added again."""
    recorder = Recorder(CacheShape(1, 1, 32), VOCAB, 1000)
    x = recorder.embed(recorder.matrix("embedding", VOCAB, sizes.width), recorder.buffer("x", sizes.width))
    last = recorder.buffer("last", sizes.width, rows=Rows.SELECTED)
    if sizes.rows is Rows.SELECTED:
        x = recorder.select(x, last)
    normed = recorder.rms_norm(
        x, recorder.vector("norm", sizes.width), recorder.buffer("normed", sizes.width, rows=sizes.rows), 1e-6
    )
    weight = recorder.vector("router", sizes.experts, sizes.width)
    routes = recorder.buffer("routes", 2 * sizes.chosen, rows=sizes.rows)
    recorder.route(normed, weight, routes, renormalise=sizes.renormalise)
    codes = recorder.quantize(normed, recorder.buffer("codes", sizes.width, BufferKind.Q8, sizes.rows))
    both = recorder.matrix(
        "both", sizes.experts * 2 * padded(sizes.inner), sizes.width, layout="interleave", num_experts=sizes.experts
    )
    down = recorder.matrix("down", sizes.experts * padded(sizes.width, 16), sizes.inner, num_experts=sizes.experts)
    recorder.experts(codes, routes, (both, down), x, sizes.activation, accumulate=True)
    mixed = recorder.buffer("mixed", sizes.width, rows=sizes.rows)
    recorder.experts(codes, routes, (both, down), mixed, sizes.activation)
    recorder.add_gated(normed, recorder.vector("gate", 1, sizes.width), mixed, x)
    return recorder.finish(x if sizes.rows is Rows.SELECTED else recorder.select(x, last))


def expert_rows(matrix: GroupedMatrix) -> GroupedMatrix:
    """With rows of zeros up to whole tiles."""
    index = np.full(padded(matrix.rows, 16), -1)
    index[: matrix.rows] = np.arange(matrix.rows)
    return matrix.take(index)


@dataclass(frozen=True, slots=True)
class Layer:
    """The plan with random weights."""

    plan: Plan
    matrices: list[GroupedMatrix]
    vectors: list[F32]

    @classmethod
    def random(cls, sizes: Sizes, seed: int = 0) -> "Layer":
        rng = np.random.default_rng(seed)

        def weights(rows: int, cols: int) -> GroupedMatrix:
            return random_matrix(rng, rows, cols, sizes.bits)

        both = [interleave(*(weights(sizes.inner, sizes.width) for _ in "gu")) for _ in range(sizes.experts)]
        downs = [expert_rows(weights(sizes.width, sizes.inner)) for _ in range(sizes.experts)]
        embedding = random_matrix(rng, VOCAB, sizes.width, 8)
        router = rng.normal(size=(sizes.experts, sizes.width)).astype(np.float32) / np.float32(np.sqrt(sizes.width))
        gate = rng.normal(size=(1, sizes.width)).astype(np.float32)
        norm = np.ones(sizes.width, dtype=np.float32)
        return cls(record(sizes), [embedding, stack(both), stack(downs)], [norm, 3 * router, gate])

    def native(self, variant: str = "") -> native.Program:
        buffers, ops = operands(self.plan)
        shape = (1, 1, 32)
        return native.Program(
            buffers, ops, bind(self.matrices), self.vectors, shape, VOCAB, 1000, self.plan.output, variant
        )

    def reference(self) -> ReferenceProgram:
        return ReferenceProgram(self.plan, self.matrices, self.vectors)


def step_of(tokens: NDArray[np.int32]) -> dict[str, Any]:
    count = len(tokens)
    return {
        "pool": np.zeros((40, 1, 1, 2, 1024), dtype=np.uint16),
        "tokens": tokens,
        "starts": np.array([0, count], dtype=np.int32),
        "contexts": np.zeros(1, dtype=np.int32),
        "page_tables": np.arange(40, dtype=np.int32)[None],
        "selected": np.arange(count, dtype=np.int32),
    }


def run(program: native.Program, threads: native.Threads, tokens: NDArray[np.int32], width: int) -> F32:
    out = np.empty((len(tokens), width), dtype=np.float32)
    program.step(threads, **step_of(tokens), output=out)
    return out


@pytest.fixture
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


def tokens_of(count: int, seed: int = 3) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 77])
def test_a_layer_of_experts_equals_the_reference(
    threads: native.Threads, variant: str, sizes: Sizes, count: int
) -> None:
    layer = Layer.random(sizes)
    tokens = tokens_of(count)
    got = run(layer.native(variant), threads, tokens, sizes.width)
    expected = layer.reference().step(**step_of(tokens))
    assert np.abs(got - expected).max() < MIX_LIMIT
    assert np.abs(got - expected).mean() < MIX_LIMIT / 20
    assert expected.std() > 0.1


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_row_gets_the_same_bits_alone_in_pieces_and_in_any_batch(sizes: Sizes) -> None:
    layer = Layer.random(sizes)
    program, tokens = layer.native(), tokens_of(140)
    answers = []
    for num_threads in (1, 2, 3):
        pool = native.Threads(num_threads)
        whole = run(program, pool, tokens, sizes.width)
        for piece in (1, 5, 64):
            parts = [run(program, pool, tokens[i : i + piece], sizes.width) for i in range(0, 140, piece)]
            assert np.array_equal(np.concatenate(parts), whole)
        order = np.random.default_rng(1).permutation(140)
        assert np.array_equal(run(program, pool, tokens[order], sizes.width), whole[order])
        pool.close()
        answers.append(whole)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def routing_plan(num_experts: int, width: int, count: int, *, renormalise: bool) -> Plan:
    recorder = Recorder(CacheShape(1, 1, 32), VOCAB, 1000)
    x = recorder.embed(recorder.matrix("embedding", VOCAB, width), recorder.buffer("x", width))
    last = recorder.select(x, recorder.buffer("last", width, rows=Rows.SELECTED))
    routes = recorder.buffer("routes", 2 * count, rows=Rows.SELECTED)
    weight = recorder.vector("router", num_experts, width)
    return recorder.finish(recorder.route(last, weight, routes, renormalise=renormalise))


def routed(
    threads: native.Threads, variant: str, weight: F32, count: int, *, renormalise: bool
) -> tuple[F32, F32, F32]:
    """What a variant gives for the embedding's rows, what the twin gives, and the rows."""
    plan = routing_plan(len(weight), weight.shape[1], count, renormalise=renormalise)
    table = random_matrix(np.random.default_rng(4), VOCAB, weight.shape[1], 8)
    buffers, ops = operands(plan)
    program = native.Program(buffers, ops, bind([table]), [weight], (1, 1, 32), VOCAB, 1000, plan.output, variant)
    got = run(program, threads, np.arange(VOCAB, dtype=np.int32), 2 * count)
    x = table.dequantize()
    with np.errstate(invalid="ignore"):
        return got, route(x, weight, count, renormalise=renormalise), x


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(("experts", "count", "width"), [(1, 1, 40), (6, 2, 31), (7, 7, 64), (65, 8, 257), (128, 1, 5)])
def test_rows_choose_the_most_probable_experts(
    threads: native.Threads, variant: str, experts: int, count: int, width: int, renormalise: bool
) -> None:
    weight = np.random.default_rng(experts).normal(size=(experts, width)).astype(np.float32)
    got, expected, x = routed(threads, variant, weight, count, renormalise=renormalise)
    logits = x.astype(np.float64) @ weight.T.astype(np.float64)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    chosen = np.argsort(-probabilities, axis=1)[:, :count]
    assert np.array_equal(got[:, :count], chosen)
    assert np.array_equal(expected[:, :count], chosen)
    values = np.take_along_axis(probabilities, chosen, axis=1)
    if renormalise:
        values /= values.sum(axis=1, keepdims=True)
    assert np.abs(got[:, count:] - values).max() < ROUTE_LIMIT
    assert np.abs(expected[:, count:] - values).max() < ROUTE_LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_experts_are_chosen_from_the_first_on(threads: native.Threads, variant: str) -> None:
    weight = np.repeat(np.random.default_rng(0).normal(size=(1, 48)), 6, axis=0).astype(np.float32)
    got, expected, _ = routed(threads, variant, weight, 4, renormalise=False)
    assert np.array_equal(got[:, :4], np.tile(np.arange(4.0), (VOCAB, 1)))
    assert np.abs(got[:, 4:] - 1 / 6).max() < ROUTE_LIMIT
    assert np.array_equal(expected[:, :4], got[:, :4])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bad", [[2], [0, 5], [0, 1, 2, 3, 4, 5]])
def test_a_logit_that_is_no_number_is_chosen_last_and_chooses_nobody_twice(
    threads: native.Threads, variant: str, bad: list[int]
) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 48)).astype(np.float32)
    weight[bad] = np.nan
    got, expected, _ = routed(threads, variant, weight, 3, renormalise=True)
    assert np.array_equal(got[:, :3], expected[:, :3])
    assert all(len({*row}) == 3 for row in got[:, :3].tolist())
    good = 6 - len(bad)
    assert all(bad.count(expert) == 0 for expert in got[:, : min(good, 3)].reshape(-1).tolist())
    assert np.isnan(got[:, 3:]).all() == (good == 0)


def test_many_rows_take_several_passes_and_get_the_bits_of_few(threads: native.Threads) -> None:
    sizes = Sizes(64, 8, width=64, inner=32, bits=8, renormalise=False)
    program, tokens = Layer.random(sizes).native(), tokens_of(700)
    whole = run(program, threads, tokens, sizes.width)
    for first in range(0, 700, 90):
        assert np.array_equal(run(program, threads, tokens[first : first + 90], sizes.width), whole[first : first + 90])


def test_the_program_counts_the_experts_that_a_step_read(threads: native.Threads) -> None:
    sizes = Sizes(13, 3)
    program = Layer.random(sizes).native()
    assert program.num_experts_touched == 0
    counts = []
    for count in (1, 2, 60):
        run(program, threads, tokens_of(count), sizes.width)
        counts.append(program.num_experts_touched)
    assert counts[0] == 2 * 3  # by two ops
    assert 2 * 3 <= counts[1] <= 2 * 6
    assert counts[2] == 2 * 13


def test_one_expert_may_take_all_rows(threads: native.Threads) -> None:
    sizes = Sizes(9, 1)
    layer = Layer.random(sizes)
    layer.vectors[1][:] = 0.0  # all alike: the first one
    tokens = tokens_of(100)
    got = run(layer.native(), threads, tokens, sizes.width)
    assert np.abs(got - layer.reference().step(**step_of(tokens))).max() < MIX_LIMIT


def test_a_router_without_numbers_shows_in_the_result_and_reads_nothing_else(threads: native.Threads) -> None:
    sizes = Sizes(9, 2)
    layer = Layer.random(sizes)
    layer.vectors[1][:] = np.nan
    assert np.isnan(run(layer.native(), threads, tokens_of(20), sizes.width)).all()


def test_no_selected_rows_are_no_work(threads: native.Threads) -> None:
    sizes = Sizes(5, 2, rows=Rows.SELECTED)
    program = Layer.random(sizes).native()
    nothing = {"selected": np.zeros(0, np.int32), "output": np.empty((0, sizes.width), np.float32)}
    assert program.step(threads, **step_of(tokens_of(8)) | nothing) is None


BAD_OPERANDS = [
    (OpKind.ROUTE, 2, 0, "ROUTE: out must be"),
    (OpKind.ROUTE, 1, 0, "ROUTE: out must be twice as wide as experts are chosen, and no more are chosen"),
    (OpKind.ROUTE, 3, 2, "ROUTE: renormalise"),
    (OpKind.ROUTE, 1, 99, "ROUTE: weight names vector 99"),
    (OpKind.EXPERTS, 0, 0, "EXPERTS: x must be a Q8 buffer"),
    (OpKind.EXPERTS, 1, 2, "EXPERTS: route must be twice"),
    (OpKind.EXPERTS, 1, 99, "EXPERTS: route names buffer 99"),
    (OpKind.EXPERTS, 2, 0, "EXPERTS: matrix must have each expert's rows"),
    (OpKind.EXPERTS, 3, 0, "EXPERTS: down must have as many rows"),
    (OpKind.EXPERTS, 3, 7, "EXPERTS: down names matrix 7"),
    (OpKind.EXPERTS, 4, 4, "EXPERTS: out must be a F32 buffer"),
    (OpKind.EXPERTS, 5, 0, "EXPERTS: num_experts must be in"),
    (OpKind.EXPERTS, 5, 4, "EXPERTS: matrix must have each expert's rows"),
    (OpKind.EXPERTS, 6, 2, "EXPERTS: accumulate"),
    (OpKind.EXPERTS, 7, 5, "EXPERTS: activation"),
    (OpKind.ADD_GATED, 1, 1, "ADD_GATED: weight has"),
    (OpKind.ADD_GATED, 2, 4, "ADD_GATED: y must be a F32 buffer"),
    (OpKind.ADD_GATED, 3, 3, "ADD_GATED: out is not as wide"),
]


@pytest.mark.parametrize(("kind", "operand", "value", "message"), BAD_OPERANDS)
def test_an_op_that_does_not_fit_is_refused(kind: int, operand: int, value: int, message: str) -> None:
    layer = Layer.random(Sizes(5, 2))
    buffers, ops = operands(layer.plan)
    next(op for op in ops if op[0] == kind)[1][operand] = value
    with pytest.raises(ValueError, match=rf"ops\[\d+\] {message}"):
        native.Program(buffers, ops, bind(layer.matrices), layer.vectors, (1, 1, 32), VOCAB, 1000, layer.plan.output)
