"""A tiny random model that uses every op of a plan, bound to the native program and to the NumPy reference.

Shared by the tests of this folder; knows no real architecture.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.kernels import native
from headrace.kernels.grouped import GroupedMatrix, interleave, pack, padded
from headrace.kernels.plan import (
    PAGE_TOKENS,
    Activation,
    AttentionMode,
    Buffer,
    BufferKind,
    CacheShape,
    KvKind,
    MatrixSpec,
    Plan,
    Recorder,
    RopeStyle,
    Rows,
)

VOCAB = 101
WIDTH = 80  # no multiple of 32, so that padding matters
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32
FFN = 96
LAYERS = 2
MAX_POSITIONS = 1200
NUM_PAGES = 80
EPS = 1e-5

Operands = tuple[list[tuple[int, int, int]], list[tuple[int, list[int], list[float]]]]


def record(head_dim: int = HEAD_DIM) -> Plan:
    """Two layers: one with biases and quantised attention output, one with QK-norm, a window and float outputs."""
    recorder = Recorder(CacheShape(LAYERS, KV_HEADS, head_dim), VOCAB, MAX_POSITIONS)
    x = recorder.buffer("x", WIDTH)
    codes = recorder.buffer("codes", WIDTH, BufferKind.Q8)
    qkv_width = (HEADS + 2 * KV_HEADS) * head_dim
    qkv = recorder.buffer("qkv", qkv_width)
    table = recorder.vector("rope", MAX_POSITIONS, head_dim, parts=())
    half_table = recorder.vector("half_rope", MAX_POSITIONS, head_dim // 2, parts=())
    embedding = recorder.matrix("embedding", VOCAB, WIDTH)
    recorder.embed(embedding, x, 1.5)
    for layer in range(LAYERS):
        recorder.rms_norm(x, recorder.vector(f"norm{layer}", WIDTH), codes, EPS)
        weight = recorder.matrix(f"qkv{layer}", qkv_width, WIDTH)
        bias = recorder.vector(f"bias{layer}", qkv_width) if layer == 0 else None
        recorder.linear(codes, weight, qkv, bias)
        if layer == 1:
            recorder.head_norm(qkv, recorder.vector("q_norm", head_dim), 0, HEADS, EPS)
        rope = (table, 0, HEADS + KV_HEADS, head_dim, RopeStyle.HALVES)
        if layer == 1:
            rope = (half_table, 0, HEADS + KV_HEADS, head_dim // 2, RopeStyle.ADJACENT)
        recorder.rope(qkv, *rope)
        if layer == 1:
            recorder.hadamard(qkv, 0, HEADS + KV_HEADS)
        recorder.store_kv(qkv, layer, HEADS * head_dim, (HEADS + KV_HEADS) * head_dim)
        attended = _attention(recorder, qkv, layer, head_dim)
        recorder.linear(attended, recorder.matrix(f"o{layer}", WIDTH, HEADS * head_dim), x, accumulate=True)
        recorder.rms_norm(x, recorder.vector(f"ffn_norm{layer}", WIDTH), codes, EPS)
        _feed_forward(recorder, codes, x, layer)
    chosen = recorder.buffer("chosen", WIDTH, rows=Rows.SELECTED)
    chosen_codes = recorder.buffer("chosen_codes", WIDTH, BufferKind.Q8, Rows.SELECTED)
    logits = recorder.buffer("logits", VOCAB, rows=Rows.SELECTED)
    recorder.select(x, chosen)
    recorder.rms_norm(chosen, recorder.vector("last_norm", WIDTH), chosen_codes, EPS)
    recorder.linear(chosen_codes, embedding, logits)
    return recorder.finish(logits)


def _attention(recorder: Recorder, qkv: Buffer, layer: int, head_dim: int) -> Buffer:
    scale = head_dim**-0.5
    attended = recorder.buffer("attended", HEADS * head_dim, BufferKind.Q8)
    if layer == 0 and head_dim % 32 == 0:
        return recorder.attention(qkv, attended, layer, HEADS, scale)
    plain = recorder.buffer("attended_plain", HEADS * head_dim)
    recorder.attention(qkv, plain, layer, HEADS, scale, mode=AttentionMode.WINDOW, window=40, softcap=20.0)
    return recorder.quantize(plain, attended)


def _feed_forward(recorder: Recorder, codes: Buffer, x: Buffer, layer: int) -> None:
    gate_up = recorder.matrix(f"gate_up{layer}", 2 * FFN, WIDTH, "gate", "up", layout="interleave")
    down = recorder.matrix(f"down{layer}", WIDTH, FFN)
    hidden = recorder.buffer("hidden", FFN, BufferKind.Q8)
    recorder.gated(codes, gate_up, hidden, Activation.SILU if layer == 0 else Activation.GELU_TANH)
    if layer == 0:
        recorder.linear(hidden, down, x, accumulate=True)
        return
    delta = recorder.buffer("delta", WIDTH)
    recorder.add(recorder.linear(hidden, down, delta), x)


def random_matrix(rng: np.random.Generator, rows: int, cols: int, bits: int) -> GroupedMatrix:
    """Weights of about unit gain with minima."""
    wide = padded(cols)
    if bits == 4:
        codes: NDArray[Any] = rng.integers(0, 16, (rows, wide)).astype(np.uint8)
        scale = rng.uniform(0.5, 1.5, (rows, wide // 32)) / (4.6 * np.sqrt(cols))
        minimum = -7.5 * scale
    else:
        codes = rng.integers(-127, 128, (rows, wide)).astype(np.int8)
        scale = rng.uniform(0.5, 1.5, (rows, wide // 32)) / (73.0 * np.sqrt(cols))
        minimum = rng.normal(0.0, 0.01, scale.shape)
    codes[:, cols:] = 0
    return GroupedMatrix(rows, cols, bits, codes, scale.astype(np.float16), minimum.astype(np.float16))


def _weights(rng: np.random.Generator, spec: MatrixSpec) -> GroupedMatrix:
    bits = 8 if spec.name == "embedding" or spec.name.startswith("o") else 4
    if spec.layout == "interleave":
        return interleave(*(random_matrix(rng, spec.rows // 2, spec.cols, bits) for _ in range(2)))
    return random_matrix(rng, spec.rows, spec.cols, bits)


def _vector(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not name.endswith("rope"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    half = shape[1] // 2
    angles = np.arange(shape[0])[:, None] * (100.0 ** -(np.arange(half) / half))
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def operands(plan: Plan) -> Operands:
    """The plan's buffers and ops as `native.Program` takes them."""
    buffers = [(int(b.kind), b.width, int(b.rows)) for b in plan.buffers]
    return buffers, [(int(op.kind), list(op.ints), list(op.floats)) for op in plan.ops]


@dataclass(frozen=True, slots=True)
class Model:
    """The plan with its weights, and the native program made of them."""

    plan: Plan
    matrices: list[GroupedMatrix]
    vectors: list[NDArray[np.float32]]
    program: native.Program


def bind(matrices: list[GroupedMatrix]) -> list[native.Matrix]:
    """Packed weights as the native module holds them."""
    return [native.Matrix(pack(m), m.rows, m.cols, m.bits, m.minimum is not None) for m in matrices]


def build(seed: int = 0, head_dim: int = HEAD_DIM) -> Model:
    """A model whose weights follow from the seed."""
    rng = np.random.default_rng(seed)
    plan = record(head_dim)
    matrices = [_weights(rng, spec) for spec in plan.matrices]
    vectors = [_vector(rng, spec.name, spec.shape) for spec in plan.vectors]
    buffers, ops = operands(plan)
    shape = (plan.cache.num_layers, plan.cache.num_kv_heads, plan.cache.head_dim)
    program = native.Program(
        buffers, ops, bind(matrices), vectors, shape, plan.vocab_size, plan.max_positions, plan.output
    )
    return Model(plan, matrices, vectors, program)


def new_pool(kind: KvKind = KvKind.HALF) -> NDArray[Any]:
    """An empty page pool."""
    return np.zeros(CacheShape(LAYERS, KV_HEADS, HEAD_DIM).pool_shape(kind, NUM_PAGES), dtype=kind.dtype)


@dataclass(slots=True)
class Sequence:
    """Tokens of one sequence and the pages they go to."""

    tokens: NDArray[np.int32]
    pages: NDArray[np.int32]
    done: int = 0


@dataclass(slots=True)
class Cache:
    """A pool and its sequences; `arguments` is what one step takes."""

    pool: NDArray[Any] = field(default_factory=new_pool)

    def arguments(self, work: list[tuple[Sequence, int]]) -> dict[str, Any]:
        """The step that computes so many further tokens of each sequence and selects the last of each."""
        starts = np.cumsum([0, *(count for _, count in work)]).astype(np.int32)
        parts = [sequence.tokens[sequence.done : sequence.done + count] for sequence, count in work]
        arguments = {
            "pool": self.pool,
            "tokens": np.concatenate(parts).astype(np.int32),
            "starts": starts,
            "contexts": np.array([sequence.done for sequence, _ in work], dtype=np.int32),
            "page_tables": np.stack([sequence.pages for sequence, _ in work]),
            "selected": starts[1:] - 1,
        }
        for sequence, count in work:
            sequence.done += count
        return arguments


def sequences(*lengths: int, seed: int = 1) -> list[Sequence]:
    """Random sequences of these lengths, their pages scattered over the pool."""
    rng = np.random.default_rng(seed)
    pages = rng.permutation(NUM_PAGES).astype(np.int32)
    width = max(-(-length // PAGE_TOKENS) for length in lengths)
    assert width * len(lengths) <= NUM_PAGES
    return [
        Sequence(rng.integers(0, VOCAB, length).astype(np.int32), pages[i * width : (i + 1) * width])
        for i, length in enumerate(lengths)
    ]
