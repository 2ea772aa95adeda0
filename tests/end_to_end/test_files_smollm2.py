"""Batches, explicit caches and Ollama's clients on the real model, over a real socket with the real services."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from tests.doubles_files import line, new_id, opened
from tests.doubles_http import run
from tests.end_to_end.test_server_smollm2 import LIMIT_S, MODEL, QUESTION
from tests.loopback import listening

from headrace.core.clock import SystemClock
from headrace.engine.config import EngineConfig
from headrace.engine.text import Setup, TextEngine
from headrace.gateway.caches import CacheService
from headrace.models.catalog import system_turn
from headrace.models.load import LoadedModel, load_model
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.services import Services

STORY = "The miller's name is Aldous. He lives by the stream and keeps three black hens. " * 12


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


@contextlib.asynccontextmanager
async def serving(model: LoadedModel, home: Path) -> AsyncIterator[int]:
    """The port of a server with files, batches and caches in a folder."""
    setups = {MODEL: Setup(system=system_turn(model.digest))}
    engine = TextEngine([model], EngineConfig(threads=1, kv_memory_bytes=2**28), setups=setups)
    engine.start()
    try:
        async with opened(home, engine) as shelf:
            caches = CacheService(shelf.store, shelf.foreground, engine.tokens, SystemClock(), new_id)
            services = Services(files=shelf.files, batches=shelf.batches, caches=caches)
            app = build_app(shelf.foreground, ServerConfig(port=0), services=services)
            async with listening(app) as (_, port):
                yield port
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_line_of_a_batch_gets_the_answer_that_it_would_have_got_alone(model: LoadedModel, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(model, tmp_path) as port, connected(port) as client:
            asks: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 12}
            alone = await client.chat.completions.create(**asks)
            text = QUESTION[0]["content"]
            data = b"".join(line(f"l{n}", text, model=MODEL, temperature=0, max_tokens=12) for n in range(4))
            file = await client.files.create(file=("in.jsonl", data), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            while batch.status != "completed":
                batch = await client.batches.retrieve(batch.id)
            assert batch.output_file_id is not None
            results = [json.loads(one) for one in (await client.files.content(batch.output_file_id)).text.splitlines()]
            said = {one["response"]["body"]["choices"][0]["message"]["content"] for one in results}
            assert said == {alone.choices[0].message.content}
            assert batch.usage is not None
            used = [one["response"]["body"]["usage"]["completion_tokens"] for one in results]
            assert batch.usage.output_tokens == sum(used)

    run(main(), LIMIT_S)


def test_what_an_explicit_cache_holds_is_not_computed_again_and_alters_no_answer(
    model: LoadedModel, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving(model, tmp_path) as port, connected(port) as client:
            body = {"model": MODEL, "system_instruction": "Be brief.", "contents": STORY, "ttl": "600s"}
            made = await client.post("/caches", body=body, cast_to=dict[str, Any])
            num_tokens = made["usage_metadata"]["total_token_count"]
            question = {"role": "user", "content": "Who lives by the stream?"}
            asks: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 12}
            reply = await client.chat.completions.create(
                messages=[question], extra_body={"cached_content": made["name"]}, **asks
            )
            assert reply.usage is not None
            assert reply.usage.prompt_tokens_details is not None
            cached = reply.usage.prompt_tokens_details.cached_tokens
            # All whole pages of 32 tokens of the content.
            assert cached == num_tokens // 32 * 32 > 200
            assert reply.usage.prompt_tokens > num_tokens
            whole: list[Any] = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": STORY},
                question,
            ]
            cold = await client.chat.completions.create(messages=whole, extra_body={"cache_salt": "other"}, **asks)
            assert cold.usage is not None
            assert cold.usage.prompt_tokens == reply.usage.prompt_tokens
            assert cold.choices[0].message.content == reply.choices[0].message.content
            await client.delete("/" + made["name"], cast_to=dict[str, Any])
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(
                    messages=[question], extra_body={"cached_content": made["name"]}, **asks
                )

    run(main(), LIMIT_S)


def test_ollamas_client_gets_a_schemas_answer_a_stream_and_vectors(model: LoadedModel, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }

    async def main() -> None:
        async with serving(model, tmp_path) as port:
            client = ollama.AsyncClient(host=f"http://127.0.0.1:{port}", trust_env=False)
            try:
                options = {"temperature": 0, "num_predict": 24}
                reply = await client.chat(f"{MODEL}:latest", QUESTION, options=options)
                assert "Paris" in (reply.message.content or "")
                parts = [part async for part in await client.chat(MODEL, QUESTION, options=options, stream=True)]
                assert "".join(part.message.content or "" for part in parts) == reply.message.content
                formed = await client.chat(MODEL, QUESTION, format=schema, options={"temperature": 0})
                assert set(json.loads(formed.message.content or "")) == {"name", "age"}
                embedded = await client.embed(MODEL, ["a", "b"])
                assert len(embedded.embeddings) == 2
            finally:
                await client._client.aclose()

    run(main(), LIMIT_S)
