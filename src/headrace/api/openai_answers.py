"""OpenAI's generation routes, outwards: events become chunks of a stream or one whole answer.

Both writers obey `TRANSITIONS`, the legal orders of events; a pair that is not in it is a defect of the backend and
ends the answer with EngineFault. The stream writer prepares every constant byte once, when the answer starts, so that a
delta costs one JSON string and one concatenation. It sends nothing for `Started`: until there is something to say, an
error can still have its own HTTP status. Error lines are written by `errors.py`; a stream that fails ends without
`[DONE]`, so that nobody takes half an answer for a whole one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from headrace.api.openai import Call
from headrace.api.openai_logprobs import (
    ChatRenderer,
    CompletionRenderer,
    Renderer,
    echoed_tokens,
    prompt_table,
    prompt_text,
)
from headrace.core.errors import EngineFault, InvalidRequest
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    PromptLogprobs,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)

DONE: Final = b"data: [DONE]\n\n"
# A whole answer is held until it is complete, and log-probabilities are far longer than its text. A stream holds none.
MAX_LOGPROBS: Final = 1_000_000
_FINGERPRINT_CHARS: Final = 12

_encode_json = msgspec.json.Encoder().encode


class State(Enum):
    """Where an answer stands."""

    IDLE = "idle"
    BEGUN = "begun"  # started, and nothing said
    OPEN = "open"
    DONE = "done"


TRANSITIONS: dict[tuple[State, type], State] = {
    (State.IDLE, Started): State.BEGUN,
    (State.BEGUN, PromptLogprobs): State.OPEN,
    (State.BEGUN, TextDelta): State.OPEN,
    (State.BEGUN, ChoiceFinished): State.OPEN,
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
    """The constants of one answer. `created` is Unix time in whole seconds.

    `logprobs` and `prompt_logprobs` are None (off) or the number of alternatives to show. `prompt` is the text that an
    `echo` begins with, None when it is known only to the backend; `hears_prompt` says that PromptLogprobs must come.
    """

    dialect: Dialect
    id: str
    created: int
    num_choices: int = 1
    include_usage: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    prompt: str | None = None
    hears_prompt: bool = False
    explains_cache: bool = False

    def renderers(self) -> list[Renderer]:
        """One for each choice; none when nobody asked for log-probabilities."""
        if self.logprobs is None:
            return []
        kind = ChatRenderer if self.dialect.has_roles else CompletionRenderer
        return [kind(self.logprobs) for _ in range(self.num_choices)]


def answer_head(dialect: Dialect, call: Call, created: int) -> AnswerHead:
    """The constants of the answer to a call."""
    request = call.request
    return AnswerHead(
        dialect,
        request.id,
        created,
        request.sampling.num_choices,
        call.include_usage,
        logprobs=request.logprobs,
        prompt_logprobs=call.prompt_logprobs,
        echo=call.echo,
        prompt=request.prompt,
        hears_prompt=request.prompt_logprobs is not None,
        explains_cache=request.cache.explain,
    )


class _Order:
    """Holds an answer to TRANSITIONS and each choice to: deltas, then one end."""

    def __init__(self, head: AnswerHead) -> None:
        self.state = State.IDLE
        self.open_choices = set(range(head.num_choices))
        self._hears_prompt = head.hears_prompt

    def step(self, event: Event) -> None:
        if type(event) is TextDelta and self.state is State.OPEN and event.choice in self.open_choices:
            return  # the hot row of the table
        following = TRANSITIONS.get((self.state, type(event)))
        if following is None:
            raise EngineFault(f"the backend sent {type(event).__name__} while the answer was {self.state.value}.")
        if self.state is State.BEGUN and isinstance(event, PromptLogprobs) != self._hears_prompt:
            raise EngineFault(f"the backend sent {type(event).__name__} first, but that is not what was asked for.")
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
        self._order = _Order(head)
        self._renderers = head.renderers()
        self._opening: dict[int, bytes] = {}  # choice -> what comes before its first delta: its role, or an echo
        self._prefix: list[bytes] = []  # per choice, up to the delta's JSON string
        self._close = b"}" if head.dialect.has_roles else b""
        self._suffix = b""
        self._base = b""
        self._usage_null = b',"usage":null' if head.include_usage else b""
        self._started: Started | None = None

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
                logprobs = event.logprobs if self._renderers else ()
                if event.text or logprobs:  # neither when half a character is held back: nothing to say yet
                    if self._opening:
                        frames.append(self._opening.pop(event.choice, b""))
                    suffix = self._logprobs_suffix(event.choice, logprobs) if logprobs else self._suffix
                    frames.append(self._prefix[event.choice] + _encode_json(event.text) + suffix)
            elif isinstance(event, Started):
                self._start(event)
            elif isinstance(event, PromptLogprobs):
                self._open_echo(event)
            elif isinstance(event, ChoiceFinished):
                frames.append(self._opening.pop(event.choice, b"") + self._finish_frame(event))
            elif isinstance(event, Finished):
                frames.append(self._end(event.usage))
        return b"".join(frames)

    def _start(self, started: Started) -> None:
        head, dialect = self._head, self._head.dialect
        self._started = started
        base = _identity(head, dialect.chunk_object, started)
        self._base = b"data: " + _encode_json(base)[:-1] + b',"choices":['
        self._suffix = self._close + b',"logprobs":null' + self._tail()
        key = b',"delta":{"content":' if dialect.has_roles else b',"text":'
        self._prefix = [self._base + b'{"index":%d' % choice + key for choice in range(head.num_choices)]
        if dialect.has_roles:
            role = b',"delta":{"role":"assistant","content":"","refusal":null'
            self._opening = {
                choice: self._base + b'{"index":%d' % choice + role + self._suffix for choice in range(head.num_choices)
            }
        elif head.echo and not head.hears_prompt:
            text = _encode_json(head.prompt)
            self._opening = {choice: prefix + text + self._suffix for choice, prefix in enumerate(self._prefix)}

    def _open_echo(self, event: PromptLogprobs) -> None:
        if not self._head.echo:
            return
        text = prompt_text(event) if self._head.prompt is None else self._head.prompt
        tokens = echoed_tokens(event, text) if self._renderers else []
        for choice, prefix in enumerate(self._prefix):
            suffix = self._logprobs_suffix(choice, tokens) if tokens else self._suffix
            self._opening[choice] = prefix + _encode_json(text) + suffix

    def _logprobs_suffix(self, choice: int, tokens: Iterable[TokenLogprob]) -> bytes:
        return self._close + b',"logprobs":' + _encode_json(self._renderers[choice].render(tokens)) + self._tail()

    def _tail(self) -> bytes:
        return b',"finish_reason":null}]' + self._usage_null + b"}\n\n"

    def _finish_frame(self, event: ChoiceFinished) -> bytes:
        body = b',"delta":{}' if self._head.dialect.has_roles else b',"text":""'
        end = b',"logprobs":null,"finish_reason":' + _encode_json(event.reason.value) + b"}]" + self._usage_null
        is_last = not self._order.open_choices and not self._head.include_usage
        end += self._explanation() if is_last else b""
        return self._base + b'{"index":%d' % event.choice + body + end + b"}\n\n"

    def _end(self, usage: Usage) -> bytes:
        if not self._head.include_usage:
            return DONE
        return self._base + b'],"usage":' + _encode_json(_usage(usage)) + self._explanation() + b"}\n\n" + DONE

    def _explanation(self) -> bytes:
        if not self._head.explains_cache or self._started is None:
            return b""
        return b',"headrace":' + _encode_json(_explain(self._started))


class AnswerWriter:
    """Events in, one whole answer out."""

    def __init__(self, head: AnswerHead, max_logprobs: int = MAX_LOGPROBS) -> None:
        self._head = head
        self._max_logprobs = max_logprobs
        self._order = _Order(head)
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(head.num_choices)]
        self._num_logprobs = 0
        self._texts: list[list[str]] = [[] for _ in range(head.num_choices)]
        self._reasons = [""] * head.num_choices
        self._started: Started | None = None
        self._prompt: PromptLogprobs | None = None
        self._usage: Usage | None = None

    @property
    def is_done(self) -> bool:
        """True after Finished: `encode` has everything it needs."""
        return self._order.state is State.DONE

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer. Raises EngineFault, and InvalidRequest for too many log-probabilities."""
        for event in events:
            self._order.step(event)
            if isinstance(event, TextDelta):
                self._texts[event.choice].append(event.text)
                if event.logprobs:
                    self._keep(event)
            elif isinstance(event, ChoiceFinished):
                self._reasons[event.choice] = event.reason.value
            elif isinstance(event, Started):
                self._started = event
            elif isinstance(event, PromptLogprobs):
                self._prompt = event
            elif isinstance(event, Finished):
                self._usage = event.usage

    def _keep(self, event: TextDelta) -> None:
        if self._head.logprobs is None:
            return
        self._logprobs[event.choice].extend(event.logprobs)
        self._num_logprobs += sum(1 + len(token.alternatives) for token in event.logprobs)
        if self._num_logprobs > self._max_logprobs:
            raise InvalidRequest(
                f"logprobs: the answer has more than {self._max_logprobs} of them; stream it, or ask for fewer.",
                param="logprobs",
            )

    def encode(self) -> bytes:
        """The answer as JSON. Raises EngineFault when the events ended too early."""
        if self._started is None or self._usage is None:
            raise EngineFault("the backend ended the stream before the answer was finished.")
        head = self._head
        answer = _identity(head, head.dialect.whole_object, self._started)
        renderers: Sequence[Renderer | None] = head.renderers() or [None] * head.num_choices
        answer["choices"] = [self._choice(choice, renderer) for choice, renderer in enumerate(renderers)]
        answer["usage"] = _usage(self._usage)
        if head.dialect.has_roles:
            answer |= self._prompt_field()
        if head.explains_cache:
            answer["headrace"] = _explain(self._started)
        return _encode_json(answer)

    def _choice(self, choice: int, renderer: Renderer | None) -> dict[str, Any]:
        text, tokens = "".join(self._texts[choice]), self._logprobs[choice]
        if self._head.echo:
            prompt = self._head.prompt
            if prompt is None:
                prompt = "" if self._prompt is None else prompt_text(self._prompt)
            if self._prompt is not None:
                tokens = [*echoed_tokens(self._prompt, prompt), *tokens]
            text = prompt + text
        logprobs = None if renderer is None else renderer.render(tokens)
        ending = {"logprobs": logprobs, "finish_reason": self._reasons[choice]}
        if self._head.dialect.has_roles:
            return {"index": choice, "message": {"role": "assistant", "content": text, "refusal": None}} | ending
        return {"index": choice, "text": text} | ending | self._prompt_field()

    def _prompt_field(self) -> dict[str, Any]:
        """vLLM's: beside the choices of a chat, inside each choice of a completion."""
        if self._prompt is None or self._head.prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": prompt_table(self._prompt, self._head.prompt_logprobs)}


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


def _explain(started: Started) -> dict[str, Any]:
    miss = started.cache_miss
    if miss is None:
        return {"cache_miss": None}
    return {"cache_miss": {"reason": miss.reason.value, "token": miss.token, "message": miss.message}}


def _usage(usage: Usage) -> dict[str, Any]:
    prompt_details = {"cached_tokens": usage.cached_tokens, "audio_tokens": 0}
    if usage.disk_tokens:
        prompt_details["disk_tokens"] = usage.disk_tokens
    if usage.cache_writes:
        prompt_details["cache_write_tokens"] = sum(tokens for _, tokens in usage.cache_writes)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
