"""Records tests/oracle/vectors/gemma3.npz: what transformers says in float32 on Gemma 3 270M's dequantised weights.

    python scripts/record_gemma3_parity.py MODEL.gguf

As record_smollm2_parity.py, whose environment it needs. The oracle is the quantised file run in float32, not the
unquantised checkpoint, which the package index does not have. Every window starts with the token that the model was
trained to see first. Tokens are transformers' own reading of the file's vocabulary.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch
from record_smollm2_parity import VECTORS, WINDOW, record
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

ENDS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
ROLES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def load(path):
    """The model in float32 with the file's weights."""
    reader = gguf.GGUFReader(path)

    def value(key):
        return reader.fields[f"gemma3.{key}"].contents()

    config = Gemma3TextConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].contents()),
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        head_dim=value("attention.key_length"),
        query_pre_attn_scalar=value("attention.key_length"),
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        sliding_window=value("attention.sliding_window"),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": value("rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    state = {}
    for tensor in reader.tensors:
        weight = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name.endswith("norm.weight"):
            weight -= 1.0  # transformers adds it back
        name = ENDS.get(tensor.name)
        if name is None:
            _, layer, role, kind = tensor.name.split(".")
            name = f"model.layers.{layer}.{ROLES[role]}.{kind}"
        state[name] = torch.from_numpy(weight)
    model = Gemma3ForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def main():
    """Run the model over the text and write the vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    path = parser.parse_args().model
    torch.set_grad_enabled(False)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = tokenizer.encode((VECTORS / "text.txt").read_text(encoding="utf-8"), add_special_tokens=False)
    pieces = [ids[start : start + WINDOW - 1] for start in range(0, len(ids) - 32, WINDOW - 1)]
    record(load(path), [[tokenizer.bos_token_id, *piece] for piece in pieces], "gemma3.npz")


if __name__ == "__main__":
    main()
