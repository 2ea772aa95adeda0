"""Qwen3, dense: the Llama decoder with an RMS norm on each query and key head before rotation, and no biases.

The forward pass is `llama.record`. `head_dim` is the file's own and need not be hidden size / heads.
"""

from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config, HeadNorm
from headrace.models.family import ROLES, Family, checked, read, window_after_layer

FAMILY = Family(roles=ROLES, head_norm=HeadNorm.HEAD, head_dim=128, windows=window_after_layer)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Qwen3 file says; see `llama.read_config`."""
    return checked(checkpoint, read(checkpoint, max_context, FAMILY))
