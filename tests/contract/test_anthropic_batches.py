"""Anthropic's official client makes, watches, stops and erases batches, over a real socket and the real services."""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from tests.doubles_files import Shelf, opened
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import Gate, Scripted, Turn, last_says

from headrace.core.file import BATCH_SPOOL, ListQuery
from headrace.server.config import ServerConfig

MODEL = "scripted"


@contextlib.asynccontextmanager
async def connected(home: Path, backend: Any) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, Shelf]]:
    async with opened(home, backend) as shelf:
        app = make_app(shelf.foreground, ServerConfig(port=0), files=shelf.files, batches=shelf.batches)
        async with listening(app) as (_, port):
            url = f"http://127.0.0.1:{port}"
            async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0, timeout=4) as client:
                yield client, shelf


def play(
    home: Path, backend: Any, main: Callable[[anthropic.AsyncAnthropic, Shelf], Coroutine[Any, Any, None]]
) -> None:
    async def whole() -> None:
        async with connected(home, backend) as (client, shelf):
            await main(client, shelf)

    run(whole(), 15)


def ask(custom_id: str, said: str, **fields: Any) -> Any:
    params = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": said}]} | fields
    return {"custom_id": custom_id, "params": params}


def strict(batch: MessageBatch) -> MessageBatch:
    return MessageBatch.model_validate(batch.model_dump())


async def until_over(client: anthropic.AsyncAnthropic, batch_id: str) -> MessageBatch:
    while True:
        batch = strict(await client.messages.batches.retrieve(batch_id))
        if batch.processing_status == "ended":
            return batch


async def results(client: anthropic.AsyncAnthropic, batch_id: str) -> dict[str, MessageBatchIndividualResponse]:
    lines = [one async for one in await client.messages.batches.results(batch_id)]
    return {one.custom_id: MessageBatchIndividualResponse.model_validate(one.model_dump()) for one in lines}


def test_a_batch_runs_and_every_request_has_its_result(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="Four.", when=last_says("sum")), Turn(text="Yes.")])

    async def main(client: anthropic.AsyncAnthropic, shelf: Shelf) -> None:
        requests = [
            ask("a", "sum?"),
            ask("b", "Is it?\n"),
            ask("bad", "x", temperature=3),
            ask("warm", "x", max_tokens=0),
        ]
        made = strict(await client.messages.batches.create(requests=requests))
        assert made.id.startswith("msgbatch_")
        assert (made.processing_status, made.request_counts.processing, made.results_url) == ("in_progress", 4, None)
        assert (made.expires_at - made.created_at).total_seconds() == 86_400
        over = await until_over(client, made.id)
        counts = over.request_counts
        assert (counts.processing, counts.succeeded, counts.errored, counts.canceled, counts.expired) == (0, 2, 2, 0, 0)
        assert over.ended_at is not None
        said = await results(client, made.id)
        assert set(said) == {"a", "b", "bad", "warm"}
        first = said["a"].result
        assert first.type == "succeeded"
        assert first.message.content[0].type == "text"
        assert first.message.content[0].text == "Four."
        assert first.message.usage.service_tier == "batch"
        for name, param in (("bad", "temperature"), ("warm", "max_tokens")):
            failed = said[name].result
            assert failed.type == "errored"
            assert (failed.error.type, failed.error.error.type) == ("error", "invalid_request_error")
            assert failed.error.error.message.startswith(param)
        # Nobody uploaded what was sent with the batch, so nobody finds it among their files.
        assert BATCH_SPOOL not in {one.purpose for one in (await shelf.files.list("local", ListQuery(limit=9))).items}

    play(tmp_path, backend, main)


def test_batches_are_listed_from_either_side(tmp_path: Path) -> None:
    async def main(client: anthropic.AsyncAnthropic, shelf: Shelf) -> None:
        ids = [(await client.messages.batches.create(requests=[ask("a", "x")])).id for _ in range(5)]
        newest_first = ids[::-1]
        assert [one.id async for one in client.messages.batches.list(limit=2)] == newest_first
        page = await client.messages.batches.list(limit=2, after_id=newest_first[1])
        assert [one.id for one in page.data] == newest_first[2:4]
        assert (page.first_id, page.last_id, page.has_more) == (newest_first[2], newest_first[3], True)
        before = await client.messages.batches.list(limit=2, before_id=newest_first[4])
        assert [one.id for one in before.data] == newest_first[2:4]
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await client.messages.batches.list(limit=1001)
        with pytest.raises(anthropic.BadRequestError, match="before_id"):
            await client.messages.batches.list(after_id=ids[0], before_id=ids[1])

    play(tmp_path, Scripted([Turn(text="Yes.")]), main)


def test_a_batch_that_is_stopped_says_which_requests_never_ran(tmp_path: Path) -> None:
    gate = Gate()
    backend = Scripted([Turn(text="a b", gates={1: gate})])

    async def main(client: anthropic.AsyncAnthropic, shelf: Shelf) -> None:
        made = await client.messages.batches.create(requests=[ask(f"r{number}", "x") for number in range(3)])
        await gate.reached.wait()
        with pytest.raises(anthropic.ConflictError, match="cancel it first"):
            await client.messages.batches.delete(made.id)
        with pytest.raises(anthropic.AnthropicError, match="results_url"):
            await client.messages.batches.results(made.id)
        stopping = strict(await client.messages.batches.cancel(made.id))
        assert stopping.processing_status == "canceling"
        assert stopping.cancel_initiated_at is not None
        over = await until_over(client, made.id)
        assert over.request_counts.canceled == 3
        assert {one.result.type for one in (await results(client, made.id)).values()} == {"canceled"}
        gone = await client.messages.batches.delete(made.id)
        assert (gone.id, gone.type) == (made.id, "message_batch_deleted")
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.batches.retrieve(made.id)
        assert (await shelf.files.list("local", ListQuery(limit=9))).items == ()

    play(tmp_path, backend, main)


@pytest.mark.parametrize(
    ("requests", "raised", "says"),
    [
        ([], anthropic.BadRequestError, "requests: 0 given"),
        ([ask("a", "x"), ask("a", "y")], anthropic.BadRequestError, r"requests\[1\].custom_id"),
        ([ask("a b", "x")], anthropic.BadRequestError, r"requests\[0\].custom_id"),
        ([ask("a", "x", model="")], anthropic.BadRequestError, r"requests\[0\].params"),
        ([ask("a", "x", model="claude-0")], anthropic.NotFoundError, "claude-0"),
    ],
)
def test_what_no_batch_could_be_is_refused_at_once(
    tmp_path: Path, requests: list[Any], raised: type[Exception], says: str
) -> None:
    async def main(client: anthropic.AsyncAnthropic, shelf: Shelf) -> None:
        with pytest.raises(raised, match=says):
            await client.messages.batches.create(requests=requests)

    play(tmp_path, Scripted([Turn(text="Yes.")]), main)


def test_a_batch_of_another_protocol_is_not_found(tmp_path: Path) -> None:
    async def main(client: anthropic.AsyncAnthropic, shelf: Shelf) -> None:
        made = await client.messages.batches.create(requests=[ask("a", "x")])
        for name in ("batch_" + made.id.removeprefix("msgbatch_"), "msgbatch_0", "nothing"):
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.batches.retrieve(name)
        await until_over(client, made.id)

    play(tmp_path, Scripted([Turn(text="Yes.")]), main)
