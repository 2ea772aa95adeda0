"""OLMoE: many small experts in every layer ("OLMoE: Open Mixture-of-Experts Language Models", 2024, arXiv 2409.02060).

Queries and keys are normed over all their heads together before they rotate. The experts' probabilities are those of
the softmax over all of them, so that they do not add up to one.
"""

from headrace.models import moe
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import HeadNorm
from headrace.models.family import ROLES, Family, fields_of, read

NAMES = {form: {**ROLES[form], **moe.ROUTED[form]} for form in ROLES}

FAMILY = Family(roles=NAMES, head_norm=HeadNorm.WIDTH, reads=moe.READS)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> moe.Config:
    """Read and check what an OLMoE file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    fields = fields_of(checkpoint)
    for key in ("clip_qkv", "attention.clamp_kqv"):
        fields.refuse(key, 0.0)
    config = read(checkpoint, max_context, FAMILY)
    renormalises = fields.flag("expert_weights_norm" if checkpoint.format == "gguf" else "norm_topk_prob", False)
    return moe.with_experts(config, checkpoint, expert_width=config.feed_forward, renormalises=renormalises)
