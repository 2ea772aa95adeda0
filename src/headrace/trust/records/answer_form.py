"""The canonical form of an answer: what it says, whatever protocol it was told in.

Text, tool calls and how each choice ended; vectors and scores. What a protocol may leave out (reasoning, ids, counts,
whether a stop was a tool call) is not in it; reasoning has a form of its own. Collects events; hashes nothing.
"""

import base64
from dataclasses import dataclass, field
from typing import Final

from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Score,
    Started,
    TextDelta,
    ToolCallDelta,
)
from headrace.trust.records import canonical

WHOLE: Final = "whole"
MAX_ARGUMENTS: Final = 65_536
"""Characters of one call's arguments that are brought into canonical form; it is done on the event loop."""
ENDINGS: Final = {
    FinishReason.STOP: WHOLE,
    FinishReason.TOOL_CALLS: WHOLE,
    FinishReason.LENGTH: "length",
    FinishReason.FILTERED: "filtered",
}
"""Protocols tell apart a stop and a tool call, or do not; empty: the choice has not ended."""


@dataclass(slots=True)
class Call:
    """A tool call as far as it has come; arguments in pieces."""

    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Choice:
    """A choice as far as it has come."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    ending: str = ""
    tokens: list[int] = field(default_factory=list)
    num_tokens: int = 0


class AnswerForm:
    """Collects one answer."""

    __slots__ = ("_choices", "_results", "has_finished", "has_said", "started")

    def __init__(self) -> None:
        self.started: Started | None = None
        self.has_finished = False
        self.has_said = False
        self._choices: dict[int, Choice] = {}
        self._results: list[Embedding | Score] = []

    def hear(self, event: Event) -> None:
        """The next event. A second `Started` begins anew: another backend answers."""
        kind = type(event)
        if kind is TextDelta:
            assert isinstance(event, TextDelta)
            self.has_said = True
            choice = self._choice(event.choice)
            choice.texts.append(event.text)
            choice.num_tokens += event.num_tokens
            if event.logprobs:
                choice.tokens.extend(one.token_id for one in event.logprobs if one.token_id is not None)
        else:
            self._hear_other(event)

    def _hear_other(self, event: Event) -> None:
        if isinstance(event, Started):
            self._choices.clear()
            self._results.clear()
            self.started, self.has_said = event, False
        elif isinstance(event, ReasoningDelta):
            self.has_said = True
            self._choice(event.choice).reasoning.append(event.text)
        elif isinstance(event, ToolCallDelta):
            self.has_said = True
            call = self._choice(event.choice).calls.setdefault(event.index, Call())
            call.name = event.name or call.name
            call.arguments.append(event.arguments)
        elif isinstance(event, ChoiceFinished):
            self._choice(event.choice).ending = ENDINGS[event.reason]
        elif isinstance(event, Embedding | Score):
            self.has_said = True
            self._results.append(event)
        elif isinstance(event, Finished):
            self.has_finished = True

    def _choice(self, index: int) -> Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = Choice()
        return choice

    def encode(self) -> bytes:
        """The canonical form of what was heard so far."""
        if self._results:
            return b'{"results":[%b]}' % b",".join(map(_result, sorted(self._results, key=lambda one: one.index)))
        return b'{"choices":[%b]}' % b",".join(_choice(index, self._choices[index]) for index in sorted(self._choices))

    def encode_reasoning(self) -> bytes | None:
        """The canonical form of all choices' reasoning, None without any."""
        if not any(choice.reasoning for choice in self._choices.values()):
            return None
        texts = ["".join(self._choices[index].reasoning) for index in sorted(self._choices)]
        return b"[%b]" % b",".join(map(text_form, texts))

    def tokens(self) -> dict[int, list[int]] | None:
        """Ids of each choice's tokens, None where not every one was told."""
        told = {index: choice.tokens for index, choice in self._choices.items() if choice.tokens}
        if not told or any(len(self._choices[index].tokens) != self._choices[index].num_tokens for index in told):
            return None
        return told

    def calls(self) -> list[tuple[str, str]]:
        """Name and arguments of every tool call."""
        return [
            (call.name, "".join(call.arguments))
            for index in sorted(self._choices)
            for _, call in sorted(self._choices[index].calls.items())
        ]

    def texts(self) -> dict[int, str]:
        """Each choice's text."""
        return {index: "".join(self._choices[index].texts) for index in sorted(self._choices)}


def _choice(index: int, choice: Choice) -> bytes:
    calls = b",".join(
        b'{"arguments":%b,"name":%b}'
        % (text_form(arguments_form("".join(choice.calls[number].arguments))), text_form(choice.calls[number].name))
        for number in sorted(choice.calls)
    )
    return b'{"ending":%b,"index":%d,"text":%b,"tool_calls":[%b]}' % (
        canonical.fast_text(choice.ending),
        index,
        text_form("".join(choice.texts)),
        calls,
    )


def _result(event: Embedding | Score) -> bytes:
    if isinstance(event, Embedding):
        return b'{"index":%d,"vector":"%b"}' % (event.index, base64.b64encode(event.vector))
    return b'{"index":%d,"score":%b}' % (event.index, canonical.number(event.value).encode())


def text_form(text: str) -> bytes:
    """A text in canonical form; one with halves of surrogate pairs, which has none, as an object that tells it."""
    try:
        return canonical.fast_text(text)
    except UnicodeEncodeError:
        return b'{"utf8_surrogatepass":"%b"}' % base64.b64encode(text.encode("utf-8", "surrogatepass"))


def arguments_form(arguments: str) -> str:
    """A tool call's arguments as every protocol tells them: canonical JSON, since some send the text and some the
    value; what is no JSON, or very long, stays as it is, and no text at all is an empty object."""
    if not arguments:
        return "{}"
    if len(arguments) > MAX_ARGUMENTS:
        return arguments
    try:
        return canonical.encode(canonical.read(arguments.encode())).decode()
    except (canonical.NotCanonical, UnicodeEncodeError):
        return arguments
