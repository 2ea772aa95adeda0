"""Tiny random mixtures of experts, as `tiny_models` makes dense models: made anew from a seed wherever needed.

Rounding must not decide which experts a row chooses, or a flipped choice would hide every other difference. So the
first features of the stream, one for each expert, hold what the embedding says of a token: evenly spaced levels in an
order of the token's own. Nothing else writes to them, and every layer's router reads them in another order, with a
little of all other features beside.
"""

import zlib

import numpy as np
from tests.oracle.tiny_models import _BASE, NUM_TOKENS, POSITIONS, head_dim, tokens

__all__ = ["CONFIGS", "NUM_TOKENS", "POSITIONS", "head_dim", "shapes", "tokens", "weights"]

CONFIGS = {
    "mixtral": _BASE | {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2},
    "mixtral-all-chosen": _BASE
    | {"model_type": "mixtral", "hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 1}
    | {"num_local_experts": 3, "num_experts_per_tok": 3, "sliding_window": 9, "tie_word_embeddings": True},
    "qwen2-moe": _BASE
    | {"model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    | {"shared_expert_intermediate_size": 70, "norm_topk_prob": False},
    "qwen2-moe-some-dense": _BASE
    | {"model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    | {"shared_expert_intermediate_size": 33, "norm_topk_prob": True, "qkv_bias": False}
    | {"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
    "qwen3-moe": _BASE
    | {"model_type": "qwen3_moe", "num_experts": 9, "num_experts_per_tok": 4, "moe_intermediate_size": 40}
    | {"norm_topk_prob": True, "head_dim": 32},
    "qwen3-moe-one-chosen": _BASE
    | {"model_type": "qwen3_moe", "num_experts": 7, "num_experts_per_tok": 1, "moe_intermediate_size": 50}
    | {"norm_topk_prob": False, "mlp_only_layers": [1], "num_hidden_layers": 3, "tie_word_embeddings": True},
    "olmoe": _BASE | {"model_type": "olmoe", "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": False},
}


def num_experts(config):
    """How many experts a layer has."""
    return config.get("num_experts") or config["num_local_experts"]


def is_sparse(config, layer):
    """Whether a layer has experts."""
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers", [])
    return layer not in dense and (layer + 1) % step == 0


def _attention_shapes(config):
    hidden, width = config["hidden_size"], head_dim(config)
    q_width, kv_width = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_width, hidden),
        "self_attn.k_proj.weight": (kv_width, hidden),
        "self_attn.v_proj.weight": (kv_width, hidden),
        "self_attn.o_proj.weight": (hidden, q_width),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config["model_type"] == "qwen2_moe" and config.get("qkv_bias", True):
        shapes |= {"self_attn.q_proj.bias": (q_width,)}
        shapes |= {"self_attn.k_proj.bias": (kv_width,), "self_attn.v_proj.bias": (kv_width,)}
    if config["model_type"] == "qwen3_moe":
        shapes |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    if config["model_type"] == "olmoe":
        shapes |= {"self_attn.q_norm.weight": (q_width,), "self_attn.k_norm.weight": (kv_width,)}
    return shapes


def _gated_shapes(name, inner, hidden, roles=("gate_proj", "up_proj", "down_proj")):
    both = {f"{name}.{role}.weight": (inner, hidden) for role in roles[:2]}
    return both | {f"{name}.{roles[2]}.weight": (hidden, inner)}


def _expert_shapes(config):
    hidden = config["hidden_size"]
    inner = config.get("moe_intermediate_size", config["intermediate_size"])
    is_mixtral = config["model_type"] == "mixtral"
    block = "block_sparse_moe" if is_mixtral else "mlp"
    shapes = {f"{block}.gate.weight": (num_experts(config), hidden)}
    for expert in range(num_experts(config)):
        roles = (("w1", "w3", "w2"),) if is_mixtral else ()
        shapes |= _gated_shapes(f"{block}.experts.{expert}", inner, hidden, *roles)
    if config["model_type"] == "qwen2_moe":
        shapes |= _gated_shapes("mlp.shared_expert", config["shared_expert_intermediate_size"], hidden)
        shapes |= {"mlp.shared_expert_gate.weight": (1, hidden)}
    return shapes


def shapes(config):
    """Shape of every tensor by its safetensors name."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    result = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        dense = _gated_shapes("mlp", config["intermediate_size"], hidden)
        layer = _attention_shapes(config) | (_expert_shapes(config) if is_sparse(config, i) else dense)
        result |= {f"model.layers.{i}.{role}": shape for role, shape in layer.items()}
    return result


def weights(name):
    """Float32 tensors of the model of that name, matrices exact in 8 bits as those of `tiny_models`."""
    config = CONFIGS[name]
    count = num_experts(config)
    result = {}
    for tensor, shape in shapes(config).items():
        random = np.random.RandomState(zlib.crc32(f"{name} {tensor}".encode()))
        noise = random.randint(-127, 128, size=shape).astype(np.float32)
        role = tensor.removesuffix(".weight").rsplit(".", 1)[-1]
        if len(shape) == 1:
            result[tensor] = noise / np.float32(4096) + np.float32(0.0 if tensor.endswith("bias") else 1.0)
            continue
        exponent = -7 - round(np.log2(np.sqrt(shape[1]))) + random.randint(0, 2, size=(shape[0], 1))
        noise[:, ::32] = np.where(noise[:, ::32] < 0, np.float32(-127), np.float32(127))
        scale = np.float32(2.0) ** exponent.astype(np.float32)
        if role == "embed_tokens":
            levels = np.linspace(127, -127, count).round().astype(np.float32)
            noise = np.where(np.abs(noise) < 127, (noise / 2).round(), noise)
            noise[:, :count] = np.stack([random.permutation(levels) for _ in range(len(noise))])
        elif role in ("o_proj", "down_proj", "w2"):
            noise[:count] = 0
        elif role == "gate" and (
            "mlp.gate." in tensor or "block_sparse_moe" in tensor
        ):  # a router: float32 in our plans
            noise, scale = noise / 256, np.float32(2.0**-5)
            noise[np.arange(count), random.permutation(count)] = 127.0
        result[tensor] = noise * scale
    return result
