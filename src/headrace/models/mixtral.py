"""Mixtral: the Mistral decoder with experts in every layer ("Mixtral of Experts", 2024, arXiv 2401.04088).

The router takes a softmax over the logits of the chosen experts alone, which is their share of the softmax over all.
GGUF files call themselves llama and hold all experts of a layer in one tensor.
"""

from headrace.kernels.plan import RopeStyle
from headrace.models import moe
from headrace.models.checkpoint import Checkpoint
from headrace.models.family import ROLES, Family, read, same_gguf_window
from headrace.models.fields import Fields

_EXPERTS = "model.layers.{}.block_sparse_moe"

NAMES = {
    "gguf": {**ROLES["gguf"], **moe.ROUTED["gguf"]},
    "safetensors": {
        **ROLES["safetensors"],
        "router": f"{_EXPERTS}.gate.weight",
        "expert_gate": f"{_EXPERTS}.experts.{{{{}}}}.w1.weight",
        "expert_up": f"{_EXPERTS}.experts.{{{{}}}}.w3.weight",
        "expert_down": f"{_EXPERTS}.experts.{{{{}}}}.w2.weight",
    },
}


def _windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    # Unlike Mistral's, a missing field is no window.
    fields.refuse("layer_types", ["full_attention"] * num_layers)
    return (fields.integer("sliding_window", 0, low=0),) * num_layers


FAMILY = Family(
    roles=NAMES,
    gguf_style=RopeStyle.ADJACENT,
    windows=_windows,
    gguf_windows=same_gguf_window,
    reads=moe.READS,
)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> moe.Config:
    """Read and check what a Mixtral file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    config = read(checkpoint, max_context, FAMILY)
    return moe.with_experts(config, checkpoint, expert_width=config.feed_forward, renormalises=True)
