"""The official client asks for everything that an engine for many can do, and reads what comes back with its types."""

import json
from typing import Any, Literal

import openai
import pydantic
import pytest
from tests.contract.test_openai_client import HELLO, play
from tests.doubles_http import ScriptedBackend, Step, started

from headrace.core.errors import InvalidRequest
from headrace.core.events import (
    CacheMiss,
    ChoiceFinished,
    Finished,
    FinishReason,
    MissReason,
    PromptLogprobs,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from headrace.core.request import FormatKind, Request

WORDS = ("Par", "is")


class City(pydantic.BaseModel):
    """What the client's own parsing makes of an answer."""

    name: str
    size: Literal["small", "large"]


def told(word: str, num: int) -> TokenLogprob:
    others = tuple((f"{word}{index}", f"{word}{index}".encode(), -1.0 - index) for index in range(num - 1))
    return TokenLogprob(word, word.encode(), -0.5, ((word, word.encode(), -0.5), *others)[:num])


def script(request: Request) -> list[Step]:
    """Two words for every choice, with the log-probabilities that the request asks for."""
    begin: list[Step] = [started(request)]
    if request.prompt_logprobs is not None:
        begin.append(PromptLogprobs((None, told(" is", request.prompt_logprobs)), "It is"))
    choices = range(request.sampling.num_choices)
    deltas = [
        TextDelta(choice, word, 1, () if request.logprobs is None else (told(word, request.logprobs),))
        for word in WORDS
        for choice in choices
    ]
    ends = [ChoiceFinished(choice, FinishReason.STOP) for choice in choices]
    return [*begin, *deltas, *ends, Finished(Usage(7, len(deltas), 4, disk_tokens=2))]


def test_every_option_reaches_the_backend() -> None:
    backend = ScriptedBackend(script)

    async def main(client: openai.AsyncOpenAI) -> None:
        await client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            logit_bias={"50256": -100},
            logprobs=True,
            top_logprobs=3,
            prompt_cache_key="k",
            prompt_cache_retention="24h",
            response_format={"type": "json_object"},
            extra_headers={"x-headrace-session": "s", "x-headrace-parent": "p", "x-headrace-timeout": "2.5"},
            extra_body={
                "repetition_penalty": 1.25,
                "typical_p": 0.5,
                "stop_token_ids": [3],
                "priority": 1,
                "cache_salt": "salt",
                "prompt_logprobs": 2,
            },
        )

    play(backend, main)
    (request,) = backend.requests
    sampling = request.sampling
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.logit_bias) == (0.5, -0.5, ((50256, -100),))
    assert (sampling.repetition_penalty, sampling.typical_p) == (1.25, 0.5)
    assert (request.logprobs, request.prompt_logprobs, request.limits.stop_token_ids) == (3, 2, (3,))
    assert (request.session, request.parent, request.limits.deadline_s) == ("s", "p", 2.5)
    assert (request.cache.salt, [point.ttl_s for point in request.cache.breakpoints]) == ("salt", [86_400.0])
    assert (request.principal.priority, request.response_format.kind) == (-1, FormatKind.JSON_OBJECT)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_chat_are_understood(stream: bool) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        create = client.chat.completions.create
        entries: list[Any] = []
        if stream:
            async for chunk in await create(
                model="tiny", messages=HELLO, logprobs=True, top_logprobs=2, n=2, stream=True
            ):
                (delta,) = chunk.choices
                entries += (delta.logprobs.content or []) if delta.logprobs and delta.index == 1 else []
        else:
            whole = await create(model="tiny", messages=HELLO, logprobs=True, top_logprobs=2, n=2)
            assert whole.choices[1].logprobs is not None
            entries = whole.choices[1].logprobs.content or []
            assert whole.choices[1].logprobs.refusal is None
        assert [(entry.token, entry.logprob, bytes(entry.bytes)) for entry in entries] == [
            ("Par", -0.5, b"Par"),
            ("is", -0.5, b"is"),
        ]
        assert [[top.token for top in entry.top_logprobs] for entry in entries] == [["Par", "Par0"], ["is", "is0"]]

    play(ScriptedBackend(script), main)


def test_the_clients_own_stream_helper_gathers_log_probabilities() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        async with client.chat.completions.stream(model="tiny", messages=HELLO, logprobs=True) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "Paris"
        assert final.choices[0].logprobs is not None
        assert [entry.token for entry in final.choices[0].logprobs.content or []] == list(WORDS)

    play(ScriptedBackend(script), main)


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("prompt", ["It is", [5, 6]])
def test_log_probabilities_of_completions_are_understood_whole_and_streamed(echo: bool, prompt: Any) -> None:
    tokens, offsets = (["It", " is", *WORDS], [0, 2, 5, 8]) if echo else ([*WORDS], [0, 3])

    async def main(client: openai.AsyncOpenAI) -> None:
        whole = await client.completions.create(model="tiny", prompt=prompt, echo=echo, logprobs=2)
        (choice,) = whole.choices
        assert choice.text == "".join(tokens)
        assert choice.logprobs is not None
        assert (choice.logprobs.tokens, choice.logprobs.text_offset) == (tokens, offsets)
        assert choice.logprobs.token_logprobs == ([None] if echo else []) + [-0.5] * (len(tokens) - echo)
        assert choice.logprobs.top_logprobs is not None
        assert choice.logprobs.top_logprobs[-1] == {"is": -0.5, "is0": -1.0}
        text, heard, places = "", [], []
        async for chunk in await client.completions.create(
            model="tiny", prompt=prompt, echo=echo, logprobs=2, stream=True
        ):
            text += chunk.choices[0].text
            if (logprobs := chunk.choices[0].logprobs) is not None:
                heard += logprobs.tokens or []
                places += logprobs.text_offset or []
        assert (text, heard, places) == ("".join(tokens), tokens, offsets)

    play(ScriptedBackend(script), main)


def test_a_pydantic_model_is_sent_as_a_schema_and_parsed_back() -> None:
    def city(request: Request) -> list[Step]:
        assert request.response_format.kind is FormatKind.JSON_SCHEMA
        assert isinstance(request.response_format.schema, dict)
        assert set(request.response_format.schema["properties"]) == {"name", "size"}
        text = json.dumps({"name": "Paris", "size": "large"})
        return [started(request), TextDelta(0, text, 9), ChoiceFinished(0, FinishReason.STOP), Finished(Usage(7, 9))]

    async def main(client: openai.AsyncOpenAI) -> None:
        parsed = await client.chat.completions.parse(model="tiny", messages=HELLO, response_format=City)
        assert parsed.choices[0].message.parsed == City(name="Paris", size="large")
        async with client.chat.completions.stream(model="tiny", messages=HELLO, response_format=City) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.parsed == City(name="Paris", size="large")

    play(ScriptedBackend(city), main)


def test_fields_beyond_openais_types_are_there_for_who_looks() -> None:
    def missed(request: Request) -> list[Step]:
        first, *rest = script(request)
        assert isinstance(first, Started)
        miss = CacheMiss(MissReason.COLD, 4)
        return [Started(first.request_id, first.model, 7, 4, first.digests, miss), *rest]

    async def main(client: openai.AsyncOpenAI) -> None:
        asks: dict[str, Any] = {"extra_headers": {"x-headrace-explain": "cache"}, "model": "tiny", "messages": HELLO}
        reply = await client.chat.completions.create(**asks, extra_body={"prompt_logprobs": 1})
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        assert reply.usage.prompt_tokens_details.model_extra == {"disk_tokens": 2}
        assert reply.model_extra is not None
        explained = {"cache_miss": {"reason": "cold", "token": 4, "message": None}}
        assert reply.model_extra["headrace"] == explained
        assert [table and list(table) for table in reply.model_extra["prompt_logprobs"]] == [None, [" is"]]
        extras = [
            (chunk.model_extra or {}).get("headrace")
            async for chunk in await client.chat.completions.create(**asks, stream=True)
        ]
        assert extras == [None] * (len(extras) - 1) + [explained]

    play(ScriptedBackend(missed), main)


@pytest.mark.parametrize("stream", [False, True])
def test_a_form_that_the_backend_refuses_is_named_as_the_caller_named_it(stream: bool) -> None:
    error = InvalidRequest("response_format: regex: no such class; change it.", param="response_format")
    backend = ScriptedBackend(lambda _: [error])

    async def main(client: openai.AsyncOpenAI) -> None:
        asks: dict[str, Any] = {"model": "tiny", "messages": HELLO, "stream": stream}
        for extra, name in (
            ({"guided_regex": "a"}, "guided_regex"),
            ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({}, "response_format"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(**asks, extra_body=extra)
            assert refused.value.param == name
            assert f"{name}: regex: no such class; change it." in refused.value.message
        error.param = "messages"
        with pytest.raises(openai.BadRequestError, match="response_format: regex"):
            await client.chat.completions.create(**asks, extra_body={"guided_regex": "a"})

    play(backend, main)
