"""Many texts on the real model: the official client over a real socket, the Python API, and the command line."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from tests.doubles_http import run
from tests.loopback import listening
from typer.testing import CliRunner

import headrace
from headrace.cli.main import app as command_line
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.models.load import LoadedModel, load_model
from headrace.server.app import build_app
from headrace.server.config import ServerConfig

MODEL = "smollm2-135m-instruct"
LIMIT_S = 180
CONFIG = EngineConfig(threads=2, kv_memory_bytes=128 * 2**20)
TEXTS = ["the cat sat", "a kitten was sitting", "stock prices fell", "Paris"]
SKY = "The capital of France is"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def model(smollm2_path: Path, home: Path) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=home / "packed")


@contextlib.asynccontextmanager
async def connected(*models: LoadedModel) -> AsyncIterator[openai.AsyncOpenAI]:
    engine = TextEngine(models, CONFIG)
    engine.start()
    try:
        async with listening(build_app(engine, ServerConfig(port=0), metrics=engine.metrics)) as (_, port):
            url = f"http://127.0.0.1:{port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                yield client
    finally:
        await engine.close()


async def post(client: openai.AsyncOpenAI, path: str, **fields: Any) -> Any:
    return await client.post(path, cast_to=object, body={"model": MODEL} | fields)


def test_scores_are_the_log_probabilities_that_an_echo_tells(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            endings = [" Paris", " a banana", " Paris, and it is old."]
            answer = await post(client, "/score", text_1=SKY, text_2=endings, logprobs=True)
            for ending, entry in zip(endings, answer["data"], strict=True):
                echo = await client.completions.create(
                    model=MODEL, prompt=SKY + ending, echo=True, logprobs=0, max_tokens=1
                )
                told = echo.choices[0].logprobs
                assert told is not None and told.token_logprobs is not None and told.tokens is not None
                count = len(entry["logprobs"])
                assert "".join(token["token"] for token in entry["logprobs"]) == ending
                expected = told.token_logprobs[-1 - count : -1]
                assert [token["logprob"] for token in entry["logprobs"]] == pytest.approx(expected, abs=0.05)
                assert entry["score"] == pytest.approx(sum(token["logprob"] for token in entry["logprobs"]), abs=1e-5)
            greedy = await client.completions.create(model=MODEL, prompt=SKY, temperature=0, max_tokens=1)
            assert [entry["is_greedy"] for entry in answer["data"]][:2] == [greedy.choices[0].text == " Paris", False]
            ranked = await post(client, "/rerank", query=SKY, documents=[" a banana", " Paris"], top_n=1)
            assert [result["document"]["text"] for result in ranked["results"]] == [" Paris"]

    run(main(), LIMIT_S)


def test_texts_that_make_one_token_together_are_scored_one_after_the_other(model: LoadedModel) -> None:
    first, second, both = (model.tokenizer.encode(text) for text in ("a", "b", "ab"))
    assert len(first) == len(second) == len(both) == 1

    async def main() -> None:
        async with connected(model) as client:
            (entry,) = (await post(client, "/score", text_1="a", text_2="b", logprobs=True))["data"]
            (token,) = entry["logprobs"]
            assert token["token"] == "b"
            told = await client.completions.create(
                model=MODEL, prompt=[*first, *second], echo=True, logprobs=0, max_tokens=1
            )
            logprobs = told.choices[0].logprobs
            assert logprobs is not None and logprobs.token_logprobs is not None
            assert entry["score"] == pytest.approx(logprobs.token_logprobs[1], abs=0.05)

    run(main(), LIMIT_S)


def test_an_encoder_and_a_model_that_generates_are_served_side_by_side(
    model: LoadedModel, minilm_path: Path, home: Path
) -> None:
    encoder = load_model(minilm_path, name="all-minilm-l6-v2", cache_dir=home / "packed")
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]

    async def main() -> None:
        async with connected(model, encoder) as client:
            vectors, chat = await asyncio.gather(
                client.embeddings.create(model=encoder.name, input=TEXTS),
                client.chat.completions.create(model=MODEL, messages=question, max_tokens=4),
            )
            rows = np.array([entry.embedding for entry in vectors.data])
            assert rows.shape == (4, 384)
            assert rows[0] @ rows[1] > 0.5
            assert rows[0] @ rows[2] < 0.2
            assert chat.usage is not None and chat.usage.completion_tokens > 0
            with pytest.raises(
                openai.BadRequestError, match=f"embeds texts and cannot generate text; .*: {MODEL}"
            ) as bad:
                await client.chat.completions.create(model=encoder.name, messages=question)
            assert (bad.value.code, bad.value.param) == ("unsupported_task", "model")

    run(main(), LIMIT_S)


def test_vectors_are_the_same_over_http_in_a_program_and_in_the_terminal(
    model: LoadedModel, smollm2_path: Path, home: Path
) -> None:
    vectors: list[Any] = []

    async def main() -> None:
        async with connected(model) as client:
            for encoding in (openai.NOT_GIVEN, "float"):  # the client asks for base64 by itself
                reply = await client.embeddings.create(model=MODEL, input=TEXTS, encoding_format=encoding)  # type: ignore[arg-type]
                vectors.append(np.array([entry.embedding for entry in reply.data], np.float32))
            alone = await client.embeddings.create(model=MODEL, input=TEXTS[2])
            np.testing.assert_allclose(alone.data[0].embedding, vectors[0][2], atol=1e-5)
        async with headrace.Engine.open(smollm2_path, home=home, config=CONFIG) as engine:
            vectors.append(await engine.embed(TEXTS))
            cut = await engine.embed(TEXTS[:1], dimensions=64)
            assert cut.shape == (1, 64)
            assert np.linalg.norm(cut[0]) == pytest.approx(1)

    run(main(), LIMIT_S)
    file = home / "vectors.npy"
    arguments = ["embed", *TEXTS, "--model", str(smollm2_path), "--home", str(home), "--npy", str(file)]
    assert CliRunner().invoke(command_line, arguments).exit_code == 0
    vectors.append(np.load(file))
    over_http = vectors[0]
    assert over_http.shape == (4, 576)
    np.testing.assert_allclose(np.linalg.norm(over_http, axis=1), 1, atol=1e-5)
    for other in vectors[1:]:
        np.testing.assert_allclose(other, over_http, atol=1e-5)
    assert over_http[0] @ over_http[1] > over_http[0] @ over_http[2] + 0.2


def test_lines_of_standard_input_become_lines_of_json(smollm2_path: Path, home: Path) -> None:
    arguments = ["embed", "-", "--dimensions", "8", "--model", str(smollm2_path), "--home", str(home)]
    result = CliRunner().invoke(command_line, arguments, input="one\n\ntwo\n")
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["text"] for entry in entries] == ["one", "two"]
    assert [len(entry["embedding"]) for entry in entries] == [8, 8]


def test_refusals_of_the_engine_speak_the_routes_words(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            create = client.embeddings.create
            with pytest.raises(openai.BadRequestError, match=r"input\[1\]: \d+ tokens, the model takes 8192") as bad:
                await create(model=MODEL, input=["ok", "word " * 9000])
            assert (bad.value.code, bad.value.param) == ("context_length_exceeded", "input")
            with pytest.raises(openai.BadRequestError, match=r"input\[0\]\[1\]: 50000000 is not in") as bad:
                await create(model=MODEL, input=[[1, 50_000_000]])
            assert bad.value.param == "input"
            with pytest.raises(openai.BadRequestError, match="dimensions: 577 asked for") as bad:
                await create(model=MODEL, input="ok", dimensions=577)
            with pytest.raises(openai.BadRequestError, match=r"documents\[1\]: \d+ tokens"):
                await post(client, "/rerank", query=SKY, documents=[" b", " word" * 9000])

    run(main(), LIMIT_S)


def test_giving_up_frees_the_engine_and_others_go_on(model: LoadedModel) -> None:
    async def main() -> None:
        async with connected(model) as client:
            many = [f"number {number}: " + "word " * 200 for number in range(400)]
            task = asyncio.ensure_future(client.embeddings.create(model=MODEL, input=many))
            chat = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Count to five."}], max_tokens=8
            )
            assert chat.usage is not None
            assert chat.usage.completion_tokens > 0
            assert not task.done()
            task.cancel()
            await asyncio.wait([task])
            reply = await client.embeddings.create(model=MODEL, input=TEXTS)
            assert len(reply.data) == 4

    run(main(), LIMIT_S)
