"""Anthropic's Messages, outwards: events become the frames of a stream or one whole message.

    message_start  (content_block_start content_block_delta* content_block_stop)*  message_delta  message_stop

Both writers obey `TRANSITIONS`, the legal orders of events; a pair that is not in it is a defect of the backend and
ends the answer with EngineFault. Text, thinking and each tool call are blocks of their own, one after the other. The
stream writer sends nothing for `Started`: until there is something to say, an error can still have its own HTTP status;
a `ping` may come before it, which clients skip. Errors are written by `errors.py`; a stream that fails ends without
`message_stop`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from headrace.api.anthropic import Call
from headrace.api.anthropic_thinking import seal
from headrace.api.openai_usage import cost_field
from headrace.core.errors import EngineFault
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.ledger import LONG_TTL_S, Ledger, PriceList

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'

_encode_json = msgspec.json.Encoder().encode

Watch = Callable[[Started], dict[str, Any] | None]
"""Is told when an answer starts; says what its `diagnostics` are."""


class State(Enum):
    """Where an answer stands: what it said last, if it has begun and not ended."""

    IDLE = "idle"
    BEGUN = "begun"
    TEXT = "text"
    THINKING = "thinking"
    TOOL = "tool_use"
    ENDED = "ended"
    DONE = "done"


_SPEAKING: Final = (State.BEGUN, State.TEXT, State.THINKING, State.TOOL)

TRANSITIONS: Final[dict[tuple[State, type], State]] = {
    (State.IDLE, Started): State.BEGUN,
    **{(state, TextDelta): State.TEXT for state in _SPEAKING},
    **{(state, ReasoningDelta): State.THINKING for state in _SPEAKING},
    **{(state, ToolCallDelta): State.TOOL for state in _SPEAKING},
    **{(state, ChoiceFinished): State.ENDED for state in _SPEAKING},
    (State.ENDED, Finished): State.DONE,
}

_STOP_REASONS: Final = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.FILTERED: "refusal",
}

Delta = TextDelta | ReasoningDelta | ToolCallDelta


class _Order:
    """Holds an answer to TRANSITIONS and says where blocks begin and end."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self._tool = -1

    def step(self, event: Event) -> bool:
        """Whether a new block begins. Raises EngineFault."""
        following = TRANSITIONS.get((self.state, type(event)))
        if following is None or getattr(event, "choice", 0) != 0:
            raise EngineFault(f"the backend sent {type(event).__name__} while the answer was {self.state.value}.")
        if isinstance(event, TextDelta | ReasoningDelta) and not event.text:
            return False  # half a character is held back, or there was nothing: no block yet, and none that ends
        begins = isinstance(event, Delta) and following is not self.state
        if isinstance(event, ToolCallDelta):
            begins = begins or event.index != self._tool
            # Blocks come one after the other: a call that was left cannot go on, and one that is new needs a name.
            if begins and (event.index <= self._tool or event.id is None or event.name is None):
                raise EngineFault(f"the backend sent a piece of tool call {event.index} out of order.")
            self._tool = event.index
        self.state = following
        return begins


@dataclass(slots=True)
class _Block:
    """A block as far as it is written."""

    kind: State
    pieces: list[str]
    id: str = ""
    name: str = ""

    def read(self, event: Delta) -> str:
        """What a delta adds to it."""
        return event.arguments if isinstance(event, ToolCallDelta) else event.text


def _open(event: Delta, kind: State) -> _Block:
    if isinstance(event, ToolCallDelta):
        return _Block(kind, [], tool_id(event.id or ""), event.name or "")
    return _Block(kind, [])


class StreamWriter:
    """Events in, bytes of a server-sent event stream out; bytes may be empty."""

    def __init__(self, call: Call, watch: Watch) -> None:
        self._call = call
        self._model = ""
        self._watch = watch
        self._order = _Order()
        self._opening = b""  # message_start, until there is something to say
        self._block: _Block | None = None
        self._index = -1
        self._prefix = b""  # of a delta of the open block, up to its JSON string
        self._finished: ChoiceFinished | None = None

    @property
    def is_done(self) -> bool:
        """True after Finished: nothing may follow."""
        return self._order.state is State.DONE

    def encode(self, events: Iterable[Event]) -> bytes:
        """Frames for events that are at hand together, to be sent in one write. Raises EngineFault."""
        frames: list[bytes] = []
        for event in events:
            if type(event) is TextDelta and self._order.state is State.TEXT and event.choice == 0:  # the hot row
                if event.text:
                    frames.append(self._prefix + _encode_json(event.text) + b"}}\n\n")
                continue
            begins = self._order.step(event)
            if isinstance(event, Delta):
                if begins:
                    frames += [self._take_opening(), self._close(), self._begin(event)]
                frames.append(self._delta(event))
            elif isinstance(event, Started):
                self._opening = self._start(event)
            elif isinstance(event, ChoiceFinished):
                self._finished = event
                frames += [self._take_opening(), self._close()]
            elif isinstance(event, Finished):
                frames.append(self._end(event.usage))
        return b"".join(frames)

    def _start(self, started: Started) -> bytes:
        usage = Usage(started.prompt_tokens, 0, started.cached_tokens, cache_writes=started.cache_writes)
        self._model = started.model
        message = _message(self._call, started, self._watch(started))
        message["usage"] = _usage(usage, started.model, self._call.prices)
        return _frame("message_start", {"message": message})

    def _take_opening(self) -> bytes:
        opening, self._opening = self._opening, b""
        return opening

    def _begin(self, event: Delta) -> bytes:
        self._index += 1
        block = self._block = _open(event, self._order.state)
        kind, field = _DELTAS[block.kind]
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % self._index
        self._prefix = head + b'"delta":{"type":"' + kind + b'","' + field + b'":'
        return _frame("content_block_start", {"index": self._index, "content_block": _empty(block)})

    def _delta(self, event: Delta) -> bytes:
        block = self._block
        text = "" if block is None else block.read(event)
        if not text or block is None:
            return b""
        if block.kind is State.THINKING:
            block.pieces.append(text)  # its signature needs all of it
            if self._call.hides_thinking:
                return b""
        return self._prefix + _encode_json(text) + b"}}\n\n"

    def _close(self) -> bytes:
        block, self._block = self._block, None
        if block is None:
            return b""
        frame = b""
        if block.kind is State.THINKING:
            signature = seal("".join(block.pieces), is_hidden=self._call.hides_thinking)
            delta = {"type": "signature_delta", "signature": signature}
            frame = _frame("content_block_delta", {"index": self._index, "delta": delta})
        return frame + _frame("content_block_stop", {"index": self._index})

    def _end(self, usage: Usage) -> bytes:
        assert self._finished is not None
        said = {
            "delta": _ending(self._call, self._finished, usage),
            "usage": _usage(usage, self._model, self._call.prices),
        }
        if self._call.lists_edits:
            said["context_management"] = {"applied_edits": []}
        return _frame("message_delta", said) + _frame("message_stop", {})


class AnswerWriter:
    """Events in, one whole message out; `tier` is what its usage calls the service."""

    def __init__(self, call: Call, watch: Watch, tier: str = "standard") -> None:
        self._call = call
        self._tier = tier
        self._watch = watch
        self._order = _Order()
        self._blocks: list[_Block] = []
        self._message: dict[str, Any] = {}
        self._finished: ChoiceFinished | None = None
        self._usage: Usage | None = None

    @property
    def is_done(self) -> bool:
        """True after Finished: `encode` has everything it needs."""
        return self._order.state is State.DONE

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer. Raises EngineFault."""
        for event in events:
            begins = self._order.step(event)
            if isinstance(event, Delta):
                if begins:
                    self._blocks.append(_open(event, self._order.state))
                # A delta without text begins no block, and may come before the first.
                if self._blocks and (text := self._blocks[-1].read(event)):
                    self._blocks[-1].pieces.append(text)
            elif isinstance(event, Started):
                self._message = _message(self._call, event, self._watch(event))
            elif isinstance(event, ChoiceFinished):
                self._finished = event
            elif isinstance(event, Finished):
                self._usage = event.usage

    def encode(self) -> bytes:
        """The message as JSON. Raises EngineFault when the events ended too early."""
        if self._finished is None or self._usage is None:
            raise EngineFault("the backend ended the stream before the answer was finished.")
        message = self._message | _ending(self._call, self._finished, self._usage)
        message["content"] = [self._content(block) for block in self._blocks]
        usage = _usage(self._usage, message["model"], self._call.prices)
        message["usage"] = usage | {"service_tier": self._tier}
        if self._call.lists_edits:
            message["context_management"] = {"applied_edits": []}
        return _encode_json(message)

    def _content(self, block: _Block) -> dict[str, Any]:
        text = "".join(block.pieces)
        if block.kind is State.TEXT:
            return _empty(block) | {"text": text}
        if block.kind is State.TOOL:
            return _empty(block) | {"input": tool_input(text)}
        hides = self._call.hides_thinking
        return _empty(block) | {"thinking": "" if hides else text, "signature": seal(text, is_hidden=hides)}


class CountWriter:
    """Events of a request that only counts in, `{"input_tokens": ...}` out."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._num_tokens: int | None = None
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """True after Finished."""
        return self._is_done

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer."""
        for event in events:
            if isinstance(event, Started):
                self._num_tokens = event.prompt_tokens
            self._is_done = isinstance(event, Finished)

    def encode(self) -> bytes:
        """The count as JSON. Raises EngineFault when the events ended too early."""
        if self._num_tokens is None:
            raise EngineFault("the backend ended the stream before the input was counted.")
        count: dict[str, Any] = {"input_tokens": self._num_tokens}
        if self._call.left_out:
            count["headrace"] = {"left_out": list(self._call.left_out)}
        return _encode_json(count)


def tool_id(backend_id: str) -> str:
    """A call's id in Anthropic's form; letters, digits, `_` and `-` alone are allowed in it."""
    kept = backend_id.removeprefix("call_")
    if not kept.isascii() or not kept.replace("_", "").replace("-", "").isalnum():
        kept = kept.encode().hex()
    return kept if kept.startswith("toolu_") else "toolu_" + kept


def tool_input(arguments: str) -> dict[str, Any]:
    """What a call is given. Text that is no JSON object, as when an answer was cut, comes as Anthropic advises."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


_DELTAS: Final = {
    State.TEXT: (b"text_delta", b"text"),
    State.THINKING: (b"thinking_delta", b"thinking"),
    State.TOOL: (b"input_json_delta", b"partial_json"),
}


def _empty(block: _Block) -> dict[str, Any]:
    """A block as it is opened."""
    if block.kind is State.TEXT:
        return {"type": "text", "text": "", "citations": None}
    if block.kind is State.THINKING:
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _message(call: Call, started: Started, diagnostics: dict[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": call.request.id,
        "type": "message",
        "role": "assistant",
        "model": started.model,
        "content": [],
        "container": None,
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }
    if call.is_diagnosed:
        message["diagnostics"] = diagnostics
    own: dict[str, Any] = {}
    if call.left_out:
        own["left_out"] = list(call.left_out)
    if call.explains_cache:
        miss = started.cache_miss
        own["cache_miss"] = miss and {"reason": miss.reason.value, "token": miss.token, "message": miss.message}
    return message | ({"headrace": own} if own else {})


def _ending(call: Call, finished: ChoiceFinished, usage: Usage) -> dict[str, Any]:
    match = finished.stop_match
    reason = _STOP_REASONS[finished.reason] if match is None else "stop_sequence"
    if reason == "max_tokens" and usage.completion_tokens < (call.request.limits.max_tokens or 0):
        reason = "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": match, "stop_details": None}


def _usage(usage: Usage, model: str, prices: PriceList) -> dict[str, Any]:
    ledger = Ledger.of(usage)
    long = ledger.written_for(LONG_TTL_S)
    return {
        "input_tokens": ledger.uncached_tokens,
        "cache_creation_input_tokens": ledger.written_tokens,
        "cache_read_input_tokens": ledger.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": ledger.written_tokens - long,
            "ephemeral_1h_input_tokens": long,
        },
        "output_tokens": ledger.completion_tokens,
        "output_tokens_details": {"thinking_tokens": ledger.reasoning_tokens},
        "server_tool_use": None,
        "service_tier": "standard",
        **cost_field(ledger, model, prices),
    }


def _frame(name: str, data: dict[str, Any]) -> bytes:
    body = _encode_json({"type": name} | data)
    return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"
