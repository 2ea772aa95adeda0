"""Ollama's answers: events become lines of JSON or one object, and times are told in nanoseconds.

Both writers obey the legal orders of events of OpenAI's chats (`openai_answers.TRANSITIONS`). A tool call is told
whole, because its arguments are an object on this wire. Durations come from a clock that is passed in: `load_duration`
is the time until the request was admitted, `prompt_eval_duration` from there to the first token, `eval_duration` the
rest.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.api.inputs import ResultTable
from headrace.api.ollama import EmbedCall, LoadCall, OllamaCall
from headrace.api.openai_answers import TRANSITIONS, State
from headrace.api.openai_logprobs import finite
from headrace.api.vectors import encode_floats
from headrace.core.clock import Clock
from headrace.core.errors import EngineFault
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
)

CONTENT_TYPE: Final = b"application/x-ndjson"
_REASONS: Final = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "stop",
    FinishReason.FILTERED: "stop",  # Ollama has no word for it
}

_encode_json = msgspec.json.Encoder().encode
# Characters at which Ollama's clients for Python would end a line, as JSON escapes them; other such are escaped anyway.
_LINE_ENDS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def shown_time(unix_s: float) -> str:
    """A time as Ollama writes it: RFC 3339, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Call:
    """A tool call that is being told."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments = ""

    def encode(self, index: int, reason: FinishReason) -> dict[str, Any] | None:
        """The call as an object; None if the end of the answer cut it off. Raises EngineFault."""
        try:
            arguments = msgspec.json.decode(self.arguments or "{}")
        except (msgspec.DecodeError, RecursionError, ValueError):
            arguments = None
        if isinstance(arguments, dict):
            return {"id": self.id, "function": {"index": index, "name": self.name, "arguments": arguments}}
        if reason in (FinishReason.LENGTH, FinishReason.FILTERED):
            return None
        raise EngineFault(f"the backend called the tool {self.name[:100]!r} with arguments that are no object.")


class _Answer:
    """Holds events to their order, times them, and knows what the last line says."""

    def __init__(self, call: OllamaCall, clock: Clock) -> None:
        self.call = call
        self.state = State.IDLE
        self.ending: dict[str, Any] = {}
        self._clock = clock
        self._created_s = clock.unix_s()
        self._marks = [clock.monotonic_s()]  # begun, admitted, first token
        self._calls: dict[int, _Call] = {}
        self._reason: FinishReason | None = None

    def step(self, event: Event) -> dict[str, Any] | None:
        """What an event adds to the answer: a message's fields, if anything. Raises EngineFault."""
        following = TRANSITIONS.get((self.state, type(event)))
        if following is None or (self._reason is not None and not isinstance(event, Finished)):
            raise EngineFault(f"the backend sent {type(event).__name__} while the answer was {self.state.value}.")
        self.state = following
        if len(self._marks) < 3 and not isinstance(event, Finished):
            self._mark(event)
        if isinstance(event, TextDelta):
            return _text(event) if event.text or event.logprobs else None
        if isinstance(event, ReasoningDelta):
            return {"thinking": event.text} if event.text else None
        if isinstance(event, ToolCallDelta):
            self._take(event)
        elif isinstance(event, ChoiceFinished):
            self._reason = event.reason
            calls = [call.encode(index, event.reason) for index, call in sorted(self._calls.items())]
            told = [call for call in calls if call is not None]
            return {"tool_calls": told} if told else None
        elif isinstance(event, Finished):
            self._end(event)
        return None

    def line(self, fields: dict[str, Any], **rest: Any) -> dict[str, Any]:
        """A whole answer or a line of a stream with these fields of its message."""
        logprobs = fields.pop("logprobs", None)
        text = fields.pop("content", "")
        if self.call.is_chat:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": text} | fields}
        else:
            said = {"response": text} | fields
        if logprobs is not None:
            said["logprobs"] = logprobs
        head = {"model": self.call.model, "created_at": shown_time(self._clock.unix_s())}
        return head | said | rest

    def _mark(self, event: Event) -> None:
        self._marks.append(self._clock.monotonic_s())
        if len(self._marks) == 2 and not isinstance(event, Started):
            self._marks.append(self._marks[-1])

    def _take(self, event: ToolCallDelta) -> None:
        call = self._calls.setdefault(event.index, _Call())
        call.id, call.name = event.id or call.id, event.name or call.name
        call.arguments += event.arguments

    def _end(self, event: Finished) -> None:
        if self._reason is None:
            raise EngineFault("the backend ended the answer before its choice.")
        now_s = self._clock.monotonic_s()
        begun_s, admitted_s, first_s = [*self._marks, now_s, now_s][:3]
        self.ending = {
            "done": True,
            "done_reason": _REASONS[self._reason],
            "total_duration": _ns(now_s - begun_s),
            "load_duration": _ns(admitted_s - begun_s),
            "prompt_eval_count": event.usage.prompt_tokens,
            "prompt_eval_duration": _ns(first_s - admitted_s),
            "eval_count": event.usage.completion_tokens,
            "eval_duration": _ns(now_s - first_s),
        }


class StreamWriter:
    """Events in, lines of JSON out; bytes may be empty."""

    def __init__(self, call: OllamaCall, clock: Clock) -> None:
        self._answer = _Answer(call, clock)

    @property
    def is_done(self) -> bool:
        """True after the last line."""
        return self._answer.state is State.DONE

    def encode(self, events: Iterable[Event]) -> bytes:
        """Lines for events that are at hand together. Raises EngineFault."""
        lines: list[bytes] = []
        for event in events:
            fields = self._answer.step(event)
            if fields is not None:
                lines.append(_encode_json(self._answer.line(fields, done=False)))
            if self.is_done:
                lines.append(_encode_json(self._answer.line({}, **self._answer.ending)))
        return b"".join(_one_line(line) + b"\n" for line in lines)


class WholeWriter:
    """Events in, one object out."""

    def __init__(self, call: OllamaCall, clock: Clock) -> None:
        self._answer = _Answer(call, clock)
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[Any] = []
        self._calls: list[Any] = []

    @property
    def is_done(self) -> bool:
        """True once everything has come."""
        return self._answer.state is State.DONE

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer. Raises EngineFault."""
        for event in events:
            fields = self._answer.step(event) or {}
            self._texts.append(fields.get("content", ""))
            self._thoughts.append(fields.get("thinking", ""))
            self._logprobs += fields.get("logprobs", ())
            self._calls += fields.get("tool_calls", ())

    def encode(self) -> bytes:
        """The answer. Raises EngineFault when the events ended too early."""
        if not self.is_done:
            raise EngineFault("the backend ended the stream before the answer was finished.")
        fields: dict[str, Any] = {"content": "".join(self._texts)}
        if any(self._thoughts):
            fields["thinking"] = "".join(self._thoughts)
        if self._calls:
            fields["tool_calls"] = self._calls
        if self._answer.call.request.logprobs is not None:
            fields["logprobs"] = self._logprobs
        return _encode_json(self._answer.line(fields, **self._answer.ending))


class EmbedAnswer:
    """The answer to a request for vectors; implements `inputs.InputsCall`."""

    def __init__(self, call: EmbedCall, clock: Clock) -> None:
        self._call = call
        self._clock = clock
        self._begun_s = clock.monotonic_s()
        self.request = call.request
        self.field = call.field

    def encode(self, table: ResultTable, created_s: int) -> Iterator[bytes]:
        """The answer's body, a vector a piece; this shape has no date in it."""
        vectors = table.embeddings()
        if self._call.is_legacy:
            yield b'{"embedding":' + encode_floats(vectors[0].vector) + b"}"
            return
        yield b'{"model":' + _encode_json(self._call.model) + b',"embeddings":['
        for result in vectors:
            yield (b"," if result.index else b"") + encode_floats(result.vector)
        ending = {
            "total_duration": _ns(self._clock.monotonic_s() - self._begun_s),
            "load_duration": 0,
            "prompt_eval_count": table.prompt_tokens,
        }
        yield b"]," + _encode_json(ending)[1:]


def encode_loaded(call: LoadCall, unix_s: float, *, is_unload: bool) -> bytes:
    """The answer to a body that asked for none."""
    ending = {"done": True, "done_reason": "unload" if is_unload else "load"}
    head = {"model": call.model, "created_at": shown_time(unix_s)}
    said: dict[str, dict[str, Any]] = {
        "chat": head | {"message": {"role": "assistant", "content": ""}} | ending,
        "generate": head | {"response": ""} | ending,
        "embed": {"model": call.model, "embeddings": []},
        "embeddings": {"embedding": []},
    }
    return _encode_json(said[call.kind])


def _text(event: TextDelta) -> dict[str, Any]:
    fields: dict[str, Any] = {"content": event.text}
    if event.logprobs:
        fields["logprobs"] = [_logprob(token) for token in event.logprobs]
    return fields


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    shown = {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.token_bytes)}
    return shown | {
        "top_logprobs": [
            {"token": text, "logprob": finite(value), "bytes": list(data)} for text, data, value in token.alternatives
        ]
    }


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _one_line(line: bytes) -> bytes:
    """JSON that has no end of a line in it, whoever reads it."""
    for raw, escaped in _LINE_ENDS:
        line = line.replace(raw, escaped)
    return line
