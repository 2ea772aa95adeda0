"""Question: how long does a stream wait for its next token while another model is loaded and unloaded again and again?

    guest-gap-p95       milliseconds between two tokens of a stream, 95th percentile
    guest-gap-longest   the longest of them

beside the same stream alone, in turn in one run. In this process, through `engine.text.TextEngine` on one event loop,
as a server does it; greedy, without speculation. Other streams of the same model may run beside it (`--streams`). The
loads are warm: the guest's weights were packed and its files were read before, as `headrace serve` does when
it starts. What a load takes, and the longest gaps in steps, are told beside it.
"""

import argparse
import asyncio
import gc
import os
import statistics
import time
from functools import partial
from pathlib import Path

from bench.report import Row, publish
from headrace.core.events import TextDelta
from headrace.core.request import Limits, Request, Sampling
from headrace.engine.config import KV_TYPES, EngineConfig
from headrace.engine.kv.gate import choose_kind
from headrace.engine.text import Setup, Source, TextEngine
from headrace.kernels import native
from headrace.models.load import Reading, load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

PROMPT = "Tell a long story about a mill, the river that drives it, and the people who bring their grain."
WARM_TOKENS = 16  # of each stream before gaps count


class Rig:
    """An engine with a host, which streams, and a guest, which comes and goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.num_streams: int = options.streams
        self.num_tokens: int = options.tokens
        self.load_s: list[float] = []
        home = default_home(os.environ)
        readings: dict[Path, Reading] = {}
        sources = []
        for name, model in (("host", options.host), ("guest", options.guest)):
            path = resolve_model(model, home)
            load = partial(load_model, path, name=name, cache_dir=home / "packed", readings=readings, touches=True)
            loaded = load()
            threads = native.Threads(options.threads)
            choose_kind(loaded, KV_TYPES[options.kv_type], threads)
            threads.close()
            sources.append(Source.of(loaded, Setup(), load))
            if name == "host":
                host = loaded
        config = EngineConfig(
            threads=options.threads,
            kv_memory_bytes=options.kv_memory,
            kv_type=options.kv_type,
            speculation="off",
            switch_interval_s=options.switch_interval,
        )
        self.engine = TextEngine([host], config, sources=sources)
        gc.collect()
        gc.freeze()  # as `headrace serve` does

    async def stream(self, index: int, gaps: list[float]) -> None:
        """One answer; the gaps between its tokens."""
        limits = Limits(max_tokens=self.num_tokens + WARM_TOKENS, ignore_eos=True)
        request = Request(
            id=f"s{index}", model="host", prompt=PROMPT + str(index), sampling=Sampling(temperature=0.0), limits=limits
        )
        last, count = 0.0, 0
        async for event in self.engine.run(request):
            if not isinstance(event, TextDelta):
                continue
            now = time.perf_counter()
            count += event.num_tokens
            if count > WARM_TOKENS:
                gaps.append(now - last)
            last = now

    async def come_and_go(self) -> None:
        """Load and unload the guest until cancelled."""
        while True:
            began = time.perf_counter()
            await self.engine.load_model("guest")
            self.load_s.append(time.perf_counter() - began)
            await self.engine.unload_model("guest")

    async def play(self, *, with_guest: bool) -> list[float]:
        """Gaps of all streams, in seconds, sorted."""
        gaps: list[float] = []
        traffic = asyncio.create_task(self.come_and_go()) if with_guest else None
        await asyncio.gather(*(self.stream(index, gaps) for index in range(self.num_streams)))
        if traffic is not None:
            traffic.cancel()
            await asyncio.gather(traffic, return_exceptions=True)
            await self.engine.unload_model("guest")
        return sorted(gaps)

    async def measure(self, repeats: int) -> list[Row]:
        """Both in turn; a first round of each is not counted."""
        self.engine.start()
        beside: list[list[float]] = []
        alone: list[list[float]] = []
        try:
            for turn in range(repeats + 1):
                found = await self.play(with_guest=False), await self.play(with_guest=True)
                if turn:
                    alone.append(found[0])
                    beside.append(found[1])
                else:
                    self.load_s.clear()
        finally:
            await self.engine.close()
        step = statistics.median(statistics.median(gaps) for gaps in alone)
        rows = [_row("guest-gap-p95", beside, alone, 0.95), _row("guest-gap-longest", beside, alone, 1.0)]
        for made, share in zip(rows, (0.95, 1.0), strict=True):
            made.samples["in steps of the stream alone"] = [_at(gaps, share) / step for gaps in beside]
        loads = sorted(self.load_s)
        rows[0].samples["fastest, median and slowest load, s"] = [loads[0], statistics.median(loads), loads[-1]]
        rows[0].samples["median ms alone"] = [1e3 * statistics.median(gaps) for gaps in alone]
        rows[0].samples["median ms beside loads"] = [1e3 * statistics.median(gaps) for gaps in beside]
        return rows


def _at(gaps: list[float], share: float) -> float:
    return gaps[int(share * (len(gaps) - 1))]


def _row(measure: str, beside: list[list[float]], alone: list[list[float]], share: float) -> Row:
    ours = [1e3 * _at(gaps, share) for gaps in beside]
    others = [1e3 * _at(gaps, share) for gaps in alone]
    median, peer = statistics.median(ours), statistics.median(others)
    made = Row(measure, "ms", median, peer, "alone", peer / median, (max(ours) - min(ours)) / median, len(ours))
    made.samples = {"ours": ours, "alone": others}
    return made


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.guests", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--host", default="smollm2-135m-instruct", help="the model that streams")
    parser.add_argument("--guest", default="gemma3-270m", help="the model that comes and goes")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1000, help="of each stream")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv-memory", type=int, default=2**28)
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="auto", help="as of `headrace serve`")
    parser.add_argument("--switch-interval", type=float, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rig = Rig(options)
    rows = asyncio.run(rig.measure(options.repeats))
    config = {name: value for name, value in vars(options).items() if name != "json"}
    config |= {"num_loads": len(rig.load_s), "median_load_s": statistics.median(rig.load_s)}
    publish("guests", config, rows, options.json)


if __name__ == "__main__":
    main()
