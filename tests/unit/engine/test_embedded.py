"""The public Python API: options are checked by name, closing stops everything, the real model answers."""

import asyncio
from pathlib import Path

import pytest

import headrace
from headrace.core.errors import InvalidRequest, NotFound, Unavailable
from headrace.core.events import Finished, PromptLogprobs, TextDelta
from headrace.engine.config import EngineConfig

CONFIG = EngineConfig(threads=2, kv_memory_bytes=64 * 2**20)
BOUND_S = 120.0


async def text(engine: headrace.Engine, *args: str, **options: object) -> str:
    async with asyncio.timeout(BOUND_S):
        events = [event async for event in engine.generate(*args, **options)]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_an_unknown_model_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="headrace pull"):
        headrace.Engine.open("smollm2-135m-instruct", home=tmp_path)


def test_outside_its_block_the_engine_says_that_it_is_not_open(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"")
    engine = headrace.Engine.open(file, home=tmp_path)
    with pytest.raises(Unavailable, match="async with"):
        asyncio.run(text(engine, "hi"))


def test_the_default_model_knows_the_capital_of_france(smollm2_path: Path, tmp_path: Path) -> None:
    question = "What is the capital of France?"

    async def main() -> None:
        async with headrace.Engine.open(smollm2_path, home=tmp_path, config=CONFIG) as engine:
            answer = await text(engine, question, max_tokens=24)
            assert "Paris" in answer
            turns = [{"role": "user", "content": question}]
            assert await text(engine, messages=turns, max_tokens=24) == answer
            raw = await text(engine, "The capital of France is", raw=True, max_tokens=4)
            assert "Paris" in raw
            with pytest.raises(InvalidRequest, match=r"^tempera: no such option; there are .*temperature"):
                await text(engine, "hi", tempera=1)
            with pytest.raises(InvalidRequest, match="role"):
                await text(engine, messages=[{"speaker": "user"}])
            with pytest.raises(InvalidRequest, match="exactly one"):
                await text(engine)
            (card,) = engine.backend.models()
            assert card.context_length == 8192
        with pytest.raises(Unavailable):
            await text(engine, "hi")

    asyncio.run(main())


def test_log_probabilities_and_every_rule_of_sampling_are_options(smollm2_path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with headrace.Engine.open(smollm2_path, home=tmp_path, config=CONFIG) as engine:
            events = [
                event
                async for event in engine.generate(
                    "The capital of France is",
                    raw=True,
                    max_tokens=4,
                    logprobs=2,
                    prompt_logprobs=1,
                    frequency_penalty=1.0,
                    logit_bias=((0, -100.0),),
                )
            ]
            prompt = events[1]
            assert isinstance(prompt, PromptLogprobs)
            assert prompt.text == "The capital of France is"
            told = [token for event in events if isinstance(event, TextDelta) for token in event.logprobs]
            assert len(told) == 4
            assert all(token.logprob == token.alternatives[0][2] for token in told)
            assert all(token.token_id == token.alternative_ids[0] for token in told)
            with pytest.raises(InvalidRequest, match=r"^logprobs: 21 is not in"):
                await text(engine, "hi", logprobs=21)

    asyncio.run(main())
