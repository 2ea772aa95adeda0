"""llama.cpp behind a line protocol, run inside the peer's own environment; knows nothing of Headrace.

Reads one JSON command per line on stdin and answers with one JSON line on stdout:
{"do": "open", "model": path, "threads": 2, "flash": bool, "context": tokens, "sequences": n} -> {"version", "build"}
{"do": "prefill", "tokens": [...]}                -> {"seconds": s}
{"do": "decode", "prompts": [[...]], "new": n}     -> {"seconds": s, "tokens": n, "first": [...]}
{"do": "nll", "tokens": [...]}                    -> {"nll": [...]} natural log, of tokens[1:]
Every command starts from an empty cache. Decoding uses llama.cpp's own greedy sampler; its seconds exclude prefill.
"""

import ctypes
import json
import re
import sys
import time
from typing import Any

import llama_cpp as lib
import numpy as np

UBATCH = 512


class Peer:
    """One model and one context."""

    def __init__(self, model: str, threads: int, flash: bool, context: int, sequences: int) -> None:
        lib.llama_backend_init()
        self._log = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._log, ctypes.c_void_p(0))
        self.model = lib.llama_model_load_from_file(model.encode(), lib.llama_model_default_params())
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.vocab_size = lib.llama_vocab_n_tokens(self.vocab)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, max(UBATCH, sequences), UBATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        params.kv_unified = True
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.batch = lib.llama_batch_init(max(UBATCH, sequences), 0, 1)
        self.sampler = lib.llama_sampler_init_greedy()

    def clear(self) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Decode rows of (token, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, logits
        status = lib.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def prompt(self, tokens: list[int], sequence: int) -> None:
        for start in range(0, len(tokens), UBATCH):
            piece = tokens[start : start + UBATCH]
            self.run([(t, start + i, sequence, start + i == len(tokens) - 1) for i, t in enumerate(piece)])

    def prefill(self, tokens: list[int]) -> dict[str, Any]:
        self.clear()
        started = time.perf_counter()
        self.prompt(tokens, 0)
        lib.llama_synchronize(self.context)
        return {"seconds": time.perf_counter() - started}

    def decode(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        self.clear()
        last = []
        for sequence, tokens in enumerate(prompts):
            self.prompt(tokens, sequence)
            last.append(lib.llama_sampler_sample(self.sampler, self.context, -1))
        first = list(last)
        started = time.perf_counter()
        for step in range(new - 1):
            self.run([(t, len(prompts[s]) + step, s, True) for s, t in enumerate(last)])
            last = [lib.llama_sampler_sample(self.sampler, self.context, s) for s in range(len(prompts))]
        return {"seconds": time.perf_counter() - started, "tokens": len(prompts) * (new - 1), "first": first}

    def nll(self, tokens: list[int]) -> dict[str, Any]:
        self.clear()
        out: list[float] = []
        for start in range(0, len(tokens), UBATCH):
            piece = tokens[start : start + UBATCH]
            self.run([(t, start + i, 0, True) for i, t in enumerate(piece)])
            for i in range(len(piece)):
                if start + i + 1 == len(tokens):
                    break
                row = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.context, i), (self.vocab_size,))
                row = row.astype(np.float64)
                peak = row.max()
                out.append(float(peak + np.log(np.exp(row - peak).sum()) - row[tokens[start + i + 1]]))
        return {"nll": out}


def main() -> None:
    """Serve commands until stdin ends."""
    peer: Peer | None = None
    for line in sys.stdin:
        command = json.loads(line)
        action = command.pop("do")
        if action == "open":
            peer = Peer(**command)
            info = lib.llama_print_system_info().decode()
            build = " ".join(re.findall(r"(\w+) = 1", info))
            answer: dict[str, Any] = {"version": f"llama-cpp-python {lib.__version__}", "build": build}
        else:
            assert peer is not None, "open first"
            answer = getattr(peer, action)(**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
