"""OpenAI's generation routes, outwards: events become chunks of a stream or one whole answer.

Both writers obey `TRANSITIONS`, the legal orders of events; a pair that is not in it is a defect of the backend and
ends the answer with EngineFault. The stream writer prepares every constant byte once, when the answer starts, so that a
delta costs one JSON string and one concatenation. It sends nothing for `Started`: until there is something to say, an
error can still have its own HTTP status. Error lines are written by `errors.py`; a stream that fails ends without
`[DONE]`, so that nobody takes half an answer for a whole one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from headrace.core.errors import EngineFault
from headrace.core.events import ChoiceFinished, Event, Finished, Started, TextDelta, Usage

DONE: Final = b"data: [DONE]\n\n"
_FINGERPRINT_CHARS: Final = 12

_encode_json = msgspec.json.Encoder().encode


class State(Enum):
    """Where an answer stands."""

    IDLE = "idle"
    OPEN = "open"
    DONE = "done"


TRANSITIONS: dict[tuple[State, type], State] = {
    (State.IDLE, Started): State.OPEN,
    (State.OPEN, TextDelta): State.OPEN,
    (State.OPEN, ChoiceFinished): State.OPEN,
    (State.OPEN, Finished): State.DONE,
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the two routes."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    has_roles: bool


CHAT = Dialect("chatcmpl-", "chat.completion", "chat.completion.chunk", has_roles=True)
COMPLETION = Dialect("cmpl-", "text_completion", "text_completion", has_roles=False)


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The constants of one answer. `created` is Unix time in whole seconds."""

    dialect: Dialect
    id: str
    created: int
    num_choices: int = 1
    include_usage: bool = False


class _Order:
    """Holds an answer to TRANSITIONS and each choice to: deltas, then one end."""

    def __init__(self, num_choices: int) -> None:
        self.state = State.IDLE
        self.open_choices = set(range(num_choices))

    def step(self, event: Event) -> None:
        if type(event) is TextDelta and self.state is State.OPEN and event.choice in self.open_choices:
            return  # the hot row of the table
        following = TRANSITIONS.get((self.state, type(event)))
        if following is None:
            raise EngineFault(f"the backend sent {type(event).__name__} while the answer was {self.state.value}.")
        if isinstance(event, TextDelta | ChoiceFinished):
            if event.choice not in self.open_choices:
                raise EngineFault(
                    f"the backend sent {type(event).__name__} for choice {event.choice}, which is not open."
                )
            if isinstance(event, ChoiceFinished):
                self.open_choices.discard(event.choice)
        elif following is State.DONE and self.open_choices:
            raise EngineFault(f"the backend ended the answer with choices {sorted(self.open_choices)} still open.")
        self.state = following


class StreamWriter:
    """Events in, bytes of a server-sent event stream out; bytes may be empty."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._order = _Order(head.num_choices)
        self._opening: dict[int, bytes] = {}  # choice -> its role chunk, until its first delta
        self._prefix: list[bytes] = []  # per choice, up to the delta's JSON string
        self._suffix = b""
        self._base = b""
        self._usage_null = b',"usage":null' if head.include_usage else b""

    @property
    def is_done(self) -> bool:
        """True after Finished: nothing may follow."""
        return self._order.state is State.DONE

    def encode(self, events: Iterable[Event]) -> bytes:
        """Chunks for events that are at hand together, to be sent in one write."""
        frames: list[bytes] = []
        for event in events:
            self._order.step(event)
            if isinstance(event, TextDelta):
                if event.text:  # empty when half a character is held back: nothing to say yet
                    if self._opening:
                        frames.append(self._opening.pop(event.choice, b""))
                    frames.append(self._prefix[event.choice] + _encode_json(event.text) + self._suffix)
            elif isinstance(event, Started):
                self._start(event)
            elif isinstance(event, ChoiceFinished):
                frames.append(self._opening.pop(event.choice, b"") + self._finish_frame(event))
            elif isinstance(event, Finished):
                frames.append(self._end(event.usage))
        return b"".join(frames)

    def _start(self, started: Started) -> None:
        head, dialect = self._head, self._head.dialect
        base = _identity(head, dialect.chunk_object, started)
        self._base = b"data: " + _encode_json(base)[:-1] + b',"choices":['
        tail = b',"logprobs":null,"finish_reason":null}]' + self._usage_null + b"}\n\n"
        key = b',"delta":{"content":' if dialect.has_roles else b',"text":'
        self._suffix = (b"}" if dialect.has_roles else b"") + tail
        self._prefix = [self._base + b'{"index":%d' % choice + key for choice in range(head.num_choices)]
        if dialect.has_roles:
            role = b',"delta":{"role":"assistant","content":"","refusal":null}'
            self._opening = {
                choice: self._base + b'{"index":%d' % choice + role + tail for choice in range(head.num_choices)
            }

    def _finish_frame(self, event: ChoiceFinished) -> bytes:
        body = b',"delta":{}' if self._head.dialect.has_roles else b',"text":""'
        reason = _encode_json(event.reason.value)
        end = b',"logprobs":null,"finish_reason":' + reason + b"}]" + self._usage_null + b"}\n\n"
        return self._base + b'{"index":%d' % event.choice + body + end

    def _end(self, usage: Usage) -> bytes:
        if not self._head.include_usage:
            return DONE
        return self._base + b'],"usage":' + _encode_json(_usage(usage)) + b"}\n\n" + DONE


class AnswerWriter:
    """Events in, one whole answer out."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._order = _Order(head.num_choices)
        self._texts: list[list[str]] = [[] for _ in range(head.num_choices)]
        self._reasons = [""] * head.num_choices
        self._started: Started | None = None
        self._usage: Usage | None = None

    @property
    def is_done(self) -> bool:
        """True after Finished: `encode` has everything it needs."""
        return self._order.state is State.DONE

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer."""
        for event in events:
            self._order.step(event)
            if isinstance(event, TextDelta):
                self._texts[event.choice].append(event.text)
            elif isinstance(event, ChoiceFinished):
                self._reasons[event.choice] = event.reason.value
            elif isinstance(event, Started):
                self._started = event
            elif isinstance(event, Finished):
                self._usage = event.usage

    def encode(self) -> bytes:
        """The answer as JSON. Raises EngineFault when the events ended too early."""
        if self._started is None or self._usage is None:
            raise EngineFault("the backend ended the stream before the answer was finished.")
        answer = _identity(self._head, self._head.dialect.whole_object, self._started)
        answer["choices"] = [self._choice(choice) for choice in range(self._head.num_choices)]
        answer["usage"] = _usage(self._usage)
        return _encode_json(answer)

    def _choice(self, choice: int) -> dict[str, Any]:
        text = "".join(self._texts[choice])
        ending = {"logprobs": None, "finish_reason": self._reasons[choice]}
        if self._head.dialect.has_roles:
            return {"index": choice, "message": {"role": "assistant", "content": text, "refusal": None}} | ending
        return {"index": choice, "text": text} | ending


def fingerprint(started: Started) -> str | None:
    """A short form of the digest of what answers, so that callers see when it changes."""
    digest = started.digests.get("model")
    return None if digest is None else "fp_" + digest.rpartition(":")[2][:_FINGERPRINT_CHARS]


def _identity(head: AnswerHead, object_name: str, started: Started) -> dict[str, Any]:
    return {
        "id": head.id,
        "object": object_name,
        "created": head.created,
        "model": started.model,
        "system_fingerprint": fingerprint(started),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
