"""The real model: a hit in memory, and one on disk after a restart, give the tokens of a cold run."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.core.clock import SystemClock
from headrace.core.events import Finished, Started, TextDelta, Usage
from headrace.core.request import CacheHints, Limits, Message, Principal, Request, Role, Sampling, TextPart
from headrace.engine.config import EngineConfig
from headrace.engine.kv.cipher import PageCipher
from headrace.engine.kv.disk import DiskConfig, DiskTier
from headrace.engine.text import TextEngine
from headrace.kernels import native
from headrace.models.load import LoadedModel, load_model

LIMIT_S = 120.0
RULES = "Answer in one short sentence. A mill has a weir, a headrace, a wheel and a tailrace. " * 20


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name="m", cache_dir=tmp_path_factory.mktemp("packed"))


@pytest.fixture(params=["fp16", "int8"])
def kv_type(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


@dataclass(frozen=True)
class Answer:
    """What a request gave."""

    started: Started
    text: str
    usage: Usage


def ask(question: str, temperature: float, tenant: str = "local") -> Request:
    return Request(
        id="r",
        model="m",
        messages=(Message(Role.SYSTEM, (TextPart(RULES),)), Message(Role.USER, (TextPart(question),))),
        sampling=Sampling(temperature=temperature, seed=11),
        limits=Limits(max_tokens=24),
        principal=Principal(tenant=tenant),
        cache=CacheHints(explain=True),
    )


async def answer(engine: TextEngine, request: Request) -> Answer:
    async with asyncio.timeout(LIMIT_S):
        events = [event async for event in engine.run(request)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return Answer(events[0], text, events[-1].usage)


def serve(model: LoadedModel, kv_type: str, root: Path | None, *requests: Request) -> list[Answer]:
    """Answers one after the other, by an engine that lives for them alone."""
    disk = None
    if root is not None:
        disk = DiskTier(DiskConfig(root=root), SystemClock(), cipher=PageCipher(bytes(range(32))))
        disk.scan()
    config = EngineConfig(threads=2, kv_memory_bytes=96 * 2**20, kv_type=kv_type, checks=True)
    engine = TextEngine([model], config, threads=native.Threads(2), disk=disk)

    async def main() -> list[Answer]:
        engine.start()
        try:
            return [await answer(engine, request) for request in requests]
        finally:
            await engine.close(LIMIT_S)

    return asyncio.run(main())


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_hits_in_memory_and_on_disk_are_as_good_as_cold_runs(
    model: LoadedModel, tmp_path: Path, kv_type: str, temperature: float
) -> None:
    first, second = ask("What is a weir?", temperature), ask("What does the tailrace do?", temperature)
    (cold_first,), (cold_second,) = (serve(model, kv_type, None, request) for request in (first, second))
    assert cold_first.usage.cached_tokens == cold_second.usage.cached_tokens == 0

    warm = serve(model, kv_type, tmp_path, first, second, first)
    assert [one.text for one in warm] == [cold_first.text, cold_second.text, cold_first.text]
    assert all(one.usage.cached_tokens >= 300 for one in warm[1:])
    assert all(one.usage.disk_tokens == 0 for one in warm)

    restarted = serve(model, kv_type, tmp_path, second, first)
    assert [one.text for one in restarted] == [cold_second.text, cold_first.text]
    assert restarted[0].usage.disk_tokens == restarted[0].usage.cached_tokens
    for one in restarted:
        assert one.usage.cached_tokens == (one.usage.prompt_tokens - 1) // 32 * 32


def test_another_tenant_finds_nothing_and_gets_the_same_answer(model: LoadedModel, tmp_path: Path) -> None:
    question = "What is a weir?"
    (mine,) = serve(model, "int8", tmp_path, ask(question, 0.0))
    (theirs,) = serve(model, "int8", tmp_path, ask(question, 0.0, tenant="other"))
    assert theirs.text == mine.text
    assert (theirs.usage.cached_tokens, theirs.usage.disk_tokens) == (0, 0)
    # Not even what another tenant's cold run looks like tells them apart.
    assert theirs.started == mine.started
