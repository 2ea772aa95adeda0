"""A protocol as its providers speak it: what an answer, a refusal and a broken stream look like, and what a provider is
asked, without its spelling. `provider_*.py` hold one each, written from the vendors' documentation; where there is an
official SDK, its types check both ways. Knows no protocol, and none of our codecs.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.contract.conversations import Conversation, Said, canonical
from tests.upstreams import Received, Script, Step, frame, stream, whole

from headrace.gateway.settings import Dialect

Turn = dict[str, Any]
Frame = tuple[str, dict[str, Any] | str]
"""A server-sent event: its name, and what it says."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What an answer used: cached tokens are among those of the prompt, those of reasoning among the answer's."""

    prompt: int = 40
    cached: int = 16
    answer: int = 12
    reasoning: int = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says. `ends`: stop, length or filtered; calls end an answer for themselves."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[Turn, ...] = ()
    ends: str = "stop"
    counts: Counts = Counts()

    @classmethod
    def of(cls, conversation: Conversation) -> "Answer":
        """What comes next in a recorded conversation."""
        answer = conversation.answer
        return cls(answer.get("text", ""), answer.get("reasoning", ""), tuple(answer.get("calls", ())))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a provider does not answer: `limited`, `overloaded`, `invalid`, `key` or `broken`."""

    kind: str
    status: int
    retry_after: str | None = None


REFUSALS = {
    "invalid": Refusal("invalid", 400),
    "key": Refusal("key", 401),
    "broken": Refusal("broken", 500),
    "overloaded": Refusal("overloaded", 503),
    "limited": Refusal("limited", 429, "7"),
}
WORDS = "the third field is wrong"


@dataclass(frozen=True, slots=True)
class Question:
    """What a provider was asked, without its spelling. `choice` is auto, none, required or a tool's name."""

    said: tuple[Said, ...]
    tools: tuple[tuple[str, str, str], ...] = ()
    choice: str = "auto"
    max_tokens: int | None = None
    temperature: float | None = None
    schema: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """One protocol. `frames` is a streamed answer, `body` a whole one; `failure` the frame of an error in a stream (its
    name, its data) and `refusal` an error's body; `read` is what a body asks. `loses` are parts of an earlier turn that
    the protocol has no place for. `client` is the dialect of ours that passes through to it, if there is one."""

    name: str
    dialect: Dialect
    path: str
    frames: Callable[[Answer], Iterable[Frame]]
    body: Callable[[Answer], dict[str, Any]]
    failure: Callable[[str], Frame]
    refusal: Callable[[str], dict[str, Any]]
    read: Callable[[dict[str, Any]], Question]
    check_question: Callable[[dict[str, Any]], Any]
    check_frame: Callable[[dict[str, Any]], Any]
    check_body: Callable[[dict[str, Any]], Any]
    client: str | None
    loses: frozenset[str] = frozenset({"reasoning"})

    def respond(self, answer: Answer) -> Callable[[Received], Script]:
        """Answers every request with one answer, whole or streamed as it is asked."""

        def respond(request: Received) -> Script:
            if self.is_streamed(request):
                return stream(frame(data, name) for name, data in self.frames(answer))
            return whole(self.body(answer))

        return respond

    def refuse(self, refusal: Refusal) -> Callable[[Received], Script]:
        """Refuses every request."""
        headers = () if refusal.retry_after is None else (("retry-after", refusal.retry_after),)
        return lambda _: whole(self.refusal(refusal.kind), refusal.status, *headers)

    def break_off(self, answer: Answer, kind: str) -> Callable[[Received], Script]:
        """Begins to answer in a stream, and tells an error after the first words."""
        frames = list(self.frames(answer))
        begun = [frame(data, name) for name, data in frames[: len(frames) // 2]]
        name, data = self.failure(kind)
        return lambda _: stream([*begun, frame(data, name)])

    def cut_off(self, answer: Answer) -> Callable[[Received], Script]:
        """Begins to answer, and is gone."""
        half = [frame(data, name) for name, data in itertools.islice(self.frames(answer), 3)]
        return lambda _: [*itertools.islice(stream(half), 7), Step.ABORT]

    @staticmethod
    def is_streamed(request: Received) -> bool:
        """Whether a stream was asked for."""
        return "alt=sse" in request.path or request.fields.get("stream") is True


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of one to three characters."""
    at = 0
    for size in itertools.cycle((1, 3, 2)):
        if at >= len(text):
            return
        yield text[at : at + size]
        at += size


def as_said(
    role: str, text: str, reasoning: str = "", calls: Iterable[tuple[str, Any]] = (), answers: int | None = None
) -> Said:
    """A turn; arguments are values."""
    return Said(role, text, reasoning, tuple((name, canonical(given)) for name, given in calls), answers)


@dataclass(slots=True)
class Ids:
    """Calls in the order in which they were made, by id."""

    seen: list[str] = field(default_factory=list)

    def add(self, call_id: str) -> None:
        """The next call."""
        assert call_id, "a call without an id"
        assert call_id not in self.seen, f"{call_id} is used twice"
        self.seen.append(call_id)

    def index(self, call_id: str) -> int:
        """Which call an id is of."""
        return self.seen.index(call_id)


def offered(given: Iterable[tuple[str, str, Any]]) -> tuple[tuple[str, str, str], ...]:
    """Tools, each with its schema."""
    return tuple((name, description, canonical(parameters)) for name, description, parameters in given)
