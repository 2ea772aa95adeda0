"""The decoder that families of language models share: its config, its blocks as a recording, the tensors it reads.

A family's `record` says in which order norms, branches and the stream meet, and so reads like the paper; the blocks
themselves (attention, gated feed-forward, head) are recorded here once, against symbolic buffers. q, k and v are one
matrix, gate and up another, however many tensors a file keeps them in. Knows no file format, no metadata (`family`), no
bytes, no kernels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.plan import (
    GROUP,
    Activation,
    AttentionMode,
    Buffer,
    BufferKind,
    CacheShape,
    MatrixSpec,
    Plan,
    Recorder,
    RopeStyle,
    Rows,
    VectorSpec,
    padded,
)
from headrace.models import rope

ROPE = "rope"
"""The table of positions where all layers rotate by one."""

ROPE_SHORT, ROPE_LONG = "short rope", "long rope"
"""Two tables of which one is taken: within the context of the first training, and beyond it."""


class HeadNorm(Enum):
    """Whether queries and keys are normed before they rotate, and over which features."""

    NONE = "none"
    HEAD = "head"  # each head by itself (Qwen3, Gemma 3)
    WIDTH = "width"  # all heads of a token together (OLMo 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the forward pass depends on.

    `names`: tensors by role, `{}` for the layer. `windows`: per layer, the keys a query may see (0: all before it).
    `ropes`: tables by name; `rotations`: which of them each layer rotates by ("": none). `norm_offset` is added to the
    weights of all norms, `final_scale` multiplies those of the last. Caps of 0 are none. Without `is_causal` every
    token sees all others, and there is no head.
    """

    names: Mapping[str, str]
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    query_scale: float
    ropes: Mapping[str, rope.Rope]
    rotations: tuple[str, ...]
    rope_style: RopeStyle
    windows: tuple[int, ...]
    activation: Activation = Activation.SILU
    is_causal: bool = True
    has_head: bool = True
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    head_norm: HeadNorm = HeadNorm.NONE
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    final_scale: float = 1.0
    score_cap: float = 0.0
    logit_cap: float = 0.0

    @property
    def q_width(self) -> int:
        """Features of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key (or value) heads."""
        return self.num_kv_heads * self.head_dim

    def name(self, role: str, layer: int = 0) -> str:
        """The tensor of a role."""
        return self.names[role].format(layer)


class Decoder:
    """One recording: every method adds a block to `plan` and returns the buffer that holds its result.

    Where `config.names` has the roles `qkv` or `gate_up`, one tensor holds what others keep in several.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.plan = Recorder(
            cache=CacheShape(config.num_layers, config.num_kv_heads, config.head_dim),
            vocab_size=config.vocab_size,
            max_positions=config.max_positions,
        )
        self._embedding = self.plan.matrix(config.name("embed"), config.vocab_size, config.hidden)
        if len(config.ropes) == 1:
            self._table(*config.ropes)

    def embed(self) -> Buffer:
        """h = scale * embed(tokens): the stream [N, hidden] in float32."""
        out = self.plan.buffer("hidden", self.config.hidden)
        return self.plan.embed(self._embedding, out, self.config.embedding_scale)

    def norm(self, x: Buffer, role: str, layer: int = 0, kind: BufferKind = BufferKind.Q8) -> Buffer:
        """norm(x), quantised for the products that read it, or in float32."""
        out = self.like(x, "normed" if kind is BufferKind.Q8 else "normed branch", kind=kind)
        scale = self.config.final_scale if role == "final_norm" and self.config.has_head else 1.0
        weight = self._weight(role, layer, self.config.hidden, scale)
        return self.plan.rms_norm(x, weight, out, self.config.norm_eps)

    def quantize(self, x: Buffer) -> Buffer:
        """The stream itself, quantised for the products that read it."""
        return self.plan.quantize(x, self.like(x, "normed", kind=BufferKind.Q8))

    def attend(self, layer: int, x: Buffer, onto: Buffer | None = None) -> Buffer:
        """attention(rope(x Wq), rope(x Wk), x Wv) Wo, added to `onto` or in a buffer of its own."""
        config, plan = self.config, self.plan
        qkv = self._queries_keys_values(layer, x)
        mixed = plan.buffer("mixed", config.q_width, BufferKind.Q8)
        # Kernels quantise in place of writing float32 only where a head is made of whole groups.
        direct = mixed if config.head_dim % GROUP == 0 else plan.buffer("mixed f32", config.q_width)
        window = config.windows[layer]
        causal = AttentionMode.WINDOW if window else AttentionMode.CAUSAL
        plan.attention(
            qkv,
            direct,
            layer,
            config.num_heads,
            config.query_scale,
            mode=causal if config.is_causal else AttentionMode.BIDIRECTIONAL,
            window=window,
            softcap=config.score_cap,
        )
        if direct is not mixed:
            plan.quantize(direct, mixed)
        bias = plan.vector(config.name("o_bias", layer), config.hidden) if config.has_output_bias else None
        matrix = plan.matrix(config.name("o", layer), config.hidden, config.q_width)
        return self.product(mixed, matrix, onto, bias)

    def _queries_keys_values(self, layer: int, x: Buffer) -> Buffer:
        config, plan = self.config, self.plan
        k_offset, v_offset = config.q_width, config.q_width + config.kv_width
        width = config.q_width + 2 * config.kv_width
        parts = [config.name(role, layer) for role in (("qkv",) if "qkv" in config.names else ("q", "k", "v"))]
        matrix = plan.matrix(f"layer {layer} qkv", width, config.hidden, *parts)
        bias = None
        if config.has_qkv_bias:
            biases = tuple(config.name(role, layer) for role in ("q_bias", "k_bias", "v_bias"))
            bias = plan.vector(f"layer {layer} qkv bias", width, parts=biases)
        qkv = plan.linear(x, matrix, plan.buffer("qkv", width), bias)
        places = (("q_norm", 0, config.num_heads), ("k_norm", k_offset, config.num_kv_heads))
        table = self._table(config.rotations[layer]) if config.rotations[layer] else None
        for role, offset, heads in places:
            if config.head_norm is HeadNorm.HEAD:
                weight = self._weight(role, layer, config.head_dim)
                plan.head_norm(qkv, weight, offset, heads, config.norm_eps)
            elif config.head_norm is HeadNorm.WIDTH:
                weight = self._weight(role, layer, heads * config.head_dim)
                plan.head_norm(qkv, weight, offset, 1, config.norm_eps, heads * config.head_dim)
        if table is not None:
            for _, offset, heads in places:
                plan.rope(qkv, table, offset, heads, table.shape[1], config.rope_style)
        plan.hadamard(qkv, 0, config.num_heads + config.num_kv_heads)
        plan.store_kv(qkv, layer, k_offset, v_offset)
        return qkv

    def feed_forward(self, layer: int, x: Buffer, onto: Buffer | None = None) -> Buffer:
        """(act(x Wgate) * x Wup) Wdown, added to `onto` or in a buffer of its own."""
        config, plan = self.config, self.plan
        is_fused = "gate_up" in config.names
        parts = [config.name(role, layer) for role in (("gate_up",) if is_fused else ("gate", "up"))]
        rows, layout = 2 * padded(config.feed_forward), "halves" if is_fused else "interleave"
        both = plan.matrix(f"layer {layer} gate up", rows, config.hidden, *parts, layout=layout)
        inner = self.like(x, "inner", config.feed_forward, BufferKind.Q8)
        plan.gated(x, both, inner, config.activation)
        return self.product(inner, plan.matrix(config.name("down", layer), config.hidden, config.feed_forward), onto)

    def product(self, x: Buffer, matrix: MatrixSpec, onto: Buffer | None, bias: VectorSpec | None = None) -> Buffer:
        """x W^T + b, added to `onto` or in a buffer of its own."""
        if onto is None:
            return self.plan.linear(x, matrix, self.like(x, "branch"), bias)
        return self.plan.linear(x, matrix, onto, bias, accumulate=True)

    def add(self, branch: Buffer, onto: Buffer) -> Buffer:
        """onto += branch."""
        return self.plan.add(branch, onto)

    def add_normed(self, branch: Buffer, role: str, layer: int, onto: Buffer) -> Buffer:
        """onto += norm(branch)."""
        return self.add(self.norm(branch, role, layer, BufferKind.F32), onto)

    def select(self, layer: int, hidden: Buffer) -> Buffer:
        """In the last layer, behind attention: only the rows that give results are read from here on."""
        if layer < self.config.num_layers - 1:
            return hidden
        return self.plan.select(hidden, self.plan.buffer("last hidden", self.config.hidden, rows=Rows.SELECTED))

    def head(self, hidden: Buffer) -> Plan:
        """Logits = norm(h) Whead, capped where the family caps them, or norm(h) alone; the plan is complete."""
        config, plan = self.config, self.plan
        if not config.has_head:
            return plan.finish(self.norm(hidden, "final_norm", kind=BufferKind.F32), is_whole=not config.is_causal)
        x, matrix = self.norm(hidden, "final_norm"), self._embedding
        if not config.is_tied:
            matrix = plan.matrix(config.name("head"), config.vocab_size, config.hidden)
        logits = plan.linear(x, matrix, plan.buffer("logits", config.vocab_size, rows=Rows.SELECTED))
        return plan.finish(plan.softcap(logits, config.logit_cap) if config.logit_cap else logits)

    def like(self, rows_of: Buffer, name: str, width: int | None = None, kind: BufferKind = BufferKind.F32) -> Buffer:
        """A buffer with the rows of another; as wide as the stream where nothing is said."""
        prefix = "" if rows_of.rows is Rows.TOKENS else "last "
        return self.plan.buffer(prefix + name, width or self.config.hidden, kind, rows_of.rows)

    def _weight(self, role: str, layer: int, width: int, scale: float = 1.0) -> VectorSpec:
        return self.plan.vector(self.config.name(role, layer), width, offset=self.config.norm_offset, scale=scale)

    def _table(self, name: str) -> VectorSpec:
        return self.plan.vector(name, self.config.max_positions, self.config.ropes[name].rotary_dim, parts=())


FeedForward = Callable[[Decoder, int, Buffer], None]
"""What a layer does behind attention: takes (decoder, layer, stream) and adds to the stream. Experts go here."""


def computed_vectors(config: Config) -> dict[str, NDArray[np.float32]]:
    """The values of vectors that no tensor of the file holds: those of the plan, and of one for other positions."""
    return {
        name: rope.table(each, min(config.max_positions, each.num_positions or config.max_positions))
        for name, each in config.ropes.items()
    }


# --- tensors ----------------------------------------------------------------------------------------------------------


def layer_shapes(config: Config, layer: int) -> dict[str, tuple[int, ...]]:
    """Shapes by role of what the blocks above read in a layer, and of the norms that the config names."""
    del layer  # all are alike here; a family's own function may tell them apart
    gate_up = dict.fromkeys(("gate", "up"), (config.feed_forward, config.hidden))
    if "gate_up" in config.names:
        gate_up = {"gate_up": (2 * config.feed_forward, config.hidden)}
    down = {"down": (config.hidden, config.feed_forward)}
    return {**norm_shapes(config), **attention_shapes(config), **gate_up, **down}


def norm_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shapes by role of the norms of a layer, before branches and behind them, as far as the family has them."""
    norms = ("attention_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm")
    return {role: (config.hidden,) for role in norms if role in config.names}


def attention_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shapes by role of what attention reads in a layer."""
    widths = {"q": config.q_width, "k": config.kv_width, "v": config.kv_width}
    if "qkv" in config.names:
        widths = {"qkv": config.q_width + 2 * config.kv_width}
    shapes: dict[str, tuple[int, ...]] = {role: (width, config.hidden) for role, width in widths.items()}
    shapes["o"] = (config.hidden, config.q_width)
    if config.has_qkv_bias:
        shapes |= {"q_bias": (config.q_width,), "k_bias": (config.kv_width,), "v_bias": (config.kv_width,)}
    if config.has_output_bias:
        shapes["o_bias"] = (config.hidden,)
    if config.head_norm is HeadNorm.HEAD:
        shapes |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    elif config.head_norm is HeadNorm.WIDTH:
        shapes |= {"q_norm": (config.q_width,), "k_norm": (config.kv_width,)}
    return shapes


def outer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shapes by role of what stands before and behind the layers."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (config.vocab_size, config.hidden),
        "final_norm": (config.hidden,),
    }
    if config.has_head and not config.is_tied:
        shapes["head"] = (config.vocab_size, config.hidden)
    return shapes
