"""Token ids for those who ask for nothing else: what is added, what is not, and nothing held afterwards."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.unit.engine.test_text import PROMPT, ask, make, run

from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.request import Message, Request, Role, Task, TextPart
from headrace.engine.text import TextEngine


def play(main: Callable[[TextEngine], Coroutine[Any, Any, None]], **options: Any) -> None:
    engine = make(**options)
    run(engine, lambda: main(engine))


def counting(**options: Any) -> Request:
    return ask(max_tokens=None, task=Task.COUNT, **options)


def test_a_text_is_its_tokens_and_reads_as_before() -> None:
    async def main(engine: TextEngine) -> None:
        found = await engine.tokens.tokenize(counting(prompt="mill wheel"), adds_special=True, opens_answer=True)
        assert b"".join(found.pieces).startswith(b"mill ")
        assert found.max_tokens == 512
        assert (await engine.tokens.detokenize(counting(tokens=found.tokens))) == b"".join(found.pieces).decode()
        # Half a character is half a character, and a control token has a name.
        shown = await engine.tokens.detokenize(counting(tokens=(94, 95, 96)))
        assert shown == "<end>\u00e9"

    play(main)


def test_a_conversation_counts_what_an_answer_to_it_is_charged() -> None:
    messages = (Message(Role.USER, (TextPart(PROMPT),)),)

    async def main(engine: TextEngine) -> None:
        found = await engine.tokens.tokenize(counting(messages=messages), adds_special=False, opens_answer=True)
        closed = await engine.tokens.tokenize(counting(messages=messages), adds_special=False, opens_answer=False)
        (started, *_) = [event async for event in engine.run(ask(messages=messages, max_tokens=1))]
        assert started.prompt_tokens == len(found.tokens)  # type: ignore[union-attr]
        assert found.tokens[: len(closed.tokens)] == closed.tokens

    play(main)


def test_what_the_model_does_not_have_is_refused() -> None:
    async def main(engine: TextEngine) -> None:
        with pytest.raises(InvalidRequest, match=r"^tokens\[1\]: 9999 is not in \[0, 98\]"):
            await engine.tokens.detokenize(counting(tokens=(1, 9999)))
        with pytest.raises(NotFound):
            await engine.tokens.tokenize(counting(model="other"), adds_special=True, opens_answer=True)

    play(main)


def test_a_long_text_is_read_away_from_the_loop() -> None:
    async def main(engine: TextEngine) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(tick())
        found = await engine.tokens.tokenize(counting(prompt="x" * 50_000), adds_special=True, opens_answer=True)
        beside.cancel()
        assert len(found.tokens) == 50_000
        assert ticks > 0

    play(main, inline_prompt_chars=10)
