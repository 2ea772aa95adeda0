"""Requests of many inputs: vectors and scores by input, whatever else runs; refusals that name the input."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from tests.doubles import (
    GREEDY,
    TOY_PAGE_BYTES,
    ManualClock,
    ToyModel,
    ToyProgram,
    ToyTokenizer,
    VectorToy,
    toy_logprob,
    toy_next,
)

from headrace.core.errors import ContextTooLong, DeadlineExceeded, EngineFault, HeadraceError, InvalidRequest
from headrace.core.events import Embedding, Event, Finished, Score, Started
from headrace.core.request import Input, Limits, Request, Task
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.models.pooling import Pooling, PoolingKind

BOUND_S = 5.0
MEAN = Pooling(kind=PoolingKind.MEAN)
TEXTS = ["mill", "a wheel that turns", "x", "water over the dam " * 5]


def make(model: ToyModel, **options: Any) -> TextEngine:
    given = {"max_batch_tokens": 64, "max_sequences": 4, "prefill_chunk": 32, "checks": True, "threads": 1}
    config = EngineConfig(**(given | {"kv_memory_bytes": 64 * TOY_PAGE_BYTES} | options))
    return TextEngine([model], config, clock=ManualClock(), threads=object(), seeds=lambda: 5)


def encoder(pooling: Pooling | None = None, **options: Any) -> TextEngine:
    """A model that embeds whole texts and does nothing else."""
    tasks = frozenset({Task.EMBED, Task.COUNT})
    program = options.pop("program", None) or VectorToy(is_whole=True)
    model = ToyModel(program=ToyProgram(), tasks=tasks, pooling=pooling or MEAN, vectors=program, template=None)
    return make(model, **options)


def judge(*labels: str) -> TextEngine:
    """A model that reads both texts of a pair at once."""
    tasks, vectors = frozenset({Task.SCORE, Task.COUNT}), VectorToy(is_whole=True)
    return make(
        ToyModel(program=ToyProgram(), tasks=tasks, vectors=vectors, template=None, labels=labels or ("score",))
    )


def embed(*texts: Any, **options: Any) -> Request:
    return Request(id="r", model="toy", task=Task.EMBED, inputs=tuple(Input(text) for text in texts), **options)


def score(*pairs: tuple[Any, Any], **options: Any) -> Request:
    return Request(id="r", model="toy", task=Task.SCORE, inputs=tuple(Input(*pair) for pair in pairs), **options)


async def collect(events: AsyncGenerator[Event, None]) -> list[Event]:
    async with asyncio.timeout(BOUND_S):
        return [event async for event in events]


def run(engine: TextEngine, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        engine.start()
        try:
            await main()
        finally:
            await engine.close(1.0)

    asyncio.run(body())


def answers(engine: TextEngine, request: Request) -> list[Event]:
    found: list[Event] = []

    async def main() -> None:
        found.extend(await collect(engine.run(request)))

    run(engine, main)
    return found


def expected(text: str, *, is_whole: bool = True) -> np.ndarray:
    tokens = ToyTokenizer().encode(text)
    seen = (tokens if is_whole else tokens[: at + 1] for at in range(len(tokens)))
    mean = np.mean([VectorToy.hidden(one, at) for at, one in enumerate(seen)], axis=0)
    return mean / np.linalg.norm(mean)


def vectors(events: list[Event]) -> dict[int, np.ndarray]:
    return {event.index: np.frombuffer(event.vector, "<f4") for event in events if isinstance(event, Embedding)}


def test_each_text_gets_its_own_vector_of_length_one() -> None:
    events = answers(encoder(), embed(*TEXTS))
    num_tokens = sum(map(len, TEXTS))
    assert isinstance(events[0], Started) and events[0].prompt_tokens == num_tokens
    assert isinstance(events[-1], Finished)
    assert (events[-1].usage.prompt_tokens, events[-1].usage.completion_tokens) == (num_tokens, 0)
    found = vectors(events)
    assert sorted(found) == list(range(len(TEXTS)))
    for index, text in enumerate(TEXTS):
        np.testing.assert_allclose(found[index], expected(text), rtol=1e-6)
        assert math.isclose(float(np.linalg.norm(found[index])), 1.0, rel_tol=1e-6)


def test_hundreds_of_inputs_are_all_answered_though_the_queue_is_short() -> None:
    texts = [f"text number {number}" for number in range(300)]
    found = vectors(answers(encoder(max_waiting=1), embed(*texts)))
    assert len(found) == 300
    np.testing.assert_allclose(found[299], expected(texts[299]), rtol=1e-6)


def test_inputs_may_be_token_ids() -> None:
    tokens = tuple(ToyTokenizer().encode("mill"))
    np.testing.assert_allclose(vectors(answers(encoder(), embed(tokens)))[0], expected("mill"), rtol=1e-6)


def test_a_cut_vector_has_length_one_again() -> None:
    found = vectors(answers(encoder(), embed("mill", dimensions=2)))[0]
    cut = expected("mill")[:2]
    np.testing.assert_allclose(found, cut / np.linalg.norm(cut), rtol=1e-6)


def test_vectors_that_are_not_normalised_are_told_as_they_are() -> None:
    found = vectors(answers(encoder(Pooling(kind=PoolingKind.FIRST, normalizes=False)), embed("mill")))[0]
    np.testing.assert_array_equal(found, VectorToy.hidden(ToyTokenizer().encode("mill"), 0))


def test_inputs_that_are_too_long_are_cut_where_that_is_asked_for() -> None:
    pooling = Pooling(kind=PoolingKind.MEAN, max_tokens=10)
    found = vectors(answers(encoder(pooling), embed("0123456789 and more", truncates=True)))[0]
    np.testing.assert_allclose(found, expected("0123456789"), rtol=1e-6)
    with pytest.raises(ContextTooLong, match=r"inputs\[1\]: 11 tokens, the model takes 10"):
        answers(encoder(pooling), embed("0123456789", "0123456789a"))


def test_a_model_that_generates_embeds_in_a_lane_of_its_own() -> None:
    tasks = frozenset({Task.GENERATE, Task.EMBED, Task.COUNT})
    model = ToyModel(program=ToyProgram(), tasks=tasks, pooling=MEAN, vectors=VectorToy())
    events = answers(make(model), embed(*TEXTS))
    for index, text in enumerate(TEXTS):
        np.testing.assert_allclose(vectors(events)[index], expected(text, is_whole=False), rtol=1e-6)


def test_a_judge_reads_both_texts_at_once() -> None:
    events = answers(judge(), score(("mill", "wheel"), ("mill", "dam")))
    scores = {event.index: event for event in events if isinstance(event, Score)}
    for index, second in enumerate(("wheel", "dam")):
        tokens, _ = ToyTokenizer().encode_input("mill", second)
        assert scores[index].value == VectorToy.hidden(tokens, 0)[0]
        assert scores[index].num_tokens == len(tokens)
        assert scores[index].is_greedy is None


def test_a_continuation_scores_what_its_tokens_have_together() -> None:
    events = answers(make(ToyModel(program=ToyProgram())), score(("mill", "er"), ("mill" * 20, "er")))
    for index, context in enumerate(("mill", "mill" * 20)):
        (found,) = (event for event in events if isinstance(event, Score) and event.index == index)
        told = [toy_logprob(ord(char) - 32, len(context) + place) for place, char in enumerate("er")]
        assert found.value == math.fsum(told)
        assert [one.token for one in found.logprobs] == ["e", "r"]
        assert found.is_greedy is False


def test_what_greedy_decoding_would_have_written_is_called_so() -> None:
    context = ToyTokenizer().encode("mill")
    first = toy_next(context, GREEDY)
    second = toy_next([*context, first], GREEDY)
    engine = make(ToyModel(program=ToyProgram()))
    events = answers(engine, score((tuple(context), (first, second)), (tuple(context), (first, second ^ 1))))
    assert {event.index: event.is_greedy for event in events if isinstance(event, Score)} == {0: True, 1: False}


def test_continuations_of_one_context_compute_it_once() -> None:
    program = ToyProgram()
    context = "a context of more than one page of tokens, because only whole pages are shared"
    events = answers(make(ToyModel(program=program)), score(*((context, end) for end in ("a", "b", "c", "d"))))
    assert isinstance(events[-1], Finished) and events[-1].usage.cached_tokens == 3 * 64
    assert sum(program.steps) == len(context) + 1 + 3 * (len(context) + 1 - 64)
    cold = answers(make(ToyModel(program=ToyProgram())), score((context, "d")))
    assert [e.value for e in cold if isinstance(e, Score)] == [e.value for e in events if isinstance(e, Score)][-1:]


@pytest.mark.parametrize(
    ("engine", "request_of", "error", "param"),
    [
        (encoder, lambda: Request(id="r", model="toy", prompt="x"), InvalidRequest, "model"),
        (encoder, lambda: score(("a", "b")), InvalidRequest, "model"),
        (judge, lambda: embed("a"), InvalidRequest, "model"),
        (lambda: judge("yes", "no"), lambda: score(("a", "b")), InvalidRequest, "model"),
        (judge, lambda: score(((1, 2), (3,))), InvalidRequest, "input"),
        (encoder, lambda: embed("a", dimensions=5), InvalidRequest, "dimensions"),
        (encoder, lambda: embed("a", dimensions=0), InvalidRequest, "dimensions"),
        (encoder, lambda: embed("a", ""), InvalidRequest, "inputs"),
        (encoder, lambda: embed((1, 99)), InvalidRequest, "input"),
        (encoder, lambda: embed("x" * 513), ContextTooLong, "input"),
        (encoder, lambda: embed(*["x"] * 2049), InvalidRequest, "inputs"),
        (lambda: make(ToyModel(program=ToyProgram())), lambda: score(("", "b")), InvalidRequest, "input"),
        (lambda: make(ToyModel(program=ToyProgram())), lambda: score(("a", (1,))), InvalidRequest, "input"),
        (lambda: make(ToyModel(program=ToyProgram())), lambda: embed("a"), InvalidRequest, "model"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(engine, request_of, error, param) -> None:
    with pytest.raises(error) as caught:
        answers(engine(), request_of())
    assert caught.value.param == param


def test_a_vector_that_is_no_number_fails_its_request_and_no_other() -> None:
    poison = ord("!") - 32
    engine = encoder(program=VectorToy(is_whole=True, poison=poison))

    async def main() -> None:
        with pytest.raises(EngineFault):
            await collect(engine.run(embed("fine", "bad!")))
        assert len(vectors(await collect(engine.run(embed("fine", "good"))))) == 2

    run(engine, main)


def test_closing_the_stream_frees_all_inputs() -> None:
    engine = encoder()

    async def main() -> None:
        events = engine.run(embed(*TEXTS * 40))
        await anext(events)
        await events.aclose()
        assert len(vectors(await collect(engine.run(embed("after"))))) == 1

    run(engine, main)


def test_a_time_limit_ends_a_request_of_many_inputs() -> None:
    clock = ManualClock()
    program = VectorToy(is_whole=True)
    tasks = frozenset({Task.EMBED, Task.COUNT})
    model: Any = ToyModel(program=ToyProgram(), tasks=tasks, pooling=MEAN, vectors=program, template=None)
    engine = TextEngine([model], EngineConfig(max_sequences=2, threads=1), clock=clock, threads=object())

    async def main() -> None:
        events = engine.run(embed(*TEXTS * 50, limits=Limits(deadline_s=5.0)))
        await anext(events)
        clock.now += 6.0
        with pytest.raises(DeadlineExceeded):
            await collect(events)

    run(engine, main)


def test_a_request_after_the_close_is_refused() -> None:
    engine = encoder()
    run(engine, lambda: asyncio.sleep(0))
    with pytest.raises(HeadraceError):
        asyncio.run(collect(engine.run(embed("late"))))
