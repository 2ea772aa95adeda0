"""llama.cpp's LoRA files: GGUF with general.type = adapter, tensors NAME.lora_a [rank, inputs] and NAME.lora_b.

Rows of q and k in files of Llama's family are in the order in which llama.cpp keeps that model: rotated features side
by side. What a file holds beyond factors of linear layers is refused by name.
"""

import re
from pathlib import Path

from headrace.adapters.file import AdapterFile, layer_entry, paired
from headrace.adapters.plan import tensor_roles
from headrace.core.errors import ModelFileError
from headrace.kernels.plan import RopeStyle
from headrace.models.fields import Fields
from headrace.models.gguf import GgufFile

_TENSOR = re.compile(r"(?P<tensor>.+)\.lora_(?P<side>[ab])")
_FUSED = {"phi3"}
"""Architectures whose files keep several linear layers in one tensor."""

_PERMUTED = {"llama", "granite", "smollm3"}
"""Architectures whose q and k rows llama.cpp keeps in another order than transformers."""


def open_gguf_lora(path: Path) -> AdapterFile:
    """Open a file. Raises ModelFileError (the path may be missing in front)."""
    checkpoint = GgufFile(path)
    fields = Fields(checkpoint.metadata)
    if fields.get("general.type") != "adapter":
        raise fields.fault("general.type", "an adapter is needed here, this is another kind of file.")
    if fields.get("adapter.type") != "lora":
        raise fields.fault("adapter.type", "only lora is supported.")
    fields.refuse("adapter.alora.invocation_tokens", [])
    architecture = fields.get("general.architecture")
    if not isinstance(architecture, str):
        raise fields.fault("general.architecture", "the base model's architecture is needed.")
    alpha = fields.number("adapter.lora.alpha", low=-1.0)
    layers = {}
    for place, (a, b) in paired(_tensors(checkpoint, architecture)).items():
        shapes = checkpoint.shape(a), checkpoint.shape(b)
        # llama.cpp takes an alpha of zero for none.
        layers[place] = layer_entry(a, b, shapes, alpha / shapes[0][0] if alpha else 1.0)
    return AdapterFile(
        path=path,
        style=RopeStyle.ADJACENT if architecture in _PERMUTED else RopeStyle.HALVES,
        architecture=architecture,
        layers=layers,
        read=checkpoint.vector,
        digest=checkpoint.digest,
    )


def _tensors(checkpoint: GgufFile, architecture: str) -> dict[tuple[int, str, str], str]:
    roles = tensor_roles(is_fused=architecture in _FUSED)
    found = {}
    for name in checkpoint.tensors:
        match = _TENSOR.fullmatch(name)
        place = None if match is None else roles(match["tensor"])
        if match is None or place is None:
            raise ModelFileError(
                f"tensor {name!r} is not supported; adapters may change attn_q, attn_k, attn_v, attn_output, ffn_gate, "
                "ffn_up and ffn_down of blocks."
            )
        found[*place, match["side"]] = name
    return found
