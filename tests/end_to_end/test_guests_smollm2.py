"""Several real models in one process under one budget: no request fails, memory is held, what has gone is unmapped."""

import asyncio
import functools
import gc
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from headrace.core.events import Event, Finished, TextDelta
from headrace.core.request import Limits, Request, Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.text import Setup, Source, TextEngine
from headrace.models.load import Reading, load_model

NAMES = ("first", "second", "third")
PROMPTS = ("The capital of France is", "Water drives the mill because", "Three colours of the rainbow are")
LIMIT_S = 180
TOKENS = 16
KV_BYTES = 3 * 24 * 2**20
ENTRY = b"general.name"


@pytest.fixture(scope="module")
def paths(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model three times, with another letter in its title each time: three digests, three files of weights."""
    folder = tmp_path_factory.mktemp("models")
    data = smollm2_path.read_bytes()
    place = data.index(ENTRY) + len(ENTRY) + 12  # behind the value's type and length
    found = {}
    for letter, name in zip(b"abc", NAMES, strict=True):
        found[name] = folder / f"{name}.gguf"
        found[name].write_bytes(data[:place] + bytes([letter]) + data[place + 1 :])
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


def sources(paths: dict[str, Path], cache: Path) -> list[Source]:
    """As `headrace serve` makes them: every model was loaded once, and its tokenizer is kept."""
    readings: dict[Path, Reading] = {}
    found = []
    for name, path in paths.items():
        load = functools.partial(load_model, path, name=name, cache_dir=cache, readings=readings, touches=True)
        found.append(Source.of(load(), Setup(), load))
    return found


def budget(source: Source, config: EngineConfig) -> int:
    """What two of three models take."""
    return 2 * source.need(config, len(NAMES)).total_bytes


def ask(model: str, prompt: str, max_tokens: int = TOKENS) -> Request:
    limits = Limits(max_tokens=max_tokens, ignore_eos=True)
    return Request(id="r", model=model, prompt=prompt, sampling=Sampling(temperature=0.0), limits=limits)


async def answer(engine: TextEngine, model: str, prompt: str, max_tokens: int = TOKENS) -> str:
    events: list[Event] = [event async for event in engine.run(ask(model, prompt, max_tokens))]
    assert isinstance(events[-1], Finished) and events[-1].usage.completion_tokens == max_tokens
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def mapped(cache: Path) -> int:
    """Files of packed weights that this process has mapped."""
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    return len({line.split()[-1] for line in lines if str(cache) in line})


def run(engine: TextEngine, main: Coroutine[Any, Any, None]) -> None:
    """Run a test's body beside a started engine, and without the collector: what leaves must not wait for it."""

    async def body() -> None:
        engine.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                await main
        finally:
            await engine.close()

    gc.collect()  # what is left of engines that were closed
    gc.disable()
    try:
        asyncio.run(body())
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def alone(paths: dict[str, Path], cache: Path) -> dict[str, str]:
    """What the model says when it is the only one; all three are the same model."""
    config = EngineConfig(threads=2, kv_memory_bytes=KV_BYTES, kv_type="fp16")
    engine = TextEngine([load_model(paths["first"], name="first", cache_dir=cache)], config)
    said = {}

    async def main() -> None:
        for prompt in PROMPTS:
            said[prompt] = await answer(engine, "first", prompt)

    run(engine, main())
    return said


def make(paths: dict[str, Path], cache: Path) -> TextEngine:
    config = EngineConfig(threads=2, kv_memory_bytes=KV_BYTES, kv_type="fp16", checks=True)
    known = sources(paths, cache)
    config = EngineConfig(
        threads=2, kv_memory_bytes=KV_BYTES, kv_type="fp16", checks=True, memory_bytes=budget(known[0], config)
    )
    return TextEngine([known[0].load()], config, sources=known)


def test_alternating_traffic_over_three_models_where_two_fit(
    paths: dict[str, Path], cache: Path, alone: dict[str, str]
) -> None:
    engine = make(paths, cache)
    bound = engine.memory_bytes
    assert bound is not None

    async def client(order: tuple[str, ...]) -> None:
        for name, prompt in zip(order, PROMPTS, strict=True):
            assert await answer(engine, name, prompt) == alone[prompt]
            residences = engine.residences()
            assert sum(one.bytes_held for one in residences) <= bound
            assert mapped(cache) <= 3  # one may still be going

    async def main() -> None:
        await asyncio.gather(*(client(order) for order in itertools.permutations(NAMES)))
        for name in NAMES:
            await engine.unload_model(name)
        assert [one.state for one in engine.residences()] == ["absent"] * 3
        assert mapped(cache) == 0
        assert await answer(engine, "second", PROMPTS[0]) == alone[PROMPTS[0]]
        assert mapped(cache) == 1

    run(engine, main())


def test_a_stream_goes_on_while_others_are_loaded_and_is_not_cut_by_an_unload(
    paths: dict[str, Path], cache: Path, alone: dict[str, str]
) -> None:
    engine = make(paths, cache)

    async def main() -> None:
        stream = engine.run(ask("first", PROMPTS[0], 200))
        text = ""
        async for event in stream:
            if isinstance(event, TextDelta):
                text += event.text
                break
        # All of this happens beside the stream: two loads, an unload, and one that has to wait.
        assert await answer(engine, "second", PROMPTS[1]) == alone[PROMPTS[1]]
        assert await answer(engine, "third", PROMPTS[2]) == alone[PROMPTS[2]]
        assert next(one.state for one in engine.residences() if one.name == "second") == "absent"
        gone = asyncio.create_task(engine.unload_model("first"))
        await asyncio.sleep(0)
        assert engine.residences()[0].state == "leaving"
        async for event in stream:
            if isinstance(event, TextDelta):
                text += event.text
            assert not gone.done()
        assert text.startswith(alone[PROMPTS[0]])
        await gone
        assert engine.residences()[0].state == "absent"
        assert mapped(cache) == 1

    run(engine, main())
