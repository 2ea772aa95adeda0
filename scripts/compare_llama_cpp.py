"""Holds the tiny models' GGUF files against llama.cpp itself: it must read them as transformers reads the folders.

Our tests write these files as they read them; that llama.cpp means the same by them is what this shows. Two steps,
because llama-cpp-python lives in its own environment (`make bench-peers`) and never in ours:

    .venv/bin/python scripts/compare_llama_cpp.py make FOLDER [NAME ...]
    PEER/bin/python scripts/compare_llama_cpp.py compare FOLDER

The second prints, for every model, how far llama.cpp's logits (or hidden states) are from the recorded ones, as a share
of their deviation, and fails above 1e-3: its GELU is a table of halves, all else is float32.
"""

# ruff: noqa: PLC0415
# (each step runs in an environment that lacks the other's packages)
import ctypes
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BOUND = 1e-3
CONTEXT = 256  # llama.cpp rounds contexts up to this
KNOWN = {
    "mistral-window": "reads no window of files that call themselves llama",
    "mixtral-all-chosen": "reads no window of files that call themselves llama",
    "olmoe": "takes OLMoE only with as many key heads as query heads",
    "phi3": "switches the window of Phi-3 off (its pull request 13676)",
    "phi3-short": f"has no context below {CONTEXT}, so that it takes the long factors",
    "olmo2-wide": "knows no biases of OLMo 2",
}


def make(folder: Path, names: list[str]) -> None:
    """Write files and what is to come of them."""
    sys.path.insert(0, str(ROOT))
    from tests.oracle import expert_files, test_tiny_experts, test_tiny_models, tiny_experts, tiny_files, tiny_models

    folder.mkdir(parents=True, exist_ok=True)
    for name in names or (*test_tiny_models.GGUF_NAMES, *expert_files.GGUF_NAMES):
        is_dense = name in tiny_models.CONFIGS
        (tiny_files if is_dense else expert_files).write_gguf(name, folder / f"{name}.gguf")
        np.savez(
            folder / f"{name}.npz",
            values=(test_tiny_models if is_dense else test_tiny_experts).recorded(name),
            tokens=tiny_models.tokens((tiny_models if is_dense else tiny_experts).CONFIGS[name]),
            positions=tiny_models.POSITIONS,
            is_hidden=name in tiny_models.HIDDEN,
        )


def compare(folder: Path) -> int:
    """Print every model's deviation; how many are too far."""
    import llama_cpp as lib

    lib.llama_backend_init()
    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    num_failed = 0
    for path in sorted(folder.glob("*.gguf")):
        with np.load(path.with_suffix(".npz")) as expected:
            values = _values(lib, path, expected)
            error = np.inf
            if values is not None:
                error = np.sqrt(((values - expected["values"]) ** 2).mean()) / expected["values"].std()
        verdict = "ok" if error < BOUND else f"llama.cpp {KNOWN[path.stem]}" if path.stem in KNOWN else "TOO FAR"
        num_failed += verdict == "TOO FAR"
        print(f"{path.stem:20} {error:.1e}  {verdict}")
    return num_failed


def _values(lib, path, expected):
    # At the recorded positions; None where llama.cpp does not take the file.
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    if not model:
        return None
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
    params.type_k = params.type_v = lib.GGML_TYPE_F32
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = bool(expected["is_hidden"])
    params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE
    context = lib.llama_init_from_model(model, params)
    tokens = expected["tokens"]
    batch = lib.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
        batch.seq_id[i][0] = 0
    read = lib.llama_get_embeddings_ith if params.embeddings else lib.llama_get_logits_ith
    width = expected["values"].shape[1]
    found = None
    if lib.llama_decode(context, batch) == 0:
        rows = (np.ctypeslib.as_array(read(context, int(i)), shape=(width,)) for i in expected["positions"])
        found = np.stack([row.copy() for row in rows])
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) > 2:
        make(Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 3:
        sys.exit(1 if compare(Path(sys.argv[2])) else 0)
    else:
        sys.exit(__doc__)
