"""An answer of any protocol, as a client saved it, back to what it says: parsed JSON in, events out.

For whoever verifies an answer that a program wrote anew, or looks what a transcript says. Best effort, from the
outside: what is not text, reasoning, a tool call, an ending or a vector is passed over. Reads no bytes of streams.
"""

import base64
import binascii
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.core.errors import InvalidRequest
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)

_REASONS: Final = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.FILTERED,
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.FILTERED,
    "max_output_tokens": FinishReason.LENGTH,
}
"""Of every protocol; what stands for none of them ends no choice."""
_KINDS: Final[Mapping[type, Mapping[str, type]]] = {
    TextDelta: {"choice": int, "text": str},
    ReasoningDelta: {"choice": int, "text": str},
    ToolCallDelta: {"choice": int, "index": int, "arguments": str},
    ChoiceFinished: {"choice": int},
    Embedding: {"index": int},
}


def read_saved(value: Any) -> list[Event]:
    """What a whole answer says. Raises InvalidRequest if it is of no protocol that is known here."""
    try:
        for is_it, read in _WHOLE:
            if is_it(value):
                return _checked(read(value))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"the answer cannot be read: {type(error).__name__} at {error}.") from error
    raise InvalidRequest("the file is no answer of a protocol that is known here; save the body as it came.")


def read_saved_stream(values: Sequence[Any]) -> list[Event]:
    """What the data of a stream's events says, in their order. Raises InvalidRequest as `read_saved`."""
    try:
        if values and isinstance(values[0], Mapping):
            return _checked(_stream_reader(values)(values))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"the stream cannot be read: {type(error).__name__} at {error}.") from error
    raise InvalidRequest("the stream is of no protocol that is known here; save it as it came.")


def _checked(events: Iterable[Event]) -> list[Event]:
    """Events of what stood in a file, where anything may stand in the place of a text or a number."""
    found = list(events)
    for event in found:
        for name, kind in _KINDS[type(event)].items():
            if type(getattr(event, name)) is not kind:
                raise TypeError(f"{name}, which is no {'text' if kind is str else 'whole number'}")
    return found


def saved_model(values: Sequence[Any]) -> str | None:
    """What an answer, or the data of a stream's events, says that its model is called; None if nothing."""
    for value in values:
        for one in (value, value.get("message"), value.get("response")) if isinstance(value, Mapping) else ():
            if isinstance(one, Mapping) and isinstance(one.get("model"), str):
                return str(one["model"])
    return None


def _stream_reader(values: Sequence[Any]) -> Callable[[Sequence[Any]], Iterator[Event]]:
    first = values[0]
    if str(first.get("type", "")).startswith("response."):
        return _responses_stream
    if "type" in first:
        return _messages_stream
    return _chunks if "choices" in first or "object" in first else _ollama_lines


def _chat(value: Mapping[str, Any]) -> Iterator[Event]:
    for choice in value["choices"]:
        index = choice["index"]
        message = choice.get("message", {"content": choice.get("text")})
        yield from _said(index, message.get("reasoning_content") or message.get("reasoning"), message.get("content"))
        calls = list(message.get("tool_calls") or ())
        calls += [{"function": message["function_call"]}] if message.get("function_call") else []
        for number, call in enumerate(calls):
            yield _call(index, number, call)
        yield from _ended(index, choice.get("finish_reason"))


def _said(index: int, reasoning: Any, text: Any) -> Iterator[Event]:
    if reasoning:
        yield ReasoningDelta(index, reasoning, 0)
    if text:
        yield TextDelta(index, text, 0)


def _call(index: int, number: int, call: Mapping[str, Any]) -> ToolCallDelta:
    made = call.get("function") or call.get("custom") or {}
    arguments = made.get("arguments", made.get("input", ""))
    if not isinstance(arguments, str):
        arguments = _json(arguments)
    return ToolCallDelta(index, number, arguments, 0, call.get("id"), _name(made.get("name")))


def _name(name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError("the name of a tool, which is no text")
    return name


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _ended(index: int, reason: Any) -> Iterator[Event]:
    if reason in _REASONS:
        yield ChoiceFinished(index, _REASONS[reason])


def _chunks(values: Sequence[Any]) -> Iterator[Event]:
    for chunk in values:
        for choice in chunk.get("choices") or ():
            index = choice["index"]
            delta = choice.get("delta", {"content": choice.get("text")})
            yield from _said(index, delta.get("reasoning_content") or delta.get("reasoning"), delta.get("content"))
            for call in delta.get("tool_calls") or ():
                yield _call(index, call["index"], call)
            if delta.get("function_call"):
                yield _call(index, 0, {"function": delta["function_call"]})
            yield from _ended(index, choice.get("finish_reason"))


def _messages(value: Mapping[str, Any]) -> Iterator[Event]:
    number = 0
    for block in value["content"]:
        if block["type"] == "tool_use":
            yield ToolCallDelta(0, number, _json(block["input"]), 0, block["id"], _name(block["name"]))
            number += 1
        else:
            yield from _said(0, block.get("thinking"), block.get("text"))
    yield from _ended(0, value.get("stop_reason"))


def _messages_stream(values: Sequence[Any]) -> Iterator[Event]:
    numbers: dict[int, int] = {}
    for value in values:
        kind = value["type"]
        if kind == "content_block_start":
            block = value["content_block"]
            if block["type"] == "tool_use":
                numbers[value["index"]] = len(numbers)
                yield ToolCallDelta(0, numbers[value["index"]], "", 0, block["id"], _name(block["name"]))
            else:
                yield from _said(0, block.get("thinking"), block.get("text"))
        elif kind == "content_block_delta":
            delta = value["delta"]
            if "partial_json" in delta:
                yield ToolCallDelta(0, numbers[value["index"]], delta["partial_json"], 0)
            else:
                yield from _said(0, delta.get("thinking"), delta.get("text"))
        elif kind == "message_delta":
            yield from _ended(0, value["delta"].get("stop_reason"))


def _responses(value: Mapping[str, Any]) -> Iterator[Event]:
    number = 0
    for item in value["output"]:
        kind = item["type"]
        if kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments", item.get("input", ""))
            yield ToolCallDelta(0, number, arguments, 0, item.get("call_id"), _name(item["name"]))
            number += 1
        elif kind == "message":
            for part in item["content"]:
                yield from _said(0, None, part.get("text") or part.get("refusal"))
        elif kind == "reasoning":
            for part in (*(item.get("summary") or ()), *(item.get("content") or ())):
                yield from _said(0, part.get("text"), None)
    if value.get("status") == "completed":
        yield ChoiceFinished(0, FinishReason.STOP)
    elif value.get("incomplete_details"):
        yield from _ended(0, value["incomplete_details"].get("reason"))


def _responses_stream(values: Sequence[Any]) -> Iterator[Event]:
    # The last event repeats the whole response; a stream that was cut off has none, and is read by its deltas.
    for value in reversed(values):
        if value["type"] in ("response.completed", "response.incomplete", "response.failed"):
            yield from _responses(value["response"])
            return
    numbers: dict[str, int] = {}
    for value in values:
        kind = value["type"]
        if kind == "response.output_text.delta":
            yield TextDelta(0, value["delta"], 0)
        elif kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta"):
            yield ReasoningDelta(0, value["delta"], 0)
        elif kind == "response.output_item.added" and value["item"]["type"] == "function_call":
            item = value["item"]
            numbers[item["id"]] = len(numbers)
            yield ToolCallDelta(0, numbers[item["id"]], "", 0, item.get("call_id"), _name(item["name"]))
        elif kind == "response.function_call_arguments.delta":
            yield ToolCallDelta(0, numbers[value["item_id"]], value["delta"], 0)


def _ollama(value: Mapping[str, Any]) -> Iterator[Event]:
    return _ollama_lines([value])


def _ollama_lines(values: Sequence[Any]) -> Iterator[Event]:
    number = 0
    for value in values:
        message = value.get("message") or {"content": value.get("response"), "thinking": value.get("thinking")}
        yield from _said(0, message.get("thinking"), message.get("content"))
        for call in message.get("tool_calls") or ():
            yield _call(0, number, call)
            number += 1
        if value.get("done"):
            yield from _ended(0, value.get("done_reason"))


def _embeddings(value: Mapping[str, Any]) -> Iterator[Event]:
    for one in value["data"]:
        yield Embedding(one["index"], _vector(one["embedding"]), 0)


def _ollama_embeddings(value: Mapping[str, Any]) -> Iterator[Event]:
    vectors = value["embeddings"] if "embeddings" in value else [value["embedding"]]
    for index, vector in enumerate(vectors):
        yield Embedding(index, _vector(vector), 0)


def _vector(given: Any) -> bytes:
    if isinstance(given, str):
        try:
            return base64.b64decode(given, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a vector is no base64 ({error})") from error
    vector = array("f", msgspec.convert(given, list[float]))
    if sys.byteorder == "big":
        vector.byteswap()
    return vector.tobytes()


def _has(name: str, **others: Any) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, Mapping) and name in value and all(value.get(one) == given for one, given in others.items())
    )


_WHOLE: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], Iterator[Event]]], ...]] = (
    (_has("choices"), _chat),
    (_has("content", type="message"), _messages),
    (_has("output", object="response"), _responses),
    (_has("data", object="list"), _embeddings),
    (_has("embeddings"), _ollama_embeddings),
    (_has("embedding"), _ollama_embeddings),
    (_has("done"), _ollama),
)
