"""The Llama family: Llama 2 and 3, SmolLM, TinyLlama, Mistral; and the decoder that its siblings Qwen2 and Qwen3 share.

    h = embed(tokens)
    per layer:  h += attention(rope(norm(h) Wq), rope(norm(h) Wk), norm(h) Wv) Wo
                h += (silu(norm(h) Wgate) * norm(h) Wup) Wdown
    logits = norm(h) Whead

The forward pass is written once against symbolic buffers (`record`). q, k and v are one matrix, gate and up another.
Knows names and metadata of both file formats; knows no bytes, no kernels, no requests. What a file asks for and this
file does not do is refused by field and value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
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
from headrace.models import rope
from headrace.models.checkpoint import Checkpoint
from headrace.models.fields import Fields

MAX_LAYERS = 1024
"""More is a corrupt file; it keeps a bad number from allocating."""

ROLES: Mapping[str, Mapping[str, str]] = {
    # role: tensor name; `{}` is the layer
    "gguf": {
        "embed": "token_embd.weight",
        "final_norm": "output_norm.weight",
        "head": "output.weight",
        "attention_norm": "blk.{}.attn_norm.weight",
        "q": "blk.{}.attn_q.weight",
        "k": "blk.{}.attn_k.weight",
        "v": "blk.{}.attn_v.weight",
        "o": "blk.{}.attn_output.weight",
        "q_bias": "blk.{}.attn_q.bias",
        "k_bias": "blk.{}.attn_k.bias",
        "v_bias": "blk.{}.attn_v.bias",
        "o_bias": "blk.{}.attn_output.bias",
        "q_norm": "blk.{}.attn_q_norm.weight",
        "k_norm": "blk.{}.attn_k_norm.weight",
        "ffn_norm": "blk.{}.ffn_norm.weight",
        "gate": "blk.{}.ffn_gate.weight",
        "up": "blk.{}.ffn_up.weight",
        "down": "blk.{}.ffn_down.weight",
    },
    "safetensors": {
        "embed": "model.embed_tokens.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
        "attention_norm": "model.layers.{}.input_layernorm.weight",
        "q": "model.layers.{}.self_attn.q_proj.weight",
        "k": "model.layers.{}.self_attn.k_proj.weight",
        "v": "model.layers.{}.self_attn.v_proj.weight",
        "o": "model.layers.{}.self_attn.o_proj.weight",
        "q_bias": "model.layers.{}.self_attn.q_proj.bias",
        "k_bias": "model.layers.{}.self_attn.k_proj.bias",
        "v_bias": "model.layers.{}.self_attn.v_proj.bias",
        "o_bias": "model.layers.{}.self_attn.o_proj.bias",
        "q_norm": "model.layers.{}.self_attn.q_norm.weight",
        "k_norm": "model.layers.{}.self_attn.k_norm.weight",
        "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
        "gate": "model.layers.{}.mlp.gate_proj.weight",
        "up": "model.layers.{}.mlp.up_proj.weight",
        "down": "model.layers.{}.mlp.down_proj.weight",
    },
}

FOREIGN: Mapping[str, tuple[str, ...]] = {
    # tensors of first layers that change the result and that this decoder does not read
    "gguf": (
        "blk.{}.ffn_gate.bias",
        "blk.{}.ffn_up.bias",
        "blk.{}.ffn_down.bias",
        "blk.{}.ffn_gate_inp.weight",
        "blk.{}.attn_post_norm.weight",
        "blk.{}.post_attention_norm.weight",
        "blk.{}.attn_sinks.weight",
        "blk.{}.attn_norm.bias",
        "output.bias",
    ),
    "safetensors": (
        "model.layers.{}.mlp.gate_proj.bias",
        "model.layers.{}.mlp.up_proj.bias",
        "model.layers.{}.mlp.down_proj.bias",
        "model.layers.{}.block_sparse_moe.gate.weight",
        "lm_head.bias",
    ),
}

ACTIVATIONS = {"silu": Activation.SILU, "swish": Activation.SILU, "gelu_pytorch_tanh": Activation.GELU_TANH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the forward pass depends on. `windows` holds, per layer, the keys a query may see (0: all before it)."""

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
    rope: rope.Rope
    rope_style: RopeStyle
    windows: tuple[int, ...]
    activation: Activation = Activation.SILU
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_head_norm: bool = False

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
    plan = Recorder(
        cache=CacheShape(config.num_layers, config.num_kv_heads, config.head_dim),
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
    )
    table = plan.matrix(config.names["embed"], config.vocab_size, config.hidden)
    rotation = plan.vector("rope", config.max_positions, config.rope.rotary_dim, parts=())
    hidden = plan.embed(table, plan.buffer("hidden", config.hidden))
    for layer in range(config.num_layers):
        _attention(plan, config, layer, hidden, rotation)
        if layer == config.num_layers - 1:  # from here on only the rows that need logits are read
            hidden = plan.select(hidden, plan.buffer("last hidden", config.hidden, rows=Rows.SELECTED))
        _feed_forward(plan, config, layer, hidden)
    weight = plan.vector(config.names["final_norm"], config.hidden)
    normed = _normed(plan, config, hidden, weight)
    head = table if config.is_tied else plan.matrix(config.names["head"], config.vocab_size, config.hidden)
    return plan.finish(plan.linear(normed, head, plan.buffer("logits", config.vocab_size, rows=Rows.SELECTED)))


def _normed(plan: Recorder, config: Config, hidden: Buffer, weight: VectorSpec) -> Buffer:
    name = "normed" if hidden.rows is Rows.TOKENS else "last normed"
    normed = plan.buffer(name, config.hidden, BufferKind.Q8, hidden.rows)
    return plan.rms_norm(hidden, weight, normed, config.norm_eps)


def _attention(plan: Recorder, config: Config, layer: int, hidden: Buffer, rotation: VectorSpec) -> None:
    def name(role: str) -> str:
        return config.names[role].format(layer)

    normed = _normed(plan, config, hidden, plan.vector(name("attention_norm"), config.hidden))
    k_offset, v_offset = config.q_width, config.q_width + config.kv_width
    width = config.q_width + 2 * config.kv_width
    matrix = plan.matrix(f"layer {layer} qkv", width, config.hidden, name("q"), name("k"), name("v"))
    bias = None
    if config.has_qkv_bias:
        bias = plan.vector(f"layer {layer} qkv bias", width, parts=(name("q_bias"), name("k_bias"), name("v_bias")))
    qkv = plan.linear(normed, matrix, plan.buffer("qkv", width), bias)
    if config.has_head_norm:
        plan.head_norm(qkv, plan.vector(name("q_norm"), config.head_dim), 0, config.num_heads, config.norm_eps)
        plan.head_norm(
            qkv, plan.vector(name("k_norm"), config.head_dim), k_offset, config.num_kv_heads, config.norm_eps
        )
    plan.rope(qkv, rotation, 0, config.num_heads, config.rope.rotary_dim, config.rope_style)
    plan.rope(qkv, rotation, k_offset, config.num_kv_heads, config.rope.rotary_dim, config.rope_style)
    plan.hadamard(qkv, 0, config.num_heads + config.num_kv_heads)
    plan.store_kv(qkv, layer, k_offset, v_offset)

    mixed = plan.buffer("mixed", config.q_width, BufferKind.Q8)
    # Kernels quantise in place of writing float32 only where a head is made of whole groups.
    direct = mixed if config.head_dim % GROUP == 0 else plan.buffer("mixed f32", config.q_width)
    window = config.windows[layer]
    plan.attention(
        qkv,
        direct,
        layer,
        config.num_heads,
        config.head_dim**-0.5,
        mode=AttentionMode.WINDOW if window else AttentionMode.CAUSAL,
        window=window,
    )
    if direct is not mixed:
        plan.quantize(direct, mixed)
    output_bias = plan.vector(name("o_bias"), config.hidden) if config.has_output_bias else None
    plan.linear(mixed, plan.matrix(name("o"), config.hidden, config.q_width), hidden, output_bias, accumulate=True)


def _feed_forward(plan: Recorder, config: Config, layer: int, hidden: Buffer) -> None:
    def name(role: str) -> str:
        return config.names[role].format(layer)

    normed = _normed(plan, config, hidden, plan.vector(name("ffn_norm"), config.hidden))
    rows = 2 * padded(config.feed_forward)
    both = plan.matrix(f"layer {layer} gate up", rows, config.hidden, name("gate"), name("up"), layout="interleave")
    inner_name = "inner" if hidden.rows is Rows.TOKENS else "last inner"
    inner = plan.buffer(inner_name, config.feed_forward, BufferKind.Q8, hidden.rows)
    plan.gated(normed, both, inner, config.activation)
    down = plan.matrix(name("down"), config.hidden, config.feed_forward)
    plan.linear(inner, down, hidden, accumulate=True)


def computed_vectors(config: Config) -> dict[str, NDArray[np.float32]]:
    """The values of the plan's vectors that no tensor of the file holds."""
    return {"rope": rope.table(config.rope, config.max_positions)}


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Family:
    """In what siblings differ. `qkv_bias` None: the file says whether attention has biases (output included)."""

    gguf_style: RopeStyle
    qkv_bias: bool | None = None
    head_norm: bool = False
    default_head_dim: int | None = None  # where config.json states none; None: hidden size / heads
    window: str = "never"  # key of WINDOWS


LLAMA = Family(RopeStyle.ADJACENT)
MISTRAL = Family(RopeStyle.ADJACENT, qkv_bias=False, window="always")


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Llama file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    return read_family(checkpoint, max_context, LLAMA)


def read_mistral_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """As `read_config`, for files whose every layer may have a sliding window."""
    return read_family(checkpoint, max_context, MISTRAL)


def read_family(checkpoint: Checkpoint, max_context: int | None, family: Family) -> Config:
    """As `read_config`, for a sibling."""
    if checkpoint.format == "gguf":
        config = _read_gguf(checkpoint, max_context, family)
    else:
        config = _read_folder(checkpoint, max_context, family)
    _check_tensors(checkpoint, config)
    return config


def _read_gguf(checkpoint: Checkpoint, max_context: int | None, family: Family) -> Config:
    names = ROLES["gguf"]
    fields = Fields(checkpoint.metadata, f"{checkpoint.metadata['general.architecture']}.")
    fields.refuse("expert_count", 0)
    fields.refuse("attention.causal", True)
    for key in ("logit_scale", "residual_scale", "embedding_scale", "attention.scale"):
        fields.refuse(key, 0.0)
    hidden = fields.integer("embedding_length")
    num_heads, num_kv_heads = heads_of(fields, "attention.head_count", "attention.head_count_kv")
    head_dim = head_dim_of(fields, "attention.key_length", hidden // num_heads)
    fields.refuse("attention.value_length", head_dim)
    divisors = checkpoint.vector("rope_freqs.weight") if "rope_freqs.weight" in checkpoint else None
    num_layers = fields.integer("block_count", high=MAX_LAYERS)
    has_bias = names["q_bias"].format(0) in checkpoint
    max_positions = positions_of(fields.integer("context_length"), max_context)
    return Config(
        names=names,
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward=fields.integer("feed_forward_length"),
        vocab_size=vocab_size_of(checkpoint, names),
        max_positions=max_positions,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        rope=rope.read_gguf(fields, head_dim, divisors),
        rope_style=family.gguf_style,
        windows=_gguf_windows(fields, num_layers, max_positions, family),
        is_tied=names["head"] not in checkpoint,
        has_qkv_bias=has_bias if family.qkv_bias is None else family.qkv_bias,
        has_output_bias=family.qkv_bias is None and names["o_bias"].format(0) in checkpoint,
        has_head_norm=family.head_norm,
    )


def _read_folder(checkpoint: Checkpoint, max_context: int | None, family: Family) -> Config:
    names = ROLES["safetensors"]
    fields = Fields(checkpoint.metadata)
    fields.refuse("quantization_config")
    fields.refuse("mlp_bias", False)
    for key in ("num_experts", "num_local_experts"):
        fields.refuse(key, 0)
    activation = fields.get("hidden_act") or "silu"
    if activation not in ACTIVATIONS:
        raise fields.fault("hidden_act", f"unknown activation; known are {', '.join(ACTIVATIONS)}.")
    hidden = fields.integer("hidden_size")
    num_heads, num_kv_heads = heads_of(fields, "num_attention_heads", "num_key_value_heads")
    head_dim = head_dim_of(fields, "head_dim", family.default_head_dim or hidden // num_heads)
    num_layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
    has_bias = fields.flag("attention_bias", default=False)
    if family.qkv_bias is not None and has_bias:
        raise fields.fault("attention_bias", "not supported by this version for this architecture.")
    max_positions = positions_of(fields.integer("max_position_embeddings"), max_context)
    return Config(
        names=names,
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward=fields.integer("intermediate_size"),
        vocab_size=vocab_size_of(checkpoint, names),
        max_positions=max_positions,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope.read_config(fields, head_dim),
        rope_style=RopeStyle.HALVES,
        windows=WINDOWS[family.window](fields, num_layers, max_positions),
        activation=ACTIVATIONS[activation],
        is_tied=fields.flag("tie_word_embeddings", default=False),
        has_qkv_bias=has_bias if family.qkv_bias is None else family.qkv_bias,
        has_output_bias=has_bias,
        has_head_norm=family.head_norm,
    )


def heads_of(fields: Fields, key: str, kv_key: str) -> tuple[int, int]:
    """Numbers of query heads and of key (or value) heads."""
    num_heads = fields.integer(key)
    num_kv_heads = fields.integer(kv_key, num_heads)
    if num_heads % num_kv_heads:
        raise fields.fault(kv_key, f"{num_heads} query heads cannot share {num_kv_heads} key heads evenly.")
    return num_heads, num_kv_heads


def head_dim_of(fields: Fields, key: str, default: int) -> int:
    """Features of a head."""
    head_dim = fields.integer(key, default)
    if head_dim % 2:
        raise fields.fault(key, f"a head of {head_dim} features; they are rotated in pairs.")
    return head_dim


def positions_of(trained: int, max_context: int | None) -> int:
    """Positions that a program is made for: what was trained, or less where less is asked for."""
    return trained if max_context is None else min(trained, max_context)


def vocab_size_of(checkpoint: Checkpoint, names: Mapping[str, str]) -> int:
    """Rows of the embedding."""
    # The tensor's rows, because metadata often counts only the tokens that the tokenizer knows.
    return checkpoint.shape(names["embed"])[0]


def _gguf_windows(fields: Fields, num_layers: int, max_positions: int, family: Family) -> tuple[int, ...]:
    if family.window == "after_layer":  # the key does not say from which layer on
        fields.refuse("attention.sliding_window", 0)
    window = fields.integer("attention.sliding_window", 0, low=0)  # Mistral: the same in every layer
    return (window if window < max_positions else 0,) * num_layers


def _no_window(fields: Fields, num_layers: int, max_positions: int) -> tuple[int, ...]:
    fields.refuse("layer_types", ["full_attention"] * num_layers)
    return (0,) * num_layers


def _same_window(fields: Fields, num_layers: int, max_positions: int) -> tuple[int, ...]:
    fields.refuse("layer_types")
    # transformers reads a missing field as 4096 and null as no window.
    is_off = "sliding_window" in fields.values and fields.get("sliding_window") is None
    window = 0 if is_off else fields.integer("sliding_window", 4096)
    return (window if window < max_positions else 0,) * num_layers


def _window_after_layer(fields: Fields, num_layers: int, max_positions: int) -> tuple[int, ...]:
    if not fields.flag("use_sliding_window", default=False):
        return _no_window(fields, num_layers, max_positions)
    window, first = fields.integer("sliding_window", 4096), fields.integer("max_window_layers", 28, low=0)
    kinds = fields.get("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or {*kinds} - {"full_attention", "sliding_attention"}:
        raise fields.fault("layer_types", f"{num_layers} entries, full_attention or sliding_attention, are needed.")
    return tuple(window if kind == "sliding_attention" and window < max_positions else 0 for kind in kinds)


WINDOWS = {"never": _no_window, "always": _same_window, "after_layer": _window_after_layer}


def _check_tensors(checkpoint: Checkpoint, config: Config) -> None:
    optional = {
        "q_bias": config.has_qkv_bias,
        "o_bias": config.has_output_bias,
        "q_norm": config.has_head_norm,
    }
    unread = [config.names[role] for role, is_read in optional.items() if not is_read]
    check_tensors(checkpoint, tensor_shapes(config), (*unread, *FOREIGN[checkpoint.format]), config.num_layers)


def check_tensors(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], unread: Sequence[str], num_layers: int
) -> None:
    """Every tensor the plan will ask for exists in its shape, and none exists that would have changed the result."""
    for name, shape in shapes.items():
        if checkpoint.shape(name) != shape:
            raise ModelFileError(f"{name}: shape {checkpoint.shape(name)}, but the metadata asks for {shape}.")
    for pattern in unread:
        for layer in range(num_layers):
            if pattern.format(layer) in checkpoint:
                raise ModelFileError(
                    f"{pattern.format(layer)}: the file holds a tensor that this architecture does not read; "
                    "the answers would be wrong without it."
                )


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the plan reads, by its name in the file."""
    layer_shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": (config.hidden,),
        "q": (config.q_width, config.hidden),
        "k": (config.kv_width, config.hidden),
        "v": (config.kv_width, config.hidden),
        "o": (config.hidden, config.q_width),
        "ffn_norm": (config.hidden,),
        "gate": (config.feed_forward, config.hidden),
        "up": (config.feed_forward, config.hidden),
        "down": (config.hidden, config.feed_forward),
    }
    if config.has_qkv_bias:
        layer_shapes |= {"q_bias": (config.q_width,), "k_bias": (config.kv_width,), "v_bias": (config.kv_width,)}
    if config.has_output_bias:
        layer_shapes["o_bias"] = (config.hidden,)
    if config.has_head_norm:
        layer_shapes |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    shapes: dict[str, tuple[int, ...]] = {
        config.names["embed"]: (config.vocab_size, config.hidden),
        config.names["final_norm"]: (config.hidden,),
    }
    if not config.is_tied:
        shapes[config.names["head"]] = (config.vocab_size, config.hidden)
    for layer in range(config.num_layers):
        shapes |= {config.names[role].format(layer): shape for role, shape in layer_shapes.items()}
    return shapes
