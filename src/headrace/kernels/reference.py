"""What every kernel computes, in plain NumPy, and an interpreter of whole plans: the oracle for the native module.

`ReferenceProgram.step` takes the arguments of `native.Program.step` without the threads and models the same arithmetic:
activations quantised to 8 bits, weights in groups, keys and values in fp16 or 8 bits. With `exact=True` activations
stay in float32 and the page pool may be float32, so that an architecture can be held against another implementation.
Written to be read: one loop per sequence and head, float32 throughout, nothing fused. Knows no threads and no files.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix, rotate_groups
from headrace.kernels.low_rank import LowRank
from headrace.kernels.plan import (
    GROUP,
    Activation,
    AttentionMode,
    BufferKind,
    Op,
    OpKind,
    Plan,
    RopeStyle,
    Rows,
    padded,
)
from headrace.kernels.reference_experts import add_gated, mix, route
from headrace.kernels.reference_pages import SMALLEST_MAGNITUDE, load_kv, quantize_heads, store_kv

F32 = NDArray[np.float32]


# --- kernels, one function each ---------------------------------------------------------------------------------------


def quantize(x: F32) -> tuple[NDArray[np.int8], F32, F32]:
    """Codes [n, padded width], scales and sums [n, padded width / 32] of activations [n, width]."""
    rows, width = x.shape
    wide = np.zeros((rows, padded(width)), dtype=np.float32)
    wide[:, :width] = x
    groups = wide.reshape(rows, padded(width) // GROUP, GROUP)
    amax = np.abs(groups).max(axis=2)
    is_zero = amax < SMALLEST_MAGNITUDE
    inverse = 127.0 / np.where(is_zero, np.float32(1.0), amax)
    codes = np.rint(groups * inverse[:, :, None]).clip(-127, 127).astype(np.int8)
    codes[is_zero] = 0
    scales = np.where(is_zero, np.float32(0.0), amax / 127.0)
    sums = scales * codes.sum(axis=2, dtype=np.int32).astype(np.float32)
    return codes.reshape(wide.shape), scales, sums


def dequantize(codes: NDArray[np.int8], scales: F32) -> F32:
    """The activations that codes and scales stand for, [n, padded width]."""
    values = codes.reshape(*scales.shape, GROUP).astype(np.float32) * scales[:, :, None]
    return values.reshape(codes.shape)


def hadamard(size: int) -> F32:
    """The orthonormal Walsh-Hadamard matrix [size, size] (Sylvester's order); size is a power of two."""
    matrix = np.ones((1, 1), dtype=np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(math.sqrt(size))


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    return (x / np.sqrt(mean + eps) * weight).astype(np.float32, copy=False)


def layer_norm(x: F32, weight: F32, bias: F32, eps: float) -> F32:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias over the last axis."""
    centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(centred * centred, axis=-1, keepdims=True, dtype=np.float32)
    return (centred / np.sqrt(variance + eps) * weight + bias).astype(np.float32, copy=False)


def activate(activation: Activation, x: F32) -> F32:
    """A non-linearity, feature by feature."""
    if activation is Activation.SILU:
        y = x / (np.exp(-x) + 1.0)
    elif activation is Activation.GELU_TANH:
        y = x * 0.5 * (np.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)
    elif activation is Activation.GELU:
        y = x * 0.5 * _erfc(x * -math.sqrt(0.5))
    elif activation is Activation.TANH:
        y = np.tanh(x)
    else:
        y = np.maximum(x, 0.0)
    return y.astype(np.float32, copy=False)


_erfc = np.frompyfunc(math.erfc, 1, 1)


def softcap(x: F32, cap: float) -> F32:
    """cap * tanh(x / cap); NaN where x is infinite or NaN, so that a broken row still shows."""
    return np.asarray(np.tanh(x / np.float32(cap)) * np.float32(cap) + (x - x), dtype=np.float32)


def gated(product: F32, activation: Activation) -> F32:
    """activation(gate) * up, from the product with an interleaved matrix: 32 gate features, 32 up features, ..."""
    pairs = product.reshape(len(product), -1, 2, GROUP)
    return (activate(activation, pairs[:, :, 0]) * pairs[:, :, 1]).reshape(len(product), -1)


def rotate(heads: F32, rows: F32, style: RopeStyle) -> F32:
    """Rotate the first features of heads [n, heads, head_dim] by table rows [n, rotary_dim]: cosines, then sines."""
    half = rows.shape[1] // 2
    cos, sin = rows[:, None, :half], rows[:, None, half:]
    out = heads.copy()
    if style is RopeStyle.ADJACENT:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    else:
        first, second = slice(0, half), slice(half, 2 * half)
    out[:, :, first] = heads[:, :, first] * cos - heads[:, :, second] * sin
    out[:, :, second] = heads[:, :, second] * cos + heads[:, :, first] * sin
    return out


@dataclass(frozen=True, slots=True)
class Sight:
    """Which keys queries see, and how scores are shaped before the softmax."""

    scale: float
    mode: AttentionMode = AttentionMode.CAUSAL
    window: int = 0
    softcap: float = 0.0

    def mask(self, positions: NDArray[np.int64], num_keys: int) -> NDArray[np.bool_]:
        """True where the query at positions[i] sees key j."""
        keys = np.arange(num_keys)[None, :]
        if self.mode is AttentionMode.BIDIRECTIONAL:
            return np.ones((len(positions), num_keys), dtype=np.bool_)
        seen = keys <= positions[:, None]
        if self.mode is AttentionMode.WINDOW:
            seen &= keys > positions[:, None] - self.window
        return seen


def attention(q: F32, keys: F32, values: F32, context: int, sight: Sight) -> F32:
    """One sequence: q [n, heads, head_dim] at positions context ..., keys and values [num_keys, kv_heads, head_dim]."""
    num_queries, num_heads, _ = q.shape
    heads_per_kv = num_heads // keys.shape[1]
    seen = sight.mask(np.arange(context, context + num_queries), len(keys))
    out = np.empty_like(q)
    for head in range(num_heads):
        scores = (q[:, head] * sight.scale) @ keys[:, head // heads_per_kv].T
        if sight.softcap:
            scores = np.tanh(scores / sight.softcap) * sight.softcap
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = (weights @ values[:, head // heads_per_kv]) / weights.sum(axis=1, keepdims=True)
    return out


# --- the interpreter --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Step:
    # One ragged batch: its arguments, the position of every token, and the buffers as float32 (Q8 ones dequantised).
    pool: NDArray[Any]
    tokens: NDArray[np.int32]
    starts: NDArray[np.int32]
    contexts: NDArray[np.int32]
    page_tables: NDArray[np.int32]
    selected: NDArray[np.int32]
    positions: NDArray[np.int64]
    buffers: list[F32]
    adapters: Sequence[Mapping[int, LowRank] | None] | None
    segments: NDArray[np.int32]


class ReferenceProgram:
    """A plan bound to weights, interpreted op by op. `matrices` and `vectors` are in the plan's order."""

    def __init__(
        self, plan: Plan, matrices: Sequence[GroupedMatrix], vectors: Sequence[F32], *, exact: bool = False
    ) -> None:
        for spec, matrix in zip(plan.matrices, matrices, strict=True):
            if (spec.rows, spec.cols) != (matrix.rows, matrix.cols):
                raise ValueError(
                    f"matrix {spec.name!r} is {matrix.rows} x {matrix.cols}, not {spec.rows} x {spec.cols}"
                )
        for vector_spec, vector in zip(plan.vectors, vectors, strict=True):
            if vector_spec.shape != vector.shape:
                raise ValueError(f"vector {vector_spec.name!r} has shape {vector.shape}, not {vector_spec.shape}")
        self._plan = plan
        self._weights = [matrix.dequantize() for matrix in matrices]
        self._vectors = list(vectors)
        self._exact = exact

    def step(  # noqa: PLR0913 - the native signature
        self,
        pool: NDArray[Any],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        adapters: Sequence[Mapping[int, LowRank] | None] | None = None,
        *,
        segments: NDArray[np.int32] | None = None,
    ) -> F32:
        """Run the plan on one ragged batch and return the output [R, width].

        adapters: of each sequence, by index of the plan's matrices. segments: of each token; None: all 0.
        """
        lengths = np.diff(starts)
        positions = np.concatenate(
            [np.arange(c, c + n, dtype=np.int64) for c, n in zip(contexts, lengths, strict=True)]
        )
        rows = {Rows.TOKENS: len(tokens), Rows.SELECTED: len(selected)}
        buffers = [np.zeros((rows[b.rows], b.width), dtype=np.float32) for b in self._plan.buffers]
        if segments is None:
            segments = np.zeros(len(tokens), dtype=np.int32)
        step = _Step(pool, tokens, starts, contexts, page_tables, selected, positions, buffers, adapters, segments)
        for op in self._plan.ops:
            _HANDLERS[op.kind](self, step, op)
        return step.buffers[self._plan.output]

    def _write(self, step: _Step, index: int, values: F32) -> None:
        # Q8 buffers hold what their codes stand for.
        buffer = self._plan.buffers[index]
        if buffer.kind is BufferKind.Q8:
            wide = np.zeros((len(values), buffer.width), dtype=np.float32)
            wide[:, : values.shape[1]] = values
            if not self._exact:
                codes, scales, _ = quantize(wide)
                wide = dequantize(codes, scales)
            values = wide
        step.buffers[index] = np.ascontiguousarray(values, dtype=np.float32)

    def _product(self, step: _Step, x: int, matrix: int) -> F32:
        weights = self._weights[matrix]
        return step.buffers[x][:, : weights.shape[1]] @ weights.T

    def _embed(self, step: _Step, op: Op) -> None:
        matrix, out = op.ints
        self._write(step, out, self._weights[matrix][step.tokens] * op.floats[0])

    def _rms_norm(self, step: _Step, op: Op) -> None:
        x, weight, out = op.ints
        self._write(step, out, rms_norm(step.buffers[x], self._vectors[weight], op.floats[0]))

    def _layer_norm(self, step: _Step, op: Op) -> None:
        x, weight, bias, out = op.ints
        values = layer_norm(step.buffers[x], self._vectors[weight], self._vectors[bias], op.floats[0])
        self._write(step, out, values)

    def _pointwise(self, step: _Step, op: Op) -> None:
        x, out, activation = op.ints
        self._write(step, out, activate(Activation(activation), step.buffers[x]))

    def _activated(self, step: _Step, op: Op) -> None:
        x, matrix, bias, out, activation, rotates = op.ints
        values = self._product(step, x, matrix)
        if bias >= 0:
            values = values + self._vectors[bias]
        values = activate(Activation(activation), values)
        self._write(step, out, rotate_groups(values) if rotates else values)

    def _rotate(self, step: _Step, op: Op) -> None:
        x, out = op.ints
        self._write(step, out, rotate_groups(step.buffers[x]))

    def _position(self, step: _Step, op: Op) -> None:
        table, offset, out = op.ints
        self._write(step, out, step.buffers[out] + self._vectors[table][offset + step.positions])

    def _segment(self, step: _Step, op: Op) -> None:
        table, out = op.ints
        self._write(step, out, step.buffers[out] + self._vectors[table][step.segments])

    def _quantize(self, step: _Step, op: Op) -> None:
        x, out = op.ints
        self._write(step, out, step.buffers[x])

    def _head_norm(self, step: _Step, op: Op) -> None:
        x, weight, offset, num_heads, head_dim = op.ints
        heads = _heads(step.buffers[x], offset, num_heads, head_dim)
        heads[:] = rms_norm(heads, self._vectors[weight], op.floats[0])

    def _rope(self, step: _Step, op: Op) -> None:
        x, table, offset, num_heads, head_dim, rotary_dim, style = op.ints
        heads = _heads(step.buffers[x], offset, num_heads, head_dim)
        heads[:] = rotate(heads, self._vectors[table][step.positions, :rotary_dim], RopeStyle(style))

    def _store_kv(self, step: _Step, op: Op) -> None:
        x, layer, k_offset, v_offset = op.ints
        shape = self._plan.cache
        keys = _heads(step.buffers[x], k_offset, shape.num_kv_heads, shape.head_dim)
        values = _heads(step.buffers[x], v_offset, shape.num_kv_heads, shape.head_dim)
        for s, context in enumerate(step.contexts):
            own = slice(step.starts[s], step.starts[s + 1])
            store_kv(step.pool, layer, step.page_tables[s], int(context), (keys[own], values[own]))

    def _linear(self, step: _Step, op: Op) -> None:
        x, matrix, bias, out, accumulate = op.ints
        values = self._product(step, x, matrix)
        if bias >= 0:
            values = values + self._vectors[bias]
        self._write(step, out, step.buffers[out] + values if accumulate else values)

    def _gated(self, step: _Step, op: Op) -> None:
        x, matrix, out, activation = op.ints
        values = gated(self._product(step, x, matrix), Activation(activation))
        self._write(step, out, values[:, : self._plan.buffers[out].width])

    def _attention(self, step: _Step, op: Op) -> None:
        x, out, layer, q_offset, num_heads, mode, window = op.ints
        sight = Sight(op.floats[0], AttentionMode(mode), window, op.floats[1])
        q = _heads(step.buffers[x], q_offset, num_heads, self._plan.cache.head_dim)
        if step.pool.dtype == np.uint8:  # queries meet 8-bit keys as 8-bit codes
            codes, scales = quantize_heads(q)
            q = codes * scales[..., None]
        mixed = np.zeros_like(q)
        for s, context in enumerate(step.contexts):
            own = slice(step.starts[s], step.starts[s + 1])
            num_keys = int(context) + step.starts[s + 1] - step.starts[s]
            keys, values = load_kv(step.pool, layer, step.page_tables[s], num_keys)
            mixed[own] = attention(q[own], keys, values, int(context), sight)
        self._write(step, out, mixed.reshape(len(mixed), -1))

    def _add(self, step: _Step, op: Op) -> None:
        x, out = op.ints
        self._write(step, out, step.buffers[out] + step.buffers[x])

    def _hadamard(self, step: _Step, op: Op) -> None:
        x, offset, num_heads, head_dim = op.ints
        heads = _heads(step.buffers[x], offset, num_heads, head_dim)
        heads[:] = heads @ hadamard(head_dim)

    def _adapt(self, step: _Step, op: Op) -> None:
        x, matrix, out = op.ints
        rows = np.repeat(np.arange(len(step.contexts)), np.diff(step.starts))
        if self._plan.buffers[x].rows is Rows.SELECTED:
            rows = rows[step.selected]
        for s, adapter in enumerate(step.adapters or ()):
            if adapter is None or matrix not in adapter:
                continue
            own = rows == s
            width = self._plan.matrices[matrix].cols
            step.buffers[out][own] += adapter[matrix].product(
                step.buffers[x][own, :width], step.buffers[out].shape[1], exact=self._exact
            )

    def _activate(self, step: _Step, op: Op) -> None:
        x, out, activation = op.ints
        values = gated(step.buffers[x], Activation(activation))
        self._write(step, out, values[:, : self._plan.buffers[out].width])

    def _softcap(self, step: _Step, op: Op) -> None:
        self._write(step, op.ints[0], softcap(step.buffers[op.ints[0]], op.floats[0]))

    def _route(self, step: _Step, op: Op) -> None:
        x, weight, out, renormalise = op.ints
        count = self._plan.buffers[out].width // 2
        self._write(step, out, route(step.buffers[x], self._vectors[weight], count, renormalise=bool(renormalise)))

    def _experts(self, step: _Step, op: Op) -> None:
        x, routes, matrix, down, out, num_experts, accumulate, activation = op.ints
        both, downs = (np.split(self._weights[index], num_experts) for index in (matrix, down))

        def inner(product: F32) -> F32:
            values = gated(product, Activation(activation))
            return values if self._exact else dequantize(*quantize(values)[:2])

        values = mix(step.buffers[x], step.buffers[routes], (both, downs), inner)[:, : self._plan.buffers[out].width]
        self._write(step, out, step.buffers[out] + values if accumulate else values)

    def _add_gated(self, step: _Step, op: Op) -> None:
        x, weight, y, out = op.ints
        self._write(step, out, add_gated(step.buffers[x], self._vectors[weight], step.buffers[y], step.buffers[out]))

    def _select(self, step: _Step, op: Op) -> None:
        x, out = op.ints
        self._write(step, out, step.buffers[x][step.selected])


def _heads(buffer: F32, offset: int, num_heads: int, head_dim: int) -> F32:
    # A view [n, heads, head_dim] into a buffer's rows.
    return buffer[:, offset : offset + num_heads * head_dim].reshape(len(buffer), num_heads, head_dim, copy=False)


_HANDLERS: Mapping[OpKind, Callable[[ReferenceProgram, _Step, Op], None]] = {
    OpKind.EMBED: ReferenceProgram._embed,
    OpKind.RMS_NORM: ReferenceProgram._rms_norm,
    OpKind.QUANTIZE: ReferenceProgram._quantize,
    OpKind.HEAD_NORM: ReferenceProgram._head_norm,
    OpKind.ROPE: ReferenceProgram._rope,
    OpKind.STORE_KV: ReferenceProgram._store_kv,
    OpKind.LINEAR: ReferenceProgram._linear,
    OpKind.GATED: ReferenceProgram._gated,
    OpKind.ATTENTION: ReferenceProgram._attention,
    OpKind.ADD: ReferenceProgram._add,
    OpKind.SELECT: ReferenceProgram._select,
    OpKind.HADAMARD: ReferenceProgram._hadamard,
    OpKind.ADAPT: ReferenceProgram._adapt,
    OpKind.ACTIVATE: ReferenceProgram._activate,
    OpKind.LAYER_NORM: ReferenceProgram._layer_norm,
    OpKind.POINTWISE: ReferenceProgram._pointwise,
    OpKind.POSITION: ReferenceProgram._position,
    OpKind.SEGMENT: ReferenceProgram._segment,
    OpKind.ROTATE: ReferenceProgram._rotate,
    OpKind.SOFTCAP: ReferenceProgram._softcap,
    OpKind.ROUTE: ReferenceProgram._route,
    OpKind.EXPERTS: ReferenceProgram._experts,
    OpKind.ADD_GATED: ReferenceProgram._add_gated,
    OpKind.ACTIVATED: ReferenceProgram._activated,
}
