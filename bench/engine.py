"""Question: how fast does the engine read and write tokens, beside llama.cpp, and how much of it arrives over HTTP?

    prefill-512, -2048            tokens of one fresh prompt per second
    decode-1, -8, -32             new tokens per second over all streams, 64 each after 128, prefill excluded
    http-1-share, -32-share       the same decode through our own server, streaming, as a fraction of in-process
    nll                           mean negative log-likelihood (nats per token) on a recorded text; peer: float32
    start-s                       seconds from process start to the first token of `headrace generate`, weights packed

Ours is measured through the engine's thread and its mailboxes, the peer through its low-level batch API; both greedy,
both with fp16 keys and values. Decoding excludes prefill: ours meets prompts whose 128 tokens are warm in the tree.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.process import PeerProcess
from bench.quality import measure_nll
from bench.report import Row, publish, row
from headrace.core.clock import SystemClock
from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig, detect_hardware, resolve
from headrace.engine.engine import Engine, EngineModel, Failed, Token
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Work
from headrace.kernels import native
from headrace.models.load import LoadedModel, load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

PROMPT, NEW = 128, 64
STREAMS = (1, 8, 32)
PREFILLS = (512, 2048)


@dataclass(slots=True)
class Ours:
    """Our engine in this process, driven with token ids."""

    model: LoadedModel
    threads: int
    engine: Engine = field(init=False)
    pool: native.Threads = field(init=False)

    def __post_init__(self) -> None:
        config = resolve(EngineConfig(threads=self.threads, kv_memory_bytes=2**31), detect_hardware())
        self.pool = native.Threads(self.threads)
        lane = EngineModel(
            name="m", program=self.model.program, cache=self.model.plan.cache, context_length=self.model.context_length
        )
        self.engine = Engine(config, [lane], self.pool, SystemClock())
        self.engine.start()

    def close(self) -> None:
        self.engine.close()
        self.pool.close()

    async def _one(self, tokens: list[int], new: int, salt: bytes) -> int:
        mailbox = Mailbox(asyncio.get_running_loop())
        self.engine.submit(
            Work(
                model="m",
                tokens=np.array(tokens, np.int32),
                sampling=Sampling(temperature=0.0),
                seed=0,
                max_tokens=new,
                salt=salt,
            ),
            mailbox,
        )
        count = 0
        while True:
            for item in await mailbox.take():
                if isinstance(item, Failed):
                    raise item.error
                if isinstance(item, Token):
                    count += 1
                    if item.reason is not None:
                        return count

    def run(self, prompts: list[list[int]], new: int, salt: bytes) -> tuple[float, int]:
        """Seconds and new tokens of all prompts at once."""

        async def everything() -> int:
            return sum(await asyncio.gather(*(self._one(prompt, new, salt) for prompt in prompts)))

        started = time.perf_counter()
        tokens = asyncio.run(everything())
        return time.perf_counter() - started, tokens

    def prefill(self, tokens: list[int]) -> float:
        seconds, _ = self.run([tokens], 1, os.urandom(8))
        return len(tokens) / seconds

    def decode(self, prompts: list[list[int]]) -> float:
        salt = os.urandom(8)
        self.run(prompts, 1, salt)
        seconds, tokens = self.run(prompts, NEW, salt)
        return tokens / seconds


@dataclass(slots=True)
class LlamaCpp:
    """llama.cpp at one setting, on the file as shipped."""

    process: PeerProcess
    name: str

    def prefill(self, tokens: list[int]) -> float:
        return len(tokens) / float(self.process("prefill", tokens=tokens)["seconds"])

    def decode(self, prompts: list[list[int]]) -> float:
        answer = self.process("decode", prompts=[prompt[:PROMPT] for prompt in prompts], new=NEW + 1)
        return float(answer["tokens"]) / float(answer["seconds"])


@dataclass(slots=True)
class Bench:
    """What all measures share."""

    name: str
    ours: Ours
    peers: list[LlamaCpp]
    repeats: int
    rng: random.Random = field(default_factory=lambda: random.Random(20260301))

    def prompt(self, length: int) -> list[int]:
        return [self.rng.randrange(100, self.ours.model.plan.vocab_size) for _ in range(length)]

    def prompts(self, streams: int) -> list[list[int]]:
        return [self.prompt(PROMPT + 1) for _ in range(streams)]

    def alternate(self, measure: str, make: Callable[[], Any], method: str) -> Row:
        """Ours and each peer in turn on the same input, after one warm-up round that is not counted."""
        ours: list[float] = []
        theirs: dict[str, list[float]] = {peer.name: [] for peer in self.peers}
        for turn in range(self.repeats + 1):
            given = make()
            mine = getattr(self.ours, method)(given)
            others = {peer.name: getattr(peer, method)(given) for peer in self.peers}
            if turn:
                ours.append(mine)
                for name, value in others.items():
                    theirs[name].append(value)
        made = row(measure, "tokens/s", ours, theirs)
        print(f"  {measure}: ours {made.ours:,.0f}, peer {made.peer or 0:,.0f}", file=sys.stderr)
        return made


@contextmanager
def serving(path: Path, threads: int) -> Iterator[int]:
    """Our server as a process of its own; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "headrace", "serve", str(path), "--port", str(port), "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1):
                    break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with status {process.returncode}") from None
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def http_share(bench: Bench, path: Path, streams: int) -> Row:
    """Tokens per second over HTTP, divided by in-process on the same prompts in the same round."""
    shares, ours = [], []
    with serving(path, bench.ours.threads) as port, ExitStack() as stack:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
            model = json.load(answer)["data"][0]["id"]
        client = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "stream_client.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(client.wait, timeout=30)
        assert client.stdin is not None
        assert client.stdout is not None
        stack.callback(client.stdin.close)
        for turn in range(bench.repeats + 1):
            prompts = bench.prompts(streams)
            speed = 0.0
            for new in (1, NEW):  # the first round warms the prompts, as in-process
                bodies = [
                    {
                        "model": model,
                        "prompt": prompt,
                        "max_tokens": new,
                        "temperature": 0,
                        "ignore_eos": True,
                        "stream": True,
                        "stream_options": {"include_usage": True},
                    }
                    for prompt in prompts
                ]
                client.stdin.write(json.dumps({"port": port, "bodies": bodies}) + "\n")
                client.stdin.flush()
                answer = json.loads(client.stdout.readline())
                speed = answer["tokens"] / answer["seconds"]
            inside = bench.ours.decode(prompts)
            if turn:
                shares.append(speed / inside)
                ours.append(speed)
    made = row(f"http-{streams}-share", "fraction", shares, {})
    made.samples["tokens/s over HTTP"] = ours
    print(f"  {made.measure}: {made.ours:.2f}", file=sys.stderr)
    return made


def start_seconds(model: str, repeats: int) -> Row:
    """A whole `headrace generate` of one token, process start and exit included."""
    command = [sys.executable, "-m", "headrace", "generate", "Hello", "--model", model, "--max-tokens", "1"]
    seconds = []
    for turn in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        if turn:
            seconds.append(time.perf_counter() - started)
    return row("start-s", "seconds", seconds, {}, lower_is_better=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--peer", action="append", default=[], choices=["llama.cpp"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated parts of measure names")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(bench: Bench, path: Path, wanted: Callable[[str], bool]) -> list[Row]:
    """All rows that were asked for."""
    rows = [
        bench.alternate(f"prefill-{length}", partial(bench.prompt, length), "prefill")
        for length in PREFILLS
        if wanted(f"prefill-{length}")
    ]
    rows += [
        bench.alternate(f"decode-{streams}", partial(bench.prompts, streams), "decode")
        for streams in STREAMS
        if wanted(f"decode-{streams}")
    ]
    rows += [http_share(bench, path, streams) for streams in (1, 32) if wanted(f"http-{streams}-share")]
    if wanted("nll"):
        rows.append(measure_nll(bench.ours.model, bench.ours.pool))
    if wanted("start-s"):
        rows.append(start_seconds(bench.name, bench.repeats))
    return rows


def main() -> None:
    """Measure and publish."""
    options = arguments()
    path = resolve_model(options.model, default_home(os.environ))
    parts = [part for part in options.only.split(",") if part]
    model = load_model(path, cache_dir=default_home(os.environ) / "packed")
    ours = Ours(model, options.threads)
    with ExitStack() as stack:
        stack.callback(ours.close)
        peers: list[LlamaCpp] = []
        builds: dict[str, str] = {}
        for name in options.peer:
            for flash in (False, True):
                process = stack.enter_context(PeerProcess(name, "llama_cpp_worker.py"))
                opened = process(
                    "open", model=str(path), threads=options.threads, flash=flash, context=8192, sequences=max(STREAMS)
                )
                builds[name] = opened["build"]
                peers.append(LlamaCpp(process, f"{opened['version']}, flash {'on' if flash else 'off'}"))
        bench = Bench(options.model, ours, peers, options.repeats)
        rows = measure(bench, path, lambda name: not parts or any(part in name for part in parts))
    config = {
        "model": path.name,
        "threads": options.threads,
        "kernels": native.variant(),
        "kv": "fp16 on both sides",
    } | {f"{name} build": build for name, build in builds.items()}
    publish("engine", config, rows, options.json)


if __name__ == "__main__":
    main()
