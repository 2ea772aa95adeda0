"""Qwen2 and Qwen2.5, dense: the Llama decoder with biases on q, k and v, and heads rotated by halves in every format.

The forward pass is `llama.record`. Layers from `max_window_layers` on may have a sliding window.
"""

from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config
from headrace.models.family import ROLES, Family, checked, read, window_after_layer

FAMILY = Family(roles=ROLES, qkv_bias=True, windows=window_after_layer)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Qwen2 file says; see `llama.read_config`."""
    return checked(checkpoint, read(checkpoint, max_context, FAMILY))
