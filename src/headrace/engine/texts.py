"""Many texts through a backend at once, for programs that call it themselves: vectors and scores, in the texts' order.

Cuts what was given into requests of as many inputs as one may bring, and puts results and refusals in terms of the
whole. Knows no engine: any backend that embeds or scores will do.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import Backend
from headrace.core.errors import EngineFault, InvalidRequest
from headrace.core.events import Embedding, Score
from headrace.core.request import MAX_INPUTS, Input, Request, Task

Text = str | Sequence[int]
Result = TypeVar("Result", Embedding, Score)

_PLACE = re.compile(r"^inputs\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class InputsRunner:
    """Where inputs go: a backend, the name of a model in it, and ids for requests."""

    backend: Backend
    model: str
    new_id: Callable[[], str]

    async def embed(
        self, texts: Iterable[Text], *, dimensions: int | None = None, truncate: bool = False
    ) -> NDArray[np.float32]:
        """The vectors of texts or of their token ids, float32 [texts, dimensions]. Raises HeadraceError."""
        if isinstance(texts, str):
            raise InvalidRequest("texts: a single string was given; put it into a list.", param="texts")
        rows: list[NDArray[np.float32]] = []
        for inputs in _batches("texts", (Input(_text("texts", text)) for text in texts)):
            request = replace(self._request(Task.EMBED, inputs, truncate), dimensions=dimensions)
            results = await self._run(request, Embedding, _Place("texts", len(rows)))
            rows += [np.frombuffer(result.vector, "<f4") for result in results]
        return np.stack(rows).astype(np.float32, copy=False)

    async def score(self, pairs: Iterable[tuple[Text, Text]], *, truncate: bool = False) -> list[Score]:
        """The scores of pairs of texts or of their token ids; `index` counts the pairs. Raises HeadraceError."""
        scores: list[Score] = []
        for inputs in _batches("pairs", map(_pair, pairs)):
            first = len(scores)
            results = await self._run(self._request(Task.SCORE, inputs, truncate), Score, _Place("pairs", first))
            scores += [replace(result, index=first + result.index) for result in results]
        return scores

    def _request(self, task: Task, inputs: tuple[Input, ...], truncate: bool) -> Request:
        return Request(id=self.new_id(), model=self.model, task=task, inputs=inputs, truncates=truncate)

    async def _run(self, request: Request, kind: type[Result], place: "_Place") -> list[Result]:
        """The results of a request by index."""
        results: dict[int, Result] = {}
        try:
            request.check()
            events = self.backend.run(request)
            try:
                async for event in events:
                    if isinstance(event, kind):
                        results[event.index] = event
            finally:
                await events.aclose()
        except InvalidRequest as error:
            raise place.reword(error) from error
        num_inputs = len(request.inputs or ())
        if sorted(results) != list(range(num_inputs)):
            raise EngineFault(f"{len(results)} results came for {num_inputs} inputs; send them again.")
        return [results[index] for index in range(num_inputs)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request's inputs stand in what the caller gave, and under which name."""

    name: str
    first: int

    def reword(self, error: InvalidRequest) -> InvalidRequest:
        if error.param not in ("inputs", "input"):
            return error
        message = _PLACE.sub(lambda match: f"{self.name}[{self.first + int(match[1])}]", error.message)
        return type(error)(message, param=self.name, code=error.code)


def _batches(name: str, inputs: Iterator[Input]) -> Iterator[tuple[Input, ...]]:
    """At most `MAX_INPUTS` at a time. All are read before the first is run, so that nothing runs for a bad list."""
    every = tuple(inputs)
    if not every:
        raise InvalidRequest(f"{name}: none was given; give at least one.", param=name)
    for start in range(0, len(every), MAX_INPUTS):
        yield every[start : start + MAX_INPUTS]


def _pair(given: object) -> Input:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InvalidRequest(f"pairs: {str(given)[:80]!r} is not two texts; give tuples of two.", param="pairs")
    return Input(_text("pairs", given[0]), _text("pairs", given[1]))


def _text(name: str, given: object) -> str | tuple[int, ...]:
    if isinstance(given, str):
        return given
    if isinstance(given, Sequence | np.ndarray) and not isinstance(given, bytes):
        ids = tuple(given)
        if all(isinstance(one, int | np.integer) and not isinstance(one, bool) and one >= 0 for one in ids):
            return tuple(int(one) for one in ids)
    raise InvalidRequest(f"{name}: {str(given)[:80]!r} is neither a text nor token ids.", param=name)
