"""Records tests/oracle/vectors/tiny_experts.npz: what transformers computes for tiny random mixtures of experts.

Needs torch and transformers (`make oracle-env`); tests read only the file.

    python scripts/record_experts.py

The models of tests/oracle/tiny_experts.py are written as checkpoints and loaded as any other, so that names and forms
of their tensors are those that transformers reads. Holds float32 logits at a few positions, and prints how far apart
the last expert that was chosen and the first that was not are, in logits of the router, where they are closest.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "oracle" / "vectors"
sys.path.insert(0, str(ROOT))
from tests.oracle import tiny_experts  # noqa: E402 - the tests' own definition of the models


def load(name, folder):
    """The model as transformers reads it."""
    (folder / "config.json").write_text(json.dumps(tiny_experts.CONFIGS[name]))
    save_file(tiny_experts.weights(name), folder / "model.safetensors", metadata={"format": "pt"})
    model, told = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not told["missing_keys"] - {"lm_head.weight"} and not told["unexpected_keys"], told
    return model.eval()


def main():
    """Logits of every tiny model."""
    recorded = {}
    for name, config in tiny_experts.CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            model = load(name, Path(folder))
        ids = torch.from_numpy(tiny_experts.tokens(config).astype(np.int64))[None]
        answer = model(ids, output_router_logits=True)
        recorded[name] = answer.logits[0].numpy()[list(tiny_experts.POSITIONS)]
        routers = torch.cat([each.reshape(-1, each.shape[-1]) for each in answer.router_logits])
        ordered = routers.sort(dim=-1, descending=True).values
        used = config["num_experts_per_tok"]
        gap = (ordered[:, used - 1] - ordered[:, used]).min() if used < ordered.shape[1] else torch.inf
        print(f"{name}: logits deviate by {answer.logits.std():.3f}, routers by {routers.std():.2f}, gap {gap:.3f}")
    np.savez_compressed(VECTORS / "tiny_experts.npz", **recorded)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
