"""Gemma 2: every other layer sees a window, scores and logits are capped (arXiv 2408.00118).

    h = embed(tokens) * sqrt(hidden size)
    per layer:  h += norm(attention(rope(norm(h) Wq), rope(norm(h) Wk), norm(h) Wv) Wo)
                h += norm((gelu(norm(h) Wgate) * norm(h) Wup) Wdown)
    logits = cap * tanh(norm(h) Wembed^T / cap)

The forward pass is `gemma3.record`, without norms on heads; attention caps its scores as the head caps logits. Norms
multiply by one plus a weight: safetensors hold the weight, GGUF files the sum.
"""

import math
from dataclasses import replace

from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config
from headrace.models.family import Family, checked, fields_of, local_layers, read
from headrace.models.fields import Fields
from headrace.models.gemma3 import NAMES

WINDOW, SCORE_CAP, LOGIT_CAP = 4096, 50.0, 30.0
"""Where a file does not say."""

_LAYERS_OF_27B = 46  # the one size whose queries are not scaled by its head's width; GGUF files do not say so


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Gemma 2 file says; see `llama.read_config`."""
    config = read(checkpoint, max_context, FAMILY)
    fields, is_gguf = fields_of(checkpoint), checkpoint.format == "gguf"
    scaled = fields.number("query_pre_attn_scalar", 256.0)
    if is_gguf:
        scaled = config.hidden // config.num_heads if config.num_layers == _LAYERS_OF_27B else config.head_dim
    own = replace(
        config,
        embedding_scale=math.sqrt(config.hidden),
        norm_offset=0.0 if is_gguf else 1.0,
        query_scale=scaled**-0.5,
        score_cap=_cap(fields, "attn_logit_softcapping", SCORE_CAP),
        logit_cap=_cap(fields, "final_logit_softcapping", LOGIT_CAP),
    )
    return checked(checkpoint, own)


def _cap(fields: Fields, key: str, default: float) -> float:
    # A config.json switches a cap off by null.
    is_off = key in fields.values and fields.get(key) is None
    return 0.0 if is_off else fields.number(key, default)


def _windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    is_local = local_layers(fields, num_layers) or tuple(layer % 2 == 0 for layer in range(num_layers))
    window = fields.integer("sliding_window", WINDOW)
    return tuple(window if each else 0 for each in is_local)


def _gguf_windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    fields.refuse("attention.sliding_window_pattern", 2)
    window = fields.integer("attention.sliding_window", WINDOW)
    return tuple(window if layer % 2 == 0 else 0 for layer in range(num_layers))


FAMILY = Family(
    roles=NAMES,
    head_dim=256,
    activation_key="hidden_activation",
    activation="gelu_pytorch_tanh",
    is_tied=True,
    windows=_windows,
    gguf_windows=_gguf_windows,
    reads=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
)
