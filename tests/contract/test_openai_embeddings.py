"""The official client asks for embeddings over a real socket, and understands them and every refusal."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import openai
import pytest
from tests.doubles_http import Pause, make_app, run
from tests.doubles_inputs import DIMENSIONS, InputsBackend, vector
from tests.loopback import listening

from headrace.server.config import ServerConfig


@contextlib.asynccontextmanager
async def connected(backend: InputsBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    async with listening(make_app(backend, ServerConfig(port=0))) as (_, port):
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=4) as client:
            yield client


def play(backend: InputsBackend, main: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with connected(backend) as client:
            await main(client)
        assert backend.num_open == 0

    run(whole())


def floats(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def test_texts_become_vectors_in_their_order_in_both_encodings() -> None:
    texts = ["the cat", "a dog that barks", "ein Käfer 🐞"]

    async def main(client: openai.AsyncOpenAI) -> None:
        # The client asks for base64 by itself, and decodes it.
        for encoding in (openai.NOT_GIVEN, "float"):
            reply = await client.embeddings.create(model="mini", input=texts, encoding_format=encoding)  # type: ignore[arg-type]
            assert [entry.index for entry in reply.data] == [0, 1, 2]
            for entry, text in zip(reply.data, texts, strict=True):
                packed = struct.pack(f"<{DIMENSIONS}f", *entry.embedding)
                assert packed == vector(text)
            assert (reply.object, reply.model, reply.data[0].object) == ("list", "mini", "embedding")
            assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (9, 9)
        raw = await client.embeddings.with_raw_response.create(model="mini", input=texts, encoding_format="float")
        assert len(raw.text.split("]")[0].split("[")[2]) < DIMENSIONS * 13  # a double's digits would be 20 each

    play(InputsBackend(), main)


@pytest.mark.parametrize("given", ["one text", [3, 1, 4], ["a", "b"], [[1], [2, 3]]])
def test_every_spelling_of_an_input_is_understood(given: Any) -> None:
    backend = InputsBackend()

    async def main(client: openai.AsyncOpenAI) -> None:
        reply = await client.embeddings.create(model="mini-alias", input=given, user="u", dimensions=8)
        wanted = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        wanted = [one if isinstance(one, str) else tuple(one) for one in wanted]
        for entry, one in zip(reply.data, wanted, strict=True):
            assert entry.embedding == pytest.approx(floats(vector(one, 8)), abs=0)

    play(backend, main)
    (request,) = backend.requests
    assert (request.dimensions, request.truncates, request.principal.user) == (8, False, "u")


def test_long_inputs_are_refused_by_their_place_or_cut_if_asked() -> None:
    backend = InputsBackend()

    async def main(client: openai.AsyncOpenAI) -> None:
        texts = ["short", "word " * 100]
        with pytest.raises(openai.BadRequestError, match=r"input\[1\]: 100 tokens; at most 32 fit") as bad:
            await client.embeddings.create(model="mini", input=texts)
        assert (bad.value.code, bad.value.param) == ("context_length_exceeded", "input")
        cut = {"truncate_prompt_tokens": -1}
        reply = await client.embeddings.create(model="mini", input=texts, extra_body=cut)
        assert reply.usage.prompt_tokens == 33

    play(backend, main)


def test_a_model_that_does_not_embed_is_refused_before_anything_runs() -> None:
    backend = InputsBackend()

    async def main(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.embeddings.create(model="tiny", input="x")
        assert (bad.value.code, bad.value.param) == ("unsupported_task", "model")
        assert "'tiny' generates text and scores pairs of texts" in bad.value.message
        assert "cannot embed texts; models here that embed texts: mini." in bad.value.message
        with pytest.raises(
            openai.BadRequestError,
            match=r"'mini' embeds texts and cannot generate text; models here that generate text: tiny\.",
        ):
            await client.chat.completions.create(model="mini", messages=[{"role": "user", "content": "Hi"}])
        assert backend.requests == []
        with pytest.raises(openai.NotFoundError) as missing:
            await client.embeddings.create(model="nobody", input="x")
        assert missing.value.code == "model_not_found"

    play(backend, main)


def test_two_thousand_inputs_come_in_pieces_and_arrive_whole() -> None:
    texts = [f"text {number}" for number in range(2048)]

    async def main(client: openai.AsyncOpenAI) -> None:
        reply = await client.embeddings.create(model="mini", input=texts, encoding_format="float")
        for entry, text in zip(reply.data, texts, strict=True):
            assert entry.embedding == pytest.approx(floats(vector(text)), rel=1e-7)
        with pytest.raises(openai.BadRequestError, match="input: 2049 given; at most 2048 are allowed"):
            await client.embeddings.create(model="mini", input=[*texts, "one more"])

    play(InputsBackend(), main)


def test_giving_up_cancels_the_work() -> None:
    async def whole() -> None:
        pause = Pause()
        backend = InputsBackend(pause)
        async with connected(backend) as client:
            task = asyncio.ensure_future(client.embeddings.create(model="mini", input=["a", "b"]))
            await pause.reached.wait()
            assert backend.num_open == 1
            task.cancel()
            await asyncio.wait([task])
        assert (backend.num_open, backend.num_closed) == (0, 1)

    run(whole())
