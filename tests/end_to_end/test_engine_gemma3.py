"""Gemma 3 270M in a program: it continues texts as llama.cpp does and refuses to converse; shared pages change nothing.

The continuations are llama.cpp's greedy ones of the same file, as far as no two tokens are nearly as likely.
"""

import asyncio
from pathlib import Path

import pytest

import headrace
from headrace.core.errors import InvalidRequest
from headrace.core.events import TextDelta

CONTINUATIONS = {
    "Water boils at": " 100 degrees Celsius.\n\nWater boils at 100 degrees Celsius.\n\nWater boils",
    "The three primary colours are": " red, yellow and blue.\n\nThe three primary colours are",
    "def fibonacci(n):\n": "    if n == 0:\n        return 0\n    elif n == 1:\n",
}
# Longer than the window of a local layer, so that a batch of these has pages that some layers no longer look at.
LONG = "The water runs down to the mill, the wheel turns, the miller counts his sacks. " * 40


def continued(path: Path, home: Path, prompts: list[str]) -> list[str]:
    async def one(engine: headrace.Engine, prompt: str) -> str:
        events = engine.generate(prompt, raw=True, max_tokens=24)
        return "".join([event.text async for event in events if isinstance(event, TextDelta)])

    async def everything() -> list[str]:
        async with headrace.Engine.open(path, home=home) as engine:
            return await asyncio.gather(*(one(engine, prompt) for prompt in prompts))

    return asyncio.run(everything())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_texts_go_on_as_llama_cpp_continues_them(gemma3_path: Path, home: Path) -> None:
    texts = continued(gemma3_path, home, list(CONTINUATIONS))
    for text, expected in zip(texts, CONTINUATIONS.values(), strict=True):
        assert text.startswith(expected)


def test_a_long_shared_prefix_gives_what_each_prompt_gives_alone(gemma3_path: Path, home: Path) -> None:
    prompts = [f"{LONG}{end}" for end in ("In the evening", "One day", "Then")]
    alone = [continued(gemma3_path, home, [prompt])[0] for prompt in prompts]
    assert continued(gemma3_path, home, prompts) == alone


def test_a_conversation_is_refused_and_told_why(gemma3_path: Path, home: Path) -> None:
    async def converse() -> None:
        async with headrace.Engine.open(gemma3_path, home=home) as engine:
            async for _ in engine.generate(messages=[{"role": "user", "content": "Hello"}]):
                pass

    with pytest.raises(InvalidRequest, match="no chat template"):
        asyncio.run(converse())
