"""What files of a family say: names of fields and tensors in both formats, and what is refused.

`read` gives the config that all families share, out of GGUF metadata or a `config.json`; a family file puts in what is
its own and hands it to `checked`, which compares the file's tensors with it. Knows no forward pass, no bytes, no
kernels. What a file asks for and nobody here reads is refused by field and value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import Activation, RopeStyle
from headrace.models import rope
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import ROPE, ROPE_LONG, ROPE_SHORT, Config, HeadNorm, layer_shapes, outer_shapes
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

FUSED: Mapping[str, Mapping[str, str]] = {
    # in place of q, k, v and of gate, up: one tensor each
    "gguf": {"qkv": "blk.{}.attn_qkv.weight", "gate_up": "blk.{}.ffn_up.weight"},
    "safetensors": {
        "qkv": "model.layers.{}.self_attn.qkv_proj.weight",
        "gate_up": "model.layers.{}.mlp.gate_up_proj.weight",
    },
}

SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"

NORMED_BRANCHES: Mapping[str, Mapping[str, str]] = {
    # what families add that norm a branch before it joins the stream
    "gguf": {
        "post_attention_norm": "blk.{}.post_attention_norm.weight",
        "post_ffn_norm": "blk.{}.post_ffw_norm.weight",
    },
    "safetensors": {
        "post_attention_norm": "model.layers.{}.post_attention_layernorm.weight",
        "post_ffn_norm": "model.layers.{}.post_feedforward_layernorm.weight",
    },
}

FOREIGN: Mapping[str, tuple[str, ...]] = {
    # further tensors that change the result; a family reads those that it gives a role, the others are refused
    "gguf": (
        "blk.{}.ffn_gate.bias",
        "blk.{}.ffn_up.bias",
        "blk.{}.ffn_down.bias",
        "blk.{}.ffn_gate_inp.weight",
        "blk.{}.ffn_gate_shexp.weight",
        "blk.{}.ffn_gate_inp_shexp.weight",
        "blk.{}.ffn_gate_exps.bias",
        "blk.{}.exp_probs_b.bias",
        "blk.{}.attn_qkv.bias",
        "blk.{}.attn_post_norm.weight",
        "blk.{}.attn_sinks.weight",
        "blk.{}.attn_norm.bias",
        "cls.weight",
        "cls.output.weight",
        "output_norm.bias",
        "output.bias",
    ),
    "safetensors": (
        "model.layers.{}.mlp.gate_proj.bias",
        "model.layers.{}.mlp.up_proj.bias",
        "model.layers.{}.mlp.down_proj.bias",
        "model.layers.{}.mlp.gate.weight",
        "model.layers.{}.mlp.gate.e_score_correction_bias",
        "model.layers.{}.mlp.shared_expert.gate_proj.weight",
        "model.layers.{}.mlp.shared_expert_gate.weight",
        "model.layers.{}.block_sparse_moe.gate.weight",
        "model.layers.{}.pre_feedforward_layernorm.weight",
        "model.layers.{}.self_attn.sinks",
        "model.norm.bias",
        "lm_head.bias",
        "score.weight",
    ),
}

HARMLESS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    # fields that change the result, and the values that say nothing; a family reads those that `Family.reads` names
    "gguf": {
        "expert_count": (0,),
        "attention.scale": (0.0,),
        "logit_scale": (0.0,),
        "residual_scale": (0.0,),
        "embedding_scale": (0.0,),
        "attn_logit_softcapping": (0.0,),
        "final_logit_softcapping": (0.0,),
    },
    "safetensors": {
        "quantization_config": (),
        "mlp_bias": (False,),
        "num_experts": (0,),
        "num_local_experts": (0,),
        "attn_logit_softcapping": (0.0,),
        "final_logit_softcapping": (0.0,),
        "use_bidirectional_attention": (False,),
    },
}

_KEYS: Mapping[str, Mapping[str, str]] = {
    "gguf": {
        "num_layers": "block_count",
        "hidden": "embedding_length",
        "num_heads": "attention.head_count",
        "num_kv_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "feed_forward": "feed_forward_length",
        "max_positions": "context_length",
    },
    "safetensors": {
        "num_layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "num_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "feed_forward": "intermediate_size",
        "max_positions": "max_position_embeddings",
    },
}

_PREFIX = "model."

ACTIVATIONS = {"silu": Activation.SILU, "swish": Activation.SILU, "gelu_pytorch_tanh": Activation.GELU_TANH}

C = TypeVar("C", bound=Config)


# --- windows: keys that a query may see, by layer ---------------------------------------------------------------------


def no_window(fields: Fields, num_layers: int) -> tuple[int, ...]:
    """Every layer sees all; a config.json may say so in its `layer_types`."""
    fields.refuse("layer_types", ["full_attention"] * num_layers)
    return (0,) * num_layers


def same_window(fields: Fields, num_layers: int) -> tuple[int, ...]:
    """One window in all layers (Mistral)."""
    fields.refuse("layer_types")
    # transformers reads a missing field as 4096 and null as no window.
    is_off = "sliding_window" in fields.values and fields.get("sliding_window") is None
    return (0 if is_off else fields.integer("sliding_window", 4096),) * num_layers


def window_after_layer(fields: Fields, num_layers: int) -> tuple[int, ...]:
    """Layers from `max_window_layers` on have a window where `use_sliding_window` is on (Qwen)."""
    if not fields.flag("use_sliding_window", default=False):
        return no_window(fields, num_layers)
    window, first = fields.integer("sliding_window", 4096), fields.integer("max_window_layers", 28, low=0)
    is_local = local_layers(fields, num_layers)
    return tuple(
        window if (layer >= first if is_local is None else is_local[layer]) else 0 for layer in range(num_layers)
    )


def local_layers(fields: Fields, num_layers: int) -> tuple[bool, ...] | None:
    """Which layers have a window, as `layer_types` says it; None where nothing is said."""
    kinds = fields.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != num_layers or {*kinds} - {"full_attention", "sliding_attention"}:
        raise fields.fault("layer_types", f"{num_layers} entries, full_attention or sliding_attention, are needed.")
    return tuple(kind == "sliding_attention" for kind in kinds)


def same_gguf_window(fields: Fields, num_layers: int) -> tuple[int, ...]:
    """One window in all layers, if any."""
    return (fields.integer("attention.sliding_window", 0, low=0),) * num_layers


def no_gguf_window(fields: Fields, num_layers: int) -> tuple[int, ...]:
    """Every layer sees all. A window is refused: such files do not say from which layer on it applies."""
    fields.refuse("attention.sliding_window", 0)
    return (0,) * num_layers


# --- reading ----------------------------------------------------------------------------------------------------------


def one_rope(checkpoint: Checkpoint, fields: Fields, head_dim: int) -> dict[str, rope.Rope]:
    """All layers rotate alike; by one of two tables where the file brings LongRoPE's factors."""
    is_gguf = checkpoint.format == "gguf"
    if is_gguf and LONG_FACTORS in checkpoint:
        short, long = checkpoint.vector(SHORT_FACTORS), checkpoint.vector(LONG_FACTORS)
        pair: rope.LongRope | None = rope.read_long_gguf(fields, head_dim, short, long)
    else:
        pair = None if is_gguf else rope.read_long_config(fields, head_dim)
    if pair is not None:
        return {ROPE_SHORT: pair.short, ROPE_LONG: pair.long}
    if not is_gguf:
        return {ROPE: rope.read_config(fields, head_dim)}
    divisors = checkpoint.vector("rope_freqs.weight") if "rope_freqs.weight" in checkpoint else None
    return {ROPE: rope.read_gguf(fields, head_dim, divisors)}


def _rotation(ropes: Mapping[str, rope.Rope], max_positions: int) -> str:
    """The table that layers rotate by where the family says nothing else: the first that reaches far enough."""
    return next(name for name, each in ropes.items() if not each.num_positions or max_positions <= each.num_positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """In what the files of families differ before their forward passes do.

    `qkv_bias` None: the file says whether attention has biases (output included). `head_dim`: where a config.json
    states none; None: hidden size / heads. `reads`: fields of `HARMLESS` that the family reads itself.
    """

    roles: Mapping[str, Mapping[str, str]]
    gguf_style: RopeStyle = RopeStyle.HALVES
    qkv_bias: bool | None = False
    head_norm: HeadNorm = HeadNorm.NONE
    head_dim: int | None = None
    activation_key: str = "hidden_act"
    activation: str = "silu"
    is_tied: bool = False
    windows: Callable[[Fields, int], tuple[int, ...]] = no_window
    gguf_windows: Callable[[Fields, int], tuple[int, ...]] = no_gguf_window
    ropes: Callable[[Checkpoint, Fields, int], Mapping[str, rope.Rope]] = one_rope
    reads: frozenset[str] = frozenset()


def fields_of(checkpoint: Checkpoint) -> Fields:
    """The file's metadata, under the architecture's prefix where the format has one."""
    if checkpoint.format == "gguf":
        return Fields(checkpoint.metadata, f"{checkpoint.metadata['general.architecture']}.")
    return Fields(checkpoint.metadata)


def is_headless(checkpoint: Checkpoint) -> bool:
    """Whether the file names a model that ends with its last norm, such as Qwen3Model: made to be embedded with."""
    stated = checkpoint.metadata.get("architectures") if checkpoint.format == "safetensors" else None
    return isinstance(stated, list) and bool(stated) and not str(stated[0]).endswith("ForCausalLM")


def _names(checkpoint: Checkpoint, family: Family) -> Mapping[str, str]:
    """Tensors by role; what was saved without its head has no `model.` in front of them."""
    names = family.roles[checkpoint.format]
    bare = {role: name.removeprefix(_PREFIX) for role, name in names.items()}
    return bare if names["embed"] not in checkpoint and bare["embed"] in checkpoint else names


def read(checkpoint: Checkpoint, max_context: int | None, family: Family) -> Config:
    """What all families read, in either format. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field is missing, absurd, or asks for what this family does not do.
    """
    fields, keys, names = fields_of(checkpoint), _KEYS[checkpoint.format], _names(checkpoint, family)
    for key, values in HARMLESS[checkpoint.format].items():
        if key not in family.reads:
            fields.refuse(key, *values)
    is_gguf = checkpoint.format == "gguf"
    hidden = fields.integer(keys["hidden"])
    num_heads, num_kv_heads = _heads(fields, keys["num_heads"], keys["num_kv_heads"])
    head_dim = _head_dim(fields, keys["head_dim"], (not is_gguf and family.head_dim) or hidden // num_heads)
    if is_gguf:
        fields.refuse("attention.value_length", head_dim)
    num_layers = fields.integer(keys["num_layers"], high=MAX_LAYERS)
    trained = fields.integer(keys["max_positions"])
    max_positions = trained if max_context is None else min(trained, max_context)
    windows = (family.gguf_windows if is_gguf else family.windows)(fields, num_layers)
    has_qkv_bias, has_output_bias = _biases(checkpoint, fields, family)
    ropes = family.ropes(checkpoint, fields, head_dim)
    is_causal = fields.flag("attention.causal" if is_gguf else "is_causal", default=True)
    if not is_causal and any(windows):
        raise fields.fault("attention.causal" if is_gguf else "is_causal", "not supported for layers with a window.")
    return Config(
        names=names,
        num_layers=num_layers,
        hidden=hidden,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        feed_forward=fields.integer(keys["feed_forward"]),
        # The tensor's rows, because metadata often counts only the tokens that the tokenizer knows.
        vocab_size=checkpoint.shape(names["embed"])[0],
        max_positions=max_positions,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon") if is_gguf else fields.number("rms_norm_eps", 1e-6),
        query_scale=head_dim**-0.5,
        ropes=ropes,
        rotations=(_rotation(ropes, max_positions),) * num_layers,
        rope_style=family.gguf_style if is_gguf else RopeStyle.HALVES,
        windows=tuple(window if window < max_positions else 0 for window in windows),
        activation=ACTIVATIONS[family.activation] if is_gguf else _activation(fields, family),
        is_causal=is_causal,
        has_head=is_causal and not is_headless(checkpoint),
        is_tied=names["head"] not in checkpoint if is_gguf else fields.flag("tie_word_embeddings", family.is_tied),
        has_qkv_bias=has_qkv_bias,
        has_output_bias=has_output_bias,
        head_norm=family.head_norm,
    )


def _heads(fields: Fields, key: str, kv_key: str) -> tuple[int, int]:
    num_heads = fields.integer(key)
    num_kv_heads = fields.integer(kv_key, num_heads)
    if num_heads % num_kv_heads:
        raise fields.fault(kv_key, f"{num_heads} query heads cannot share {num_kv_heads} key heads evenly.")
    return num_heads, num_kv_heads


def _head_dim(fields: Fields, key: str, default: int) -> int:
    head_dim = fields.integer(key, default)
    if head_dim % 2:
        raise fields.fault(key, f"a head of {head_dim} features; they are rotated in pairs.")
    return head_dim


def _activation(fields: Fields, family: Family) -> Activation:
    activation = fields.get(family.activation_key) or family.activation
    if activation not in ACTIVATIONS:
        raise fields.fault(family.activation_key, f"unknown activation; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[activation]


def _biases(checkpoint: Checkpoint, fields: Fields, family: Family) -> tuple[bool, bool]:
    """Whether q, k and v have biases, and whether the output has one."""
    if checkpoint.format == "gguf":
        names = family.roles["gguf"]
        if family.qkv_bias is not None:
            return family.qkv_bias, False
        return names["q_bias"].format(0) in checkpoint, names["o_bias"].format(0) in checkpoint
    is_stated = fields.flag("attention_bias", default=False)
    if family.qkv_bias is None:
        return is_stated, is_stated
    if is_stated:
        raise fields.fault("attention_bias", "not supported by this version for this architecture.")
    return family.qkv_bias, False


# --- checks -----------------------------------------------------------------------------------------------------------

LayerShapes = Callable[[C, int], Mapping[str, tuple[int, ...]]]
"""Shapes by role of what a layer reads."""


def checked(checkpoint: Checkpoint, config: C, shapes_of: LayerShapes[C] = layer_shapes) -> C:
    """The config, if every tensor the plan will ask for exists in its shape, and none that would change the result."""
    shapes = {config.name(role): shape for role, shape in outer_shapes(config).items()}
    for layer in range(config.num_layers):
        shapes |= {config.name(role, layer): shape for role, shape in shapes_of(config, layer).items()}
    for name, shape in shapes.items():
        if checkpoint.shape(name) != shape:
            raise ModelFileError(f"{name}: shape {checkpoint.shape(name)}, but the metadata asks for {shape}.")
    form = checkpoint.format
    roles = [*config.names.items(), *ROLES[form].items(), *FUSED[form].items(), *NORMED_BRANCHES[form].items()]
    known = [*(name for role, name in roles if role != "head"), *FOREIGN[form]]
    for pattern in dict.fromkeys((*known, *(name.removeprefix(_PREFIX) for name in known))):
        for layer in range(config.num_layers):
            name = pattern.format(layer)
            if name not in shapes and name in checkpoint:
                raise ModelFileError(
                    f"{name}: the file holds a tensor that this architecture does not read; "
                    "the answers would be wrong without it."
                )
    return config
