"""A backend that embeds and scores without a model: what it says of an input follows from the input and nothing else.

It serves three models: `mini` embeds, `judge` scores pairs, `tiny` generates and scores continuations. Results come in
an order of its own, in two batches, as from an engine that batches. Like `ScriptedBackend` it counts what is open.
"""

import hashlib
import math
import struct
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from tests.doubles_http import MODEL, Pause

from headrace.core.backend import ModelCard, Probe
from headrace.core.errors import ContextTooLong, NotFound
from headrace.core.events import Embedding, Event, Finished, Score, Started, TokenLogprob, Usage
from headrace.core.request import Input, Request, Task

DIMENSIONS = 16
CONTEXT = 32

CARDS = (
    ModelCard(
        id="mini",
        created=1,
        owned_by="tests",
        context_length=CONTEXT,
        digest="sha256:aa",
        aliases=("mini-alias",),
        tasks=frozenset({Task.EMBED, Task.COUNT}),
    ),
    ModelCard(
        id="judge",
        created=1,
        owned_by="tests",
        context_length=CONTEXT,
        digest="sha256:bb",
        tasks=frozenset({Task.SCORE, Task.COUNT}),
    ),
    replace(MODEL, tasks=frozenset({Task.GENERATE, Task.SCORE, Task.COUNT})),
)


def count(text: str | tuple[int, ...] | None) -> int:
    """Tokens of a text: one a word."""
    if text is None:
        return 0
    return len(text.split()) if isinstance(text, str) else len(text)


def vector(text: str | tuple[int, ...], dimensions: int = DIMENSIONS) -> bytes:
    """A unit vector drawn from a hash of the text, cut and normalised again."""
    digest = hashlib.sha256(repr(text).encode()).digest()
    numbers = [byte - 127.5 for byte in digest[:DIMENSIONS]][:dimensions]
    norm = math.sqrt(math.fsum(number * number for number in numbers))
    return struct.pack(f"<{len(numbers)}f", *(number / norm for number in numbers))


def likeness(one: Input) -> float:
    """What `judge` says of a pair: the share of the second text's words that stand in the first."""
    assert isinstance(one.text, str) and isinstance(one.pair, str)
    words = one.pair.split()
    return sum(word in one.text.split() for word in words) / max(1, len(words))


class InputsBackend:
    """Embeds and scores. With `pause` it waits there after its first batch."""

    def __init__(self, pause: Pause | None = None) -> None:
        self.requests: list[Request] = []
        self.num_open = 0
        self.num_closed = 0
        self._pause = pause
        self.param = "inputs"  # what it calls them in refusals

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        self.num_open += 1
        try:
            for event in self._answer(request):
                if isinstance(event, Pause):
                    event.reached.set()
                    await event.go.wait()
                else:
                    yield event
        finally:
            self.num_open -= 1
            self.num_closed += 1

    def _answer(self, request: Request) -> Sequence[Event | Pause]:
        card = next((card for card in CARDS if request.model in (card.id, *card.aliases)), None)
        if card is None:
            raise NotFound(f"model: {request.model!r} is not served here.", param="model")
        assert request.task in card.tasks and request.inputs is not None
        request.check()
        counts = [self._count(request, index) for index in range(len(request.inputs))]
        results = [self._result(card, request, index, counts[index]) for index in range(len(counts))]
        batches = [*results[1::2], *results[0::2]]
        middle: list[Event | Pause] = [] if self._pause is None else [self._pause]
        first = len(results) // 2
        started = Started(request.id, card.id, sum(counts))
        return [started, *batches[:first], *middle, *batches[first:], Finished(Usage(sum(counts), 0))]

    def _count(self, request: Request, index: int) -> int:
        one = (request.inputs or ())[index]
        num_tokens = count(one.text) + count(one.pair)
        if num_tokens > CONTEXT and not request.truncates:
            raise ContextTooLong(f"inputs[{index}]: {num_tokens} tokens; at most {CONTEXT} fit.", param=self.param)
        return min(num_tokens, CONTEXT)

    @staticmethod
    def _result(card: ModelCard, request: Request, index: int, num_tokens: int) -> Event:
        one = (request.inputs or ())[index]
        if request.task is Task.EMBED:
            return Embedding(index, vector(one.text, request.dimensions or DIMENSIONS), num_tokens)
        if card.id == "judge":
            return Score(index, likeness(one), num_tokens)
        assert isinstance(one.pair, str)
        words = tuple(TokenLogprob(word, word.encode(), -float(len(word))) for word in one.pair.split())
        return Score(index, sum(word.logprob for word in words), num_tokens, words, is_greedy=len(words) == 1)

    def models(self) -> tuple[ModelCard, ...]:
        return CARDS

    async def probe(self, request: Request) -> Probe:
        return Probe(prompt_tokens=1, warm_tokens=0, fits=True)

    async def release(self, session: str, tenant: str = "local") -> None:
        return None
