"""Granite 3, dense: the Llama decoder with four multipliers (IBM, "Granite 3.0 Language Models", 2024).

    h = m embed(tokens)
    per layer:  h += r attention(rope(norm(h) Wq), rope(norm(h) Wk), norm(h) Wv; scale s) Wo
                h += r (silu(norm(h) Wgate) * norm(h) Wup) Wdown
    logits = norm(h) Whead / l

The forward pass is `llama.record` on the stream g = h / r, so that branches are added as they are. A norm of the stream
does not see the change, if its epsilon is divided by r^2:

    norm(h; eps) = h / sqrt(mean(h^2) + eps) = g / sqrt(mean(g^2) + eps / r^2) = norm(g; eps / r^2)

The embedding is multiplied by m / r, and the weights of the last norm by 1 / l, which is the head's only input (hidden
states that are taken in front of a head are smaller by l, which embeddings of length one do not show). So none of the
multipliers costs a pass over anything.
"""

from dataclasses import replace

from headrace.kernels.plan import RopeStyle
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config
from headrace.models.family import ROLES, Family, checked, fields_of, read

KEYS = {
    # embedding, residual, attention, logits
    "gguf": ("embedding_scale", "residual_scale", "attention.scale", "logit_scale"),
    "safetensors": ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"),
}

FAMILY = Family(roles=ROLES, gguf_style=RopeStyle.ADJACENT, qkv_bias=None, reads=frozenset(KEYS["gguf"]))


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Granite file says; see `llama.read_config`."""
    config = read(checkpoint, max_context, FAMILY)
    fields = fields_of(checkpoint)
    embedding, residual, attention, logits = KEYS[checkpoint.format]
    if checkpoint.format == "gguf":
        fields.refuse("rope.scaling.finetuned", True)  # how such files say that nothing is rotated
    own_scale = config.query_scale if checkpoint.format == "gguf" else 1.0  # where the file states none
    branch = fields.number(residual, 1.0)
    own = replace(
        config,
        embedding_scale=fields.number(embedding, 1.0) / branch,
        norm_eps=config.norm_eps / branch**2,
        query_scale=fields.number(attention, own_scale),
        final_scale=1.0 / fields.number(logits, 1.0),
    )
    return checked(checkpoint, own)
