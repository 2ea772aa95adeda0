"""A backend that plays a script: turns of text, reasoning and tool calls, chosen by what the conversation says so far.

    backend = Scripted(
        [
            Turn(calls=(Call("read_file", {"path": "a.txt"}),), when=tool_results(0)),
            Turn(reasoning="It says 42.", text="The file says 42."),
        ]
    )

The first turn whose condition holds is played, and the same conversation always gets the same answer. A word is a
token: usage is counted from what came and what went. Knows no protocol and no server; `tests/scripted_server.py` puts
one before it (`python -m tests.scripted --script FILE`), for clients that are programs of their own.
"""

import asyncio
import hashlib
import json
import math
import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.core.backend import ModelCard, Probe
from headrace.core.errors import ContextTooLong, HeadraceError, InvalidRequest, NotFound
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    ReasoningDelta,
    Score,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import Effort, Input, Request, Role, Task, ToolMode

DIMENSIONS = 16
CARD = ModelCard(
    id="scripted",
    created=1_700_000_000,
    owned_by="tests",
    context_length=200_000,
    digest="sha256:5c121b7ed05c121b7ed0",
    tasks=frozenset(Task),
)

Condition = Callable[[Request], bool]


class Gate:
    """A place in a turn where the backend waits until the test says go; `reached` says that it got there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; arguments as JSON text may be anything a model could write. Without an id it gets one that no other
    call of the conversation has."""

    name: str
    arguments: str | Mapping[str, Any] = "{}"
    id: str | None = None

    @property
    def text(self) -> str:
        """Its arguments as the model wrote them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the model does in one turn: it thinks, speaks, calls tools, in this order, and may fail after that.

    Each is split into deltas of `sizes` characters, over and over; () is a delta for every word. `gates` are waited at
    after so many deltas (0: before the first). `error` is raised after `error_after` of them (None: after all; -1:
    before the request is admitted). `cached_tokens` and `cache_writes` are what usage says; None is what the backend
    remembers.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    when: Condition | None = None
    sizes: tuple[int, ...] = ()
    reason: FinishReason | None = None
    error: HeadraceError | None = None
    error_after: int | None = None
    gates: Mapping[int, Gate] = field(default_factory=dict)
    cached_tokens: int | None = None
    cache_writes: tuple[tuple[float, int], ...] | None = None


@dataclass(slots=True)
class Stream:
    """What became of one call of `run`: it `is_finished` after its last event, and `is_closed` once nothing runs."""

    request: Request
    events: list[Event] = field(default_factory=list)
    is_finished: bool = False
    is_closed: bool = False


def tool_results(count: int) -> Condition:
    """So many results of tools are in the conversation."""
    return lambda request: sum(message.role is Role.TOOL for message in request.messages or ()) == count


def last_says(text: str) -> Condition:
    """The last message contains the text."""
    return lambda request: text in (request.messages[-1].text if request.messages else request.prompt or "")


def has_tool(name: str) -> Condition:
    """A tool of this name is given."""
    return lambda request: any(tool.name == name for tool in request.tools)


def every(*conditions: Condition) -> Condition:
    """All of the conditions hold."""
    return lambda request: all(condition(request) for condition in conditions)


class Scripted:
    """Plays turns; see the module. With `remembers` the prefix that a tenant's earlier prompts share counts as cached;
    with `any_model` the first card answers for every name.

    It tells what it was asked: `requests` (of every task), `streams`, `probes`, `released` as (tenant, session).
    """

    def __init__(
        self,
        turns: Iterable[Turn],
        *,
        cards: Sequence[ModelCard] = (CARD,),
        any_model: bool = False,
        remembers: bool = False,
        seed: int = 0,
    ) -> None:
        self.turns = tuple(turns)
        self.cards = tuple(cards)
        self.requests: list[Request] = []
        self.streams: list[Stream] = []
        self.probes: list[Request] = []
        self.released: list[tuple[str, str]] = []
        self._any_model = any_model
        self._remembers = remembers
        self._seed = seed
        self._seen: dict[tuple[str, str, str], list[list[str]]] = {}

    @property
    def num_open(self) -> int:
        """Streams that nobody has closed and that have not ended."""
        return sum(not stream.is_closed for stream in self.streams)

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Play the turn that fits."""
        self.requests.append(request)
        stream = Stream(request)
        self.streams.append(stream)
        try:
            for step in self._steps(request):
                if isinstance(step, Gate):
                    step.reached.set()
                    await step.go.wait()
                elif isinstance(step, HeadraceError):
                    raise step
                else:
                    stream.events.append(step)
                    yield step
            stream.is_finished = True
        finally:
            stream.is_closed = True

    def models(self) -> tuple[ModelCard, ...]:
        """The cards that it was given."""
        return self.cards

    async def probe(self, request: Request) -> Probe:
        """What the prompt counts, and what of it is remembered."""
        self.probes.append(request)
        card, words = self._card(request), prompt_words(request)
        return Probe(len(words), self._shared(request, words), len(words) <= card.context_length)

    async def release(self, session: str, tenant: str = "local") -> None:
        """Write down what was released."""
        self.released.append((tenant, session))

    def _card(self, request: Request) -> ModelCard:
        card = next((card for card in self.cards if request.model in (card.id, *card.aliases)), None)
        if card is None and self._any_model:
            card = self.cards[0]
        if card is None:
            raise NotFound(f"model: {request.model!r} is not served here.", param="model")
        if request.task not in card.tasks:
            raise InvalidRequest(f"model: {card.id} cannot {request.task}.", param="model")
        request.check()
        return card

    def _steps(self, request: Request) -> "Iterator[Event | Gate | HeadraceError]":
        card = self._card(request)
        if request.inputs is not None:
            yield from self._results(card, request)
            return
        words = prompt_words(request)
        if len(words) > card.context_length:
            raise ContextTooLong(
                f"messages: {len(words)} tokens, and {card.id} holds {card.context_length}; send less.",
                param="prompt" if request.messages is None else "messages",
            )
        turn = fitting(self.turns, request)
        if turn.error is not None and turn.error_after == -1:
            raise turn.error
        cached = self._shared(request, words) if turn.cached_tokens is None else turn.cached_tokens
        writes = turn.cache_writes
        if writes is None:
            writes = _written(request, cached) if self._remembers else ()
        if self._remembers:
            self._seen.setdefault(self._memory(request), []).append(words)
        yield Started(request.id, card.id, len(words), cached, {"model": card.digest}, cache_writes=writes)
        if request.prompt_logprobs is not None:
            tokens = [logprob(word, request.prompt_logprobs) for word in words]
            yield PromptLogprobs((None, *tokens[1:]), "".join(token.token for token in tokens))
        deltas = [delta for choice in range(request.sampling.num_choices) for delta in _choice(turn, request, choice)]
        ends_at = len(deltas) if turn.error_after is None else turn.error_after
        for index, delta in enumerate(deltas):
            if index in turn.gates:
                yield turn.gates[index]
            if turn.error is not None and index == ends_at:
                break
            yield delta
        if len(deltas) in turn.gates:
            yield turn.gates[len(deltas)]
        if turn.error is not None:
            yield turn.error
            return
        yield Finished(_usage(words, cached, writes, deltas))

    def _results(self, card: ModelCard, request: Request) -> Iterator[Event]:
        """Vectors and scores drawn from a hash of the seed and the input."""
        inputs = request.inputs or ()
        counts = [_count(one.text) + _count(one.pair) for one in inputs]
        longest = max(counts)
        if longest > card.context_length and not request.truncates:
            raise ContextTooLong(f"inputs: {longest} tokens; at most {card.context_length} fit.", param="inputs")
        counts = [min(count, card.context_length) for count in counts]
        yield Started(request.id, card.id, sum(counts), 0, {"model": card.digest})
        for index, (one, count) in enumerate(zip(inputs, counts, strict=True)):
            if request.task is Task.EMBED:
                yield Embedding(index, vector(self._seed, one, request.dimensions or DIMENSIONS), count)
            else:
                yield Score(index, vector_value(self._seed, one), count)
        yield Finished(Usage(sum(counts), 0))

    @staticmethod
    def _memory(request: Request) -> tuple[str, str, str]:
        return request.principal.tenant, request.cache.salt, request.model

    def _shared(self, request: Request, words: list[str]) -> int:
        """Tokens at the beginning that an earlier prompt had too; the last one is always computed."""
        return max((_common(words[:-1], seen) for seen in self._seen.get(self._memory(request), ())), default=0)


def fitting(turns: Sequence[Turn], request: Request) -> Turn:
    """The turn that is played: the first whose condition holds and that does what `tool_choice` says."""
    choice, names = request.tool_choice, {tool.name for tool in request.tools}
    allowed = set(choice.names) & names if choice.names else names
    for turn in turns:
        if turn.when is not None and not turn.when(request):
            continue
        calls = tuple(call for call in turn.calls if call.name in allowed)
        if choice.mode is ToolMode.NONE or not names:
            calls = ()
        elif choice.mode is ToolMode.REQUIRED and not calls:
            continue
        if turn.calls and not calls and not turn.text:
            continue
        return replace(turn, calls=calls[: choice.max_calls])
    if choice.mode is ToolMode.REQUIRED:  # what a grammar would force
        name = next(tool.name for tool in request.tools if tool.name in allowed)
        return Turn(calls=(Call(name),))
    raise InvalidRequest("messages: the script has no turn for this conversation; write one.", param="messages")


def prompt_words(request: Request) -> list[str]:
    """The words that the prompt counts: tools first, then every message as it stands."""
    if request.tokens is not None:
        return [f"<{token}>" for token in request.tokens]
    if request.prompt is not None:
        return [*request.prompt.split(), *(request.suffix or "").split()] or ["<start>"]
    words: list[str] = []
    for tool in request.tools:
        words += [tool.name, *tool.description.split(), *json.dumps(dict(tool.parameters)).split()]
    for message in request.messages or ():
        words += [f"<{message.role}>", *message.reasoning.split(), *message.text.split()]
        for call in message.tool_calls:
            words += [call.name, *call.arguments.split()]
    return words


def logprob(word: str, num_alternatives: int) -> TokenLogprob:
    """What the model says of a word: the longer, the less likely."""
    alternatives = tuple((text, text.encode(), -float(len(text))) for text in (word, "other", "another"))
    return TokenLogprob(word, word.encode(), -float(len(word)), alternatives[:num_alternatives])


def vector(seed: int, one: Input, dimensions: int = DIMENSIONS) -> bytes:
    """A unit vector that follows from the seed and the input."""
    digest = hashlib.sha256(repr((seed, one)).encode()).digest()
    numbers = [byte - 127.5 for byte in digest[:DIMENSIONS]][:dimensions]
    norm = math.sqrt(math.fsum(number * number for number in numbers))
    return struct.pack(f"<{len(numbers)}f", *(number / norm for number in numbers))


def vector_value(seed: int, one: Input) -> float:
    """A number from 0 to 1 that follows from the seed and the pair."""
    return hashlib.sha256(repr((seed, one)).encode()).digest()[0] / 255


def pieces(text: str, sizes: tuple[int, ...]) -> list[tuple[str, int]]:
    """The text in deltas, each with the words that begin in it."""
    cuts, at, index = [], 0, 0
    while at < len(text):
        if sizes:
            end = at + max(1, sizes[index % len(sizes)])
        else:
            word = text[at:].split(maxsplit=1)
            end = len(text) if len(word) < 2 else len(text) - len(word[1])
        cuts.append((text[at:end], len(text[:end].split()) - len(text[:at].split())))
        at, index = end, index + 1
    return cuts


def _choice(turn: Turn, request: Request, choice: int) -> list[Event]:
    """One choice's deltas and its end, held to the limits of the request."""
    thinks = turn.reasoning if request.messages and request.reasoning.effort is not Effort.NONE else ""
    text, stop = _stopped(turn.text, request.limits.stop)
    calls = () if stop is not None else turn.calls
    deltas: list[Event] = [ReasoningDelta(choice, piece, num) for piece, num in pieces(thinks, turn.sizes)]
    for piece, num in pieces(text, turn.sizes):
        logprobs = () if request.logprobs is None else (logprob(piece, request.logprobs),)
        deltas.append(TextDelta(choice, piece, num, logprobs))
    for index, call in enumerate(calls):
        call_id = call.id or f"call_{len(request.messages or ()):04d}{choice:02d}{index:02d}"
        deltas.append(ToolCallDelta(choice, index, "", 1, call_id, call.name))
        deltas += [ToolCallDelta(choice, index, piece, num) for piece, num in pieces(call.text, turn.sizes)]
    reason = turn.reason or (FinishReason.TOOL_CALLS if calls else FinishReason.STOP)
    kept: list[Event] = []
    spent = 0
    for delta in deltas:
        spent += _num_tokens(delta)
        if request.limits.max_tokens is not None and spent > request.limits.max_tokens:
            return [*kept, ChoiceFinished(choice, FinishReason.LENGTH)]
        kept.append(delta)
    return [*kept, ChoiceFinished(choice, reason, stop)]


def _stopped(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    return (text, None) if not found else (text[: min(found)[0]], min(found)[1])


def _num_tokens(event: Event) -> int:
    return event.num_tokens if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta) else 0


def _written(request: Request, cached: int) -> tuple[tuple[float, int], ...]:
    """What each breakpoint keeps that was not kept before it."""
    writes, kept = [], cached
    for point in request.cache.breakpoints:
        messages = request.messages or ()
        before = messages if point.message is None else messages[: point.message + 1]
        end = len(prompt_words(request if request.messages is None else replace(request, messages=before)))
        if end > kept:
            writes.append((point.ttl_s, end - kept))
            kept = end
    return tuple(writes)


def _usage(words: list[str], cached: int, writes: tuple[tuple[float, int], ...], deltas: list[Event]) -> Usage:
    return Usage(
        prompt_tokens=len(words),
        completion_tokens=sum(_num_tokens(delta) for delta in deltas),
        cached_tokens=cached,
        cache_writes=writes,
        reasoning_tokens=sum(delta.num_tokens for delta in deltas if isinstance(delta, ReasoningDelta)),
    )


def _common(one: list[str], other: list[str]) -> int:
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def _count(text: str | tuple[int, ...] | None) -> int:
    return 0 if text is None else len(text.split() if isinstance(text, str) else text)


if __name__ == "__main__":
    from tests.scripted_server import main

    main()
