"""The official client, run against the application over a real socket with a scripted backend."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import openai
import pytest
from tests.doubles_http import Pause, ScriptedBackend, Step, answer, make_app, run, started
from tests.loopback import listening

from headrace.core.errors import ContextTooLong, EngineFault, Overloaded
from headrace.core.events import ChoiceFinished, FinishReason, TextDelta
from headrace.core.request import Request, Role
from headrace.server.config import ServerConfig

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@contextlib.asynccontextmanager
async def connected(backend: ScriptedBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    app = make_app(backend, ServerConfig(port=0))
    async with listening(app) as (_, port):
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=4) as client:
            yield client


def play(backend: ScriptedBackend, main: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with connected(backend) as client:
            await main(client)
        assert backend.num_open == 0

    run(whole())


def test_a_whole_chat_answer_is_understood() -> None:
    backend = ScriptedBackend(answer("Par", "is", reason=FinishReason.LENGTH))

    async def main(client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": "In French."},
                {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
                {"role": "assistant", "content": "Hi"},
                {"role": "user", "content": "Capital?"},
            ],
            max_completion_tokens=2,
            temperature=0,
            top_p=0.5,
            seed=42,
            stop=["\n", "END"],
            extra_body={"top_k": 5, "min_p": 0.25, "ignore_eos": True},
        )
        (choice,) = reply.choices
        assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Paris", "length")
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        assert (reply.usage.total_tokens, reply.usage.prompt_tokens_details.cached_tokens) == (9, 4)
        assert reply.system_fingerprint == "fp_0123456789ab"

    play(backend, main)
    (request,) = backend.requests
    assert request.messages is not None
    assert [message.role for message in request.messages] == [
        Role.SYSTEM,
        Role.DEVELOPER,
        Role.USER,
        Role.ASSISTANT,
        Role.USER,
    ]
    assert request.messages[2].text == "Hello"
    sampling, limits = request.sampling, request.limits
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (
        0,
        0.5,
        5,
        0.25,
        42,
    )
    assert (limits.max_tokens, limits.stop, limits.ignore_eos) == (2, ("\n", "END"), True)


def test_a_streamed_chat_answer_with_usage_is_understood() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].delta.content for chunk in chunks[1:-2]] == ["Par", "is", "\u2764"]
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        assert len({chunk.id for chunk in chunks}) == 1
        assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)

    play(ScriptedBackend(answer("Par", "is", "\u2764")), main)


def test_the_clients_own_stream_helper_gathers_the_answer() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        async with client.chat.completions.stream(model="tiny", messages=HELLO) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "Paris"

    play(ScriptedBackend(answer("Par", "is")), main)


def test_several_choices_keep_apart() -> None:
    def script(request: Request) -> list[Step]:
        interleaved = [TextDelta(choice, f"{choice}{word}", 1) for word in "ab" for choice in (0, 1, 2)]
        return [*answer()(request)[:1], *interleaved, *answer()(request)[1:]]

    async def main(client: openai.AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(model="tiny", messages=HELLO, n=3)
        assert [choice.message.content for choice in whole.choices] == ["0a0b", "1a1b", "2a2b"]
        texts = ["", "", ""]
        ends = []
        async for chunk in await client.chat.completions.create(model="tiny", messages=HELLO, n=3, stream=True):
            (choice,) = chunk.choices
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
        assert (texts, ends) == (["0a0b", "1a1b", "2a2b"], [0, 1, 2])

    play(ScriptedBackend(script), main)


def test_text_completions_work_whole_and_streamed() -> None:
    backend = ScriptedBackend(answer("Par", "is"))

    async def main(client: openai.AsyncOpenAI) -> None:
        whole = await client.completions.create(model="tiny", prompt="The capital", n=2, stop="\n")
        assert [choice.text for choice in whole.choices] == ["Paris", "Paris"]
        assert whole.object == "text_completion"
        stream = await client.completions.create(model="tiny", prompt=[1, 2, 3], stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Paris"
        assert chunks[-1].choices[0].finish_reason == "stop"

    play(backend, main)
    first, second = backend.requests
    assert (first.prompt, first.limits.stop, first.limits.max_tokens) == ("The capital", ("\n",), 16)
    assert second.tokens == (1, 2, 3)


def test_models_are_listed_and_retrieved() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny-alias")).id == "tiny"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody/knows")

    play(ScriptedBackend(answer()), main)


def test_the_clients_errors_carry_code_and_param() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        create = client.chat.completions.create
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="tiny", messages=HELLO, frequency_penalty=2.5)
        assert (bad.value.code, bad.value.param) == ("invalid_value", "frequency_penalty")
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="tiny", messages=HELLO, verbosity="high")
        assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "verbosity")
        with pytest.raises(openai.BadRequestError) as bad:
            await create(model="tiny", messages=[])
        assert bad.value.param == "messages"
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="gpt-0", messages=HELLO)
        assert missing.value.code == "model_not_found"

    play(ScriptedBackend(answer()), main)


@pytest.mark.parametrize(
    ("error", "raised", "code"),
    [
        (
            ContextTooLong("9000 tokens do not fit.", param="messages"),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (Overloaded("the queue is full.", retry_after_s=1), openai.InternalServerError, "overloaded"),
        (EngineFault("a defect."), openai.InternalServerError, "engine_fault"),
    ],
)
def test_errors_of_the_backend_become_the_clients_own(error: Exception, raised: type[Any], code: str) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        for stream in (False, True):
            with pytest.raises(raised) as caught:
                await client.chat.completions.create(model="tiny", messages=HELLO, stream=stream)
            assert caught.value.code == code

    play(ScriptedBackend(lambda request: [started(request), error]), main)


def test_an_error_in_the_middle_of_a_stream_is_raised_and_not_taken_for_the_end() -> None:
    pause = Pause()

    def script(request: Request) -> list[Step]:
        return [started(request), TextDelta(0, "half", 1), pause, EngineFault("a defect met this batch.")]

    async def main(client: openai.AsyncOpenAI) -> None:
        heard = []
        with pytest.raises(openai.APIError, match="a defect met this batch"):
            async for chunk in await client.chat.completions.create(model="tiny", messages=HELLO, stream=True):
                heard.append(chunk.choices[0].delta.content)
                pause.go.set()
        assert heard == ["", "half"]

    play(ScriptedBackend(script), main)


def test_closing_a_stream_cancels_the_request() -> None:
    closed = asyncio.Event()

    def script(request: Request) -> Any:
        try:
            yield started(request)
            yield TextDelta(0, "a", 1)
            yield Pause()
            yield ChoiceFinished(0, FinishReason.STOP)
        finally:
            closed.set()

    backend = ScriptedBackend(script)

    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await closed.wait()

    play(backend, main)
    assert (backend.num_open, backend.num_closed) == (0, 1)


def test_giving_up_a_whole_answer_cancels_the_request() -> None:
    pause = Pause()
    closed = asyncio.Event()

    def script(request: Request) -> Any:
        try:
            yield started(request)
            yield pause
        finally:
            closed.set()

    async def main(client: openai.AsyncOpenAI) -> None:
        task = asyncio.ensure_future(client.chat.completions.create(model="tiny", messages=HELLO))
        await pause.reached.wait()
        task.cancel()
        await asyncio.wait([task])
        await closed.wait()

    play(ScriptedBackend(script), main)
