"""Writes the tiny models as files: safetensors folders as transformers does, and GGUF files as llama.cpp does."""

import json
import math
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from tests.oracle import tiny_models

from headrace.models import rope

GGUF_ROLES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}
GEMMA_ROLES = GGUF_ROLES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GEMMAS = ("gemma2", "gemma3")
NORMED_BRANCHES = (*GEMMAS, "olmo2")
PERMUTED = ("llama", "granite", "smollm3")
GGUF_ENDS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write_folder(name: str, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(tiny_models.CONFIGS[name]))
    save_file(tiny_models.weights(name), folder / "model.safetensors")
    return folder


def gguf_architecture(config: dict[str, object]) -> str:
    """What GGUF files call a model of this config."""
    return {"mistral": "llama", "gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])


def write_gguf(name: str, path: Path) -> Path:
    config = tiny_models.CONFIGS[name]
    architecture = gguf_architecture(config)
    writer = gguf.GGUFWriter(path, architecture)
    head_dim = tiny_models.head_dim(config)
    writer.add_tokenizer_model("no_vocab")  # llama.cpp opens no file without one: scripts/compare_llama_cpp.py
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if not config.get("is_causal", True):
        writer.add_causal_attention(False)
    if "sliding_window" in config and config["model_type"] in ("mistral", "phi3", "gemma2"):
        writer.add_sliding_window(config["sliding_window"] or 0)
    _add_scales(writer, config)
    if architecture == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
        if "layer_types" in config:
            writer.add_sliding_window_pattern(config["layer_types"].index("full_attention") + 1)
        _add_rope(writer, config["rope_parameters"]["full_attention"], head_dim)
        writer.add_float32("gemma3.rope.freq_base_swa", config["rope_parameters"]["sliding_attention"]["rope_theta"])
    else:
        _add_rope(writer, config["rope_parameters"], head_dim)
    if config["rope_parameters"].get("rope_type") == "longrope":
        _add_long_rope(writer, config["rope_parameters"], config["max_position_embeddings"])
    for tensor, values in tiny_models.weights(name).items():
        is_less_one = architecture in GEMMAS and tensor.endswith("norm.weight")
        stored = values + np.float32(1.0) if is_less_one else permuted(tensor, values, config, architecture)
        writer.add_tensor(tensor_name(tensor, architecture), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_scales(writer: gguf.GGUFWriter, config: dict[str, object]) -> None:
    if config["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] == "granite":
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def _add_long_rope(writer: gguf.GGUFWriter, parameters: dict[str, object], trained: int) -> None:
    original = parameters["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(trained / original) / math.log(original)))
    for kind in ("short", "long"):
        writer.add_tensor(f"rope_factors_{kind}.weight", np.array(parameters[f"{kind}_factor"], dtype=np.float32))


def _add_rope(writer: gguf.GGUFWriter, parameters: dict[str, object], head_dim: int) -> None:
    writer.add_rope_dimension_count(int(head_dim * parameters.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(parameters["rope_theta"])
    kind = parameters["rope_type"]
    if kind == "llama3":  # GGUF has no such type: the converter writes what the frequencies are divided by
        plain = rope.Rope(theta=parameters["rope_theta"], rotary_dim=head_dim)
        scaled = rope.Rope(
            theta=parameters["rope_theta"],
            rotary_dim=head_dim,
            scaling=rope.Scaling.LLAMA3,
            factor=parameters["factor"],
            low_freq_factor=parameters["low_freq_factor"],
            high_freq_factor=parameters["high_freq_factor"],
            original_context=parameters["original_max_position_embeddings"],
        )
        divisors = rope.frequencies(plain) / rope.frequencies(scaled)
        writer.add_tensor("rope_freqs.weight", divisors.astype(np.float32))
    elif kind not in ("default", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(parameters["factor"])
        if "original_max_position_embeddings" in parameters:
            writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])


def tensor_name(tensor: str, architecture: str) -> str:
    if not tensor.startswith(("model.", "lm_head.")):
        tensor = f"model.{tensor}"
    if tensor in GGUF_ENDS:
        return GGUF_ENDS[tensor]
    layer, role_and_kind = tensor.removeprefix("model.layers.").split(".", 1)
    role, kind = role_and_kind.rsplit(".", 1)
    roles = GEMMA_ROLES if architecture in NORMED_BRANCHES else GGUF_ROLES
    return f"blk.{layer}.{roles[role]}.{kind}"


def permuted(tensor: str, values: np.ndarray, config: dict[str, object], architecture: str) -> np.ndarray:
    # Llama files in GGUF hold rotated features side by side; Qwen's keep them half a head apart.
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    role = tensor.split(".")[-2]
    if architecture not in PERMUTED or role not in heads:
        return values
    halves = values.reshape(config[heads[role]], 2, tiny_models.head_dim(config) // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
