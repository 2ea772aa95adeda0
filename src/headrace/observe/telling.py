"""Gathers what a span says of one answer while its events pass: who answered, tokens, why it ended; what was said only
where an operator asked for content, and never more than MAX_CONTENT_CHARS of it.

The form of content is that of the conventions for generative AI: `gen_ai.input.messages` and `gen_ai.output.messages`.
Knows no place and no exporter.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import Message, Request, Role, TextPart
from headrace.observe.spans import Content

MAX_CONTENT_CHARS: Final = 64 * 1024
"""Of all that was asked, and of all that was answered."""

_encode: Final = msgspec.json.Encoder().encode


class Telling:
    """Of one answer. `request` is given where content is captured."""

    __slots__ = ("_choices", "_input", "_num_left", "finish_reasons", "response_model", "usage")

    def __init__(self, request: Request | None = None) -> None:
        self.usage: Usage | None = None
        self.response_model = ""
        self.finish_reasons: list[str] = []
        self._input = "" if request is None else input_of(request)
        self._choices: dict[int, _Choice] | None = None if request is None else {}
        self._num_left = MAX_CONTENT_CHARS

    def hear(self, event: Event) -> None:
        """The next event of the answer."""
        kind = type(event)
        if kind is TextDelta or kind is ReasoningDelta or kind is ToolCallDelta:
            if self._choices is not None:
                self._keep(self._choices, event)
        elif isinstance(event, Started):
            self.response_model = event.model
        elif isinstance(event, Finished):
            self.usage = event.usage
        elif isinstance(event, ChoiceFinished):
            self.finish_reasons.append(event.reason.value)
            if self._choices is not None:
                self._choices.setdefault(event.choice, _Choice()).reason = event.reason.value

    def content(self) -> Content:
        """What was asked and answered, if it was kept."""
        if not self._choices:
            return Content(self._input)
        said = [choice.message() for _, choice in sorted(self._choices.items())]
        return Content(self._input, _encode(said).decode())

    def _keep(self, choices: "dict[int, _Choice]", event: Any) -> None:
        choice = choices.setdefault(event.choice, _Choice())
        if isinstance(event, ToolCallDelta):
            call = choice.calls.setdefault(event.index, {"type": "tool_call", "id": "", "name": "", "arguments": ""})
            call["id"] = event.id or call["id"]
            call["name"] = event.name or call["name"]
            call["arguments"] += self._cut(event.arguments)
        elif isinstance(event, ReasoningDelta):
            choice.reasoning += self._cut(event.text)
        else:
            choice.text += self._cut(event.text)

    def _cut(self, text: str) -> str:
        kept = text[: self._num_left]
        self._num_left -= len(kept)
        return kept


class _Choice:
    """What one choice said."""

    __slots__ = ("calls", "reason", "reasoning", "text")

    def __init__(self) -> None:
        self.text = self.reasoning = self.reason = ""
        self.calls: dict[int, dict[str, str]] = {}

    def message(self) -> dict[str, Any]:
        parts: list[dict[str, str]] = []
        if self.reasoning:
            parts.append({"type": "reasoning", "content": self.reasoning})
        if self.text:
            parts.append({"type": "text", "content": self.text})
        parts += [call for _, call in sorted(self.calls.items())]
        return {"role": "assistant", "parts": parts, "finish_reason": self.reason}


def input_of(request: Request) -> str:
    """What a request asks, cut at the end; token ids are not text and not told."""
    left = MAX_CONTENT_CHARS
    messages = []
    for message in _messages_of(request):
        parts = []
        for part in _parts_of(message):
            for name in ("content", "arguments", "response"):
                if name in part:
                    part[name] = part[name][:left]
                    left -= len(part[name])
            parts.append(part)
        messages.append({"role": message.role.value, "parts": parts})
        if left <= 0:
            break
    return _encode(messages).decode() if messages else ""


def _messages_of(request: Request) -> Iterable[Message]:
    if request.messages is not None:
        yield from request.messages
    texts = [request.prompt, *(text for one in request.inputs or () for text in (one.text, one.pair))]
    for text in texts:
        if isinstance(text, str):
            yield Message(Role.USER, (TextPart(text),))


def _parts_of(message: Message) -> Iterable[dict[str, str]]:
    if message.reasoning:
        yield {"type": "reasoning", "content": message.reasoning}
    if message.role is Role.TOOL:
        yield {"type": "tool_call_response", "id": message.tool_call_id or "", "response": message.text}
        return
    for part in message.parts:
        yield {"type": "text", "content": part.text}
    for call in message.tool_calls:
        yield {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
