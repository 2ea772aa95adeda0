"""Random adapters for the tiny models: as numbers, as PEFT folders, as GGUF files, and merged into the model's weights.

Merging is done here in float32 on tensors of the checkpoint, before anything is stacked or interleaved, so that nothing
of what places factors inside a plan's matrices is used twice.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tests.oracle import tiny_models
from tests.oracle.tiny_files import gguf_architecture, permuted, tensor_name

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "gate_up_proj")
"""What some families have in place of five of them."""


@dataclass(frozen=True, slots=True)
class TinyAdapter:
    """Factors by the name of the tensor they change; all ranks but those named are `rank`."""

    name: str
    factors: dict[str, tuple[np.ndarray, np.ndarray]]
    rank: int
    alpha: float
    by_root: bool = False

    def scale(self, tensor: str) -> float:
        rank = len(self.factors[tensor][0])
        return self.alpha / (rank**0.5 if self.by_root else rank)


def make(name, seed, rank=4, modules=(*LINEAR, *FUSED), *, ranks=(), by_root=False, is_exact=True) -> TinyAdapter:
    """An adapter of a tiny model that moves logits by about their deviation; `ranks` gives some modules other ranks.

    Exact ones are 7-bit integers times powers of two, as the model's weights are: 8-bit factors hold them exactly.
    Others are normal, their ranks of very different size, as training leaves them, with the size in either factor.
    """
    factors = {}
    for tensor, shape in tiny_models.shapes(tiny_models.CONFIGS[name]).items():
        module = tensor.split(".")[-2]
        if module not in modules or not tensor.endswith(".weight"):
            continue
        random = np.random.RandomState(zlib.crc32(f"{name} {tensor} {seed}".encode()))
        own = dict(ranks).get(module, rank)
        if is_exact:
            codes = [
                random.randint(-127, 128, size=size).astype(np.float32) for size in ((own, shape[1]), (shape[0], own))
            ]
            for each in codes:
                each[:, ::32] = np.where(each[:, ::32] < 0, np.float32(-127), np.float32(127))
            a, b = codes[0] * np.float32(2.0**-9), codes[1] * np.float32(2.0**-10)
        else:
            sizes = 4.0 ** (np.arange(own) % 3)
            a = random.standard_normal((own, shape[1])) / np.sqrt(shape[1]) * sizes[:, None]
            b = random.standard_normal((shape[0], own)) * 0.15 / np.sqrt(own) / sizes
        factors[tensor] = a.astype(np.float32), b.astype(np.float32)
    return TinyAdapter(name, factors, rank, 2.0 * rank**0.5 if by_root else 2.0 * rank, by_root)


def merged_weights(adapter: TinyAdapter) -> dict[str, np.ndarray]:
    """The model's tensors plus scale * B A."""
    weights = tiny_models.weights(adapter.name)
    for tensor, (a, b) in adapter.factors.items():
        weights[tensor] = weights[tensor] + np.float32(adapter.scale(tensor)) * (b @ a)
    return weights


def peft_config(adapter: TinyAdapter) -> dict[str, object]:
    """The fields that PEFT 0.17 writes."""
    ranks = {t.removesuffix(".weight"): len(a) for t, (a, _) in adapter.factors.items() if len(a) != adapter.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somebody/tiny",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "qalora_group_size": 16,
        "r": adapter.rank,
        "rank_pattern": ranks,
        "alpha_pattern": {},
        "target_modules": sorted({tensor.split(".")[-2] for tensor in adapter.factors}),
        "use_dora": False,
        "use_rslora": adapter.by_root,
    }


def peft_tensors(adapter: TinyAdapter) -> dict[str, np.ndarray]:
    tensors = {}
    for tensor, (a, b) in adapter.factors.items():
        module = f"base_model.model.{tensor.removesuffix('.weight')}"
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    return tensors


def write_peft(adapter: TinyAdapter, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(adapter)))
    save_file(peft_tensors(adapter), folder / "adapter_model.safetensors")
    return folder


def write_gguf_lora(adapter: TinyAdapter, path: Path) -> Path:
    config = tiny_models.CONFIGS[adapter.name]
    architecture = gguf_architecture(config)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.alpha)
    for tensor, (a, b) in adapter.factors.items():
        name = tensor_name(tensor, architecture)
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", permuted(tensor, b, config, architecture))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
