"""Anthropic's client on the real model: what its usage says of the cache is so, and reuse changes no token."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import Message
from tests.doubles_http import run
from tests.end_to_end.test_server_smollm2 import LIMIT_S, MODEL, serving

from headrace.models.load import LoadedModel, load_model

LONG = "A river carries water and stone from the mountains to the sea. " * 12
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 12, "extra_body": {"temperature": 0}}
PAGE = 32


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


def play(model: LoadedModel, main: Callable[[anthropic.AsyncAnthropic], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with serving(model) as (_, _, port):
            url = f"http://127.0.0.1:{port}"
            async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
                await main(client)

    run(whole(), LIMIT_S)


def question(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def marked(text: str, ttl: str = "5m") -> list[Any]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}]


def split(message: Message) -> tuple[int, int, int]:
    """Tokens of the input that were computed and not kept, read from the cache, and written to it."""
    usage = message.usage
    return usage.input_tokens, usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0


def said(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_miss_a_hit_and_a_partial_hit_are_told_apart_and_say_the_same(model: LoadedModel) -> None:
    answers: dict[str, str] = {}

    async def warm(client: anthropic.AsyncAnthropic) -> None:
        system = marked(LONG, "1h")
        count = await client.messages.count_tokens(model=MODEL, messages=question("Where to?"), system=system)

        miss = await client.messages.create(**ASK, messages=question("Where to?"), system=system)
        fresh, read, written = split(miss)
        assert (read, fresh + written) == (0, count.input_tokens)
        assert written >= 5 * PAGE
        assert written % PAGE == 0
        assert miss.usage.cache_creation is not None
        assert miss.usage.cache_creation.ephemeral_1h_input_tokens == written

        hit = await client.messages.create(**ASK, messages=question("Where to?"), system=system)
        fresh, read, written_again = split(hit)
        assert (written_again, fresh + read) == (0, count.input_tokens)
        assert read >= written
        assert said(hit) == said(miss)

        async with client.messages.stream(**ASK, messages=question("Where from?"), system=system) as stream:
            partial = await stream.get_final_message()
        assert split(partial)[1] >= written
        assert split(partial)[2] == 0
        answers["warm"] = said(partial)

    async def cold(client: anthropic.AsyncAnthropic) -> None:
        message = await client.messages.create(**ASK, messages=question("Where from?"), system=LONG)
        assert split(message)[1:] == (0, 0)
        answers["cold"] = said(message)

    play(model, warm)
    play(model, cold)
    assert answers["warm"] == answers["cold"] != ""


def test_the_mark_of_a_whole_request_carries_a_conversation_forward(model: LoadedModel) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        talk = question(LONG + "Where to?")
        mark: Any = {"cache_control": {"type": "ephemeral"}}
        first = await client.messages.create(**ASK, **mark, messages=talk)
        _, read, written = split(first)
        assert read == 0
        assert written >= 5 * PAGE
        talk += [first.to_param(), *question("And from where? Tell me about mountains, too.")]
        second = await client.messages.create(**ASK, **mark, messages=talk)
        fresh, read, new = split(second)
        # What was said in answer is found as well, though no mark stood behind it.
        assert read >= written
        assert fresh + new < 3 * PAGE

    play(model, main)


def test_reading_without_answering_warms_the_cache(model: LoadedModel) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        given: dict[str, Any] = {"messages": question("Where to?"), "system": marked(LONG)}
        warm = await client.messages.create(**ASK | {"max_tokens": 0}, **given)
        assert (warm.content, warm.stop_reason, warm.usage.output_tokens) == ([], "max_tokens", 0)
        hit = await client.messages.create(**ASK, **given)
        assert split(hit)[1] >= split(warm)[2] >= 5 * PAGE
        assert split(hit)[2] == 0

    play(model, main)


def test_a_forced_tool_is_called_with_what_its_schema_says_and_marked_tools_are_kept(model: LoadedModel) -> None:
    place = {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["Ulm", "Jena"]}},
        "required": ["place"],
    }
    tools: list[Any] = [
        {"name": "get_stream", "description": LONG, "input_schema": {"type": "object"}},
        {
            "name": "get_weather",
            "description": "The weather of a place.",
            "input_schema": place,
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
        },
    ]

    async def main(client: anthropic.AsyncAnthropic) -> None:
        ask = ASK | {"max_tokens": 60, "tools": tools, "tool_choice": {"type": "tool", "name": "get_weather"}}
        first = await client.messages.create(**ask, messages=question("How is the weather in Ulm?"))
        async with client.messages.stream(**ask, messages=question("And in Jena?")) as stream:
            second = await stream.get_final_message()
        for message in (first, second):
            assert message.stop_reason == "tool_use"
            (call,) = message.content
            assert call.type == "tool_use"
            assert call.name == "get_weather"
            assert call.input in ({"place": "Ulm"}, {"place": "Jena"})
        assert first.usage.cache_creation is not None
        assert first.usage.cache_creation.ephemeral_1h_input_tokens >= 4 * PAGE
        assert split(second)[1] >= first.usage.cache_creation.ephemeral_1h_input_tokens
        result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "Rain."}  # type: ignore[union-attr]
        talk: list[Any] = [
            *question("How is the weather in Ulm?"),
            first.to_param(),
            {"role": "user", "content": [result]},
        ]
        last = await client.messages.create(**ASK, tools=tools, messages=talk)
        assert last.usage.output_tokens > 0

    play(model, main)


def test_an_answer_goes_on_from_what_the_assistant_has_said(model: LoadedModel) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        start = "The capital of France is"
        talk: list[Any] = [*question("What is the capital of France?"), {"role": "assistant", "content": start}]
        answer = await client.messages.create(**ASK | {"max_tokens": 3}, messages=talk, system="Be brief.")
        # The same tokens as those of the template written out by hand.
        prompt = (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
            f"<|im_start|>assistant\n{start}"
        )
        body: Any = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 3}
        raw = await client.post("/v1/completions", body=body, cast_to=object)
        assert said(answer) == raw["choices"][0]["text"]  # type: ignore[index]
        assert said(answer).startswith(" Paris")
        assert sum(split(answer)) == raw["usage"]["prompt_tokens"]  # type: ignore[index]

    play(model, main)


def test_what_is_asked_for_beyond_the_context_is_lowered_to_it(model: LoadedModel) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(**ASK | {"max_tokens": 64_000}, messages=question("Hi")) as stream:
            async for _ in stream.text_stream:
                break  # accepted, and going on

    play(model, main)


def test_less_than_a_page_is_not_kept_and_that_is_no_error(model: LoadedModel) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        message = await client.messages.create(**ASK, messages=question("Hi"), system=marked("Be brief."))
        fresh, read, written = split(message)
        assert (read, written) == (0, 0)
        assert fresh > 0

    play(model, main)


def test_what_changed_since_the_message_before_is_found_by_the_real_engine(model: LoadedModel) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        async def ask(system: str, previous: str | None) -> Message:
            diagnostics: Any = {"previous_message_id": previous}
            return await client.messages.create(
                **ASK, messages=question("Where to?"), system=system, diagnostics=diagnostics
            )

        first = await ask(LONG, None)
        same = await ask(LONG, first.id)
        assert first.diagnostics is same.diagnostics is None
        other = await ask("Listen. " + LONG, first.id)
        assert other.diagnostics is not None
        reason = other.diagnostics.cache_miss_reason
        assert reason is not None
        assert reason.type == "system_changed"
        assert reason.cache_missed_input_tokens == sum(split(first)) - split(other)[1]

    play(model, main)
