"""Qwen3, dense: the Llama decoder with an RMS norm on each query and key head before rotation, and no biases.

The forward pass is `llama.record`. `head_dim` is the file's own and need not be hidden size / heads.
"""

from headrace.kernels.plan import RopeStyle
from headrace.models.checkpoint import Checkpoint
from headrace.models.llama import Config, Family, computed_vectors, read_family, record

__all__ = ["FAMILY", "computed_vectors", "read_config", "record"]

FAMILY = Family(RopeStyle.HALVES, qkv_bias=False, head_norm=True, default_head_dim=128, window="after_layer")


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Qwen3 file says; see `llama.read_config`."""
    return read_family(checkpoint, max_context, FAMILY)
