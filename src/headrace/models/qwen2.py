"""Qwen2 and Qwen2.5, dense: the Llama decoder with biases on q, k and v, and heads rotated by halves in every format.

The forward pass is `llama.record`. Layers from `max_window_layers` on may have a sliding window.
"""

from headrace.kernels.plan import RopeStyle
from headrace.models.checkpoint import Checkpoint
from headrace.models.llama import Config, Family, computed_vectors, read_family, record

__all__ = ["FAMILY", "computed_vectors", "read_config", "record"]

FAMILY = Family(RopeStyle.HALVES, qkv_bias=True, window="after_layer")


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Qwen2 file says; see `llama.read_config`."""
    return read_family(checkpoint, max_context, FAMILY)
