"""Question: how long do running streams wait for their next token while a long prompt is read in the same steps?

    gap-16k    milliseconds between two tokens of a stream, 95th percentile over 8 streams that decode while a prompt of
               16,384 fresh tokens is read to its first token; beside the bound that the engine was given (`max_gap_s`)

In this process, with token ids, greedy; the streams were all decoding before the prompt came. The prompt's own time to
its first token is told beside it, with the streams and alone: what the bound costs.
"""

import argparse
import asyncio
import os
import random
import statistics
import time
from pathlib import Path

import numpy as np

from bench.ours import Ours, fresh_salt
from bench.report import Row, publish
from headrace.core.request import Sampling
from headrace.engine.config import KV_TYPES, EngineConfig
from headrace.engine.item import Failed, Token
from headrace.engine.kv.gate import choose_kind
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Work
from headrace.kernels import native
from headrace.models.load import load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

STREAMS, START = 8, 64
MOST_NEW = 4096
SETTLED = 24  # tokens of every stream before the prompt comes


class Scene:
    """Streams that decode until they are told to stop, and one prompt that comes while they do."""

    def __init__(self, ours: Ours, rng: random.Random) -> None:
        self.ours = ours
        self.rng = rng
        self.gaps: list[float] = []  # of all streams, while the prompt was read, in seconds
        self._is_reading = False
        self._settled = 0
        self._ready = asyncio.Event()
        self._done = asyncio.Event()

    def work(self, length: int, new: int) -> Work:
        """Fresh random tokens."""
        size = self.ours.model.plan.vocab_size
        tokens = np.array([self.rng.randrange(100, size) for _ in range(length)], np.int32)
        return Work(
            model="m", tokens=tokens, sampling=Sampling(temperature=0.0), seed=0, max_tokens=new, salt=fresh_salt()
        )

    async def stream(self) -> None:
        """Decode; a gap counts if the prompt was being read at its end."""
        mailbox = Mailbox(asyncio.get_running_loop())
        ticket = self.ours.engine.submit(self.work(START, MOST_NEW), mailbox)
        last, count = 0.0, 0
        while not self._done.is_set():
            for item in await mailbox.take():
                if isinstance(item, Failed):
                    raise item.error
                if not isinstance(item, Token):
                    continue
                now = time.perf_counter()
                if self._is_reading:
                    self.gaps.append(now - last)
                last, count = now, count + 1
                if count == SETTLED:
                    self._settled += 1
                    if self._settled == STREAMS:
                        self._ready.set()
        self.ours.engine.cancel(ticket)

    async def read(self, length: int) -> float:
        """Seconds from the arrival of a prompt to its first token."""
        mailbox = Mailbox(asyncio.get_running_loop())
        started = time.perf_counter()
        self.ours.engine.submit(self.work(length, 1), mailbox)
        while True:
            for item in await mailbox.take():
                if isinstance(item, Failed):
                    raise item.error
                if isinstance(item, Token):
                    return time.perf_counter() - started

    async def run(self, length: int) -> float:
        """The whole scene; seconds to the prompt's first token."""
        streams = [asyncio.create_task(self.stream()) for _ in range(STREAMS)]
        await self._ready.wait()
        self._is_reading = True
        seconds = await self.read(length)
        self._is_reading = False
        self._done.set()
        await asyncio.gather(*streams)
        return seconds


def measure(ours: Ours, length: int, repeats: int) -> Row:
    """The row; a first scene, uncounted, teaches the engine what steps cost."""
    bound_ms = 1e3 * EngineConfig().max_gap_s
    p95, longest, median, beside, alone = [], [], [], [], []
    for turn in range(repeats + 1):
        scene = Scene(ours, random.Random(turn))
        seconds = asyncio.run(_play(scene, length if turn else length // 8))
        if turn == 0:
            continue
        gaps = sorted(scene.gaps)
        p95.append(1e3 * gaps[int(0.95 * (len(gaps) - 1))])
        longest.append(1e3 * gaps[-1])
        median.append(1e3 * statistics.median(gaps))
        beside.append(seconds)
        alone.append(length / ours.prefill([int(token) for token in scene.work(length, 1).tokens]))
    made = Row(
        "gap-16k",
        "ms, p95",
        statistics.median(p95),
        bound_ms,
        "the bound",
        bound_ms / statistics.median(p95),
        n=repeats,
    )
    made.samples = {
        "p95 ms": p95,
        "longest ms": longest,
        "median ms": median,
        "prompt beside streams, s": beside,
        "prompt alone, s": alone,
    }
    return made


async def _play(scene: Scene, length: int) -> float:
    return await scene.run(length)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.gaps", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="auto", help="as of `headrace serve`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    home = default_home(os.environ)
    model = load_model(resolve_model(options.model, home), cache_dir=home / "packed")
    threads = native.Threads(options.threads)
    decision = choose_kind(model, KV_TYPES[options.kv_type], threads)
    threads.close()
    ours = Ours(model, options.threads, decision.kind)
    try:
        made = measure(ours, options.tokens, options.repeats)
    finally:
        ours.close()
    for name, values in made.samples.items():
        print(f"  {name}: {', '.join(f'{value:.1f}' for value in values)}")
    config = {
        "model": options.model,
        "threads": options.threads,
        "kernels": native.variant(),
        "kv": f"{decision.kv_type} ({decision.reason})",
        "streams": f"{STREAMS} of {START} tokens, prompt of {options.tokens}",
    }
    publish("gaps", config, [made], options.json)


if __name__ == "__main__":
    main()
