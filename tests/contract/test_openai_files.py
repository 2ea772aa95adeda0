"""The official client's files and batches, over a real socket and the real services."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.doubles_files import Shelf, line, opened
from tests.doubles_http import ScriptedBackend, answer, make_app, run
from tests.loopback import listening
from tests.scripted import CARD, Scripted, Turn

from headrace.server.config import ServerConfig


@contextlib.asynccontextmanager
async def connected(home: Path, backend: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, Shelf]]:
    async with opened(home, backend) as shelf:
        app = make_app(shelf.foreground, ServerConfig(port=0), files=shelf.files, batches=shelf.batches)
        async with listening(app) as (_, port):
            url = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=4) as client:
                yield client, shelf


def play(home: Path, backend: Any, main: Callable[[openai.AsyncOpenAI, Shelf], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with connected(home, backend) as (client, shelf):
            await main(client, shelf)

    run(whole())


async def until_over(client: openai.AsyncOpenAI, batch_id: str) -> openai.types.Batch:
    while True:
        batch = await client.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch


def test_a_file_comes_back_as_it_went_and_goes_when_it_is_told_to(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000

    async def main(client: openai.AsyncOpenAI, shelf: Shelf) -> None:
        expiry: Any = {"anchor": "created_at", "seconds": 3600}
        file = await client.files.create(file=("blob.bin", data), purpose="user_data", expires_after=expiry)
        assert (file.object, file.bytes, file.filename) == ("file", len(data), "blob.bin")
        assert (file.purpose, file.status, file.expires_at) == ("user_data", "processed", file.created_at + 3600)
        assert (await client.files.retrieve(file.id)) == file
        assert (await client.files.content(file.id)).content == data
        gone = await client.files.delete(file.id)
        assert (gone.id, gone.deleted) == (file.id, True)
        with pytest.raises(openai.NotFoundError):
            await client.files.content(file.id)
        assert [path.name for path in shelf.files.partial.parent.iterdir()] == [".partial"]

    play(tmp_path, ScriptedBackend(answer()), main)


def test_files_are_listed_page_by_page_by_purpose_and_in_order(tmp_path: Path) -> None:
    async def main(client: openai.AsyncOpenAI, shelf: Shelf) -> None:
        purposes: list[Any] = ["batch", "user_data", "batch", "evals", "batch"]
        files = [await client.files.create(file=(f"{i}", b"x"), purpose=one) for i, one in enumerate(purposes)]
        ids = [file.id for file in files]
        assert [file.id async for file in await client.files.list(limit=2)] == ids[::-1]
        assert [file.id async for file in await client.files.list(limit=2, order="asc")] == ids
        assert [file.id async for file in await client.files.list(purpose="batch", limit=1)] == [ids[4], ids[2], ids[0]]
        page = await client.files.list(limit=4, after=ids[4])
        assert ([file.id for file in page.data], page.has_more) == (ids[3::-1], False)
        with pytest.raises(openai.NotFoundError):
            await client.files.list(after="file-nonsense")

    play(tmp_path, ScriptedBackend(answer()), main)


def test_a_batch_of_chats_goes_from_file_to_results(tmp_path: Path) -> None:
    async def main(client: openai.AsyncOpenAI, shelf: Shelf) -> None:
        data = line("one", "Hi") + line("two", "Ho") + line("bad", n=0)
        file = await client.files.create(file=("in.jsonl", data), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"job": "nightly"},
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"job": "nightly"})
        assert batch.expires_at == batch.created_at + 86_400
        batch = await until_over(client, batch.id)
        counts = batch.request_counts
        assert counts is not None
        assert (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 3, 2, 1)
        assert batch.usage is not None
        assert (batch.usage.input_tokens, batch.usage.input_tokens_details.cached_tokens) == (14, 8)
        assert (batch.model, batch.errors, batch.failed_at) == ("tiny", None, None)
        assert batch.in_progress_at and batch.finalizing_at and batch.completed_at
        assert batch.output_file_id and batch.error_file_id
        results = [json.loads(one) for one in (await client.files.content(batch.output_file_id)).text.splitlines()]
        assert [(one["custom_id"], one["error"]) for one in results] == [("one", None), ("two", None)]
        body = openai.types.chat.ChatCompletion.model_validate(results[0]["response"]["body"])
        assert (body.choices[0].message.content, results[0]["response"]["status_code"]) == ("Paris", 200)
        output = await client.files.retrieve(batch.output_file_id)
        assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 7200)
        assert [one.id async for one in await client.batches.list(limit=1)] == [batch.id]
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)

    play(tmp_path, ScriptedBackend(answer("Par", "is")), main)


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}, "data"),
        ("/v1/completions", {"prompt": "Once"}, "choices"),
        ("/v1/responses", {"input": "Once"}, "output"),
        ("/v1/rerank", {"query": "q", "documents": ["d"]}, "results"),
        ("/v1/score", {"text_1": "a", "text_2": "b"}, "data"),
    ],
)
def test_other_endpoints_run_in_batches_too(tmp_path: Path, endpoint: str, body: dict[str, Any], field: str) -> None:
    async def main(client: openai.AsyncOpenAI, shelf: Shelf) -> None:
        asked = {"custom_id": "x", "method": "POST", "url": endpoint, "body": {"model": CARD.id} | body}
        file = await client.files.create(file=("in.jsonl", json.dumps(asked).encode()), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,  # type: ignore[arg-type]
            completion_window="24h",
        )
        batch = await until_over(client, made.id)
        assert batch.output_file_id is not None
        (result,) = (await client.files.content(batch.output_file_id)).text.splitlines()
        assert json.loads(result)["response"]["body"][field]

    play(tmp_path, Scripted([Turn(text="upon a time")]), main)


def test_a_batch_that_cannot_begin_says_what_is_wrong_with_which_line(tmp_path: Path) -> None:
    async def main(client: openai.AsyncOpenAI, shelf: Shelf) -> None:
        file = await client.files.create(file=("in.jsonl", line("a") + b"{\n"), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = await until_over(client, made.id)
        assert batch.status == "failed"
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [(one.code, one.line) for one in batch.errors.data] == [("invalid_json_line", 2)]
        for wrong in ({"completion_window": "1h"}, {"endpoint": "/v1/videos"}, {"input_file_id": "file-x"}):
            fields: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
                await client.batches.create(**fields | wrong)

    play(tmp_path, ScriptedBackend(answer()), main)
