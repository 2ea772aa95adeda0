"""Tiny random BERT and XLM-RoBERTa models, one per variation, as `tiny_models` does it for decoders.

The recording script builds them in transformers, the tests write them as files for our own readers.
"""

import json
import zlib
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

_BASE = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 64,
    "intermediate_size": 100,  # not a multiple of 32: plain products beside rotated ones
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 203,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
_CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "hidden_size": 96, "num_attention_heads": 3}

CONFIGS = {
    "bert": _BASE,
    "bert-rotated": _BASE
    | {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 128, "hidden_act": "relu"}
    | {"num_hidden_layers": 3, "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    "bert-odd": _BASE | {"hidden_size": 80, "num_attention_heads": 5, "hidden_act": "gelu_new"},
    "cross-encoder": _BASE | _CLASSIFIER | {"id2label": {"0": "LABEL_0"}},
    "xlm-roberta": _BASE
    | {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "type_vocab_size": 1, "pad_token_id": 1}
    | {"max_position_embeddings": 80, "layer_norm_eps": 1e-5},
    "reranker": _BASE
    | {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"], "type_vocab_size": 1}
    | {"max_position_embeddings": 80, "pad_token_id": 1, "id2label": {"0": "LABEL_0"}},
    "nli": _BASE | _CLASSIFIER | {"id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"}},
}

LENGTHS = (71, 40, 1)
POSITIONS = (0, 1, 7, 31, 32, 39, 63, 64, 70)  # of the first sequence, whose hidden states are recorded


def num_labels(name):
    """How many; 0: an embedding model."""
    return len(CONFIGS[name].get("id2label", ()))


def is_roberta(name):
    """Of the kind that counts positions from behind the padding's and has a classifier of two products."""
    return CONFIGS[name]["model_type"] != "bert"


def inputs(name):
    """Tokens and segments of every sequence; the first is all segment 0. RoBERTa's padding is not among them."""
    config = CONFIGS[name]
    random = np.random.RandomState(11)
    tokens = [random.randint(2 * is_roberta(name), config["vocab_size"], length).astype(np.int32) for length in LENGTHS]
    segments = [np.zeros(LENGTHS[0], np.int32)]
    segments += [(np.arange(length) * config["type_vocab_size"] // length).astype(np.int32) for length in LENGTHS[1:]]
    return tokens, segments


def shapes(name):
    """Shape of every tensor by its name in transformers' BertModel, and of the classifier's two."""
    config = CONFIGS[name]
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    result = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
    }

    def add(module, *shape):
        result[f"{module}.weight"], result[f"{module}.bias"] = shape, shape[:1]

    add("embeddings.LayerNorm", hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for role in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            add(f"{layer}.{role}", hidden, hidden)
        add(f"{layer}.attention.output.LayerNorm", hidden)
        add(f"{layer}.intermediate.dense", inner, hidden)
        add(f"{layer}.output.dense", hidden, inner)
        add(f"{layer}.output.LayerNorm", hidden)
    if is_roberta(name) and num_labels(name):
        add("classifier.dense", hidden, hidden)
        add("classifier.out_proj", num_labels(name), hidden)
        return result
    add("pooler.dense", hidden, hidden)
    if num_labels(name):
        add("classifier", num_labels(name), hidden)
    return result


def weights(name):
    """Float32 tensors: norms near one, biases small, matrices of about unit gain."""
    result = {}
    for tensor, shape in shapes(name).items():
        random = np.random.RandomState(zlib.crc32(f"{name} {tensor}".encode()))
        noise = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            result[tensor] = noise * np.float32(0.1) + np.float32("LayerNorm.weight" in tensor)
        else:
            gain = 0.5 if "embeddings" in tensor else 1.4 / np.sqrt(shape[1])
            result[tensor] = noise * np.float32(gain)
    return result


def prefixed(name):
    """Tensors under the names that a saved model has: the whole encoder of a classifier is called `bert`."""
    prefix = ("roberta." if is_roberta(name) else "bert.") if num_labels(name) else ""
    return {tensor if tensor.startswith("classifier") else prefix + tensor: v for tensor, v in weights(name).items()}


def write_folder(name: str, folder: Path, tensors=None) -> Path:
    """As transformers saves it."""
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    save_file(prefixed(name) if tensors is None else tensors, folder / "model.safetensors")
    return folder


GGUF_ROLES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
GGUF_ENDS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}


def write_gguf(name: str, path: Path) -> Path:
    """As llama.cpp's converter writes it."""
    config = CONFIGS[name]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if num_labels(name) else gguf.PoolingType.MEAN)
    if num_labels(name) > 1:
        writer.add_classifier_output_labels(list(config["id2label"].values()))
    for tensor, values in weights(name).items():
        module, kind = tensor.rsplit(".", 1)
        if module in GGUF_ENDS:
            if module == "pooler.dense" and not num_labels(name):
                continue  # the converter drops it
            writer.add_tensor(f"{GGUF_ENDS[module]}.{kind}", values)
            continue
        layer, role = module.removeprefix("encoder.layer.").split(".", 1)
        writer.add_tensor(f"blk.{layer}.{GGUF_ROLES[role]}.{kind}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
