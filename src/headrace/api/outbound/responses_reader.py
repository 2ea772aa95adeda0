"""Streams of OpenAI's Responses as events: the semantic events that say what the model writes, thinks and calls.

Reasoning is told as text or as a summary; where a backend tells both of one item, the first kind counts. Whole items
stand in for deltas that a backend does not send. Events and items that are not known here say nothing: the protocol
grows by them.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.api.outbound.answer_state import AnswerState
from headrace.api.outbound.chat_reader import ChatToken, garbage, token_logprobs
from headrace.api.outbound.chat_refusals import read_error_frame
from headrace.api.outbound.chat_usage import WRITE_TTL_S, check_counts
from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.core.events import Event, Finished, FinishReason, Started, Usage
from headrace.core.request import Request

_INCOMPLETE: Final = {"max_output_tokens": FinishReason.LENGTH, "content_filter": FinishReason.FILTERED}
_SUMMARY_GAP: Final = "\n\n"
"""Between two parts of a summary."""


class InputDetails(msgspec.Struct):
    """What the input's tokens were."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    """What the output's tokens were."""

    reasoning_tokens: int | None = None


class ResponseUsage(msgspec.Struct):
    """`usage` of a response."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class ItemPart(msgspec.Struct):
    """A part of a message or of reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class OutputItem(msgspec.Struct):
    """An item of the output; those of other kinds have other fields."""

    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[ItemPart] | None = None
    summary: list[ItemPart] | None = None


class Incomplete(msgspec.Struct):
    """Why a response lacks something."""

    reason: str | None = None


class ResponseObject(msgspec.Struct):
    """A response as it stands."""

    status: str | None = None
    output: list[OutputItem] | None = None
    usage: ResponseUsage | None = None
    error: Any = None
    incomplete_details: Incomplete | None = None


class StreamEvent(msgspec.Struct):
    """Any event of a stream. `delta` is text where it is read; some kinds that are not read have objects there."""

    type: str = ""
    output_index: int | None = None
    delta: Any = None
    logprobs: list[ChatToken] | None = None
    arguments: str | None = None
    summary_index: int = 0
    item: OutputItem | None = None
    response: ResponseObject | None = None
    error: Any = None
    code: Any = None
    message: str | None = None


_decode_event = msgspec.json.Decoder(StreamEvent).decode


@dataclass(slots=True)
class _Item:
    """What was told of an item of the output. `number` is that of its call among our events."""

    number: int | None = None
    num_told: int = 0
    thought: str = ""  # under which name its reasoning came
    part: int = 0


class ResponsesReader:
    """One response's stream in, events out."""

    def __init__(self, request: Request, model: str) -> None:
        self._state = AnswerState(request, model)
        self._items: dict[int, _Item] = {}
        self._tells_logprobs = request.logprobs is not None
        self._is_empty = True

    @property
    def is_done(self) -> bool:
        """True once `Finished` was told."""
        return self._state.is_done

    def feed(self, event: str, data: bytes) -> list[Event]:
        """What one server-sent event says. Raises the error that it carries, and UpstreamFault for garbage."""
        if not self.is_done and data and not data.startswith(b"[DONE]"):
            try:
                told = _decode_event(data)
            except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
                raise garbage(error) from None
            self._read(told, told.type or event)
        return self._state.take()

    def end(self) -> list[Event]:
        """The connection is at its end. Raises UpstreamFault if the response was not whole."""
        self._state.finish()
        return self._state.take()

    def _read(self, told: StreamEvent, kind: str) -> None:
        if kind == "response.output_text.delta":
            self._is_empty = False
            logprobs = token_logprobs(told.logprobs or ()) if self._tells_logprobs else ()
            self._state.add_text(0, _text(told.delta), logprobs)
        elif kind == "response.refusal.delta":
            self._is_empty = False
            self._state.add_text(0, _text(told.delta))
            self._state.refuse(0)
        elif kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta"):
            self._think(told, kind)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._read_item(told)
        elif kind in ("response.function_call_arguments.delta", "response.function_call_arguments.done"):
            is_whole = kind.endswith(".done")
            self._argue(self._item(told), _text(told.arguments if is_whole else told.delta), is_whole=is_whole)
        elif kind in ("response.completed", "response.incomplete"):
            self._finish(told.response or ResponseObject())
        elif kind in ("response.failed", "response.cancelled", "error"):
            raise carried_error(told)

    def _item(self, told: StreamEvent) -> _Item:
        return self._items.setdefault(told.output_index or 0, _Item())

    def _think(self, told: StreamEvent, kind: str) -> None:
        item, text = self._item(told), _text(told.delta)
        self._is_empty = False
        item.thought = item.thought or kind
        if item.thought != kind:
            return
        if item.part != told.summary_index:
            item.part, text = told.summary_index, _SUMMARY_GAP + text
        self._state.add_reasoning(0, text)

    def _read_item(self, told: StreamEvent) -> None:
        """An item has begun or ended. One that calls tells of what, at the latest when it ends."""
        shown = told.item
        if shown is None or shown.type != "function_call":
            return
        item = self._item(told)
        if item.number is None:
            if not shown.name:
                raise UpstreamFault("the backend called a tool and did not say which.")
            self._is_empty = False
            item.number = self._state.begin_call(0, shown.call_id, shown.name, "")
        self._argue(item, shown.arguments or "", is_whole=True)

    def _argue(self, item: _Item, arguments: str, *, is_whole: bool) -> None:
        """More arguments, or all of them, of which some may have been told."""
        if item.number is None:
            raise UpstreamFault("the backend sent arguments of a tool call that has not begun.")
        more = arguments[item.num_told :] if is_whole else arguments
        item.num_told += len(more)
        self._state.add_arguments(0, item.number, more)

    def _finish(self, response: ResponseObject) -> None:
        state = self._state
        if self._is_empty:
            self._read_whole(response)
        if response.usage is not None:
            state.usage = read_response_usage(response.usage)
        state.begin(state.usage)
        why = response.incomplete_details
        reason = FinishReason.STOP
        if why is not None and why.reason is not None:
            if why.reason not in _INCOMPLETE:
                raise UpstreamFault(f"the backend broke the answer off; it gives {why.reason[:80]!r} as the reason.")
            reason = _INCOMPLETE[why.reason]
        state.finish_choice(0, reason)
        state.finish()

    def _read_whole(self, response: ResponseObject) -> None:
        """A response of which nothing was streamed but its end."""
        for item in response.output or ():
            if item.type == "function_call" and item.name:
                self._state.begin_call(0, item.call_id, item.name, item.arguments or "")
            thoughts = item.content if item.type == "reasoning" and item.content else item.summary
            for part in thoughts or ():
                self._state.add_reasoning(0, part.text or "")
            for part in (item.content or ()) if item.type == "message" else ():
                self._state.add_text(0, part.text or part.refusal or "")
                if part.refusal:
                    self._state.refuse(0)


def carried_error(told: StreamEvent) -> HeadraceError:
    """The error that an event carries: of a response that failed, or an event of its own."""
    found = told.response.error if told.response is not None else told.error
    return read_error_frame(found or {"message": told.message, "code": told.code})


def read_response_usage(told: ResponseUsage) -> Usage:
    """The counts; those that contradict each other are mended upwards. Raises UpstreamFault for some that cannot be."""
    details, output = told.input_tokens_details or InputDetails(), told.output_tokens_details or OutputDetails()
    prompt, completion = told.input_tokens or 0, told.output_tokens or 0
    cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    reasoning = output.reasoning_tokens or 0
    check_counts(prompt, completion, cached, written, reasoning)
    writes = ((WRITE_TTL_S, written),) if written else ()
    return Usage(max(prompt, cached + written), max(completion, reasoning), cached, 0, writes, reasoning)


class _Count(msgspec.Struct):
    input_tokens: int


_decode_count = msgspec.json.Decoder(_Count).decode


def decode_count(request: Request, model: str, body: bytes) -> list[Event]:
    """How many tokens an input has. Raises UpstreamFault for what is no answer to that."""
    try:
        count = _decode_count(body).input_tokens
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise garbage(error) from None
    check_counts(count)
    return [Started(request.id, model, count), Finished(Usage(count, 0))]


def _text(told: Any) -> str:
    if told is None:
        return ""
    if not isinstance(told, str):
        raise UpstreamFault("the backend sent a piece of text that is none.")
    return told
