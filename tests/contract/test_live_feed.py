"""The live feed over a real socket, from a real engine: what a client of `GET /v1/live` relies on. The toy computes, a
step for each frame that was read, and its prompts and answers take many, so that no phase is missed on a slow machine.
"""

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
from tests.doubles import TOY_PAGE_BYTES, ToyModel, ToyProgram
from tests.doubles_http import run
from tests.loopback import listening

from headrace.core.clock import SystemClock
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.services import Services

BOUND_S = 20.0
SECRET = "the mill by the river"


class Steps:
    """Steps of the engine, at most one for each time that one is allowed."""

    def __init__(self, program: ToyProgram) -> None:
        self._allowed = threading.Event()
        self._are_all = False
        program.before_step = self._wait

    def _wait(self) -> None:
        assert self._allowed.wait(BOUND_S)
        if not self._are_all:
            self._allowed.clear()

    def allow(self) -> None:
        """Let one more be made."""
        self._allowed.set()

    def allow_all(self) -> None:
        """Let all be made from now on."""
        self._are_all = True
        self._allowed.set()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, Steps]]:
    program = ToyProgram()
    steps = Steps(program)
    config = EngineConfig(
        threads=1, max_batch_tokens=32, max_sequences=1, prefill_chunk=32, kv_memory_bytes=32 * TOY_PAGE_BYTES
    )
    models: list[Any] = [ToyModel(program=program)]
    engine = TextEngine(models, config, clock=SystemClock(), threads=object(), seeds=lambda: 5)
    engine.start()
    app = build_app(engine, ServerConfig(port=0), metrics=engine.metrics, services=Services(watching=engine))
    app.live.interval_s = 0.01
    app.live.history.interval_s = 0.1  # of which all are kept that a slow machine needs
    try:
        async with listening(app) as (_, port):
            yield f"http://127.0.0.1:{port}", steps
    finally:
        steps.allow_all()
        await engine.close()


async def frames(client: httpx.AsyncClient) -> AsyncIterator[Any]:
    async with client.stream("GET", "/v1/live") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def test_an_answer_is_seen_queued_read_written_and_ended_in_this_order() -> None:
    async def main() -> None:
        async with serving() as (url, steps), httpx.AsyncClient(base_url=url, timeout=BOUND_S) as client:

            async def ask(name: str) -> str:
                asked = {"model": "toy", "prompt": f"{SECRET} {name} " * 12, "stream": True}
                body = asked | {"max_tokens": 20, "ignore_eos": True}
                reply = await client.post("/v1/completions", json=body, headers={"x-request-id": name})
                return reply.text

            asking: list[asyncio.Task[str]] = []
            phases: dict[str, list[str]] = {"first": [], "second": []}
            ended: dict[str, Any] = {}
            totals: list[dict[str, int]] = []
            async with contextlib.aclosing(frames(client)) as watched:
                async for frame in watched:
                    assert SECRET not in json.dumps(frame)
                    if not asking:
                        asking = [asyncio.create_task(ask(name)) for name in phases]
                    for one in frame["requests"]:
                        if phases[one["id"]][-1:] != [one["phase"]]:
                            phases[one["id"]].append(one["phase"])
                    ended |= {one["id"]: one for one in frame["ended"]}
                    totals += [model["totals"] for model in frame["models"]]
                    steps.allow()
                    if len(ended) == 2:
                        break
            await asyncio.gather(*asking)
        # The first may be waiting for its place in the engine for a moment, or not; the second waits for the first.
        assert [one for one in phases["first"] if one in ("prefill", "decode")] == ["prefill", "decode"]
        assert [one for one in phases["second"] if one not in ("waiting", "streaming")] == [
            "queued",
            "prefill",
            "decode",
        ]
        for one in ended.values():
            assert (one["outcome"], one["status"], one["output_tokens"]) == ("ok", 200, 20)
            assert 0 <= one["begun_ms"] <= one["first_ms"] <= one["duration_ms"]
        assert all(old[name] <= new[name] for old, new in itertools.pairwise(totals) for name in new)

    run(main(), BOUND_S)


def test_one_frame_is_had_without_a_stream() -> None:
    async def main() -> None:
        async with serving() as (url, steps), httpx.AsyncClient(base_url=url, timeout=BOUND_S) as client:
            steps.allow_all()
            await client.post("/v1/completions", json={"model": "toy", "prompt": SECRET * 4, "max_tokens": 3})
            frame = (await client.get("/v1/live?once=true")).json()
            model = frame["models"][0]
            assert (frame["object"], frame["requests"], frame["ended"]) == ("live.frame", [], [])
            assert model["totals"]["output_tokens"] == 3
            assert model["pages"]["cached"] * model["pages"]["page_tokens"] == model["tree"]["num_tokens"] > 0
            assert model["tree"]["runs"][0]["tenant"] == "local"

    run(main(), BOUND_S)


def test_who_begins_to_watch_sees_what_was_done_before() -> None:
    async def main() -> None:
        async with serving() as (url, steps), httpx.AsyncClient(base_url=url, timeout=BOUND_S) as client:
            steps.allow_all()
            asked = {"model": "toy", "prompt": f"{SECRET} " * 12, "ignore_eos": True}
            for number in range(3):
                await client.post("/v1/completions", json=asked | {"max_tokens": 5 + number})
            exposed = (await client.get("/metrics")).text
            while True:  # samples come by themselves; the last answer may not be in one yet
                history = (await client.get("/v1/live?once=true&history=true")).json()["history"]
                samples = history["samples"]
                if sum(sum(one["first_token"]) for one in samples) == 3 and sum_of(samples, "output_tokens") == 18:
                    break
            assert SECRET not in json.dumps(history)
            for name, metric in COUNTED.items():
                assert sum_of(samples, name) == told_by(exposed, metric), name
            assert sum(sum(one["between_tokens"]) for one in samples) == 18 - 3
            assert samples[-1]["cached_pages"] > 0
            assert all(old["time_ms"] <= new["time_ms"] for old, new in itertools.pairwise(samples))
            # A stream begins with the same, and goes on without it.
            told = [json.loads(line[6:]) async for line in first_lines(client, 2)]
            assert samples[-1] in told[0]["history"]["samples"]
            assert "history" not in told[1]

    run(main(), BOUND_S)


# Of a sample, and what Prometheus is told of the same: they are counted in different places.
COUNTED = {
    "output_tokens": "vllm:generation_tokens_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "reused_tokens": "vllm:prefix_cache_hits_total",
    "num_steps": "vllm:iteration_tokens_total_count",
}


def sum_of(samples: list[Any], name: str) -> int:
    return sum(one[name] for one in samples)


def told_by(exposed: str, metric: str) -> float:
    """The sum over all models."""
    return sum(float(line.rpartition(" ")[2]) for line in exposed.splitlines() if line.startswith(metric + "{"))


async def first_lines(client: httpx.AsyncClient, count: int) -> AsyncIterator[str]:
    """The first so many frames of a stream that begins with what was before."""
    async with client.stream("GET", "/v1/live?history=true") as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                yield line
                count -= 1
                if not count:
                    return
