"""Tiny random models, one per architecture and variation: configs and weights, made anew from a seed wherever needed.

The recording script builds them in transformers, the tests write them as files for our own readers. Weights are 7-bit
integers times a power of two per group of 32, with the largest code in every group: our 8-bit groups hold them exactly,
so that no quantisation of weights stands between the two implementations. `RandomState` is NumPy's frozen generator.
"""

import zlib

import numpy as np

NUM_TOKENS = 71  # three pages, the last one partly filled
POSITIONS = (0, 1, 2, 7, 15, 16, 30, 31, 32, 33, 47, 63, 64, 65, 69, 70)  # whose logits are recorded

_BASE = {
    "hidden_size": 64,
    "intermediate_size": 100,  # not a multiple of 32
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 203,  # not a multiple of 16
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def _long_rope(original, **changes):
    # Divisors as models have them: near one for fast pairs, larger for slow ones.
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3],
        "long_factor": [1.05, 1.3, 2.0, 4.0, 7.0, 9.5],
        "original_max_position_embeddings": original,
        "partial_rotary_factor": 0.75,
        **changes,
    }


def _gemma_rope(scaling):
    # Bases are far apart, so that a layer that rotates by the wrong table shows.
    return {
        "full_attention": {"rope_theta": 100000.0, **scaling},
        "sliding_attention": {"rope_theta": 1000.0, "rope_type": "default"},
    }


CONFIGS = {
    "llama": _BASE | {"model_type": "llama"},
    "llama-tied-linear": _BASE
    | {
        "model_type": "llama",
        "hidden_size": 80,  # not a multiple of 32
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
    "llama-llama3-rope": _BASE
    | {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": _LLAMA3},
    "llama-biases": _BASE | {"model_type": "llama", "attention_bias": True, "num_hidden_layers": 3},
    "llama-gelu": _BASE | {"model_type": "llama", "hidden_act": "gelu_pytorch_tanh"},
    "mistral-window": _BASE
    | {"model_type": "mistral", "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3}
    | {"sliding_window": 9, "head_dim": 32},
    "qwen2-yarn": _BASE
    | {"model_type": "qwen2", "rope_parameters": _YARN, "tie_word_embeddings": True, "sliding_window": 9}
    | {"num_attention_heads": 2, "num_key_value_heads": 2, "use_sliding_window": False},
    "qwen2-some-windows": _BASE
    | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "qwen3-wide-heads": _BASE
    | {"model_type": "qwen3", "head_dim": 64, "num_attention_heads": 3, "num_key_value_heads": 1},
    "qwen3-odd-heads": _BASE
    | {"model_type": "qwen3", "head_dim": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"tie_word_embeddings": True},
    "gemma3": _BASE
    | {"model_type": "gemma3_text", "num_hidden_layers": 7, "head_dim": 32, "num_key_value_heads": 1}
    | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32, "sliding_window": 9}
    | {"tie_word_embeddings": True, "rope_parameters": _gemma_rope({"rope_type": "default"})},
    "gemma3-linear": _BASE
    | {"model_type": "gemma3_text", "num_hidden_layers": 4, "head_dim": 40, "num_attention_heads": 2}
    | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 40, "sliding_window": 33}
    | {"layer_types": ["sliding_attention", "full_attention"] * 2, "tie_word_embeddings": True}
    | {"rope_parameters": _gemma_rope({"rope_type": "linear", "factor": 8.0})},
    "gemma2": _BASE
    | {"model_type": "gemma2", "num_hidden_layers": 3, "head_dim": 32, "num_key_value_heads": 1}
    | {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32, "sliding_window": 9}
    # Low, so that a cap that is missing or in the wrong place shows.
    | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0, "tie_word_embeddings": True},
    "phi3": _BASE
    | {"model_type": "phi3", "num_key_value_heads": 4, "sliding_window": 9, "original_max_position_embeddings": 128},
    "phi3-long": _BASE
    | {"model_type": "phi3", "sliding_window": None, "rope_parameters": _long_rope(32), "tie_word_embeddings": True}
    | {"original_max_position_embeddings": 32},
    "phi3-short": _BASE
    | {"model_type": "phi3", "sliding_window": None, "rope_parameters": _long_rope(100)}
    | {"original_max_position_embeddings": 100},
    "granite": _BASE
    | {"model_type": "granite", "embedding_multiplier": 6.0, "residual_multiplier": 0.22, "logits_scaling": 4.0}
    # A large epsilon shows whether it was folded as it should be.
    | {"attention_multiplier": 0.4, "rms_norm_eps": 0.05, "tie_word_embeddings": True},
    "olmo2": _BASE | {"model_type": "olmo2"},
    "olmo2-wide": _BASE
    | {
        "model_type": "olmo2",
        "hidden_size": 80,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "attention_bias": True,
    },
    "smollm3": _BASE | {"model_type": "smollm3", "num_hidden_layers": 4, "tie_word_embeddings": True},
    "qwen3-bare": _BASE | {"model_type": "qwen3", "head_dim": 32, "architectures": ["Qwen3Model"]},
    "qwen2-both-ways": _BASE | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "is_causal": False},
    "smollm3-windows": _BASE
    | {"model_type": "smollm3", "no_rope_layers": [0, 1], "use_sliding_window": True, "sliding_window": 9}
    | {"layer_types": ["sliding_attention", "full_attention"]},
}


CONTEXTS = {"phi3-short": 100}
"""Contexts that tests ask for, where they decide something; by model."""

HIDDEN = ("qwen3-bare", "qwen2-both-ways")
"""Models whose vectors are hidden states [positions, hidden size]: made to be embedded with."""

GEMMAS = ("gemma2", "gemma3_text")
"""Whose norms multiply by one plus a weight."""


def tokens(config):
    """The token sequence that is run, with repeats."""
    random = np.random.RandomState(7)
    ids = random.randint(0, config["vocab_size"], NUM_TOKENS).astype(np.int32)
    ids[40:50] = ids[10:20]
    return ids


def head_dim(config):
    """Features per head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def shapes(config):
    """Shape of every tensor by its safetensors name; transformers agrees when the vectors are recorded."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q_width = config["num_attention_heads"] * head_dim(config)
    kv_width = config["num_key_value_heads"] * head_dim(config)
    layer = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_width, hidden),
        "self_attn.k_proj.weight": (kv_width, hidden),
        "self_attn.v_proj.weight": (kv_width, hidden),
        "self_attn.o_proj.weight": (hidden, q_width),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config["model_type"] == "phi3":
        for role in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            del layer[f"{role}.weight"]
        layer |= {"self_attn.qkv_proj.weight": (q_width + 2 * kv_width, hidden)}
        layer |= {"mlp.gate_up_proj.weight": (2 * inner, hidden)}
    if config["model_type"] == "qwen2" or config.get("attention_bias"):
        layer |= {"self_attn.q_proj.bias": (q_width,)}
        layer |= {"self_attn.k_proj.bias": (kv_width,), "self_attn.v_proj.bias": (kv_width,)}
    if config.get("attention_bias"):
        layer |= {"self_attn.o_proj.bias": (hidden,)}
    if config["model_type"] == "olmo2":
        del layer["input_layernorm.weight"]
        layer |= {"post_feedforward_layernorm.weight": (hidden,)}
        layer |= {"self_attn.q_norm.weight": (q_width,), "self_attn.k_norm.weight": (kv_width,)}
    if config["model_type"] in GEMMAS:
        layer |= {"pre_feedforward_layernorm.weight": (hidden,), "post_feedforward_layernorm.weight": (hidden,)}
    if config["model_type"] in ("qwen3", "gemma3_text"):
        layer |= {"self_attn.q_norm.weight": (head_dim(config),), "self_attn.k_norm.weight": (head_dim(config),)}
    result = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (vocab, hidden)
    for i in range(config["num_hidden_layers"]):
        result |= {f"model.layers.{i}.{role}": shape for role, shape in layer.items()}
    if config.get("architectures", [""])[0].endswith("Model"):  # saved without its head, and without the prefix
        return {name.removeprefix("model."): shape for name, shape in result.items() if name != "lm_head.weight"}
    return result


def weights(name):
    """Float32 tensors of the model of that name; norms near one, biases small, matrices exact in 8 bits."""
    result = {}
    for tensor, shape in shapes(CONFIGS[name]).items():
        random = np.random.RandomState(zlib.crc32(f"{name} {tensor}".encode()))
        noise = random.randint(-127, 128, size=shape).astype(np.float32)
        if len(shape) == 1:
            is_small = tensor.endswith("bias") or CONFIGS[name]["model_type"] in GEMMAS  # which adds the one
            result[tensor] = noise / np.float32(1024) + np.float32(0.0 if is_small else 1.0)
        else:
            # Rows of one matrix get two different scales; uniform codes have a deviation of 73 of 127.
            exponent = -7 - round(np.log2(np.sqrt(shape[1]))) + random.randint(0, 2, size=(shape[0], 1))
            noise[:, ::32] = np.where(noise[:, ::32] < 0, np.float32(-127), np.float32(127))
            result[tensor] = noise * np.float32(2.0) ** exponent.astype(np.float32)
    return result
