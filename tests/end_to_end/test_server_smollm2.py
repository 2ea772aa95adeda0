"""The whole program on the real model: the official client over a real socket, and clients that vanish."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.doubles_http import run
from tests.loopback import listening

from headrace.engine.config import EngineConfig
from headrace.engine.text import Setup, TextEngine
from headrace.models.catalog import system_turn
from headrace.models.load import LoadedModel, load_model
from headrace.server.app import App, build_app
from headrace.server.config import ServerConfig

MODEL = "smollm2-135m-instruct"
# The real engine on two slow cores; what hangs still ends.
LIMIT_S = 180
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


@contextlib.asynccontextmanager
async def serving(model: LoadedModel) -> AsyncIterator[tuple[TextEngine, App, int]]:
    config = EngineConfig(threads=2, kv_memory_bytes=128 * 1024 * 1024)
    # As `headrace serve` sets it up.
    engine = TextEngine([model], config, setups={MODEL: Setup(system=system_turn(model.digest))})
    engine.start()
    app = build_app(engine, ServerConfig(port=0), metrics=engine.metrics)
    try:
        async with listening(app) as (server, port):
            yield engine, app, port
        assert not server.server_state.tasks
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def connected(model: LoadedModel) -> AsyncIterator[openai.AsyncOpenAI]:
    async with serving(model) as (_, _, port):
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client


def test_the_capital_of_france_is_paris_whole_and_streamed(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            create = client.chat.completions.create
            whole = await create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=16)
            text = whole.choices[0].message.content
            assert text is not None
            assert "Paris" in text
            streamed = ""
            usage = None
            async for chunk in await create(
                model=MODEL,
                messages=QUESTION,
                temperature=0,
                max_tokens=16,
                stream=True,
                stream_options={"include_usage": True},
            ):
                usage = chunk.usage or usage
                streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
            assert streamed == text
            assert whole.usage is not None
            assert usage is not None
            assert usage.completion_tokens == whole.usage.completion_tokens

    run(main(), LIMIT_S)


def test_the_second_time_a_prompt_is_read_from_the_cache_and_says_so(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            cached = []
            for _ in range(2):
                reply = await client.completions.create(model=MODEL, prompt="water " * 100, temperature=0, max_tokens=4)
                assert reply.usage is not None
                assert reply.usage.prompt_tokens_details is not None
                cached.append(reply.usage.prompt_tokens_details.cached_tokens)
            assert cached[0] == 0
            assert cached[1] is not None
            assert cached[1] >= 64

    run(main(), LIMIT_S)


def test_seeds_choices_and_stop_strings_reach_the_model(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            create = client.completions.create
            prompt = "The capital of France is"
            draws = [
                [
                    choice.text
                    for choice in (await create(model=MODEL, prompt=prompt, n=3, seed=7, max_tokens=8)).choices
                ]
                for _ in range(2)
            ]
            assert draws[0] == draws[1]
            assert len(set(draws[0])) > 1
            stopped = await create(model=MODEL, prompt=prompt, temperature=0, stop="aris", max_tokens=8)
            assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (" P", "stop")

    run(main(), LIMIT_S)


def test_an_answer_has_the_form_that_the_client_asked_for_streamed_and_whole(model: LoadedModel) -> None:
    properties = {"city": {"type": "string", "maxLength": 12}, "inhabitants": {"type": "integer", "maximum": 99}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}

    async def main() -> None:
        async with connected(model) as client:
            create = client.chat.completions.create
            asked: Any = {"model": MODEL, "messages": QUESTION, "temperature": 1.5, "seed": 3, "max_tokens": 120}
            whole = await create(**asked, response_format=form)
            text = whole.choices[0].message.content or ""
            assert whole.choices[0].finish_reason == "stop"
            assert set(json.loads(text)) == set(properties)
            stream = await create(**asked, response_format=form, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            assert "".join(parts) == text
            chosen = await create(**asked, extra_body={"guided_choice": ["Paris", "Graz"]})
            assert chosen.choices[0].message.content in {"Paris", "Graz"}
            unsupported = {**schema, "not": {"const": {}}}
            form["json_schema"]["schema"] = unsupported
            with pytest.raises(openai.BadRequestError, match="keyword 'not' at # is not supported"):
                await create(**asked, response_format=form)

    run(main(), LIMIT_S)


def test_what_can_never_be_answered_is_refused_by_the_engine_and_the_server_goes_on(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            long: list[Any] = [{"role": "user", "content": "word " * 20_000}]
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(model=MODEL, messages=long)
            assert refused.value.code == "context_length_exceeded"
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.chat.completions.create(model="gpt-0", messages=QUESTION)
            assert unknown.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(model=MODEL, prompt=[10**9])
            reply = await client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=16)
            assert "Paris" in (reply.choices[0].message.content or "")

    run(main(), LIMIT_S)


def test_a_thousand_clients_that_connect_and_vanish_leave_no_page_no_task_and_no_sequence(model: LoadedModel) -> None:
    async def main() -> None:
        async with serving(model) as (engine, app, port):
            before = asyncio.all_tasks()
            for start in range(0, 1000, 50):
                await asyncio.gather(*(vanish(port, number) for number in range(start, start + 50)))
            # There is no event for "everybody is gone".
            while app.lifecycle.running or len(asyncio.all_tasks()) > len(before):  # noqa: ASYNC110
                await asyncio.sleep(0)
            # The engine frees on its own thread: an answer that comes after it is proof that it has.
            reply = await ask(port)
            assert b" 200 " in reply
            assert await engine.close(drain_s=60)
            state = engine.snapshot(MODEL)
            assert (state.running, state.waiting) == (0, 0)
            assert state.free_pages + state.idle_pages == state.total_pages

    run(main(), LIMIT_S)


def request(number: int, max_tokens: int) -> bytes:
    body = json.dumps(
        {
            "model": MODEL,
            "prompt": f"Client {number % 7} asks for a long story about number {number}:",
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": number % 2 == 0,
        }
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


async def vanish(port: int, number: int) -> None:
    """Go at one of five moments: before, inside and right after the request, at its first byte, and by a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = request(number, 200)
    moment = number % 5
    writer.write(sent[: (0, len(sent) // 2, len(sent), len(sent), len(sent))[moment]])
    await writer.drain()
    if moment == 3 and number % 2 == 0:
        await reader.read(1)
    if moment == 4:
        writer.transport.abort()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(1, 4))
    reply = await reader.read()
    writer.close()
    return reply
