"""Phi-3, Phi-3.5 and Phi-4, dense: the Llama decoder with fused tensors (arXiv 2404.14219, arXiv 2412.08905).

    q, k, v = split(norm(h) Wqkv)
    gate, up = split(norm(h) Wgate_up)

The forward pass is `llama.record`. Files hold q, k and v in one tensor, and gate above up in another, which GGUF files
call `ffn_up`. Some sizes have a window in every layer, some rotate only a share of a head's features, those with a long
context bring LongRoPE's factors (`rope`). No biases.
"""

from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config
from headrace.models.family import FUSED, ROLES, Family, checked, read, same_gguf_window
from headrace.models.fields import Fields

_SPLIT = ("q", "k", "v", "gate", "up")

NAMES = {
    form: {**{role: name for role, name in roles.items() if role not in _SPLIT}, **FUSED[form]}
    for form, roles in ROLES.items()
}


def _windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    fields.refuse("layer_types", ["full_attention"] * num_layers, ["sliding_attention"] * num_layers)
    window = fields.get("sliding_window")
    return (0 if window is None else fields.integer("sliding_window"),) * num_layers


FAMILY = Family(roles=NAMES, windows=_windows, gguf_windows=same_gguf_window)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Phi-3 file says; see `llama.read_config`."""
    return checked(checkpoint, read(checkpoint, max_context, FAMILY))
