"""PEFT's LoRA folders: adapter_config.json beside adapter_model.safetensors.

What a config asks for and this program does not do is refused by field and value: DoRA, trained biases, modules saved
in full, initialisations that changed the base model's own weights, and every unknown field that says something.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.adapters.file import AdapterFile, LayerEntry, layer_entry, paired
from headrace.adapters.plan import tensor_roles
from headrace.core.errors import ModelFileError
from headrace.kernels.low_rank import MAX_RANK
from headrace.kernels.plan import RopeStyle
from headrace.models.digest import sha256_of
from headrace.models.fields import Fields
from headrace.models.safetensors import SafetensorsFolder

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# Harmless whatever they say: where the file came from, or which modules were chosen, which the tensors show.
_IGNORED = {
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "runtime_config", "peft_version",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "qalora_group_size",
    "megatron_core", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "ensure_weight_tying",
}  # fmt: skip
_READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
# Field: what it may say besides nothing.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM",),
    "bias": ("none",),
    # True (Kaiming), Gaussian and orthogonal starts; others (PiSSA, OLoRA, CorDA, LoftQ) changed the base model too.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_PLAIN = re.compile(r"[\w.]+")
_CHANGEABLE = "q_proj, k_proj, v_proj (or qkv_proj), o_proj, gate_proj, up_proj (or gate_up_proj) and down_proj"


def open_peft(folder: Path) -> AdapterFile:
    """Open a folder. Raises ModelFileError (the path may be missing in front)."""
    if not (folder / WEIGHTS).is_file():
        raise ModelFileError(f"{folder}: holds no {WEIGHTS}; save the adapter as safetensors (not as .bin).")
    checkpoint = SafetensorsFolder(folder / WEIGHTS, sha256_of, CONFIG)
    fields = Fields(checkpoint.metadata)
    _check(fields)
    names = paired(_tensors(checkpoint))
    layers = {}
    for (layer, role), (a, b) in names.items():
        module = _module(a)
        layers[layer, role] = _entry(fields, module, (a, b), (checkpoint.shape(a), checkpoint.shape(b)))
    return AdapterFile(
        path=folder,
        style=RopeStyle.HALVES,
        architecture=None,
        layers=layers,
        read=checkpoint.vector,
        digest=checkpoint.digest,
    )


def _check(fields: Fields) -> None:
    if fields.get("peft_type") is None:
        raise ModelFileError(f"peft_type is missing; {CONFIG} must say LORA.", param="peft_type")
    for key, allowed in _ONLY.items():
        fields.refuse(key, *allowed)
    targets = fields.get("target_modules")
    for name in targets if isinstance(targets, list) else ():
        if str(name).rpartition(".")[2] in ("lm_head", "embed_tokens"):
            raise fields.fault("target_modules", f"{name} is not supported; adapters may change {_CHANGEABLE}.")
    for key, value in fields.values.items():
        if key not in _IGNORED and key not in _READ and key not in _ONLY and value not in (None, False, [], {}, ""):
            raise fields.fault(key, "not supported by this version.")


def _module(name: str) -> str:
    match = _TENSOR.fullmatch(name)
    assert match is not None
    return match["module"]


def _tensors(checkpoint: SafetensorsFolder) -> dict[tuple[int, str, str], str]:
    """Names by layer, role and side; every tensor must be a factor of a linear layer that can be changed."""
    roles, fused = tensor_roles(), tensor_roles(is_fused=True)
    found = {}
    for name in checkpoint.names:
        match = _TENSOR.fullmatch(name)
        tensor = "" if match is None else f"{match['module']}.weight"
        place = roles(tensor) or fused(tensor)
        if match is None or place is None:
            raise ModelFileError(f"tensor {name!r} is not supported; adapters may change {_CHANGEABLE} of layers.")
        found[*place, match["side"].lower()] = name
    return found


def _entry(
    fields: Fields, module: str, names: tuple[str, str], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> LayerEntry:
    ranks, alphas = _pattern(fields, "rank_pattern"), _pattern(fields, "alpha_pattern")
    rank = ranks.get(_key(ranks, module), fields.integer("r", high=MAX_RANK))
    alpha = alphas.get(_key(alphas, module), fields.number("lora_alpha", 8.0))
    if shapes[0][:1] != (rank,):
        raise ModelFileError(
            f"tensor {names[0]!r} has shape {shapes[0]}, but r (or rank_pattern) says {rank}; save the adapter again."
        )
    is_by_root = fields.flag("use_rslora", default=False)
    return layer_entry(*names, shapes, alpha / (math.sqrt(rank) if is_by_root else rank))


def _pattern(fields: Fields, key: str) -> dict[str, Any]:
    """Values for some modules, by name or by the end of one. Regular expressions are refused: they can run for ever."""
    values = fields.get(key) or {}
    if not isinstance(values, dict):
        raise fields.fault(key, "an object of names and numbers is needed.")
    found = {}
    for name in values:
        plain = name.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not _PLAIN.fullmatch(plain):
            raise fields.fault(key, f"{name!r} is a regular expression; only names of modules are supported.")
        each = Fields(values, "")
        found[name] = each.integer(name, high=MAX_RANK) if key == "rank_pattern" else each.number(name)
    return found


def _key(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that means a module, as PEFT matches them: `(.*\\.)?NAME$`."""
    for name in patterns:
        plain = name.removeprefix("^").removesuffix("$").replace("\\.", ".")
        is_whole = module == plain
        if is_whole or (not name.startswith("^") and module.endswith(f".{plain}")):
            return name
    return ""
