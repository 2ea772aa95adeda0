"""The official client against a real model: tools, several prompts, token ids, and an input that is only read."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
import uvloop
from tests.loopback import listening

from headrace.core.ledger import PriceList, Prices
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.load import LoadedModel, load_model
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.services import Services

MODEL = "smollm2-135m-instruct"
ASK: list[Any] = [{"role": "user", "content": "Is it warmer in Rome or in Oslo? " * 8}]
PRICES = PriceList({MODEL: Prices(input=1, output=2)})


class GetWeather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Rome", "Oslo"]
    unit: Literal["celsius", "fahrenheit"]


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


@contextlib.asynccontextmanager
async def connected(model: LoadedModel) -> AsyncIterator[tuple[openai.AsyncOpenAI, str]]:
    engine = TextEngine([model], EngineConfig(threads=2, kv_memory_bytes=128 * 1024 * 1024))
    engine.start()
    try:
        app = build_app(engine, ServerConfig(port=0, prices=PRICES), services=Services(tokens=engine.tokens))
        async with listening(app) as (_, port):
            url = f"http://127.0.0.1:{port}"
            async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0, timeout=60) as client:
                yield client, url
    finally:
        await engine.close()


def play(model: LoadedModel, main: Callable[[openai.AsyncOpenAI, str], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(120), connected(model) as (client, url):
            await main(client, url)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def test_a_required_call_is_typed_whole_and_streamed_and_its_result_is_read(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI, _: str) -> None:
        asked: dict[str, Any] = {"model": MODEL, "messages": ASK, "tools": [WEATHER], "temperature": 0}
        one = {"type": "function", "function": {"name": "get_weather"}}
        whole = await client.chat.completions.parse(**asked, tool_choice=one)
        (call,) = whole.choices[0].message.tool_calls or ()
        assert isinstance(call.function.parsed_arguments, GetWeather)
        async with client.chat.completions.stream(**asked, tool_choice=one) as stream:
            streamed = await stream.get_final_completion()
        (again,) = streamed.choices[0].message.tool_calls or ()
        assert again.function.arguments == call.function.arguments
        usage = whole.usage
        assert usage is not None
        cost = usage.to_dict()["cost"]
        assert cost == pytest.approx((usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6)
        result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        asked["messages"] = [*ASK, whole.choices[0].message, result]
        final = await client.chat.completions.create(**asked, max_tokens=9)
        assert final.usage is not None
        assert final.usage.prompt_tokens_details is not None
        assert (final.usage.prompt_tokens_details.cached_tokens or 0) > PAGE_TOKENS

    play(model, main)


def test_several_prompts_are_answered_as_each_would_be_alone(model: LoadedModel) -> None:
    prompts = ["The capital of France is", "One, two, three,", "Water boils at"]

    async def main(client: openai.AsyncOpenAI, _: str) -> None:
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 6, "temperature": 0, "echo": True, "logprobs": 1}
        together = await client.completions.create(**asked, prompt=prompts)
        alone = [await client.completions.create(**asked, prompt=prompt) for prompt in prompts]
        for ours, (theirs,) in zip(together.choices, (answer.choices for answer in alone), strict=True):
            assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
            assert ours.logprobs is not None
            assert theirs.logprobs is not None
            assert ours.logprobs.tokens == theirs.logprobs.tokens
        assert together.usage is not None
        assert together.usage.completion_tokens == 18

    play(model, main)


def test_token_ids_are_those_that_an_answer_is_charged_for(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI, url: str) -> None:
        plain = client.with_options(base_url=url)
        body: dict[str, Any] = {"model": MODEL, "messages": ASK, "return_token_strs": True}
        told: Any = await plain.post("/tokenize", body=body, cast_to=object)
        back: Any = await plain.post("/detokenize", body={"tokens": told["tokens"]}, cast_to=object)
        closed: Any = await plain.post("/tokenize", body=body | {"add_generation_prompt": False}, cast_to=object)
        assert closed["count"] < told["count"]
        assert closed["tokens"] == told["tokens"][: closed["count"]]
        assert back["prompt"] == "".join(told["token_strs"])
        assert ASK[0]["content"].strip() in back["prompt"]
        # Nothing is answered; what was read is found again.
        read = await client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=0)
        assert read.usage is not None
        assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (told["count"], 0)
        assert (read.choices[0].message.content, read.choices[0].finish_reason) == ("", "length")
        answer = await client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=1)
        usage = json.loads(answer.model_dump_json())["usage"]
        assert usage["prompt_cache_hit_tokens"] == told["count"] // PAGE_TOKENS * PAGE_TOKENS

    play(model, main)
