"""Gemma 3, text only: five layers that see a window, then one that sees all ("Gemma 3 Technical Report", 2025).

    h = embed(tokens) * sqrt(hidden size)
    per layer:  h += norm(attention(rope(norm(norm(h) Wq)), rope(norm(norm(h) Wk)), norm(h) Wv) Wo)
                h += norm((gelu(norm(h) Wgate) * norm(h) Wup) Wdown)
    logits = norm(h) Wembed^T

Every branch is normed before and after; query and key heads are normed before they rotate. Local layers rotate with a
base of 10,000, global ones with 1,000,000 and, in larger models, at stretched positions. Norms multiply by one plus a
weight: safetensors hold the weight, GGUF files the sum. Knows names and metadata of both formats; no bytes, no kernels.
What a file asks for and this file does not do is refused by field and value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.plan import (
    GROUP,
    Activation,
    AttentionMode,
    Buffer,
    BufferKind,
    CacheShape,
    Plan,
    Recorder,
    RopeStyle,
    Rows,
    VectorSpec,
    padded,
)
from headrace.models import llama, rope
from headrace.models.checkpoint import Checkpoint
from headrace.models.fields import Fields

ROLES: Mapping[str, Mapping[str, str]] = {
    "gguf": {
        **llama.ROLES["gguf"],
        "post_attention_norm": "blk.{}.post_attention_norm.weight",
        "post_ffn_norm": "blk.{}.post_ffw_norm.weight",
    },
    "safetensors": {
        **llama.ROLES["safetensors"],
        "post_attention_norm": "model.layers.{}.post_attention_layernorm.weight",
        "ffn_norm": "model.layers.{}.pre_feedforward_layernorm.weight",
        "post_ffn_norm": "model.layers.{}.post_feedforward_layernorm.weight",
    },
}

PATTERN = 6
"""Every sixth layer is global where a file does not say."""

LOCAL_THETA, GLOBAL_THETA = 10_000.0, 1_000_000.0

_LAYERS_OF_27B = 62  # the one size whose queries are not scaled by its head's width; GGUF files do not say so


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the forward pass depends on. `is_local` says per layer whether it sees `window` keys (0: all) or all."""

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
    norm_offset: float
    query_scale: float
    is_local: tuple[bool, ...]
    window: int
    local_rope: rope.Rope
    global_rope: rope.Rope
    is_tied: bool = True

    @property
    def q_width(self) -> int:
        """Features of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key (or value) heads."""
        return self.num_kv_heads * self.head_dim


# --- the forward pass -------------------------------------------------------------------------------------------------


def record(config: Config) -> Plan:
    """Describe the forward pass once."""
    return _Recording(config).record()


class _Recording:
    """One pass over the layers, with what all of them share."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.plan = Recorder(
            cache=CacheShape(config.num_layers, config.num_kv_heads, config.head_dim),
            vocab_size=config.vocab_size,
            max_positions=config.max_positions,
        )

    def record(self) -> Plan:
        """The plan."""
        config, plan = self.config, self.plan
        table = plan.matrix(config.names["embed"], config.vocab_size, config.hidden)
        hidden = plan.embed(table, plan.buffer("hidden", config.hidden), math.sqrt(config.hidden))
        for layer in range(config.num_layers):
            self.attend(layer, hidden)
            if layer == config.num_layers - 1:  # from here on only the rows that need logits are read
                hidden = plan.select(hidden, plan.buffer("last hidden", config.hidden, rows=Rows.SELECTED))
            self.feed_forward(layer, hidden)
        normed = self.normed(hidden, config.names["final_norm"])
        head = table if config.is_tied else plan.matrix(config.names["head"], config.vocab_size, config.hidden)
        return plan.finish(plan.linear(normed, head, plan.buffer("logits", config.vocab_size, rows=Rows.SELECTED)))

    def attend(self, layer: int, hidden: Buffer) -> None:
        """h += norm(attention(norm(h)))."""
        config, plan = self.config, self.plan
        normed = self.normed(hidden, self.name("attention_norm", layer))
        k_offset, v_offset = config.q_width, config.q_width + config.kv_width
        width = config.q_width + 2 * config.kv_width
        parts = [self.name(role, layer) for role in ("q", "k", "v")]
        qkv = plan.linear(
            normed, plan.matrix(f"layer {layer} qkv", width, config.hidden, *parts), plan.buffer("qkv", width)
        )
        rotation, used = self.rotation(layer)
        for role, offset, heads in (("q_norm", 0, config.num_heads), ("k_norm", k_offset, config.num_kv_heads)):
            plan.head_norm(qkv, self.weight(self.name(role, layer), config.head_dim), offset, heads, config.norm_eps)
            plan.rope(qkv, rotation, offset, heads, used.rotary_dim, RopeStyle.HALVES)
        plan.hadamard(qkv, 0, config.num_heads + config.num_kv_heads)
        plan.store_kv(qkv, layer, k_offset, v_offset)
        window = config.window if config.is_local[layer] else 0
        mode = AttentionMode.WINDOW if window else AttentionMode.CAUSAL
        mixed = plan.buffer("mixed", config.q_width, BufferKind.Q8)
        # Kernels quantise in place of writing float32 only where a head is made of whole groups.
        direct = mixed if config.head_dim % GROUP == 0 else plan.buffer("mixed f32", config.q_width)
        plan.attention(qkv, direct, layer, config.num_heads, config.query_scale, mode=mode, window=window)
        if direct is not mixed:
            plan.quantize(direct, mixed)
        output = plan.matrix(self.name("o", layer), config.hidden, config.q_width)
        branch = plan.linear(mixed, output, self.like(hidden, "branch"))
        self.add_normed(branch, self.name("post_attention_norm", layer), hidden)

    def feed_forward(self, layer: int, hidden: Buffer) -> None:
        """h += norm((gelu(norm(h) Wgate) * norm(h) Wup) Wdown)."""
        config, plan = self.config, self.plan
        normed = self.normed(hidden, self.name("ffn_norm", layer))
        gate, up = self.name("gate", layer), self.name("up", layer)
        rows = 2 * padded(config.feed_forward)
        both = plan.matrix(f"layer {layer} gate up", rows, config.hidden, gate, up, layout="interleave")
        inner = self.like(hidden, "inner", config.feed_forward, BufferKind.Q8)
        plan.gated(normed, both, inner, Activation.GELU_TANH)
        down = plan.matrix(self.name("down", layer), config.hidden, config.feed_forward)
        branch = plan.linear(inner, down, self.like(hidden, "branch"))
        self.add_normed(branch, self.name("post_ffn_norm", layer), hidden)

    def name(self, role: str, layer: int) -> str:
        """The tensor of a role in a layer."""
        return self.config.names[role].format(layer)

    def weight(self, name: str, width: int) -> VectorSpec:
        """What a norm multiplies by."""
        return self.plan.vector(name, width, offset=self.config.norm_offset)

    def rotation(self, layer: int) -> tuple[VectorSpec, rope.Rope]:
        """The table that a layer rotates by, and what it is made of."""
        kind, used = (
            ("local", self.config.local_rope) if self.config.is_local[layer] else ("global", self.config.global_rope)
        )
        return self.plan.vector(f"{kind} rope", self.config.max_positions, used.rotary_dim, parts=()), used

    def like(self, rows_of: Buffer, name: str, width: int | None = None, kind: BufferKind = BufferKind.F32) -> Buffer:
        """A buffer with the rows of another; as wide as the stream where nothing is said."""
        prefix = "" if rows_of.rows is Rows.TOKENS else "last "
        return self.plan.buffer(prefix + name, width or self.config.hidden, kind, rows_of.rows)

    def normed(self, hidden: Buffer, weight: str) -> Buffer:
        """norm(h), quantised for the products that read it."""
        out = self.like(hidden, "normed", kind=BufferKind.Q8)
        return self.plan.rms_norm(hidden, self.weight(weight, self.config.hidden), out, self.config.norm_eps)

    def add_normed(self, branch: Buffer, weight: str, hidden: Buffer) -> None:
        """h += norm(branch)."""
        out = self.like(hidden, "normed branch")
        self.plan.rms_norm(branch, self.weight(weight, self.config.hidden), out, self.config.norm_eps)
        self.plan.add(out, hidden)


def computed_vectors(config: Config) -> dict[str, NDArray[np.float32]]:
    """The values of the plan's vectors that no tensor of the file holds."""
    tables = {}
    if any(config.is_local):
        tables["local rope"] = rope.table(config.local_rope, config.max_positions)
    if not all(config.is_local):
        tables["global rope"] = rope.table(config.global_rope, config.max_positions)
    return tables


# --- reading ----------------------------------------------------------------------------------------------------------


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Gemma 3 file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    config = (_read_gguf if checkpoint.format == "gguf" else _read_folder)(checkpoint, max_context)
    biases = [config.names[role] for role in ("q_bias", "k_bias", "v_bias", "o_bias")]
    foreign = [name for name in llama.FOREIGN[checkpoint.format] if name not in config.names.values()]
    llama.check_tensors(checkpoint, tensor_shapes(config), (*biases, *foreign), config.num_layers)
    return config


def _read_gguf(checkpoint: Checkpoint, max_context: int | None) -> Config:
    names = ROLES["gguf"]
    fields = Fields(checkpoint.metadata, "gemma3.")
    fields.refuse("expert_count", 0)
    fields.refuse("attention.causal", True)
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "attention.scale"):
        fields.refuse(key, 0.0)
    num_heads, num_kv_heads = llama.heads_of(fields, "attention.head_count", "attention.head_count_kv")
    hidden, num_layers = fields.integer("embedding_length"), fields.integer("block_count", high=llama.MAX_LAYERS)
    head_dim = llama.head_dim_of(fields, "attention.key_length", 256)
    fields.refuse("attention.value_length", head_dim)
    window = fields.integer("attention.sliding_window", 0, low=0)
    period = fields.integer("attention.sliding_window_pattern", PATTERN)
    global_rope = rope.read_gguf(fields, head_dim, None)
    local_theta = fields.number("rope.freq_base_swa", LOCAL_THETA)
    return Config(
        names=names,
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward=fields.integer("feed_forward_length"),
        vocab_size=llama.vocab_size_of(checkpoint, names),
        max_positions=llama.positions_of(fields.integer("context_length"), max_context),
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        norm_offset=0.0,
        query_scale=(hidden // num_heads if num_layers == _LAYERS_OF_27B else head_dim) ** -0.5,
        # Without a window every layer is global, as llama.cpp reads such a file.
        is_local=tuple(window > 0 and (layer + 1) % period > 0 for layer in range(num_layers)),
        window=window,
        local_rope=rope.Rope(theta=local_theta, rotary_dim=global_rope.rotary_dim),
        global_rope=replace(global_rope, theta=fields.number("rope.freq_base", GLOBAL_THETA)),
        is_tied=names["head"] not in checkpoint,
    )


def _read_folder(checkpoint: Checkpoint, max_context: int | None) -> Config:
    names = ROLES["safetensors"]
    fields = Fields(checkpoint.metadata)
    fields.refuse("quantization_config")
    fields.refuse("attention_bias", False)
    fields.refuse("use_bidirectional_attention", False)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        fields.refuse(key, 0.0)
    fields.refuse("hidden_activation", "gelu_pytorch_tanh")
    num_heads, num_kv_heads = llama.heads_of(fields, "num_attention_heads", "num_key_value_heads")
    head_dim = llama.head_dim_of(fields, "head_dim", 256)
    num_layers = fields.integer("num_hidden_layers", high=llama.MAX_LAYERS)
    return Config(
        names=names,
        num_layers=num_layers,
        hidden=fields.integer("hidden_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward=fields.integer("intermediate_size"),
        vocab_size=llama.vocab_size_of(checkpoint, names),
        max_positions=llama.positions_of(fields.integer("max_position_embeddings"), max_context),
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        norm_offset=1.0,
        query_scale=fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        is_local=_local_layers(fields, num_layers),
        window=fields.integer("sliding_window"),
        local_rope=_rope_of(fields, "sliding_attention", head_dim),
        global_rope=_rope_of(fields, "full_attention", head_dim),
        is_tied=fields.flag("tie_word_embeddings", default=True),
    )


def _local_layers(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    kinds = fields.get("layer_types")
    if kinds is None:
        period = fields.integer("sliding_window_pattern", PATTERN)
        return tuple((layer + 1) % period > 0 for layer in range(num_layers))
    if not isinstance(kinds, list) or len(kinds) != num_layers or {*kinds} - {"full_attention", "sliding_attention"}:
        raise fields.fault("layer_types", f"{num_layers} entries, full_attention or sliding_attention, are needed.")
    return tuple(kind == "sliding_attention" for kind in kinds)


def _rope_of(fields: Fields, kind: str, head_dim: int) -> rope.Rope:
    """Rope of one kind of layer: out of an object for each kind, or the older fields `rope_theta` and its like."""
    stated = fields.get("rope_parameters")
    is_local = kind == "sliding_attention"
    if stated is None:
        theta = fields.get("rope_local_base_freq" if is_local else "rope_theta")
        own = {"rope_theta": theta, "rope_scaling": None if is_local else fields.get("rope_scaling")}
    elif isinstance(stated, dict) and all(isinstance(each, dict) for each in stated.values()):
        own = {"rope_theta": None, "rope_scaling": None, "rope_parameters": stated.get(kind)}
    else:
        raise fields.fault("rope_parameters", "one object for full_attention and one for sliding_attention are needed.")
    if own["rope_theta"] is None:
        own["rope_theta"] = LOCAL_THETA if is_local else GLOBAL_THETA
    return rope.read_config(Fields({**fields.values, **own}), head_dim)


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the plan reads, by its name in the file."""
    stream, head = (config.hidden,), (config.head_dim,)
    layer_shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": stream,
        "q": (config.q_width, config.hidden),
        "k": (config.kv_width, config.hidden),
        "v": (config.kv_width, config.hidden),
        "q_norm": head,
        "k_norm": head,
        "o": (config.hidden, config.q_width),
        "post_attention_norm": stream,
        "ffn_norm": stream,
        "gate": (config.feed_forward, config.hidden),
        "up": (config.feed_forward, config.hidden),
        "down": (config.hidden, config.feed_forward),
        "post_ffn_norm": stream,
    }
    shapes: dict[str, tuple[int, ...]] = {
        config.names["embed"]: (config.vocab_size, config.hidden),
        config.names["final_norm"]: stream,
    }
    if not config.is_tied:
        shapes[config.names["head"]] = (config.vocab_size, config.hidden)
    for layer in range(config.num_layers):
        shapes |= {config.names[role].format(layer): shape for role, shape in layer_shapes.items()}
    return shapes
