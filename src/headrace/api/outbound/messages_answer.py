"""Answers of Anthropic's Messages, inwards: a stream's frames become events, or pass through and tell their usage.

    message_start  (content_block_start content_block_delta* content_block_stop)*  message_delta+  message_stop

`ping` and kinds of events that nobody here knows may come anywhere and say nothing. Blocks come one after the other. A
kind of block that is not known would be a hole in the answer, and is a fault. Knows no sockets.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from headrace.api.outbound.answer_state import AnswerState
from headrace.api.outbound.frames import FrameCutter, parse_frame, split_frames
from headrace.api.outbound.messages_error import carried_error
from headrace.api.outbound.messages_frames import Block, Frame, Message, Tally, fault, read_frame
from headrace.core.events import Event, Finished, FinishReason, Started, Usage
from headrace.core.request import Request, Task

# Why an answer ended, in their words and ours. `pause_turn` is an answer that wants to be continued.
STOP_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "pause_turn": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.FILTERED,
}

_TEXT: Final = "text"
_THINKING: Final = "thinking"
_HIDDEN: Final = "redacted_thinking"  # nobody but its author can read it
_TOOL: Final = "tool_use"


class MessagesReader:
    """One answer's frames in, events out."""

    def __init__(self, request: Request, model: str) -> None:
        self._answer = AnswerState(request, model)
        self._tally = Tally()
        self._is_begun = False
        self._has_counts = False
        self._open: tuple[int, str] | None = None  # index and kind of the block that is open
        self._call = 0
        self._has_arguments = False
        self._ending: tuple[FinishReason, str | None] | None = None

    @property
    def is_done(self) -> bool:
        """True once `Finished` was told."""
        return self._answer.is_done

    def feed(self, event: str, data: bytes) -> list[Event]:
        """What one frame says. Raises the error that it carries, and UpstreamFault."""
        if event and event not in _TAKES:
            return []  # ping, and what is new: it may look like anything
        frame = read_frame(data)
        take = _TAKES.get(frame.type)
        if take is None:
            return []
        if self.is_done:
            raise fault(f"sent {frame.type} after the end of the answer")
        if not self._is_begun and frame.type not in ("message_start", "error"):
            raise fault(f"sent {frame.type} before the message had begun")
        take(self, frame)
        return self._answer.take()

    def end(self) -> list[Event]:
        """Raises UpstreamFault if the answer was not whole."""
        if not self.is_done:
            raise fault("ended the stream before the answer was finished")
        return []

    def _start(self, frame: Frame) -> None:
        if self._is_begun or frame.message is None:
            raise fault("sent a message_start that begins no message, or a second one")
        self._is_begun = True
        self._tally.add(frame.message.usage)
        self._answer.begin(self._tally.usage)

    def _begin(self, frame: Frame) -> None:
        block = frame.content_block
        if self._open is not None or self._ending is not None or block is None or frame.index is None:
            raise fault("began a block out of order")
        self._open = (frame.index, block.type)
        if block.type == _TEXT:
            self._answer.add_text(0, block.text)
        elif block.type == _THINKING:
            self._answer.add_reasoning(0, block.thinking)
        elif block.type == _TOOL:
            self._begin_call(block)
        elif block.type != _HIDDEN:
            raise fault(f"answered with a block of kind {block.type[:50]!r}, which nobody asked for")

    def _begin_call(self, block: Block) -> None:
        if not block.id or not block.name:
            raise fault("called a tool without an id or a name")
        # Arguments come in deltas; who sends them at once sends none.
        arguments = msgspec.json.encode(block.input).decode() if block.input else ""
        self._has_arguments = bool(arguments)
        self._call = self._answer.begin_call(0, block.id, block.name, arguments)

    def _go_on(self, frame: Frame) -> None:
        delta, kind = frame.delta, self._kind(frame)
        if delta is None:
            raise fault("sent a delta of nothing")
        known = _DELTAS.get(delta.type)
        if known is None:
            return  # signatures, citations, and what is to come
        if known != kind:
            raise fault(f"sent a {delta.type} in a block of kind {kind}")
        if kind == _TEXT:
            self._answer.add_text(0, delta.text)
        elif kind == _THINKING:
            self._answer.add_reasoning(0, delta.thinking)
        else:
            self._has_arguments = self._has_arguments or bool(delta.partial_json)
            self._answer.add_arguments(0, self._call, delta.partial_json)

    def _close(self, frame: Frame) -> None:
        kind, self._open = self._kind(frame), None
        if kind == _TOOL and not self._has_arguments:
            # A call without arguments says nothing about them, and an empty text is no JSON.
            self._answer.add_arguments(0, self._call, "{}")

    def _kind(self, frame: Frame) -> str:
        if self._open is None or frame.index != self._open[0]:
            raise fault(f"sent {frame.type} for a block that is not open")
        return self._open[1]

    def _note(self, frame: Frame) -> None:
        if self._open is not None:
            raise fault("sent message_delta inside a block")
        self._tally.add(frame.usage)
        self._has_counts = self._has_counts or _tells_output(frame)
        if frame.delta is not None and frame.delta.stop_reason is not None:
            reason = frame.delta.stop_reason
            match = frame.delta.stop_sequence if reason == "stop_sequence" else None
            # A reason that is new ends an answer that is whole: nothing says otherwise.
            self._ending = STOP_REASONS.get(reason, FinishReason.STOP), match

    def _finish(self, frame: Frame) -> None:
        if self._ending is None or self._open is not None:
            raise fault("ended the message without a reason, or inside a block")
        if self._has_counts:
            self._answer.usage = self._tally.usage
        self._answer.finish_choice(0, *self._ending)
        self._answer.finish()

    def _fail(self, frame: Frame) -> None:
        raise carried_error(frame)


def _tells_output(frame: Frame) -> bool:
    """Whether the counts of a message_delta are the last: what stands in message_start is not."""
    return frame.usage is not None and frame.usage.output_tokens is not None


_TAKES: Final[Mapping[str, Callable[[MessagesReader, Frame], None]]] = {
    "message_start": MessagesReader._start,
    "content_block_start": MessagesReader._begin,
    "content_block_delta": MessagesReader._go_on,
    "content_block_stop": MessagesReader._close,
    "message_delta": MessagesReader._note,
    "message_stop": MessagesReader._finish,
    "error": MessagesReader._fail,
}

# Kind of delta -> kind of block that it belongs to.
_DELTAS: Final[Mapping[str, str]] = {
    "text_delta": _TEXT,
    "thinking_delta": _THINKING,
    "input_json_delta": _TOOL,
}


class MessagesScanner:
    """Bytes of a stream that passes through."""

    def __init__(self) -> None:
        self._cutter = FrameCutter()
        self._tally = Tally()
        self._is_begun = False
        self._has_counts = False
        self._is_done = False
        self._num_output_bytes = 0

    @property
    def usage(self) -> Usage | None:
        """What was told by the last counts; None before them, when those of the output are still to come."""
        return self._tally.usage if self._has_counts else None

    @property
    def num_output_bytes(self) -> int:
        """Bytes of deltas so far."""
        return self._num_output_bytes

    @property
    def is_done(self) -> bool:
        """Whether message_stop has come. An error is no end: a stream that says one has failed."""
        return self._is_done

    @property
    def can_end(self) -> bool:
        """Whether it is done: this protocol always says its last word."""
        return self._is_done

    def feed(self, data: bytes) -> bytes:
        """Whole frames, unchanged. Raises the error that stands in the place of an answer, and UpstreamFault."""
        whole = self._cutter.feed(data)
        for raw in split_frames(whole):
            frame = parse_frame(raw)
            if frame is not None:
                self._look(*frame)
        return whole

    def _look(self, event: str, data: bytes) -> None:
        if event == "content_block_delta":  # nearly all of them, and none is decoded
            self._num_output_bytes += len(data)
            return
        if event and event not in _TAKES:
            return
        frame = read_frame(data)
        if frame.type == "error" and not self._is_begun:
            raise carried_error(frame)
        self._is_begun = True
        if frame.type == "content_block_delta":
            self._num_output_bytes += len(data)
        elif frame.type == "message_start":
            self._tally.add(None if frame.message is None else frame.message.usage)
        elif frame.type == "message_delta":
            self._tally.add(frame.usage)
            self._has_counts = self._has_counts or _tells_output(frame)
        self._is_done = self._is_done or frame.type == "message_stop"


def usage_of(body: bytes) -> Usage | None:
    """What a whole message told; None if nothing. A count costs nothing and tells nothing."""
    try:
        message = msgspec.json.decode(body, type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    tally = Tally()
    tally.add(message.usage)
    return tally.usage


class _Counted(msgspec.Struct):
    input_tokens: int


def decode(request: Request, model: str, body: bytes) -> list[Event]:
    """A count of tokens, the one answer that comes whole. Raises UpstreamFault."""
    assert request.task is Task.COUNT
    try:
        counted = msgspec.json.decode(body, type=_Counted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise fault("answered with no count of tokens") from None
    if not 0 <= counted.input_tokens <= 2**53:
        raise fault(f"counted {counted.input_tokens} tokens")
    return [Started(request.id, model, counted.input_tokens), Finished(Usage(counted.input_tokens, 0))]
