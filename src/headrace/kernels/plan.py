"""A forward pass as data: buffers, weights by name, and a flat list of kernel calls.

A model file runs once against a `Recorder`; what comes out is a `Plan`, which the native program executes in one call
per engine step and which `kernels.reference` interprets with NumPy. The plan knows shapes, never values, threads, pages
or requests. `SIGNATURES` is the single table of operands: the recorder, the reference and the C++ program follow it.

Symbols in shapes: N tokens of a ragged batch, R selected rows (those that need logits), D features.
"""

import math
from dataclasses import dataclass, field
from enum import IntEnum

GROUP = 32
"""Weights and activations are quantised in groups of 32 along the inner dimension."""

TILE_ROWS = 16
"""Rows of a weight tile; a matrix is padded to whole tiles."""

PAGE_TOKENS = 32
"""Tokens in one page of keys and values."""


class BufferKind(IntEnum):
    """Element layout of an activation buffer."""

    F32 = 0  # [rows, width] float32
    # codes int8 [rows, width], scales f32 [rows, width/GROUP], sums f32 [rows, width/GROUP] = scale * sum(codes)
    Q8 = 1


class KvKind(IntEnum):
    """Element type of keys and values. A property of the page pool, not of the plan: one plan runs on either."""

    HALF = 0  # fp16
    INT8 = 1  # 8 bits, one scale per token and head

    @property
    def dtype(self) -> str:
        """NumPy's name for the pool's element type."""
        return "uint16" if self is KvKind.HALF else "uint8"


class Rows(IntEnum):
    """How many rows a buffer has in a step."""

    TOKENS = 0
    SELECTED = 1


class Activation(IntEnum):
    """Non-linearities. GATED and ACTIVATE take the first two only."""

    SILU = 0
    GELU_TANH = 1  # GELU's approximation by tanh
    GELU = 2  # x * Phi(x)
    TANH = 3
    RELU = 4


class RopeStyle(IntEnum):
    """Which features rotate together."""

    ADJACENT = 0  # (0,1), (2,3), ...: weights of Llama models as GGUF stores them
    HALVES = 1  # (0, n/2), (1, n/2+1), ...: NeoX, Qwen, and Llama as safetensors store it


class AttentionMode(IntEnum):
    """Which keys a query may see."""

    CAUSAL = 0
    WINDOW = 1
    BIDIRECTIONAL = 2


class OpKind(IntEnum):
    """Kernels a plan can call. Row-wise ops touch one row at a time and may be fused into one pass by an executor."""

    EMBED = 0  # out[i] = scale * table[token[i]]
    RMS_NORM = 1  # out = x / sqrt(mean(x^2) + eps) * weight; out may be F32 or Q8
    QUANTIZE = 2  # out(Q8) = x(F32)
    HEAD_NORM = 3  # in place, per head of head_dim features from `offset`: RMS norm times weight[head_dim]
    ROPE = 4  # in place: rotate heads from `offset` by the row of `table` at the token's position
    STORE_KV = 5  # write keys and values of this row into the page of the token's position, in the pool's kind
    LINEAR = 6  # out = x(Q8) @ matrix^T (+ bias); accumulate=1 adds to out
    GATED = 7  # matrix holds gate and up rows interleaved by 32; out = act(gate) * up; out may be F32 or Q8
    ATTENTION = 8  # out = softmax(scale * q k^T) v over the sequence's pages; out may be F32 or Q8
    ADD = 9  # out += x
    SELECT = 10  # out(R rows)[r] = x[selected[r]]
    HADAMARD = 11  # in place, per head of head_dim features from `offset`: times the orthonormal Walsh-Hadamard matrix
    ADAPT = 12  # out += B (A x) where the sequence of the row has an adapter of this matrix (`adapters.plan`)
    ACTIVATE = 13  # out = act(gate) * up, x being a product with a matrix of gate and up rows; out may be F32 or Q8
    LAYER_NORM = 14  # out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias; out may be F32 or Q8
    POINTWISE = 15  # out = act(x); out may be F32 or Q8
    POSITION = 16  # out += table[offset + position of the token]
    SEGMENT = 17  # out += table[segment of the token]
    ROTATE = 18  # out(Q8) = x(F32), every group of 32 times the orthonormal Walsh-Hadamard matrix
    SOFTCAP = 19  # in place: x = cap * tanh(x / cap)
    ROUTE = 20  # out = the k experts with the largest softmax(x @ weight^T), then their probabilities, in float32
    EXPERTS = 21  # out (+)= sum over a row's experts of probability * down(act(gate x) * up x)
    ADD_GATED = 22  # out += sigmoid(x . weight) * y
    ACTIVATED = 23  # out = act(x(Q8) @ matrix^T (+ bias)), rotates=1: then as ROTATE; out may be F32 or Q8


SIGNATURES: dict[OpKind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # kind: (names of integer operands, names of float operands); `none` operands are -1
    OpKind.EMBED: (("matrix", "out"), ("scale",)),
    OpKind.RMS_NORM: (("x", "weight", "out"), ("eps",)),
    OpKind.QUANTIZE: (("x", "out"), ()),
    OpKind.HEAD_NORM: (("x", "weight", "offset", "num_heads", "head_dim"), ("eps",)),
    OpKind.ROPE: (("x", "table", "offset", "num_heads", "head_dim", "rotary_dim", "style"), ()),
    OpKind.STORE_KV: (("x", "layer", "k_offset", "v_offset"), ()),
    OpKind.LINEAR: (("x", "matrix", "bias", "out", "accumulate"), ()),
    OpKind.GATED: (("x", "matrix", "out", "activation"), ()),
    OpKind.ATTENTION: (("x", "out", "layer", "q_offset", "num_heads", "mode", "window"), ("scale", "softcap")),
    OpKind.ADD: (("x", "out"), ()),
    OpKind.SELECT: (("x", "out"), ()),
    OpKind.HADAMARD: (("x", "offset", "num_heads", "head_dim"), ()),
    OpKind.ADAPT: (("x", "matrix", "out"), ()),
    OpKind.ACTIVATE: (("x", "out", "activation"), ()),
    OpKind.LAYER_NORM: (("x", "weight", "bias", "out"), ("eps",)),
    OpKind.POINTWISE: (("x", "out", "activation"), ()),
    OpKind.POSITION: (("table", "offset", "out"), ()),
    OpKind.SEGMENT: (("table", "out"), ()),
    OpKind.ROTATE: (("x", "out"), ()),
    OpKind.SOFTCAP: (("x",), ("cap",)),
    OpKind.ROUTE: (("x", "weight", "out", "renormalise"), ()),
    OpKind.EXPERTS: (("x", "route", "matrix", "down", "out", "num_experts", "accumulate", "activation"), ()),
    OpKind.ADD_GATED: (("x", "weight", "y", "out"), ()),
    OpKind.ACTIVATED: (("x", "matrix", "bias", "out", "activation", "rotates"), ()),
}


@dataclass(frozen=True, slots=True)
class Buffer:
    """An activation buffer; `width` is features per row (a multiple of GROUP for Q8)."""

    index: int
    name: str
    kind: BufferKind
    width: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class MatrixSpec:
    """A weight matrix [rows, cols] as kernels want it, and the checkpoint tensors it is made of.

    layout `concat` stacks the parts' rows; `interleave` takes two parts of equal rows and alternates 32 rows of each
    (gate, up), padding both to a multiple of 32; `halves` does so with the two halves of one part. `rotates`: every
    group of 32 columns is multiplied by the orthonormal Walsh-Hadamard matrix before it is quantised (only whole groups
    can be); such a matrix takes what ROTATE gives.

    num_experts 0: an ordinary matrix. Otherwise `rows` are those of so many experts below each other, each laid out as
    said and padded to whole tiles; parts are tensors [experts, rows, cols] that hold all of them, or one tensor
    [rows, cols] for each expert after the other (for `interleave`: gate and up of the first, of the second, ...).
    """

    index: int
    name: str
    rows: int
    cols: int
    parts: tuple[str, ...]
    layout: str = "concat"
    rotates: bool = False
    num_experts: int = 0


@dataclass(frozen=True, slots=True)
class VectorSpec:
    """Float32 values: `parts` are checkpoint tensors to concatenate, or empty when the model file computes them.

    `offset` is added to what the tensors hold, because some formats store the weights of norms less one; then all is
    multiplied by `scale`.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...] = ()
    offset: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel call; operands in the order of `SIGNATURES[kind]`."""

    kind: OpKind
    ints: tuple[int, ...]
    floats: tuple[float, ...]

    def operands(self) -> dict[str, int | float]:
        """Operands by name."""
        int_names, float_names = SIGNATURES[self.kind]
        return dict(zip(int_names, self.ints, strict=True)) | dict(zip(float_names, self.floats, strict=True))


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Geometry of keys and values: a pool is [pages, layers, kv_heads, one page of one head].

    HALF, uint16 [2, head_dim * PAGE_TOKENS], fp16 bits: keys feature-major [head_dim, PAGE_TOKENS], then values
    token-major [PAGE_TOKENS, head_dim].
    INT8, uint8 [(2 * head_dim + 8) * PAGE_TOKENS]: keys [head_dim / 4, PAGE_TOKENS, 4] as code + 128, values int8
    [PAGE_TOKENS / 4, head_dim, 4], then float32 scales of the tokens' keys and of their values, PAGE_TOKENS each.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def supports(self, kind: KvKind) -> bool:
        """Whether keys and values can be of this kind; 8 bits need whole groups of features."""
        return kind is KvKind.HALF or self.head_dim % GROUP == 0

    def pool_shape(self, kind: KvKind, num_pages: int) -> tuple[int, ...]:
        """Shape of a pool of `num_pages` pages; its element type is `kind.dtype`. ValueError if not supported."""
        if kind is KvKind.HALF:
            return (num_pages, self.num_layers, self.num_kv_heads, 2, self.head_dim * PAGE_TOKENS)
        if not self.supports(kind):
            raise ValueError(f"head_dim: {self.head_dim} is no multiple of {GROUP}, which 8-bit keys and values need")
        return (num_pages, self.num_layers, self.num_kv_heads, (2 * self.head_dim + 8) * PAGE_TOKENS)

    def page_bytes(self, kind: KvKind) -> int:
        """Bytes of one page over all layers."""
        return math.prod(self.pool_shape(kind, 1)) * (2 if kind is KvKind.HALF else 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A recorded forward pass; `output` is the F32 buffer [R, width] that a step gives: logits, which the sampler
    reads, hidden states or scores.

    `is_whole`: tokens see those that follow, so that a sequence is computed whole in one step, from context 0, and
    nothing is kept: its pages, of `cache` as ever, are scratch that the next step may give to others.
    """

    buffers: tuple[Buffer, ...]
    matrices: tuple[MatrixSpec, ...]
    vectors: tuple[VectorSpec, ...]
    ops: tuple[Op, ...]
    cache: CacheShape
    vocab_size: int
    max_positions: int
    output: int
    is_whole: bool = False


def padded(size: int, multiple: int = GROUP) -> int:
    """`size` rounded up to a multiple."""
    return -(-size // multiple) * multiple


@dataclass(slots=True)
class Recorder:
    """Collects a plan. Each method named after an op records it and returns its output buffer."""

    cache: CacheShape
    vocab_size: int
    max_positions: int
    buffers: list[Buffer] = field(default_factory=list)
    matrices: dict[str, MatrixSpec] = field(default_factory=dict)
    vectors: dict[str, VectorSpec] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    def buffer(self, name: str, width: int, kind: BufferKind = BufferKind.F32, rows: Rows = Rows.TOKENS) -> Buffer:
        """Return the buffer of that name, declaring it on first use (buffers are reused from layer to layer)."""
        if kind is BufferKind.Q8:
            width = padded(width)
        for known in self.buffers:
            if known.name == name:
                if (known.width, known.kind, known.rows) != (width, kind, rows):
                    raise ValueError(f"buffer {name!r} is declared twice with different shapes")
                return known
        self.buffers.append(Buffer(len(self.buffers), name, kind, width, rows))
        return self.buffers[-1]

    def matrix(
        self,
        name: str,
        rows: int,
        cols: int,
        *parts: str,
        layout: str = "concat",
        rotates: bool = False,
        num_experts: int = 0,
    ) -> MatrixSpec:
        """Declare a matrix made of checkpoint tensors; the same name again returns the same matrix (tied heads)."""
        spec = MatrixSpec(len(self.matrices), name, rows, cols, parts or (name,), layout, rotates, num_experts)
        return self.matrices.setdefault(name, spec)

    def vector(
        self, name: str, *shape: int, parts: tuple[str, ...] | None = None, offset: float = 0.0, scale: float = 1.0
    ) -> VectorSpec:
        """Declare float32 values; `parts=()` says that the model file computes them."""
        spec = VectorSpec(len(self.vectors), name, shape, (name,) if parts is None else parts, offset, scale)
        return self.vectors.setdefault(name, spec)

    def _record(self, kind: OpKind, *ints: int, floats: tuple[float, ...] = ()) -> None:
        int_names, float_names = SIGNATURES[kind]
        if len(ints) != len(int_names) or len(floats) != len(float_names):
            raise ValueError(f"{kind.name} takes {int_names} and {float_names}, got {ints} and {floats}")
        self.ops.append(Op(kind, tuple(int(value) for value in ints), tuple(float(value) for value in floats)))

    def embed(self, table: MatrixSpec, out: Buffer, scale: float = 1.0) -> Buffer:
        """out[N, D] = scale * table[token]."""
        self._record(OpKind.EMBED, table.index, out.index, floats=(scale,))
        return out

    def rms_norm(self, x: Buffer, weight: VectorSpec, out: Buffer, eps: float) -> Buffer:
        """out = rms_norm(x) * weight, quantised if `out` is Q8."""
        self._record(OpKind.RMS_NORM, x.index, weight.index, out.index, floats=(eps,))
        return out

    def layer_norm(self, x: Buffer, weight: VectorSpec, bias: VectorSpec, out: Buffer, eps: float) -> Buffer:
        """out = layer_norm(x) * weight + bias, quantised if `out` is Q8; `out` may be `x`."""
        self._record(OpKind.LAYER_NORM, x.index, weight.index, bias.index, out.index, floats=(eps,))
        return out

    def pointwise(self, x: Buffer, out: Buffer, activation: Activation) -> Buffer:
        """out = activation(x), quantised if `out` is Q8; `out` may be `x`."""
        self._record(OpKind.POINTWISE, x.index, out.index, activation)
        return out

    def rotate(self, x: Buffer, out: Buffer) -> Buffer:
        """out(Q8) = x, which is whole groups wide, for matrices that rotate.

        A rotation of both leaves their products as they were. Where a few features of some tokens are far larger than
        the rest, as in post-norm encoders, it spreads them over their group, whose one scale then serves all of it
        (QuaRot, arXiv 2404.00456).
        """
        self._record(OpKind.ROTATE, x.index, out.index)
        return out

    def position(self, table: VectorSpec, out: Buffer, offset: int = 0) -> Buffer:
        """out[N, D] += table[offset + position]; `table` is [at least offset + max_positions, D]."""
        self._record(OpKind.POSITION, table.index, offset, out.index)
        return out

    def segment(self, table: VectorSpec, out: Buffer) -> Buffer:
        """out[N, D] += table[segment]; `table` is [segments, D]."""
        self._record(OpKind.SEGMENT, table.index, out.index)
        return out

    def quantize(self, x: Buffer, out: Buffer) -> Buffer:
        """out(Q8) = x."""
        self._record(OpKind.QUANTIZE, x.index, out.index)
        return out

    def head_norm(
        self, x: Buffer, weight: VectorSpec, offset: int, num_heads: int, eps: float, head_dim: int | None = None
    ) -> Buffer:
        """RMS norm of each head in place (QK-norm); `head_dim` where it is not the cache's: all heads as one."""
        width = head_dim or self.cache.head_dim
        self._record(OpKind.HEAD_NORM, x.index, weight.index, offset, num_heads, width, floats=(eps,))
        return x

    def rope(
        self, x: Buffer, table: VectorSpec, offset: int, num_heads: int, rotary_dim: int, style: RopeStyle
    ) -> Buffer:
        """Rotate `num_heads` heads in place; `table` is [max_positions, rotary_dim]: cosines, then sines."""
        self._record(OpKind.ROPE, x.index, table.index, offset, num_heads, self.cache.head_dim, rotary_dim, style)
        return x

    def hadamard(self, x: Buffer, offset: int, num_heads: int) -> Buffer:
        """Rotate heads in place by the orthonormal Walsh-Hadamard matrix, if head_dim is a power of two.

        Done to queries and keys alike it leaves their products as they were, and spreads what a few features of a key
        hold over all of them, so that one scale per key serves 8-bit codes better (QuaRot, arXiv 2404.00456). It is
        no part of any model, so that heads of other sizes do without.
        """
        if self.cache.head_dim & (self.cache.head_dim - 1):
            return x
        self._record(OpKind.HADAMARD, x.index, offset, num_heads, self.cache.head_dim)
        return x

    def store_kv(self, x: Buffer, layer: int, k_offset: int, v_offset: int) -> None:
        """Write keys and values (all KV heads, from these feature offsets) into the pages."""
        self._record(OpKind.STORE_KV, x.index, layer, k_offset, v_offset)

    def linear(
        self, x: Buffer, matrix: MatrixSpec, out: Buffer, bias: VectorSpec | None = None, *, accumulate: bool = False
    ) -> Buffer:
        """out = x @ matrix^T + bias, or added to out."""
        bias_index = -1 if bias is None else bias.index
        self._record(OpKind.LINEAR, x.index, matrix.index, bias_index, out.index, int(accumulate))
        return out

    def gated(self, x: Buffer, matrix: MatrixSpec, out: Buffer, activation: Activation) -> Buffer:
        """out = activation(gate) * up."""
        self._record(OpKind.GATED, x.index, matrix.index, out.index, activation)
        return out

    def route(self, x: Buffer, weight: VectorSpec, out: Buffer, *, renormalise: bool) -> Buffer:
        """out[n] = numbers of the k experts of row n, most probable first, then their probabilities.

        x: float32 [n, D]; weight [experts, D]; k is half of out's width. Probabilities are a softmax over all experts;
        `renormalise` divides them by their sum, which is a softmax over the chosen ones (Mixtral, arXiv 2401.04088).
        In float32 throughout: a router is small, and an expert chosen wrongly costs more than its bytes.
        """
        self._record(OpKind.ROUTE, x.index, weight.index, out.index, renormalise)
        return out

    def experts(
        self,
        x: Buffer,
        route: Buffer,
        matrices: tuple[MatrixSpec, MatrixSpec],
        out: Buffer,
        activation: Activation,
        *,
        accumulate: bool = False,
    ) -> Buffer:
        """out = sum of probability * (activation(gate) * up) @ down^T over a row's experts, or added to out.

        matrices: gates and ups of all experts below each other, then all downs; see `MatrixSpec.num_experts`.
        """
        both, down = matrices
        if both.num_experts != down.num_experts:
            raise ValueError(f"{both.name!r} holds {both.num_experts} experts and {down.name!r} {down.num_experts}")
        ints = (x.index, route.index, both.index, down.index, out.index, both.num_experts, accumulate, activation)
        self._record(OpKind.EXPERTS, *ints)
        return out

    def add_gated(self, x: Buffer, weight: VectorSpec, y: Buffer, out: Buffer) -> Buffer:
        """Out += sigmoid(x . weight) * y, a row at a time."""
        self._record(OpKind.ADD_GATED, x.index, weight.index, y.index, out.index)
        return out

    def activated(
        self,
        x: Buffer,
        matrix: MatrixSpec,
        out: Buffer,
        bias: VectorSpec | None,
        activation: Activation,
        *,
        rotates: bool = False,
    ) -> Buffer:
        """out = activation(x @ matrix^T + bias), rotated for a matrix that rotates; rows come in groups of 32.

        In one pass, so that what is several times as wide as hidden states is never written in float32.
        """
        bias_index = -1 if bias is None else bias.index
        self._record(OpKind.ACTIVATED, x.index, matrix.index, bias_index, out.index, activation, int(rotates))
        return out

    def attention(  # noqa: PLR0913 - keyword-only beyond five, and each is an operand
        self,
        x: Buffer,
        out: Buffer,
        layer: int,
        num_heads: int,
        scale: float,
        *,
        mode: AttentionMode = AttentionMode.CAUSAL,
        window: int = 0,
        softcap: float = 0.0,
    ) -> Buffer:
        """Attend with the queries at the start of `x`'s rows; `window` counts keys including the query's own."""
        self._record(OpKind.ATTENTION, x.index, out.index, layer, 0, num_heads, mode, window, floats=(scale, softcap))
        return out

    def softcap(self, x: Buffer, cap: float) -> Buffer:
        """X = cap * tanh(x / cap) in place: values stay within (-cap, cap) (Gemma 2)."""
        self._record(OpKind.SOFTCAP, x.index, floats=(cap,))
        return x

    def add(self, x: Buffer, out: Buffer) -> Buffer:
        """Out += x."""
        self._record(OpKind.ADD, x.index, out.index)
        return out

    def select(self, x: Buffer, out: Buffer) -> Buffer:
        """Keep the rows that need logits."""
        self._record(OpKind.SELECT, x.index, out.index)
        return out

    def finish(self, output: Buffer, *, is_whole: bool = False) -> Plan:
        """Freeze what was recorded."""
        return Plan(
            buffers=tuple(self.buffers),
            matrices=tuple(self.matrices.values()),
            vectors=tuple(self.vectors.values()),
            ops=tuple(self.ops),
            cache=self.cache,
            vocab_size=self.vocab_size,
            max_positions=self.max_positions,
            output=output.index,
            is_whole=is_whole,
        )
