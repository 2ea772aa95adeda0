"""Writes the tiny mixtures of experts as files: safetensors folders as transformers does, GGUF as llama.cpp does."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tests.oracle import tiny_experts
from tests.oracle.tiny_files import _add_rope, permuted, tensor_name

ARCHITECTURES = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "olmoe": "olmoe"}
GGUF_NAMES = ["mixtral", "mixtral-all-chosen", "qwen2-moe", "qwen3-moe", "olmoe"]
"""Models that GGUF metadata can describe: no dense layers, and probabilities as the architecture has them."""

_EXPERT = re.compile(r"(model\.layers\.\d+)\.\w+\.experts\.(\d+)\.(\w+)\.weight")
_ROLES = {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
_OF_EXPERTS = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def write_folder(name: str, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(tiny_experts.CONFIGS[name]))
    save_file(tiny_experts.weights(name), folder / "model.safetensors")
    return folder


FORMS = ("stacked", "fused", "split")
"""Experts of a layer in three tensors; in two, gates and ups being one; each expert by itself."""


def write_gguf(name: str, path: Path, quantise: bool = False, form: str = "stacked") -> Path:
    """With `quantise`, experts are Q4_0, whose codes are not those of the weights."""
    config = tiny_experts.CONFIGS[name]
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model("no_vocab")  # llama.cpp opens no file without one: scripts/compare_llama_cpp.py
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(tiny_experts.head_dim(config))
    writer.add_value_length(tiny_experts.head_dim(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(tiny_experts.num_experts(config))
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    _add_rope(writer, config["rope_parameters"], tiny_experts.head_dim(config))
    for tensor, values in in_form(gguf_tensors(name, architecture), form).items():
        is_expert = "_exps" in tensor or tensor.count(".") == 4
        if quantise and is_expert and values.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_form(tensors: dict[str, np.ndarray], form: str) -> dict[str, np.ndarray]:
    """The same, experts kept as some files do."""
    found = dict(tensors)
    for tensor in [tensor for tensor in tensors if form == "fused" and "ffn_gate_exps" in tensor]:
        gate, up = found.pop(tensor), found.pop(tensor.replace("gate", "up"))
        found[tensor.replace("gate", "gate_up")] = np.concatenate([gate, up], axis=1)
    for tensor in [tensor for tensor in tensors if form == "split" and "_exps" in tensor]:
        for expert, values in enumerate(found.pop(tensor)):
            found[tensor.replace("_exps", f".{expert}")] = values
    return found


def gguf_tensors(name: str, architecture: str) -> dict[str, np.ndarray]:
    """Tensors by GGUF's names, all experts of a layer in one."""
    config = tiny_experts.CONFIGS[name]
    found: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    for tensor, values in tiny_experts.weights(name).items():
        match = _EXPERT.fullmatch(tensor)
        if match:
            layer = match[1].removeprefix("model.layers.")
            experts.setdefault(f"blk.{layer}.ffn_{_OF_EXPERTS[match[3]]}_exps.weight", []).append(values)
            continue
        role = tensor.removeprefix("model.layers.").partition(".")[2].removesuffix(".weight")
        if role in _ROLES:
            layer = tensor.split(".")[2]
            found[f"blk.{layer}.{_ROLES[role]}.weight"] = values
        else:
            found[tensor_name(tensor, architecture)] = permuted(tensor, values, config, architecture)
    return found | {tensor: np.stack(values) for tensor, values in experts.items()}
