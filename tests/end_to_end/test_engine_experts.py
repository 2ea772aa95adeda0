"""A mixture of experts through the whole engine: from a file, from its pack, alone and beside others."""

import asyncio
from pathlib import Path

from tests.gguf_files import TinyLlama, write_tiny_llama

import headrace
from headrace.core.events import Finished, TextDelta
from headrace.engine.config import EngineConfig

CONFIG = EngineConfig(threads=2, kv_memory_bytes=16 * 2**20)
BOUND_S = 120.0
PROMPTS = ["the first prompt", "another one that is somewhat longer than that", "x", "the first prompt, continued"]


async def answer(engine: headrace.Engine, prompt: str, seed: int) -> str:
    events = [
        event
        async for event in engine.generate(prompt, raw=True, max_tokens=24, temperature=0.8, seed=seed, ignore_eos=True)
    ]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def answers(path: Path, home: Path, together: bool) -> list[str]:
    async with asyncio.timeout(BOUND_S), headrace.Engine.open(path, home=home, config=CONFIG) as engine:
        if together:
            return list(await asyncio.gather(*(answer(engine, prompt, seed) for seed, prompt in enumerate(PROMPTS))))
        return [await answer(engine, prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def test_answers_do_not_depend_on_who_else_asks_nor_on_where_the_weights_come_from(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "experts.gguf", TinyLlama(experts=7))
    alone = asyncio.run(answers(path, tmp_path / "home", together=False))
    assert len({*alone}) == len(PROMPTS) and all(alone)
    assert asyncio.run(answers(path, tmp_path / "home", together=True)) == alone
