"""A checkpoint whose metadata and tensor shapes are given, for tests of what architectures accept."""

from dataclasses import dataclass, field

import numpy as np

from headrace.core.errors import ModelFileError
from headrace.models import family, gemma3, olmo2, phi3
from headrace.models.registry import CONFIG as KNOWN

GGUF = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 48,
    "llama.block_count": 2,
    "llama.feed_forward_length": 50,
    "llama.attention.head_count": 3,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 64,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "intermediate_size": 50,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
_LAYER = {
    "attention_norm": (48,),
    "q": (48, 48),
    "k": (16, 48),
    "v": (16, 48),
    "o": (48, 48),
    "ffn_norm": (48,),
    "gate": (50, 48),
    "up": (50, 48),
    "down": (48, 50),
}
_QKV_BIAS = {"q_bias": (48,), "k_bias": (16,), "v_bias": (16,)}
_HEAD_NORMS = {"q_norm": (16,), "k_norm": (16,)}
_NORMED_BRANCHES = {"post_attention_norm": (48,), "post_ffn_norm": (48,)}
_EXTRA = {
    "qwen2": _QKV_BIAS,
    "qwen3": _HEAD_NORMS,
    "gemma2": _NORMED_BRANCHES,
    "gemma3": _HEAD_NORMS | _NORMED_BRANCHES,
    "olmo2": _NORMED_BRANCHES | {"q_norm": (48,), "k_norm": (16,)},
    "phi3": {"qkv": (80, 48), "gate_up": (100, 48)},
}
_NAMES = {"gemma2": gemma3.NAMES, "gemma3": gemma3.NAMES, "olmo2": olmo2.NAMES, "phi3": phi3.NAMES}


@dataclass
class MemoryCheckpoint:
    """Implements `Checkpoint` as far as architectures need it."""

    format: str
    metadata: dict
    shapes: dict
    vectors: dict = field(default_factory=dict)

    def __contains__(self, name):
        return name in self.shapes

    def shape(self, name):
        if name not in self.shapes:
            raise ModelFileError(f"tensor {name!r} is missing")
        return self.shapes[name]

    def vector(self, name):
        return self.vectors.get(name, np.zeros(self.shapes[name], dtype=np.float32))


def _shapes(format_name, architecture):
    names = _NAMES.get(architecture, family.ROLES)[format_name]
    shapes = {names["embed"]: (70, 48), names["final_norm"]: (48,), names["head"]: (70, 48)}
    roles = {role: shape for role, shape in (_LAYER | _EXTRA.get(architecture, {})).items() if role in names}
    for layer in range(2):
        shapes |= {names[role].format(layer): shape for role, shape in roles.items()}
    return shapes


def gguf_checkpoint(architecture="llama", **changes):
    """`changes` are keys without the prefix, dots written as two underscores."""
    metadata = {key.replace("llama.", f"{architecture}."): value for key, value in GGUF.items()}
    metadata["general.architecture"] = architecture
    metadata |= {f"{architecture}.{key.replace('__', '.')}": value for key, value in changes.items()}
    return MemoryCheckpoint("gguf", metadata, _shapes("gguf", architecture))


def folder_checkpoint(architecture="llama", **changes):
    """`changes` are keys of config.json; a value of ... removes the key."""
    model_type = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    name = KNOWN[model_type][0]
    metadata = CONFIG | {"model_type": model_type, "architectures": [name], "head_dim": 16} | changes
    metadata = {key: value for key, value in metadata.items() if value is not ...}
    return MemoryCheckpoint("safetensors", metadata, _shapes("safetensors", architecture))
