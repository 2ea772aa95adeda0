"""SmolLM3: the Llama decoder with every fourth layer without positions ("NoPE", arXiv 2501.18795).

    per layer:  h += attention(rope(norm(h) Wq), rope(norm(h) Wk), norm(h) Wv) Wo     or, in every fourth,
                h += attention(norm(h) Wq, norm(h) Wk, norm(h) Wv) Wo

The forward pass is `llama.record`. A config.json may name the layers (`no_rope_layers`: 1 rotates, 0 does not) or their
distance; GGUF files mean every fourth.
"""

from dataclasses import replace

from headrace.kernels.plan import RopeStyle
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config
from headrace.models.family import ROLES, Family, checked, fields_of, local_layers, no_window, read
from headrace.models.fields import Fields

INTERVAL = 4


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a SmolLM3 file says; see `llama.read_config`."""
    config = read(checkpoint, max_context, FAMILY)
    rotates = _by_interval(INTERVAL, config.num_layers)
    if checkpoint.format != "gguf":
        rotates = _rotating(fields_of(checkpoint), config.num_layers)
    rotations = tuple(name if each else "" for name, each in zip(config.rotations, rotates, strict=True))
    return checked(checkpoint, replace(config, rotations=rotations))


def _by_interval(interval: int, num_layers: int) -> tuple[bool, ...]:
    return tuple((layer + 1) % interval > 0 for layer in range(num_layers))


def _rotating(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    stated = fields.get("no_rope_layers")
    if stated is None:
        return _by_interval(fields.integer("no_rope_layer_interval", INTERVAL), num_layers)
    if not isinstance(stated, list) or len(stated) != num_layers or any(each not in (0, 1) for each in stated):
        raise fields.fault("no_rope_layers", f"{num_layers} entries, 0 or 1, are needed.")
    return tuple(each == 1 for each in stated)


def _windows(fields: Fields, num_layers: int) -> tuple[int, ...]:
    if not fields.flag("use_sliding_window", default=False) or fields.get("sliding_window") is None:
        return no_window(fields, num_layers)
    window, is_local = fields.integer("sliding_window"), local_layers(fields, num_layers)
    if is_local is None:
        is_local = tuple(not each for each in _rotating(fields, num_layers))
    return tuple(window if each else 0 for each in is_local)


FAMILY = Family(roles=ROLES, gguf_style=RopeStyle.ADJACENT, qkv_bias=None, is_tied=True, windows=_windows)
