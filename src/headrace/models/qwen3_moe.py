"""Qwen3-MoE: Qwen3 with many small experts and none that is shared ("Qwen3 Technical Report", 2025, arXiv 2505.09388).

Released models divide the chosen experts' probabilities by their sum: a config.json says so, GGUF files take it for
granted. A config.json may make some layers dense.
"""

from headrace.models import moe
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import HeadNorm
from headrace.models.family import ROLES, Family, fields_of, read

NAMES = {form: {**ROLES[form], **moe.ROUTED[form]} for form in ROLES}

FAMILY = Family(roles=NAMES, head_norm=HeadNorm.HEAD, reads=moe.READS)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> moe.Config:
    """Read and check what a Qwen3-MoE file says. Positions are limited to `max_context` where less than trained.

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
            renormalises=fields.flag("expert_weights_norm", True),
        )
    fields.refuse("use_sliding_window", False)
    return moe.with_experts(
        config,
        checkpoint,
        expert_width=fields.integer("moe_intermediate_size"),
        renormalises=fields.flag("norm_topk_prob", False),
        is_sparse=moe.sparse_layers(fields, config.num_layers),
    )
