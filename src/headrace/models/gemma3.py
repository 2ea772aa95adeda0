"""Gemma 3, text only: five layers that see a window, then one that sees all ("Gemma 3 Technical Report", 2025).

    h = embed(tokens) * sqrt(hidden size)
    per layer:  h += norm(attention(rope(norm(norm(h) Wq)), rope(norm(norm(h) Wk)), norm(h) Wv) Wo)
                h += norm((gelu(norm(h) Wgate) * norm(h) Wup) Wdown)
    logits = norm(h) Wembed^T

Every branch is normed before and after; query and key heads are normed before they rotate. Local layers rotate with a
base of 10,000, global ones with 1,000,000 and, in larger models, at stretched positions. Norms multiply by one plus a
weight: safetensors hold the weight, GGUF files the sum.
"""

import math
from dataclasses import replace

from headrace.kernels.plan import Plan
from headrace.models import rope
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config, Decoder, HeadNorm
from headrace.models.family import NORMED_BRANCHES, ROLES, Family, checked, fields_of, local_layers, read
from headrace.models.fields import Fields

NAMES = {
    "gguf": {**ROLES["gguf"], **NORMED_BRANCHES["gguf"]},
    "safetensors": {
        **ROLES["safetensors"],
        **NORMED_BRANCHES["safetensors"],
        "ffn_norm": "model.layers.{}.pre_feedforward_layernorm.weight",
    },
}

PATTERN = 6
"""Every sixth layer is global where a file does not say."""

LOCAL, GLOBAL = "local rope", "global rope"
LOCAL_THETA, GLOBAL_THETA = 10_000.0, 1_000_000.0

_LAYERS_OF_27B = 62  # the one size whose queries are not scaled by its head's width; GGUF files do not say so


def record(config: Config) -> Plan:
    """Describe the forward pass once."""
    decoder = Decoder(config)
    hidden = decoder.embed()
    for layer in range(config.num_layers):
        mixed = decoder.attend(layer, decoder.norm(hidden, "attention_norm", layer))
        decoder.add_normed(mixed, "post_attention_norm", layer, onto=hidden)
        hidden = decoder.select(layer, hidden)
        inner = decoder.feed_forward(layer, decoder.norm(hidden, "ffn_norm", layer))
        decoder.add_normed(inner, "post_ffn_norm", layer, onto=hidden)
    return decoder.head(hidden)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Gemma 3 file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    config = read(checkpoint, max_context, FAMILY)
    fields, is_gguf = fields_of(checkpoint), checkpoint.format == "gguf"
    windows = (_gguf_windows if is_gguf else _windows)(fields, config.num_layers)
    scaled = fields.number("query_pre_attn_scalar", 256.0)
    if is_gguf:
        scaled = config.hidden // config.num_heads if config.num_layers == _LAYERS_OF_27B else config.head_dim
    own = replace(
        config,
        embedding_scale=math.sqrt(config.hidden),
        norm_offset=0.0 if is_gguf else 1.0,
        query_scale=scaled**-0.5,
        rotations=tuple(LOCAL if window else GLOBAL for window in windows),
    )
    return checked(checkpoint, own)


def _windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    window, is_local = fields.integer("sliding_window"), local_layers(fields, num_layers)
    if is_local is None:
        period = fields.integer("sliding_window_pattern", PATTERN)
        is_local = tuple((layer + 1) % period > 0 for layer in range(num_layers))
    return tuple(window if each else 0 for each in is_local)


def _gguf_windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    # Without a window every layer is global, as llama.cpp reads such a file.
    window = fields.integer("attention.sliding_window", 0, low=0)
    period = fields.integer("attention.sliding_window_pattern", PATTERN)
    return tuple(window if (layer + 1) % period > 0 else 0 for layer in range(num_layers))


def _ropes(checkpoint: Checkpoint, fields: Fields, head_dim: int) -> dict[str, rope.Rope]:
    if checkpoint.format != "gguf":
        return {
            LOCAL: _rope_of(fields, "sliding_attention", head_dim),
            GLOBAL: _rope_of(fields, "full_attention", head_dim),
        }
    of_all = replace(rope.read_gguf(fields, head_dim, None), theta=fields.number("rope.freq_base", GLOBAL_THETA))
    local = rope.Rope(theta=fields.number("rope.freq_base_swa", LOCAL_THETA), rotary_dim=of_all.rotary_dim)
    return {LOCAL: local, GLOBAL: of_all}


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


FAMILY = Family(
    roles=NAMES,
    head_norm=HeadNorm.HEAD,
    head_dim=256,
    activation_key="hidden_activation",
    activation="gelu_pytorch_tanh",
    is_tied=True,
    windows=_windows,
    gguf_windows=_gguf_windows,
    ropes=_ropes,
)
