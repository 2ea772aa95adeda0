"""Records tests/oracle/vectors/tiny_encoders.npz and minilm.npz: what transformers and sentence-transformers compute.

Needs torch, transformers and sentence-transformers (`make oracle-env`) and the folder of all-MiniLM-L6-v2
(`headrace pull all-minilm-l6-v2`); tests read only the files.

    python scripts/record_encoders.py FOLDER

tiny_encoders.npz holds float32 hidden states (or labels) of every model of tests/oracle/tiny_encoders.py; minilm.npz
token ids, one after the other with their lengths, and vectors of tests/oracle/embedding_texts.py, and ids and segments
of some pairs of them cut to 64 tokens.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "oracle" / "vectors"
sys.path.insert(0, str(ROOT))
from tests.oracle import tiny_encoders  # noqa: E402 - the tests' own definition of the models
from tests.oracle.embedding_texts import TEXTS  # noqa: E402

PAIR_TOKENS = 64


def record_models():
    """Hidden states, or labels, of every tiny model."""
    recorded = {}
    for name, settings in tiny_encoders.CONFIGS.items():
        config = AutoConfig.for_model(**settings, attn_implementation="eager")
        kind = AutoModelForSequenceClassification if tiny_encoders.num_labels(name) else AutoModel
        model = kind.from_config(config, dtype=torch.float32).eval()
        values = {k: torch.from_numpy(v) for k, v in tiny_encoders.prefixed(name).items()}
        missing, unexpected = model.load_state_dict(values, strict=False)
        assert not missing and not unexpected, (missing, unexpected)
        for i, (tokens, segments) in enumerate(zip(*tiny_encoders.inputs(name), strict=True)):
            ids = torch.from_numpy(tokens.astype(np.int64))[None]
            result = model(input_ids=ids, token_type_ids=torch.from_numpy(segments.astype(np.int64))[None])
            if tiny_encoders.num_labels(name):
                recorded[f"{name} {i}"] = result.logits[0].numpy()
            else:
                hidden = result.last_hidden_state[0].numpy()
                recorded[f"{name} {i}"] = hidden[list(tiny_encoders.POSITIONS)] if i == 0 else hidden
        print(name, recorded[f"{name} 0"].std())
    np.savez_compressed(VECTORS / "tiny_encoders.npz", **recorded)


def record_minilm(folder):
    """Ids and normalised vectors of the texts, and ids of pairs."""
    model = SentenceTransformer(folder, device="cpu")
    vectors = model.encode(list(TEXTS), normalize_embeddings=True, batch_size=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"] for text in TEXTS]
    pairs = [
        tokenizer(a, b, truncation="longest_first", max_length=PAIR_TOKENS)
        for a, b in zip(TEXTS, (*TEXTS[1:], TEXTS[2]), strict=True)
    ]
    np.savez_compressed(
        VECTORS / "minilm.npz",
        vectors=vectors.astype(np.float32),
        ids=np.concatenate(ids).astype(np.int32),
        lengths=np.array([len(each) for each in ids], np.int32),
        pair_ids=np.concatenate([pair["input_ids"] for pair in pairs]).astype(np.int32),
        pair_segments=np.concatenate([pair["token_type_ids"] for pair in pairs]).astype(np.int32),
        pair_lengths=np.array([len(pair["input_ids"]) for pair in pairs], np.int32),
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    record_models()
    record_minilm(sys.argv[1])
