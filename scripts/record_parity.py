"""Records tests/oracle/vectors/tiny_models/ and rope.npz: what transformers computes for tiny random models.

Needs torch and transformers (`make oracle-env`); tests read only the files.

    python scripts/record_parity.py [NAME ...]

tiny_models/NAME.npz holds float32 logits (or hidden states) at a few positions for a model of
tests/oracle/tiny_models.py, for all of them if none is named, and the config.json that transformers writes for it;
rope.npz the inverse frequencies and the attention factor for rope settings that real models use.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "oracle" / "vectors"
sys.path.insert(0, str(ROOT))
from tests.oracle import tiny_models  # noqa: E402 - the tests' own definition of the models

ROPES = {
    "llama-3.1": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    "llama-3.2": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "qwen2.5-yarn": {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0}
    | {"original_max_position_embeddings": 32768},
    "yarn-explicit": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "attention_factor": 1.1}
    | {"original_max_position_embeddings": 4096, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    "yarn-mscale": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7}
    | {"original_max_position_embeddings": 4096},
}


def record_models(names):
    """Logits of tiny models."""
    (VECTORS / "tiny_models").mkdir(exist_ok=True)
    for name in names:
        settings = tiny_models.CONFIGS[name]
        torch.manual_seed(0)
        config = AutoConfig.for_model(**settings, pad_token_id=None, attn_implementation="eager")
        is_hidden = name in tiny_models.HIDDEN
        model = (AutoModel if is_hidden else AutoModelForCausalLM).from_config(config, dtype=torch.float32).eval()
        values = tiny_models.weights(name)
        if is_hidden:
            values = {k.removeprefix("model."): v for k, v in values.items() if k != "lm_head.weight"}
        missing, unexpected = model.load_state_dict({k: torch.from_numpy(v) for k, v in values.items()}, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not unexpected
        model.tie_weights()
        ids = torch.from_numpy(tiny_models.tokens(settings).astype(np.int64))[None]
        logits = (model(ids).last_hidden_state if is_hidden else model(ids).logits)[0].numpy()
        written = np.array(json.dumps(config.to_dict(), sort_keys=True))
        path = VECTORS / "tiny_models" / f"{name}.npz"
        np.savez_compressed(path, logits=logits[list(tiny_models.POSITIONS)], config=written)
        print(f"{name}: {sum(v.size for v in values.values())} values, logits deviate by {logits.std():.3f}")


def record_ropes():
    """Inverse frequencies of rope settings for heads of 128 features."""
    recorded = {"settings": np.array(json.dumps(ROPES))}
    for name, settings in ROPES.items():
        config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=dict(settings))
        frequencies, factor = ROPE_INIT_FUNCTIONS[settings["rope_type"]](config, "cpu")
        recorded[name] = np.append(frequencies.numpy(), np.float32(factor))
    np.savez_compressed(VECTORS / "rope.npz", **recorded)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    record_models(sys.argv[1:] or tiny_models.CONFIGS)
    record_ropes()
