"""Vectors and scores for programs: in the order given, however many there are, with refusals that name their place."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import numpy as np
import pytest
from tests.doubles_http import Pause
from tests.doubles_inputs import DIMENSIONS, InputsBackend, vector

from headrace.core.errors import ContextTooLong, EngineFault, InvalidRequest
from headrace.core.events import Embedding, Event
from headrace.core.request import Request
from headrace.engine.texts import InputsRunner


def runner(backend: InputsBackend, model: str = "mini") -> InputsRunner:
    numbers = itertools.count()
    return InputsRunner(backend, model, lambda: f"id-{next(numbers)}")


def finish(backend: InputsBackend, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    finally:
        assert backend.num_open == 0


def test_vectors_come_in_the_order_of_texts_however_many_there_are() -> None:
    backend = InputsBackend()
    texts = [f"text {number}" for number in range(5000)]
    vectors = finish(backend, runner(backend).embed(iter(texts)))
    assert vectors.dtype == np.float32
    assert vectors.shape == (5000, DIMENSIONS)
    for row, text in zip(vectors, texts, strict=True):
        assert row.tobytes() == vector(text)
    assert [len(request.inputs or ()) for request in backend.requests] == [2048, 2048, 904]
    assert len({request.id for request in backend.requests}) == 3


def test_token_ids_and_options_reach_the_backend() -> None:
    backend = InputsBackend()
    given: list[Any] = [[1, 2], (3,), np.array([4, 5])]
    vectors = finish(backend, runner(backend).embed(given, dimensions=4, truncate=True))
    assert [row.tobytes() for row in vectors] == [vector(ids, 4) for ids in ((1, 2), (3,), (4, 5))]
    (request,) = backend.requests
    assert (request.dimensions, request.truncates) == (4, True)


def test_scores_come_in_the_order_of_pairs_and_count_them() -> None:
    backend = InputsBackend()
    pairs = [("red cat", word) for word in ["red", "blue"] * 1500]
    scores = finish(backend, runner(backend, "judge").score(pairs))
    assert [score.index for score in scores] == list(range(3000))
    assert [score.value for score in scores] == [1.0, 0.0] * 1500
    (told,) = finish(backend, runner(backend, "tiny").score([("the sky is", "not green")]))
    assert (told.value, told.is_greedy, [token.logprob for token in told.logprobs]) == (-8.0, False, [-3.0, -5.0])


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "texts: none was given"),
        ("text", "texts: a single string was given; put it into a list."),
        (["a", ""], r"texts\[1\]: is empty"),
        ([*["a"] * 3000, ""], r"texts\[3000\]: is empty"),
        (["a", 5], "texts: '5' is neither a text nor token ids"),
        (["a", [1, -1]], "neither a text nor token ids"),
        (["a", [True]], "neither a text nor token ids"),
        (["a", b"bytes"], "neither a text nor token ids"),
    ],
)
def test_bad_texts_are_refused_by_their_place(texts: Any, says: str) -> None:
    backend = InputsBackend()
    with pytest.raises(InvalidRequest, match=says) as caught:
        finish(backend, runner(backend).embed(texts))
    assert caught.value.param == "texts"


@pytest.mark.parametrize("pairs", [[], ["ab"], [("a",)], [("a", "b", "c")], [("a", None)], [("", "")], "ab"])
def test_bad_pairs_are_refused(pairs: Any) -> None:
    backend = InputsBackend()
    with pytest.raises(InvalidRequest, match=r"^pairs") as caught:
        finish(backend, runner(backend, "judge").score(pairs))
    assert caught.value.param == "pairs"
    assert backend.requests == []


def test_a_backends_refusal_names_the_place_among_all_texts() -> None:
    backend = InputsBackend()
    with pytest.raises(ContextTooLong, match=r"^texts\[2050\]: 99 tokens; at most 32 fit") as caught:
        finish(backend, runner(backend).embed([*["a"] * 2050, "b " * 99]))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "texts")


def test_cancelling_the_call_cancels_the_work() -> None:
    async def main() -> None:
        pause = Pause()
        backend = InputsBackend(pause)
        task = asyncio.ensure_future(runner(backend).embed(["a", "b"]))
        await pause.reached.wait()
        assert backend.num_open == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (backend.num_open, backend.num_closed) == (0, 1)

    asyncio.run(main())


class Forgetful(InputsBackend):
    """Leaves out the first result."""

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        async for event in super().run(request):
            if not (isinstance(event, Embedding) and event.index == 0):
                yield event


def test_a_result_that_is_missing_is_no_shorter_answer() -> None:
    backend = Forgetful()
    with pytest.raises(EngineFault, match="1 results came for 2 inputs"):
        finish(backend, runner(backend).embed(["a", "b"]))
