"""Structured output over a real socket: every form, asked by the official client of the real model."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
from tests.doubles_http import run
from tests.end_to_end.test_server_smollm2 import LIMIT_S, MODEL, QUESTION, connected

from headrace.models.load import LoadedModel, load_model


class City(pydantic.BaseModel):
    """A form that the model would not keep to by itself."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=24)
    size: Literal["small", "large"]
    founded: int = pydantic.Field(ge=0, le=2000)
    is_capital: bool


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


def play(model: LoadedModel, main: Any) -> None:
    async def whole() -> None:
        async with connected(model) as client:
            await main(client)

    run(whole(), LIMIT_S)


def test_an_answer_has_the_form_that_was_asked_for(model: LoadedModel) -> None:
    question: list[Any] = [{"role": "user", "content": "Describe a city."}]

    async def main(client: openai.AsyncOpenAI) -> None:
        parsed = await client.chat.completions.parse(
            model=MODEL, messages=question, response_format=City, temperature=1.5, seed=1, n=4, max_tokens=400
        )
        assert all(choice.message.parsed is not None for choice in parsed.choices)
        async with client.chat.completions.stream(
            model=MODEL, messages=question, response_format=City, temperature=1, seed=2, max_tokens=400
        ) as stream:
            assert (await stream.get_final_completion()).choices[0].message.parsed is not None
        create = client.chat.completions.create
        asks: dict[str, Any] = {"model": MODEL, "messages": question, "temperature": 1.5, "seed": 5, "max_tokens": 400}
        free = await create(**asks, response_format={"type": "json_object"}, stop=None)
        if free.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(free.choices[0].message.content or ""), dict)
        chosen = await create(**asks, n=4, extra_body={"guided_choice": ["north", "south"]})
        assert {choice.message.content for choice in chosen.choices} <= {"north", "south"}
        dated = await create(**asks, n=4, extra_body={"structured_outputs": {"regex": r"\d{4}-\d{2}"}})
        assert all(re.fullmatch(r"\d{4}-\d{2}", choice.message.content or "") for choice in dated.choices)
        for grammar in ('start: "yes" | "no"', 'root ::= "yes" | "no"'):
            said = await create(**asks, extra_body={"guided_grammar": grammar})
            assert said.choices[0].message.content in ("yes", "no")

    play(model, main)


def test_a_seed_gives_the_same_three_formed_answers_alone_and_in_a_crowd(model: LoadedModel) -> None:
    question: list[Any] = [{"role": "user", "content": "Describe a city."}]

    async def main(client: openai.AsyncOpenAI) -> None:
        async def draw(seed: int) -> list[str | None]:
            reply = await client.chat.completions.parse(
                model=MODEL, messages=question, response_format=City, seed=seed, n=3, max_tokens=200
            )
            return [choice.message.content for choice in reply.choices]

        async def talk(seed: int) -> None:
            await client.completions.create(model=MODEL, prompt="Once", seed=seed, max_tokens=60)

        alone = await draw(7)
        assert len(set(alone)) > 1
        crowd = await asyncio.gather(draw(6), draw(7), draw(8), *map(talk, range(3)))
        assert crowd[1] == alone

    play(model, main)


def test_a_form_that_cannot_be_made_is_refused_by_name_and_the_server_goes_on(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        create = client.chat.completions.create
        asks: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "max_tokens": 4}
        for extra in ({"guided_regex": "("}, {"guided_grammar": "start: missing"}, {"guided_json": {"type": "thing"}}):
            with pytest.raises(openai.BadRequestError) as refused:
                await create(**asks, extra_body=extra)
            assert refused.value.code in ("invalid_value", "unsupported_parameter")
            assert refused.value.param == next(iter(extra))
        assert (await create(**asks)).choices[0].message.content

    play(model, main)
