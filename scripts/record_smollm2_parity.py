"""Records tests/oracle/vectors/smollm2.npz: what transformers says in float32 on SmolLM2's dequantised weights.

Needs torch, transformers, gguf and tokenizers (`make oracle-env`); tests read only the file.

    python scripts/record_smollm2_parity.py MODEL.gguf

The file holds token ids in windows, the negative log-likelihood of every predicted token, and at every 5th position
the 64 likeliest tokens with their log-probabilities and the mass of all others, so that divergence needs no torch.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "oracle" / "vectors"
WINDOW = 1024
CHUNK = 128
STRIDE = 5
TOP = 64

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def unpermute(weight, num_heads):
    """GGUF stores rotated pairs side by side; transformers wants them half a head apart."""
    rows, cols = weight.shape
    return weight.reshape(num_heads, rows // num_heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load(path):
    """The model in float32 with the file's weights, and the reader for its metadata."""
    reader = gguf.GGUFReader(path)

    def value(key):
        return reader.fields[key].contents()

    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    state = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name
        if name in NAMES:
            name = NAMES[name]
        else:
            _, layer, role, kind = name.split(".")
            if role in ("attn_q", "attn_k"):
                weight = unpermute(weight, heads if role == "attn_q" else kv_heads)
            name = f"model.layers.{layer}.{NAMES[role]}.{kind}"
        state[name] = torch.from_numpy(np.array(weight, dtype=np.float32))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval(), reader


def tokenize(reader, text):
    """Byte-level BPE with single digits, as this model's family splits text."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer.encode(text).ids


def record(model, windows, name):
    """Run the model over the windows and write the vectors."""
    nll, positions, top_ids, top_logprobs, rest = [], [], [], [], []
    for number, window in enumerate(windows):
        hidden = model.model(torch.tensor([window])).last_hidden_state[0]
        for first in range(0, len(window), CHUNK):  # a large vocabulary's logits in double would fill the memory
            logprobs = torch.log_softmax(model.lm_head(hidden[first : first + CHUNK]).double(), dim=-1)
            targets = torch.tensor(window[first + 1 : first + 1 + CHUNK])
            nll.extend((-logprobs[: len(targets)].gather(1, targets[:, None])[:, 0]).tolist())
            for position in range(first, first + len(logprobs)):
                if position % STRIDE != STRIDE - 1:
                    continue
                values, order = logprobs[position - first].topk(TOP)
                positions.append((number, position))
                top_ids.append(order.numpy())
                top_logprobs.append(values.numpy())
                rest.append(1.0 - values.exp().sum().item())
        print(f"window {number}: mean so far {np.mean(nll):.4f}", flush=True)
    np.savez_compressed(
        VECTORS / name,
        tokens=np.concatenate(windows).astype(np.int32),
        starts=np.cumsum([0, *map(len, windows)]).astype(np.int32),
        nll=np.array(nll, dtype=np.float32),
        positions=np.array(positions, dtype=np.int32),
        top_ids=np.array(top_ids, dtype=np.min_scalar_type(model.config.vocab_size)),
        top_logprobs=np.array(top_logprobs, dtype=np.float32),
        rest=np.array(rest, dtype=np.float32),
    )
    print(f"{sum(map(len, windows))} tokens, {len(nll)} predicted, mean {np.mean(nll):.5f}")


def main():
    """Run the model over the text and write the vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    model, reader = load(arguments.model)
    ids = tokenize(reader, (VECTORS / "text.txt").read_text(encoding="utf-8"))
    record(model, [ids[start : start + WINDOW] for start in range(0, len(ids) - 32, WINDOW)], "smollm2.npz")


if __name__ == "__main__":
    main()
