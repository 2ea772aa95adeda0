"""The ops of encoders in a whole plan: equal to the reference, whole sequences side by side, segments checked."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.kernels import tiny_plan

from headrace.kernels import native
from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.plan import (
    PAGE_TOKENS,
    SIGNATURES,
    Activation,
    AttentionMode,
    BufferKind,
    CacheShape,
    KvKind,
    OpKind,
    Plan,
    Recorder,
    Rows,
)
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import new_pool

VOCAB, WIDTH, INNER, SEGMENTS, POSITIONS, OFFSET = 61, 64, 160, 3, 100, 2
HEADS, HEAD_DIM, LAYERS = 2, 32, 3
NUM_PAGES = 24
# Of states that a last norm brings to size 1; one code rounded the other way moves them this far.
LIMITS = (0.08, 0.006)


def record() -> Plan:
    """Three layers that share the pages of one and end in different ways."""
    plan = Recorder(CacheShape(1, HEADS, HEAD_DIM), VOCAB, POSITIONS)
    x = plan.embed(plan.matrix("words", VOCAB, WIDTH), plan.buffer("x", WIDTH))
    plan.position(plan.vector("positions", POSITIONS + OFFSET, WIDTH), x, OFFSET)
    plan.segment(plan.vector("segments", SEGMENTS, WIDTH), x)
    plain, rotated = (plan.buffer(name, WIDTH, BufferKind.Q8) for name in ("plain", "rotated"))
    qkv, inner = plan.buffer("qkv", 3 * WIDTH), plan.buffer("inner", INNER)
    for layer in range(LAYERS):
        plan.layer_norm(x, plan.vector(f"w{layer}", WIDTH), plan.vector(f"b{layer}", WIDTH), plain, 1e-5)
        plan.linear(plain, plan.matrix(f"qkv{layer}", 3 * WIDTH, WIDTH), qkv)
        plan.store_kv(qkv, 0, WIDTH, 2 * WIDTH)
        mixed = plan.attention(
            qkv, plan.buffer("mixed", WIDTH, BufferKind.Q8), 0, HEADS, 0.2, mode=AttentionMode.BIDIRECTIONAL
        )
        plan.linear(mixed, plan.matrix(f"o{layer}", WIDTH, WIDTH), x, accumulate=True)
        plan.rotate(x, rotated)
        up = plan.matrix(f"up{layer}", INNER, WIDTH, rotates=True)
        codes = plan.buffer("codes", INNER, BufferKind.Q8)
        if layer == 0:
            plan.linear(rotated, up, inner, plan.vector("up_bias0", INNER))
            plan.pointwise(inner, codes, Activation.GELU)
        elif layer == 1:
            plan.activated(rotated, up, codes, plan.vector("up_bias1", INNER), Activation.GELU, rotates=True)
        else:
            plan.quantize(plan.activated(rotated, up, inner, None, Activation.RELU), codes)
        plan.linear(codes, plan.matrix(f"down{layer}", WIDTH, INNER), x, accumulate=True)
    chosen = plan.select(x, plan.buffer("chosen", WIDTH, rows=Rows.SELECTED))
    out = plan.layer_norm(chosen, plan.vector("w", WIDTH), plan.vector("b", WIDTH), chosen, 1e-5)
    return plan.finish(out, is_whole=True)


class Model:
    """The plan with random weights, native and as reference."""

    def __init__(self) -> None:
        rng = np.random.default_rng(8)
        self.plan = record()
        self.matrices: list[GroupedMatrix] = [
            tiny_plan.random_matrix(rng, spec.rows, spec.cols, 8) for spec in self.plan.matrices
        ]
        self.vectors = [rng.normal(0.5, 0.5, spec.shape).astype(np.float32) for spec in self.plan.vectors]
        self.program = self.bind(tiny_plan.operands(self.plan)[1])
        self.reference = ReferenceProgram(self.plan, self.matrices, self.vectors)

    def bind(self, ops: list[tuple[int, list[int], list[float]]]) -> native.Program:
        cache = self.plan.cache
        return native.Program(
            tiny_plan.operands(self.plan)[0],
            ops,
            tiny_plan.bind(self.matrices),
            self.vectors,
            (cache.num_layers, cache.num_kv_heads, cache.head_dim),
            VOCAB,
            POSITIONS,
            self.plan.output,
        )


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


def arguments(*lengths: int, seed: int = 3) -> dict[str, Any]:
    """Whole random sequences on scattered pages; every token is selected."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    width = max(-(-length // PAGE_TOKENS) for length in lengths)
    return {
        "tokens": rng.integers(0, VOCAB, starts[-1]).astype(np.int32),
        "starts": starts,
        "contexts": np.zeros(len(lengths), np.int32),
        "page_tables": rng.permutation(NUM_PAGES)[: width * len(lengths)].reshape(-1, width).astype(np.int32),
        "selected": np.arange(starts[-1], dtype=np.int32),
        "segments": rng.integers(0, SEGMENTS, starts[-1]).astype(np.int32),
    }


def pool_of(model: Model) -> NDArray[np.uint16]:
    return np.zeros(model.plan.cache.pool_shape(KvKind.HALF, NUM_PAGES), np.uint16)


def run(model: Model, threads: native.Threads, named: dict[str, Any]) -> NDArray[np.float32]:
    output = np.empty((len(named["selected"]), WIDTH), np.float32)
    assert model.program.step(threads, pool_of(model), **named, output=output) is None
    return output


def test_whole_sequences_give_the_hidden_states_of_the_reference(model: Model, threads: native.Threads) -> None:
    named = arguments(70, 1, 33, 100, 5)
    expected = model.reference.step(new_pool(model.plan.cache, NUM_PAGES), **named)
    error = np.abs(run(model, threads, named) - expected)
    assert error.max() < LIMITS[0] and error.mean() < LIMITS[1]
    assert expected.std() > 0.4


def test_tokens_see_what_follows_and_where_and_in_which_segment_they_stand(
    model: Model, threads: native.Threads
) -> None:
    named = arguments(40)
    before = run(model, threads, named)[0]
    for change in ("tokens", "segments"):
        other = named | {change: named[change].copy()}
        other[change][30] = (other[change][30] + 1) % SEGMENTS
        assert np.abs(run(model, threads, other)[0] - before).max() > 1e-3, change
    swapped = named | {"tokens": named["tokens"].copy()}
    swapped["tokens"][[20, 30]] = swapped["tokens"][[30, 20]]
    assert np.abs(run(model, threads, swapped)[0] - before).max() > 1e-3


def test_a_sequence_gives_the_same_bits_alone_and_in_any_batch(model: Model, threads: native.Threads) -> None:
    named = arguments(9, 70, 33, 64, 1)
    together = run(model, threads, named)
    for s in range(5):
        begin, end = named["starts"][s : s + 2]
        alone = named | {
            "tokens": named["tokens"][begin:end],
            "segments": named["segments"][begin:end],
            "starts": np.array([0, end - begin], np.int32),
            "contexts": named["contexts"][:1],
            "page_tables": named["page_tables"][s : s + 1],
            "selected": np.arange(end - begin, dtype=np.int32),
        }
        assert np.array_equal(run(model, threads, alone), together[begin:end])


def test_no_segments_are_segments_of_zeros(model: Model, threads: native.Threads) -> None:
    named = arguments(33)
    zeros = run(model, threads, named | {"segments": np.zeros(33, np.int32)})
    assert np.array_equal(run(model, threads, named | {"segments": None}), zeros)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        (np.array([0, SEGMENTS], np.int32), r"segments\[1\]: 3 is not in \[0, 3\)"),
        (np.array([-1, 0], np.int32), r"segments\[0\]: -1"),
        (np.zeros(3, np.int32), "segments: must have one entry per token, 2"),
        (np.zeros(2, np.int64), "segments: wrong element type"),
    ],
)
def test_segments_that_do_not_fit_are_refused(
    model: Model, threads: native.Threads, segments: NDArray[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(model, threads, arguments(2) | {"segments": segments})


def test_a_plan_without_segments_takes_only_the_first() -> None:
    causal, threads = tiny_plan.build(), native.Threads(1)
    named = tiny_plan.Cache().arguments([(tiny_plan.sequences(2)[0], 2)])
    output = np.empty((1, tiny_plan.VOCAB), np.float32)
    causal.program.step(threads, **named, output=output, segments=np.zeros(2, np.int32))
    with pytest.raises(ValueError, match=r"segments\[1\]: 1 is not in \[0, 1\)"):
        causal.program.step(threads, **named, output=output, segments=np.array([0, 1], np.int32))
    threads.close()


@pytest.mark.parametrize(
    ("kind", "operand", "value", "message"),
    [
        (OpKind.LAYER_NORM, "bias", "positions", r"LAYER_NORM: bias has \d+ values, not 64"),
        (OpKind.LAYER_NORM, "weight", 99, "LAYER_NORM: weight names vector 99"),
        (OpKind.LAYER_NORM, "out", "qkv", "LAYER_NORM: out is 192 wide"),
        (OpKind.POINTWISE, "activation", 5, "POINTWISE: activation must be below 5"),
        (OpKind.POINTWISE, "x", "codes", "POINTWISE: x must be a F32 buffer"),
        (OpKind.POSITION, "offset", OFFSET + 1, "POSITION: table has 102 rows, not 103"),
        (OpKind.POSITION, "offset", -1, "POSITION: offset must not be negative"),
        (OpKind.POSITION, "table", "w0", "POSITION: table has 1 rows, not 102"),
        (OpKind.SEGMENT, "out", "chosen", "SEGMENT: out must have one row per token"),
        (OpKind.SEGMENT, "out", "inner", "SEGMENT: table has 192 values"),
        (OpKind.ACTIVATED, "activation", 5, "ACTIVATED: activation must be below 5"),
        (OpKind.ACTIVATED, "rotates", 2, "ACTIVATED: rotates must be 0 or 1"),
        (OpKind.ACTIVATED, "out", "qkv", "ACTIVATED: out is 192 wide, not 160"),
        (OpKind.ACTIVATED, "bias", "w0", "ACTIVATED: bias has 64 values, not 160"),
        (OpKind.ACTIVATED, "x", "codes", "ACTIVATED: out must be another buffer than x"),
        (OpKind.ROTATE, "out", "inner", "ROTATE: out must be a Q8 buffer"),
        (OpKind.ROTATE, "out", "codes", "ROTATE: out is 160 wide, not 64"),
    ],
)
def test_an_operand_that_does_not_fit_is_refused_by_name(
    model: Model, kind: OpKind, operand: str, value: int | str, message: str
) -> None:
    plan, ops = model.plan, tiny_plan.operands(model.plan)[1]
    if isinstance(value, str):
        value = next(item.index for item in (*plan.buffers, *plan.vectors) if item.name == value)
    broken = next(ints for number, ints, _ in ops if number == kind)
    broken[SIGNATURES[kind][0].index(operand)] = value
    with pytest.raises(ValueError, match=message):
        model.bind(ops)
