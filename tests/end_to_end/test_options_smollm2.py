"""What an engine for many can be asked for, asked over a real socket by the official client of the real model."""

import asyncio
import collections
import math
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.doubles_http import run
from tests.end_to_end.test_server_smollm2 import LIMIT_S, MODEL, QUESTION, connected

from headrace.models.load import LoadedModel, load_model

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


def play(model: LoadedModel, main: Any) -> None:
    async def whole() -> None:
        async with connected(model) as client:
            await main(client)

    run(whole(), LIMIT_S)


def test_a_greedy_token_is_the_likeliest_of_its_alternatives_whole_and_streamed(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        asks: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 16}
        whole = await client.chat.completions.create(**asks, logprobs=True, top_logprobs=20)
        plain = await client.chat.completions.create(**asks)
        (choice,) = whole.choices
        assert choice.message.content == plain.choices[0].message.content
        assert plain.choices[0].logprobs is None
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        assert bytes(byte for entry in entries for byte in entry.bytes or []).decode() == choice.message.content
        for entry in entries:
            values = [top.logprob for top in entry.top_logprobs]
            assert len(values) == 20
            assert values == sorted(values, reverse=True)
            assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, values[0])
            assert sum(map(math.exp, values)) <= 1.0001
        streamed = []
        async for chunk in await client.chat.completions.create(**asks, logprobs=True, top_logprobs=20, stream=True):
            logprobs = chunk.choices[0].logprobs
            streamed += [] if logprobs is None else logprobs.content or []
        assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in entries]

    play(model, main)


def test_an_echo_scores_a_text_as_it_was_scored_when_it_was_written(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        create = client.completions.create
        written = (await create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=12, logprobs=3)).choices[0]
        text = PROMPT + written.text
        ids = model.tokenizer.encode(text, special=True, bos=True)
        for prompt in (text, ids):
            reply = await create(model=MODEL, prompt=prompt, temperature=0, max_tokens=1, echo=True, logprobs=3)
            (read,) = reply.choices
            assert read.text.startswith(text)
            assert written.logprobs is not None
            assert read.logprobs is not None
            assert read.logprobs.token_logprobs is not None
            assert read.logprobs.token_logprobs[0] is None
            tokens, offsets = read.logprobs.tokens or [], read.logprobs.text_offset or []
            assert len(tokens) == len(ids) + 1
            ends = [*offsets[1:], len(read.text)]
            assert [read.text[start:end] for start, end in zip(offsets, ends, strict=True)] == tokens
            start = len(tokens) - 1 - len(written.logprobs.tokens or [])
            assert tokens[start:-1] == written.logprobs.tokens
            assert read.logprobs.token_logprobs[start:-1] == pytest.approx(written.logprobs.token_logprobs, abs=0.05)

    play(model, main)


def test_prompt_logprobs_are_keyed_by_the_ids_of_the_prompts_tokens(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        ids = model.tokenizer.encode(PROMPT, special=True, bos=True)
        reply = await client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=1, extra_body={"prompt_logprobs": 2}
        )
        tables = (reply.choices[0].model_extra or {})["prompt_logprobs"]
        assert tables[0] is None
        assert [str(token) in table for token, table in zip(ids[1:], tables[1:], strict=True)] == [True] * (
            len(ids) - 1
        )
        assert all(2 <= len(table) <= 3 for table in tables[1:])
        assert all(sorted(entry["rank"] or 9 for entry in table.values())[:2] == [1, 2] for table in tables[1:])

    play(model, main)


def test_a_seed_gives_the_same_three_answers_alone_and_in_a_crowd(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        async def draw(seed: int, **fields: Any) -> list[str]:
            reply = await client.completions.create(
                model=MODEL, prompt=PROMPT, n=3, seed=seed, max_tokens=12, extra_body=fields
            )
            return [choice.text for choice in reply.choices]

        penalties = {"frequency_penalty": 0.5, "repetition_penalty": 1.1, "typical_p": 0.9}
        alone = [await draw(7), await draw(8, **penalties)]
        assert len({*alone[0], *alone[1]}) > 3
        crowd = await asyncio.gather(*(draw(seed) for seed in range(5, 10)), draw(8, **penalties))
        assert [crowd[2], crowd[5]] == alone

    play(model, main)


def test_the_best_of_several_is_the_likeliest_of_what_would_have_been_told(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        asks: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "seed": 3, "max_tokens": 8, "logprobs": 0}
        asks["extra_body"] = {"ignore_eos": True}
        every = (await client.completions.create(**asks, n=4)).choices
        best = (await client.completions.create(**asks, n=2, best_of=4)).choices
        means = {choice.text: sum(choice.logprobs.token_logprobs) / 8 for choice in every}  # type: ignore[union-attr, arg-type]
        assert [choice.text for choice in best] == sorted(means, key=means.__getitem__, reverse=True)[:2]
        assert [choice.index for choice in best] == [0, 1]

    play(model, main)


def test_a_bias_forbids_and_forces_tokens_and_leaves_their_log_probabilities(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        asks: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 4, "logprobs": 2}
        free = (await client.completions.create(**asks)).choices[0].logprobs
        assert free is not None and free.tokens is not None and free.top_logprobs is not None
        (first,) = model.tokenizer.encode(free.tokens[0], special=False, bos=False)
        forbidden = (await client.completions.create(**asks, logit_bias={str(first): -100})).choices[0].logprobs
        assert forbidden is not None and forbidden.tokens is not None and forbidden.token_logprobs is not None
        second = sorted(free.top_logprobs[0], key=free.top_logprobs[0].__getitem__)[-2]
        assert forbidden.tokens[0] == second
        assert first not in model.tokenizer.encode("".join(forbidden.tokens), special=False, bos=False)
        assert forbidden.token_logprobs[0] == pytest.approx(free.top_logprobs[0][second], abs=1e-5)
        forced = (await client.completions.create(**asks, logit_bias={str(first): 100})).choices[0].logprobs
        assert forced is not None
        assert forced.tokens == free.tokens[:1] * 4

    play(model, main)


LA: dict[str, Any] = {"model": MODEL, "prompt": "la la la la la", "temperature": 0, "max_tokens": 40, "logprobs": 20}


@pytest.mark.parametrize(("frequency", "presence"), [(1.5, 0.0), (0.0, 1.5), (0.5, -0.75)])
def test_a_penalised_token_is_the_best_of_the_alternatives_after_what_the_penalties_take(
    model: LoadedModel, frequency: float, presence: float
) -> None:
    """Recomputed from what the answer tells: penalties are differences of logits, and so of log-probabilities."""

    async def main(client: openai.AsyncOpenAI) -> None:
        reply = await client.completions.create(
            **LA, frequency_penalty=frequency, presence_penalty=presence, extra_body={"ignore_eos": True}
        )
        logprobs = reply.choices[0].logprobs
        assert logprobs is not None
        seen: collections.Counter[str] = collections.Counter()
        num_changed = 0
        for token, top in zip(logprobs.tokens or [], logprobs.top_logprobs or [], strict=True):
            left = {name: value - frequency * seen[name] - presence * (seen[name] > 0) for name, value in top.items()}
            assert left[token] == pytest.approx(max(left.values()), abs=1e-4)
            num_changed += top[token] < max(top.values())
            seen[token] += 1
        assert num_changed > 0

    play(model, main)


def test_a_repetition_penalty_makes_an_answer_repeat_its_prompt_and_itself_less(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        num_new = []
        for penalty in (1.0, 1.5):
            reply = await client.completions.create(
                **LA, extra_body={"repetition_penalty": penalty, "ignore_eos": True}
            )
            logprobs = reply.choices[0].logprobs
            assert logprobs is not None
            num_new.append(len({*(logprobs.tokens or [])} - {" la", "la"}))
        assert num_new[1] > num_new[0]

    play(model, main)
