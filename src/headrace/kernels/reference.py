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

from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.low_rank import LowRank
from headrace.kernels.plan import (
    GROUP,
    PAGE_TOKENS,
    Activation,
    AttentionMode,
    BufferKind,
    CacheShape,
    KvKind,
    Op,
    OpKind,
    Plan,
    RopeStyle,
    Rows,
    padded,
)
from headrace.kernels.reference_experts import add_gated, mix, route

F32 = NDArray[np.float32]

SMALLEST_MAGNITUDE = np.float32(2.0**-118)
"""A group of activations below this is zero; 127 / amax would overflow."""

LARGEST_HALF = 65504.0
"""Keys and values are clamped to what fp16 can hold."""


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


def quantize_heads(x: F32) -> tuple[NDArray[np.int8], F32]:
    """Codes [..., head_dim] and scales [...] of heads, clamped to what fp16 holds: one scale per head."""
    clamped = np.where(np.isnan(x), np.copysign(np.float32(LARGEST_HALF), x), x).clip(-LARGEST_HALF, LARGEST_HALF)
    amax = np.abs(clamped).max(axis=-1)
    is_zero = amax < SMALLEST_MAGNITUDE
    inverse = np.where(is_zero, np.float32(0.0), np.float32(127.0) / np.where(is_zero, np.float32(1.0), amax))
    codes = np.rint(clamped * inverse[..., None]).astype(np.int8)
    return codes, np.where(is_zero, np.float32(0.0), amax / np.float32(127.0))


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


def activate(activation: Activation, x: F32) -> F32:
    """The non-linearity of a gated layer."""
    if activation is Activation.SILU:
        return (x / (np.exp(-x) + 1.0)).astype(np.float32, copy=False)
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return (x * 0.5 * (np.tanh(inner) + 1.0)).astype(np.float32, copy=False)


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


# --- keys and values --------------------------------------------------------------------------------------------------


def new_pool(cache: CacheShape, num_pages: int, kind: KvKind = KvKind.HALF, *, exact: bool = False) -> NDArray[Any]:
    """An empty pool; exact pools hold float32 instead of fp16 bits."""
    return np.zeros(cache.pool_shape(kind, num_pages), dtype=np.float32 if exact else kind.dtype)


def _stored(pool: NDArray[Any]) -> NDArray[Any]:
    # The pool as numbers instead of bits.
    return pool if pool.dtype == np.float32 else pool.view(np.float16)


def _planes(pages: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int8], F32, F32]:
    # Views of int8 planes [..., plane]: keys [..., head_dim / 4, slots, 4], values [..., slots / 4, head_dim, 4], the
    # scales of keys and of values [..., slots].
    lead, head_dim = pages.shape[:-1], (pages.shape[-1] // PAGE_TOKENS - 8) // 2
    size = head_dim * PAGE_TOKENS
    keys = pages[..., :size].reshape(*lead, head_dim // 4, PAGE_TOKENS, 4, copy=False)
    values = pages[..., size : 2 * size].view(np.int8).reshape(*lead, PAGE_TOKENS // 4, head_dim, 4, copy=False)
    scales = pages[..., 2 * size :].view(np.float32).reshape(*lead, 2, PAGE_TOKENS, copy=False)
    return keys, values, scales[..., 0, :], scales[..., 1, :]


def store_kv(pool: NDArray[Any], layer: int, page_table: NDArray[np.int32], first: int, kv: tuple[F32, F32]) -> None:
    """Write keys and values [n, kv_heads, head_dim] of positions first ... into their pages."""
    if pool.dtype == np.uint8:
        return _store_codes(pool[:, layer], page_table, first, kv)
    limit = np.inf if pool.dtype == np.float32 else LARGEST_HALF
    keys, values = (np.clip(part, -limit, limit) for part in kv)
    stored, head_dim = _stored(pool), pool.shape[4] // PAGE_TOKENS
    for i in range(len(keys)):
        page, slot = page_table[(first + i) // PAGE_TOKENS], (first + i) % PAGE_TOKENS
        stored[page, layer, :, 0, slot::PAGE_TOKENS] = keys[i]
        stored[page, layer, :, 1, slot * head_dim : (slot + 1) * head_dim] = values[i]
    return None


def _store_codes(pages: NDArray[np.uint8], page_table: NDArray[np.int32], first: int, kv: tuple[F32, F32]) -> None:
    (keys, key_scales), (values, value_scales) = (quantize_heads(part) for part in kv)
    for i in range(len(keys)):
        page, slot = page_table[(first + i) // PAGE_TOKENS], (first + i) % PAGE_TOKENS
        plane_keys, plane_values, plane_key_scales, plane_value_scales = _planes(pages[page])
        plane_keys[:, :, slot] = (keys[i].astype(np.int16) + 128).astype(np.uint8).reshape(len(keys[i]), -1, 4)
        plane_values[:, slot // 4, :, slot % 4] = values[i]
        plane_key_scales[:, slot] = key_scales[i]
        plane_value_scales[:, slot] = value_scales[i]


def load_kv(pool: NDArray[Any], layer: int, page_table: NDArray[np.int32], num_keys: int) -> tuple[F32, F32]:
    """Keys and values [num_keys, kv_heads, head_dim] in float32."""
    used = page_table[: -(-num_keys // PAGE_TOKENS)]
    if pool.dtype == np.uint8:
        codes, value_codes, key_scales, value_scales = _planes(pool[used, layer])
        num_pages, kv_heads = key_scales.shape[:2]
        signed = (codes.astype(np.int16) - 128).astype(np.float32).transpose(0, 3, 1, 2, 4)
        numbers = value_codes.astype(np.float32).transpose(0, 2, 4, 1, 3)
        keys = signed.reshape(num_pages * PAGE_TOKENS, kv_heads, -1) * _per_token(key_scales)
        values = numbers.reshape(num_pages * PAGE_TOKENS, kv_heads, -1) * _per_token(value_scales)
        return keys[:num_keys], values[:num_keys]
    pages = _stored(pool)[used, layer]  # [pages, kv_heads, 2, head_dim * slots]
    num_pages, kv_heads, _, size = pages.shape
    head_dim = size // PAGE_TOKENS
    keys = pages[:, :, 0].reshape(num_pages, kv_heads, head_dim, PAGE_TOKENS).transpose(0, 3, 1, 2)
    values = pages[:, :, 1].reshape(num_pages, kv_heads, PAGE_TOKENS, head_dim).transpose(0, 2, 1, 3)
    both = (part.reshape(-1, kv_heads, head_dim)[:num_keys].astype(np.float32) for part in (keys, values))
    return next(both), next(both)


def _per_token(scales: F32) -> F32:
    # [pages, kv_heads, slots] as [pages * slots, kv_heads, 1].
    return scales.transpose(0, 2, 1).reshape(-1, scales.shape[1], 1)


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

    def step(
        self,
        pool: NDArray[Any],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        adapters: Sequence[Mapping[int, LowRank] | None] | None = None,
    ) -> F32:
        """Run the plan on one ragged batch and return the output [R, width].

        adapters: of each sequence, by index of the plan's matrices.
        """
        lengths = np.diff(starts)
        positions = np.concatenate(
            [np.arange(c, c + n, dtype=np.int64) for c, n in zip(contexts, lengths, strict=True)]
        )
        rows = {Rows.TOKENS: len(tokens), Rows.SELECTED: len(selected)}
        buffers = [np.zeros((rows[b.rows], b.width), dtype=np.float32) for b in self._plan.buffers]
        step = _Step(pool, tokens, starts, contexts, page_tables, selected, positions, buffers, adapters)
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
        scale, softcap = op.floats
        sight = Sight(scale, AttentionMode(mode), window, softcap)
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

    def _route(self, step: _Step, op: Op) -> None:
        x, weight, out, renormalise = op.ints
        weights = self._vectors[weight].reshape(-1, step.buffers[x].shape[1])
        count = self._plan.buffers[out].width // 2
        self._write(step, out, route(step.buffers[x], weights, count, renormalise=bool(renormalise)))

    def _experts(self, step: _Step, op: Op) -> None:
        x, routes, matrix, down, out, num_experts, accumulate, activation = op.ints
        both, downs = (self._weights[m].reshape(num_experts, -1, self._weights[m].shape[1]) for m in (matrix, down))
        width = self._plan.buffers[out].width

        def forward(expert: int, rows: F32) -> F32:
            inner = gated(rows[:, : both.shape[2]] @ both[expert].T, Activation(activation))
            if not self._exact:
                codes, scales, _ = quantize(inner)
                inner = dequantize(codes, scales)
            return inner[:, : downs.shape[2]] @ downs[expert, :width].T

        values = mix(step.buffers[x], step.buffers[routes], forward, width)
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
    OpKind.ROUTE: ReferenceProgram._route,
    OpKind.EXPERTS: ReferenceProgram._experts,
    OpKind.ADD_GATED: ReferenceProgram._add_gated,
}
