"""sentence-transformers behind a line protocol, run inside the peer's own environment; knows nothing of Headrace.

Reads one JSON command per line on stdin and answers with one JSON line on stdout:
{"do": "open", "model": folder, "threads": 2}           -> {"version", "build"}
{"do": "embed", "texts": [...], "batch": n, "dtype": "float32"}     -> {"seconds"} of all texts, tokenised and computed
{"do": "vectors", "texts": [...], "batch": n, "dtype": "float32"}   -> {"vectors": base64 of float32 [texts, features]}
Vectors have length 1. It sorts texts by length and pads each batch to its longest, as `encode` does by itself.
"""

import base64
import json
import sys
import time
from typing import Any

import sentence_transformers
import torch


class Peer:
    """One model on the CPU."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.models = {
            dtype: sentence_transformers.SentenceTransformer(
                model, device="cpu", model_kwargs={"torch_dtype": getattr(torch, dtype)}
            )
            for dtype in ("float32", "bfloat16")
        }

    def encode(self, texts: list[str], batch: int, dtype: str) -> Any:
        """Vectors of all texts, as a NumPy array."""
        vectors = self.models[dtype].encode(
            texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
        )
        return vectors.float().numpy()


def main() -> None:
    """Answer commands until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not look like an answer
    peer: Peer | None = None
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do == "open":
            peer = Peer(**command)
            answer = {"version": sentence_transformers.__version__, "build": f"torch {torch.__version__}"}
        else:
            assert peer is not None
            begin = time.perf_counter()
            vectors = peer.encode(**command)
            answer = {"seconds": time.perf_counter() - begin}
            if do == "vectors":
                answer = {"vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
