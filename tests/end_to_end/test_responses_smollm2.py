"""The official client's Responses against a real model: a chain says what a full resend says, over a restart too."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
import uvloop
from openai.types.responses import ResponseFunctionToolCall
from tests.loopback import listening

from headrace.core.clock import SystemClock
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.gateway.conversation import Responses
from headrace.gateway.conversation_items import Conversations
from headrace.kernels.plan import PAGE_TOKENS
from headrace.memory.store import Store
from headrace.models.load import LoadedModel, load_model
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.services import Services

MODEL = "smollm2-135m-instruct"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
FIRST = "My name is Ann and I keep bees on the roof of a house in Oslo. " * 6
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"), max_context=1024)


@contextlib.asynccontextmanager
async def connected(model: LoadedModel, folder: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A whole server, whose state is in a folder."""
    engine = TextEngine([model], EngineConfig(threads=2, kv_memory_bytes=128 * 1024 * 1024))
    engine.start()
    store, clock = Store(folder / "state.db"), SystemClock()
    await store.open()
    responses = Responses(engine, store, clock)
    await responses.open()
    try:
        services = Services(responses=responses, conversations=Conversations(store, clock))
        async with listening(build_app(engine, ServerConfig(port=0), services=services)) as (_, port):
            url = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0, timeout=60) as client:
                yield client
    finally:
        await responses.close()
        await store.close()
        await engine.close()


def play(model: LoadedModel, folder: Path, *mains: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]]) -> None:
    """Each in a server of its own, one after the other, with one state."""

    async def whole() -> None:
        for main in mains:
            async with asyncio.timeout(120), connected(model, folder) as client:
                await main(client)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def test_a_chain_says_what_a_full_resend_says_with_less_to_read_and_over_a_restart(
    model: LoadedModel, tmp_path: Path
) -> None:
    kept: dict[str, Any] = {}

    async def first(client: openai.AsyncOpenAI) -> None:
        one = await client.responses.create(**GREEDY, input=FIRST)
        two = await client.responses.create(**GREEDY, input="What do I keep?", previous_response_id=one.id)
        assert two.usage is not None and one.usage is not None
        reused = two.usage.input_tokens_details.cached_tokens
        assert reused >= (one.usage.input_tokens // PAGE_TOKENS) * PAGE_TOKENS > 0
        history: list[Any] = [{"role": "user", "content": FIRST}, *(item.to_dict() for item in one.output)]
        again = await client.responses.create(
            **GREEDY, input=[*history, {"role": "user", "content": "What do I keep?"}], store=False
        )
        assert again.output_text == two.output_text
        kept.update(id=two.id, history=[*history, {"role": "user", "content": "What do I keep?"}])
        kept["history"] += [item.to_dict() for item in two.output]

    async def second(client: openai.AsyncOpenAI) -> None:
        three = await client.responses.create(**GREEDY, input="And where?", previous_response_id=kept["id"])
        history = [*kept["history"], {"role": "user", "content": "And where?"}]
        again = await client.responses.create(**GREEDY, input=history, store=False)
        assert again.output_text == three.output_text

    play(model, tmp_path, first, second)


def test_a_forced_call_is_valid_streamed_and_its_result_goes_on(model: LoadedModel, tmp_path: Path) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        asked: dict[str, Any] = GREEDY | {"tools": [WEATHER], "max_output_tokens": 64}
        async with client.responses.stream(**asked, input="Is it warm in Oslo?", tool_choice="required") as stream:
            async for _ in stream:
                pass
            response = await stream.get_final_response()
        assert response.status == "completed"
        call = response.output[-1]
        assert isinstance(call, ResponseFunctionToolCall)
        assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": '{"celsius": 21}'}
        told = await client.responses.create(
            **asked, tool_choice="none", previous_response_id=response.id, input=[result]
        )
        assert told.output_text

    play(model, tmp_path, main)


def test_a_conversation_in_the_background_counts_compacts_and_fits(model: LoadedModel, tmp_path: Path) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        talk = await client.conversations.create()
        stream = await client.responses.create(
            **GREEDY, input=FIRST, conversation=talk.id, background=True, stream=True
        )
        events = [event async for event in stream]
        assert events[-1].type in ("response.completed", "response.incomplete")
        assert len([item async for item in client.conversations.items.list(talk.id)]) == 2
        counted = await client.responses.input_tokens.count(model=MODEL, conversation=talk.id, input="And?")
        compacted = await client.responses.with_raw_response.compact(
            model=MODEL, input=[{"role": "user", "content": FIRST}, {"role": "assistant", "content": "Bees. " * 50}]
        )
        shorter = compacted.http_response.json()
        assert counted.input_tokens > 100
        assert shorter["output"][-1]["type"] == "compaction"
        assert shorter["usage"]["output_tokens"] > 0
        long: list[Any] = [{"role": "user", "content": "word " * 300} for _ in range(4)]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(**GREEDY, input=long)
        assert refused.value.code == "context_length_exceeded"
        last: Any = {"role": "user", "content": "Hello."}
        cut = await client.responses.create(
            **GREEDY | {"max_output_tokens": 1}, input=[*long, last], truncation="auto", store=False
        )
        assert cut.usage is not None
        assert 300 < cut.usage.input_tokens < 1024

    play(model, tmp_path, main)
