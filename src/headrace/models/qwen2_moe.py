"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts beside one that all rows share ("Qwen2 Technical Report", 2024).

The shared expert's output is scaled by the sigmoid of a gate of its own. The experts' probabilities are those of the
softmax over all of them. A config.json may make some layers dense.
"""

from dataclasses import replace

from headrace.models import moe
from headrace.models.checkpoint import Checkpoint
from headrace.models.family import ROLES, Family, fields_of, read

NAMES = {form: {**ROLES[form], **moe.ROUTED[form], **moe.SHARED[form]} for form in ROLES}

FAMILY = Family(roles=NAMES, qkv_bias=True, reads=moe.READS)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> moe.Config:
    """Read and check what a Qwen2-MoE file says. Positions are limited to `max_context` where less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    fields, config = fields_of(checkpoint), read(checkpoint, max_context, FAMILY)
    if checkpoint.format == "gguf":
        used = fields.integer("expert_used_count")
        return moe.with_experts(
            config,
            checkpoint,
            expert_width=fields.integer("expert_feed_forward_length", config.feed_forward // used),
            renormalises=fields.flag("expert_weights_norm", False),
            shared_width=fields.integer("expert_shared_feed_forward_length", config.feed_forward),
        )
    fields.refuse("use_sliding_window", False)
    return moe.with_experts(
        replace(config, has_qkv_bias=fields.flag("qkv_bias", True)),
        checkpoint,
        expert_width=fields.integer("moe_intermediate_size"),
        renormalises=fields.flag("norm_topk_prob", False),
        is_sparse=moe.sparse_layers(fields, config.num_layers),
        shared_width=fields.integer("shared_expert_intermediate_size"),
    )
