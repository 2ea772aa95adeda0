"""One answer told in every dialect: each official client's usage adds up to the same ledger, and to the same cost."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import Scripted, Turn
from tests.scripted_services import scripted_services

from headrace.core.ledger import PriceList, Prices
from headrace.server.config import ServerConfig

TEXT = "one two three four five six seven eight"
TURN = Turn(
    reasoning="a b",
    text="yes it is",
    cached_tokens=3,
    cache_writes=((300.0, 2), (3600.0, 1)),
)
PRICES = PriceList({"scripted": Prices(input=10, output=100, cache_read=1, cache_write_5m=20, cache_write_1h=30)})
NUM_PROMPT = 9  # the words, and the word that a role counts
COST = ((NUM_PROMPT - 6) * 10 + 3 * 1 + 2 * 20 + 1 * 30 + 5 * 100) / 1e6


@contextlib.asynccontextmanager
async def connected(
    folder: Path, prices: PriceList
) -> AsyncIterator[tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]]:
    backend = Scripted([TURN])
    async with scripted_services(backend, folder) as services:
        given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
        app = make_app(backend, ServerConfig(port=0, prices=prices), **given)
        async with listening(app) as (_, port):
            url = f"http://127.0.0.1:{port}"
            async with (
                openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0, timeout=4) as ours,
                anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0, timeout=4) as theirs,
            ):
                yield ours, theirs


async def usages(ours: openai.AsyncOpenAI, theirs: anthropic.AsyncAnthropic) -> dict[str, Any]:
    """The usage that each dialect tells, whole and streamed."""
    messages: list[Any] = [{"role": "user", "content": TEXT}]
    asked: dict[str, Any] = {"model": "scripted", "messages": messages}
    whole = await ours.chat.completions.create(**asked)
    async with ours.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        streamed = await stream.get_final_completion()
    thinks: dict[str, Any] = {"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    message = await theirs.messages.create(**asked, **thinks)
    async with theirs.messages.stream(**asked, **thinks) as events:
        # The client gathers the fields that it knows; a cost is none of them.
        (ending,) = [event.usage async for event in events if event.type == "message_delta"]
    response = await ours.responses.create(model="scripted", input=TEXT, store=False)
    told = {
        "chat": whole.usage,
        "chat stream": streamed.usage,
        "messages": message.usage,
        "messages stream": ending,
        "responses": response.usage,
    }
    return {name: usage.to_dict() for name, usage in told.items() if usage is not None}


def test_every_dialect_tells_the_same_ledger_and_the_same_cost(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, PRICES) as clients:
            told = await usages(*clients)
        for name in ("chat", "chat stream"):
            usage = told[name]
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (NUM_PROMPT, 5), name
            assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_cache_hit_tokens"] == 3
            assert usage["prompt_tokens_details"]["cache_write_tokens"] == 3
            assert usage["prompt_cache_miss_tokens"] == NUM_PROMPT - 3
            assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
        for name in ("messages", "messages stream"):
            usage = told[name]
            assert usage["input_tokens"] == NUM_PROMPT - 6, name
            assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (3, 3)
            assert usage["output_tokens"] == 5
        usage = told["responses"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (NUM_PROMPT, 5)
        assert usage["input_tokens_details"]["cached_tokens"] == 3
        assert usage["output_tokens_details"]["reasoning_tokens"] == 2
        assert {name: usage["cost"] for name, usage in told.items()} == {name: pytest.approx(COST) for name in told}
        assert len(told) == 5

    run(main())


def test_without_prices_no_dialect_tells_a_cost(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, PriceList()) as clients:
            assert not [name for name, usage in (await usages(*clients)).items() if "cost" in usage]

    run(main())
