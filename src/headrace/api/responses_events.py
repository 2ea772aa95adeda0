"""A response, outwards: events of a backend become the semantic events of OpenAI's Responses API.

`TRANSITIONS` is the legal order of what a backend says; a pair that is not in it is a defect and ends the response with
EngineFault. Between BEGUN and ENDED the state says which item is open: entering another state closes the item and opens
the next, so that a client sees every item begin and end, one after the other. The frame of a text delta is prepared
when its item opens, so that a delta costs one JSON string and one concatenation.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

import msgspec

from headrace.api.custom_tools import free_text
from headrace.api.responses_items import ID_PREFIXES
from headrace.api.responses_objects import encode, explanation, failure, logprob_objects, response_object
from headrace.api.responses_seal import seal
from headrace.api.responses_service import CreateCall, Item, ResponseEvent, ToolName
from headrace.api.responses_settings import ENCRYPTED
from headrace.core.errors import EngineFault, HeadraceError, InvalidRequest
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.ledger import Ledger

# The last event holds all of a response, and log-probabilities are far longer than its text.
MAX_LOGPROBS: Final = 200_000


class State(Enum):
    """Where a response stands, and which item of it is open."""

    IDLE = "idle"
    BEGUN = "begun"
    THINKING = "thinking"
    SPEAKING = "speaking"
    CALLING = "calling"
    ENDED = "ended"  # its one choice is; the usage is still to come
    DONE = "done"


TRANSITIONS: Final[dict[tuple[State, type], State]] = {
    (State.IDLE, Started): State.BEGUN,
    (State.ENDED, Finished): State.DONE,
} | {
    (state, kind): following
    for state in (State.BEGUN, State.THINKING, State.SPEAKING, State.CALLING)
    for kind, following in (
        (ReasoningDelta, State.THINKING),
        (TextDelta, State.SPEAKING),
        (ToolCallDelta, State.CALLING),
        (ChoiceFinished, State.ENDED),
    )
}

# What an answer lacks that ended for one of these reasons.
_INCOMPLETE: Final = {FinishReason.LENGTH: "max_output_tokens", FinishReason.FILTERED: "content_filter"}


@dataclass(slots=True)
class _Open:
    """The item that is being written: where it stands, and what it says so far."""

    kind: str
    id: str
    output_index: int
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    call_id: str = ""
    call_index: int = -1
    tool: ToolName = field(default_factory=lambda: ToolName(""))
    prefix: bytes = b""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.output_index}


class ResponseWriter:
    """Events in, semantic events out. `created` is Unix time in whole seconds, as `now` is wherever it is asked for."""

    def __init__(self, call: CreateCall, created: int) -> None:
        self._call = call
        self._created = created
        self._state = State.IDLE
        self._suffix = call.request.id.rpartition("_")[2]
        self._count = 0
        self._open: _Open | None = None
        self._held: list[TokenLogprob] = []
        self._reason: FinishReason | None = None
        self._usage = Usage(0, 0)
        self._started: Started | None = None
        self._num_logprobs = 0
        self._num_tokens = 0
        self._num_reasoning = 0
        self._out: list[ResponseEvent] = []
        self.output: list[Item] = []

    @property
    def is_done(self) -> bool:
        """Whether the last event has been made."""
        return self._state is State.DONE

    def queue(self) -> list[ResponseEvent]:
        """The events of a response that waits to be begun."""
        return self._states("queued", "response.created", "response.queued")

    def begin(self, *, is_queued: bool = False) -> list[ResponseEvent]:
        """The events of a response that is begun."""
        return self._states("in_progress", *(() if is_queued else ("response.created",)), "response.in_progress")

    def _states(self, status: str, *types: str) -> list[ResponseEvent]:
        for kind in types:
            self._tell_state(kind, response_object(self._call, self._created, status))
        return self._taken()

    def take(self, event: Event, now: int) -> list[ResponseEvent]:
        """What there is to say after an event of the backend. Raises EngineFault for one out of order."""
        if type(event) is TextDelta and self._state is State.SPEAKING:
            self._speak(event)  # the hot row of the table
            return self._taken()
        following = TRANSITIONS.get((self._state, type(event)))
        if following is None:
            raise EngineFault(f"the backend sent {type(event).__name__} while the response was {self._state.value}.")
        if isinstance(event, TextDelta):
            self._speak(event)
        elif isinstance(event, ReasoningDelta):
            self._think(event)
        elif isinstance(event, ToolCallDelta):
            self._invoke(event)
        elif isinstance(event, ChoiceFinished):
            self._end_items(event.reason)
        elif isinstance(event, Started):
            self._note(Usage(event.prompt_tokens, 0, event.cached_tokens))
            self._started = event
        elif isinstance(event, Finished):
            self._note(event.usage)
            self._finish(now)
        self._state = following
        return self._taken()

    def _note(self, usage: Usage) -> None:
        """Take counts that do not contradict each other. Raises EngineFault for others."""
        Ledger.of(usage)
        self._usage = usage

    def fail(self, error: HeadraceError) -> list[ResponseEvent]:
        """The end of a response that cannot go on."""
        return self._stop("response.failed", "failed", error)

    def halt(self, reason: str) -> list[ResponseEvent]:
        """The end of a response that somebody wants to end, for `reason`."""
        return self._stop("response.incomplete", "incomplete", reason=reason)

    def cancel(self) -> list[ResponseEvent]:
        """The end of a response that is cancelled. The API has no event of its own for that; the status says it."""
        return self._stop("response.incomplete", "cancelled")

    def _stop(
        self, kind: str, status: str, error: HeadraceError | None = None, reason: str | None = None
    ) -> list[ResponseEvent]:
        if self.is_done:
            return self._taken()
        self._close("incomplete")
        made = response_object(
            self._call,
            self._created,
            status,
            self.output,
            self._so_far(),
            "" if self._started is None else self._started.model,
            error=None if error is None else failure(error),
            incomplete_details=None if reason is None else {"reason": reason},
        )
        self._tell_state(kind, made, error)
        self._state = State.DONE
        return self._taken()

    def _finish(self, now: int) -> None:
        why = None if self._reason is None or not self._call.generates else _INCOMPLETE.get(self._reason)
        status = "incomplete" if why else "completed"
        made = response_object(
            self._call,
            self._created,
            status,
            self.output,
            self._usage,
            "" if self._started is None else self._started.model,
            completed_at=None if why else now,
            incomplete_details={"reason": why} if why else None,
        )
        self._tell_state(f"response.{status}", made)

    def _end_items(self, reason: FinishReason) -> None:
        self._reason = reason
        if not self.output and self._open is None and self._call.generates:
            self._open_message()  # an answer of no words is still an answer
        self._close("incomplete" if reason in _INCOMPLETE else "completed")

    def _so_far(self) -> Usage | None:
        """What a response that ends early has used, if it had begun."""
        if self._started is None:
            return None
        return replace(self._usage, completion_tokens=self._num_tokens, reasoning_tokens=self._num_reasoning)

    # -- what the model says --------------------------------------------------------------------------------------

    def _speak(self, event: TextDelta) -> None:
        self._num_tokens += event.num_tokens
        if event.logprobs:
            self._held.extend(event.logprobs)
        if not event.text:
            return  # half a character is held back; its log-probabilities go with the rest
        if self._open is None or self._open.kind != "message":
            self._close("completed")
            self._open_message()
        item = self._open
        assert item is not None
        item.pieces.append(event.text)
        end = b',"logprobs":[],"sequence_number":%d}' % self._count
        if self._held and self._call.request.logprobs is not None:
            told, self._held = logprob_objects(self._held, self._call.request.logprobs), []
            item.logprobs.extend(told)
            self._num_logprobs += sum(1 + len(one["top_logprobs"]) for one in told)
            if self._num_logprobs > MAX_LOGPROBS:
                raise InvalidRequest(
                    f"top_logprobs: the response has more than {MAX_LOGPROBS} log-probabilities; ask for fewer "
                    "of them, or for a shorter answer.",
                    param="top_logprobs",
                )
            end = b',"logprobs":' + encode(told) + b',"sequence_number":%d}' % self._count
        self._add("response.output_text.delta", item.prefix + encode(event.text) + end)

    def _open_message(self) -> None:
        item = self._open_item("message")
        shown = {"id": item.id, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        self._tell("response.output_item.added", output_index=item.output_index, item=shown)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._tell("response.content_part.added", **item.place(), content_index=0, part=part)
        opening = {"type": "response.output_text.delta"} | item.place() | {"content_index": 0}
        item.prefix = encode(opening)[:-1] + b',"delta":'

    def _close_message(self, item: _Open, status: str) -> Item:
        part = {"type": "output_text", "text": item.text, "annotations": [], "logprobs": item.logprobs}
        where = item.place() | {"content_index": 0}
        self._tell("response.output_text.done", **where, text=item.text, logprobs=item.logprobs)
        self._tell("response.content_part.done", **where, part=part)
        return {"id": item.id, "type": "message", "status": status, "role": "assistant", "content": [part]}

    def _think(self, event: ReasoningDelta) -> None:
        self._num_tokens += event.num_tokens
        self._num_reasoning += event.num_tokens
        if not event.text:
            return
        if self._open is None or self._open.kind != "reasoning":
            self._close("completed")
            self._open_reasoning()
        item = self._open
        assert item is not None
        item.pieces.append(event.text)
        if self._call.summarizes:
            self._tell("response.reasoning_summary_text.delta", **item.place(), summary_index=0, delta=event.text)
        else:
            self._tell("response.reasoning_text.delta", **item.place(), content_index=0, delta=event.text)

    def _open_reasoning(self) -> None:
        item = self._open_item("reasoning")
        shown = {"id": item.id, "type": "reasoning", "status": "in_progress", "summary": []}
        self._tell("response.output_item.added", output_index=item.output_index, item=shown)
        if self._call.summarizes:
            part = {"type": "summary_text", "text": ""}
            self._tell("response.reasoning_summary_part.added", **item.place(), summary_index=0, part=part)
        else:
            part = {"type": "reasoning_text", "text": ""}
            self._tell("response.content_part.added", **item.place(), content_index=0, part=part)

    def _close_reasoning(self, item: _Open, status: str) -> Item:
        made: dict[str, Any] = {"id": item.id, "type": "reasoning", "status": status, "summary": []}
        if self._call.summarizes:
            part = {"type": "summary_text", "text": item.text}
            where = item.place() | {"summary_index": 0}
            self._tell("response.reasoning_summary_text.done", **where, text=item.text)
            self._tell("response.reasoning_summary_part.done", **where, part=part)
            made["summary"] = [part]
        else:
            part = {"type": "reasoning_text", "text": item.text}
            where = item.place() | {"content_index": 0}
            self._tell("response.reasoning_text.done", **where, text=item.text)
            self._tell("response.content_part.done", **where, part=part)
            made["content"] = [part]
        if ENCRYPTED in self._call.include:
            made["encrypted_content"] = seal(item.text, "reasoning")
        return made

    def _invoke(self, event: ToolCallDelta) -> None:
        self._num_tokens += event.num_tokens
        item = self._open
        if item is None or item.call_index != event.index:
            if event.id is None or event.name is None:
                raise EngineFault(f"the backend sent a piece of tool call {event.index}, which is not open.")
            self._close("completed")
            item = self._open_call(event.id, event.name, event.index)
        if not event.arguments:
            return
        item.pieces.append(event.arguments)
        if not item.tool.is_custom:
            self._tell("response.function_call_arguments.delta", **item.place(), delta=event.arguments)

    def _open_call(self, call_id: str, name: str, index: int) -> _Open:
        tool = self._call.tool_names.get(name, ToolName(name))
        item = self._open_item("custom_tool_call" if tool.is_custom else "function_call")
        item.call_id, item.call_index, item.tool = call_id, index, tool
        shown = self._call_item(item, "", "in_progress")
        self._tell("response.output_item.added", output_index=item.output_index, item=shown)
        return item

    def _close_call(self, item: _Open, status: str) -> Item:
        said = item.text
        if item.tool.is_custom:
            said = free_text(said)
            if said:
                self._tell("response.custom_tool_call_input.delta", **item.place(), delta=said)
            self._tell("response.custom_tool_call_input.done", **item.place(), input=said)
        else:
            self._tell("response.function_call_arguments.done", **item.place(), name=item.tool.name, arguments=said)
        return self._call_item(item, said, status)

    @staticmethod
    def _call_item(item: _Open, said: str, status: str) -> dict[str, Any]:
        made = {"id": item.id, "type": item.kind, "status": status, "call_id": item.call_id, "name": item.tool.name}
        if item.tool.namespace is not None:
            made["namespace"] = item.tool.namespace
        return made | {"input" if item.tool.is_custom else "arguments": said}

    # -- items and frames -----------------------------------------------------------------------------------------

    def _open_item(self, kind: str) -> _Open:
        index = len(self.output)
        self._open = _Open(kind, f"{ID_PREFIXES[kind]}_{self._suffix}o{index}", index)
        return self._open

    def _close(self, status: str) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "message":
            made = self._close_message(item, status)
        elif item.kind == "reasoning":
            made = self._close_reasoning(item, status)
        else:
            made = self._close_call(item, status)
        self.output.append(made)
        self._tell("response.output_item.done", output_index=item.output_index, item=made)

    def _tell(self, kind: str, **fields: Any) -> None:
        self._add(kind, encode({"type": kind} | fields | {"sequence_number": self._count}))

    def _tell_state(self, kind: str, response: dict[str, Any], error: HeadraceError | None = None) -> None:
        if self._call.request.cache.explain and self._started is not None:
            response["headrace"] = response.get("headrace", {}) | explanation(self._started)
        data = encode({"type": kind, "response": response, "sequence_number": self._count})
        self._add(kind, data, response, error)

    def _add(
        self, kind: str, data: bytes, response: dict[str, Any] | None = None, error: HeadraceError | None = None
    ) -> None:
        self._out.append(ResponseEvent(kind, self._count, data, response, error))
        self._count += 1

    def _taken(self) -> list[ResponseEvent]:
        out, self._out = self._out, []
        return out


def restated(event: ResponseEvent, **changes: Any) -> ResponseEvent:
    """An event that tells a response's state, with other values in the response object."""
    response = {**(event.response or {}), **changes}
    data = encode({"type": event.type, "response": response, "sequence_number": event.sequence_number})
    return replace(event, data=data, response=response)


def failed(event: ResponseEvent, error: HeadraceError) -> ResponseEvent:
    """The end of a response that failed after all, in the place of another end."""
    changed = restated(event, status="failed", error=failure(error), completed_at=None, incomplete_details=None)
    data = encode({"type": "response.failed", "response": changed.response, "sequence_number": event.sequence_number})
    return replace(changed, type="response.failed", data=data, error=error)


def parse_events(lines: bytes) -> list[ResponseEvent]:
    """Events of a response that were kept, one JSON object a line."""
    return [
        ResponseEvent(head.type, head.sequence_number, line)
        for line in lines.splitlines()
        for head in (msgspec.json.decode(line, type=_Head),)
    ]


class _Head(msgspec.Struct):
    type: str
    sequence_number: int
