"""llama.cpp behind a line protocol, run inside the peer's own environment; knows nothing of Headrace.

Reads one JSON command per line on stdin and answers with one JSON line on stdout:
{"do": "open", "model": path, "threads": 2, "flash": bool, "kv": "f16" | "q8_0", "context": tokens, "sequences": n,
 "unified": true, "batch": 512}                        -> {"version", "build"}
{"do": "prefill", "tokens": [...]}                     -> {"seconds"} of one fresh prompt
{"do": "prompt", "prompts": [[...]]}                   -> {} computes prompts, one sequence each, not timed
{"do": "decode", "new": n}                             -> {"seconds", "tokens"} of n steps behind those prompts
{"do": "shared", "prefix": [...], "tails": [[...]], "new": n} -> {"seconds", "tokens"} from an empty cache to the end
{"do": "serve", "prompts": [[...]], "new": n}          -> {"seconds", "tokens"} of all at once, as its server would
{"do": "nll", "tokens": [...]}                         -> {"nll": [...]} natural log, of tokens[1:]
{"do": "quantize", "source": path, "target": path, "type": "Q4_0"} -> {} no model need be open
All but "decode" and "serve" start from an empty cache; "decode" may be repeated, it forgets what the last one added.
Tokens are chosen by llama.cpp's own greedy sampler. "shared" computes the prefix once and copies it to every sequence
within the cache (llama_memory_seq_cp, which copies no memory), then computes all tails in batches, then steps. "serve"
does what llama.cpp's server does: every prompt takes the free slot (sequence) that has the longest common prefix with
it, keeps that much of it, and computes the rest; a batch has one token of every slot that generates, and prompts, slot
by slot, in what room is left. Slots keep what they hold until the next "serve".
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
KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}


class Peer:
    """One model and one context."""

    def __init__(
        self,
        model: str,
        threads: int,
        flash: bool,
        kv: str,
        context: int,
        sequences: int,
        *,
        unified: bool = True,
        batch: int = UBATCH,
    ) -> None:
        lib.llama_backend_init()
        self._log = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._log, ctypes.c_void_p(0))
        self.model = lib.llama_model_load_from_file(model.encode(), lib.llama_model_default_params())
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.vocab_size = lib.llama_vocab_n_tokens(self.vocab)
        params = lib.llama_context_default_params()
        self.room = max(batch, sequences)
        params.n_ctx, params.n_batch, params.n_ubatch = context, self.room, UBATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        params.type_k = params.type_v = KV_TYPES[kv]
        params.kv_unified = unified
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context")
        self.batch = lib.llama_batch_init(self.room, 0, 1)
        self.sampler = lib.llama_sampler_init_greedy()
        self.ends: list[tuple[int, int]] = []  # prompt length and first new token of every sequence
        self.slots: list[list[int]] = [[] for _ in range(sequences)]  # what "serve" has left in every one

    def clear(self) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        self.slots = [[] for _ in self.slots]

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

    def sample(self, row: int) -> int:
        return int(lib.llama_sampler_sample(self.sampler, self.context, row))

    def steps(self, ends: list[tuple[int, int]], count: int) -> None:
        """Decode `count` tokens for every sequence, all in one batch a step."""
        last = [token for _, token in ends]
        for step in range(count):
            self.run([(token, ends[s][0] + step, s, True) for s, token in enumerate(last)])
            last = [self.sample(s) for s in range(len(ends))]

    def prompt_all(self, prompts: list[list[int]]) -> dict[str, Any]:
        self.clear()
        self.ends = []
        for sequence, tokens in enumerate(prompts):
            self.prompt(tokens, sequence)
            self.ends.append((len(tokens), self.sample(-1)))
        return {}

    def decode(self, new: int) -> dict[str, Any]:
        memory = lib.llama_get_memory(self.context)
        for sequence, (length, _) in enumerate(self.ends):
            lib.llama_memory_seq_rm(memory, sequence, length, -1)
        started = time.perf_counter()
        self.steps(self.ends, new)
        return {"seconds": time.perf_counter() - started, "tokens": len(self.ends) * new}

    def shared(self, prefix: list[int], tails: list[list[int]], new: int) -> dict[str, Any]:
        self.clear()
        memory = lib.llama_get_memory(self.context)
        started = time.perf_counter()
        self.prompt(prefix, 0)
        for sequence in range(1, len(tails)):
            lib.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        rows = [
            (token, len(prefix) + i, sequence, i == len(tail) - 1)
            for sequence, tail in enumerate(tails)
            for i, token in enumerate(tail)
        ]
        ends = []
        for start in range(0, len(rows), UBATCH):
            piece = rows[start : start + UBATCH]
            self.run(piece)
            ends += [(position + 1, self.sample(i)) for i, (_, position, _, wants) in enumerate(piece) if wants]
        self.steps(ends, new - 1)
        return {"seconds": time.perf_counter() - started, "tokens": len(tails) * new}

    def take_slots(self, prompts: list[list[int]]) -> list[int]:
        """A slot for every prompt, with no more left in it than it can reuse; one token is always computed."""
        memory = lib.llama_get_memory(self.context)
        free = list(range(len(self.slots)))
        taken = []
        for prompt in prompts:
            best = max(free, key=lambda slot: common_prefix(self.slots[slot], prompt))
            free.remove(best)
            taken.append(best)
            kept = min(common_prefix(self.slots[best], prompt), len(prompt) - 1)
            lib.llama_memory_seq_rm(memory, best, kept, -1)
            self.slots[best] = prompt[:kept]
        return taken

    def serve(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        started = time.perf_counter()
        taken = self.take_slots(prompts)
        lasts: dict[int, int] = {}  # of slots that generate: the token to compute next
        left = dict.fromkeys(taken, new)
        wanted = dict(zip(taken, prompts, strict=True))
        while left:
            rows = [(token, len(self.slots[slot]), slot, True) for slot, token in lasts.items()]
            for slot, token in lasts.items():
                self.slots[slot].append(token)
            for slot in taken:
                done, prompt = len(self.slots[slot]), wanted[slot]
                piece = prompt[done : done + self.room - len(rows)] if slot not in lasts and slot in left else []
                rows += [(t, done + i, slot, done + i == len(prompt) - 1) for i, t in enumerate(piece)]
                self.slots[slot] += piece
            self.run(rows)
            for i, (_, _, slot, wants) in enumerate(rows):
                if not wants:
                    continue
                lasts[slot] = self.sample(i)
                left[slot] -= 1
                if left[slot] == 0:
                    del left[slot], lasts[slot]
        return {"seconds": time.perf_counter() - started, "tokens": len(prompts) * new}

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


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def quantize(source: str, target: str, type: str) -> dict[str, Any]:  # noqa: A002 - llama.cpp's word
    """Write `source` anew in another type, whatever type it is in."""
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{type}")
    params.allow_requantize = True
    status = lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status}")
    return {}


def main() -> None:
    """Serve commands until stdin ends."""
    peer: Peer | None = None
    for line in sys.stdin:
        command = json.loads(line)
        action = command.pop("do")
        answer: dict[str, Any]
        if action == "open":
            peer = Peer(**command)
            info = lib.llama_print_system_info().decode()
            build = " ".join(re.findall(r"(\w+) = 1", info))
            answer = {"version": f"llama-cpp-python {lib.__version__}", "build": build}
        elif action == "quantize":
            answer = quantize(**command)
        else:
            assert peer is not None, "open first"
            answer = getattr(peer, {"prompt": "prompt_all"}.get(action, action))(**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
