"""OpenAI's generation routes, outwards: events become chunks of a stream.

Every constant byte is prepared once, when the answer starts, so that a delta of text costs one JSON string and one
concatenation. Nothing is sent for `Started`: until there is something to say, an error can still have its own HTTP
status. A stream that fails ends without `[DONE]`, so that nobody takes half an answer for a whole one.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from headrace.api.openai_answers import AnswerHead, Order, State, custom_call, explain, finish_reason, identity
from headrace.api.openai_logprobs import echoed_tokens, prompt_text
from headrace.api.openai_usage import encode_usage
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    PromptLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

DONE: Final = b"data: [DONE]\n\n"

_encode_json = msgspec.json.Encoder().encode


class StreamWriter:
    """Events in, bytes of a server-sent event stream out; bytes may be empty."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._order = Order(head)
        self._renderers = head.renderers()
        self._num_unsaid = head.num_choices if head.dialect.has_roles else 0  # the last choices have no role yet
        self._echoes: dict[int, bytes] = {}  # choice -> what comes before its first delta
        self._prefix: list[bytes] = []  # per choice, up to the delta's JSON string
        self._close = b"}" if head.dialect.has_roles else b""
        self._suffix = b""
        self._base = b""
        self._usage_null = b',"usage":null' if head.include_usage else b""
        self._started: Started | None = None
        self._num_tokens = 0
        self._custom: dict[int, list[ToolCallDelta]] = {}  # choice -> pieces of the call with free text that is open

    @property
    def is_done(self) -> bool:
        """True after Finished: nothing may follow."""
        return self._order.state is State.DONE

    def encode(self, events: Iterable[Event]) -> bytes:
        """Chunks for events that are at hand together, to be sent in one write."""
        frames: list[bytes] = []
        for event in events:
            self._order.step(event)
            if self._head.counts_on:
                self._count(event)
            if isinstance(event, TextDelta):
                logprobs = event.logprobs if self._renderers else ()
                if event.text or logprobs:  # neither when half a character is held back: nothing to say yet
                    if self._num_unsaid or self._echoes:
                        frames.append(self._opening(event.choice, b'""'))
                    suffix = self._logprobs_suffix(event.choice, logprobs) if logprobs else self._suffix
                    frames.append(self._prefix[event.choice] + _encode_json(event.text) + suffix)
            else:
                frames.append(self._frame(event))
        return b"".join(frames)

    def _frame(self, event: Event) -> bytes:
        """The chunk of an event that is no text."""
        if isinstance(event, ToolCallDelta):
            return self._call_frames(event)
        if isinstance(event, ReasoningDelta):
            return self._delta_frame(event.choice, _reasoning(event)) if event.text else b""
        if isinstance(event, ChoiceFinished):
            return self._held_call(event.choice) + self._opening(event.choice, b'""') + self._finish_frame(event)
        if isinstance(event, Finished):
            return self._end(event.usage)
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, PromptLogprobs):
            self._open_echo(event)
        return b""

    def _start(self, started: Started) -> None:
        head, dialect = self._head, self._head.dialect
        self._started = started
        base = identity(head, dialect.chunk_object, started)
        self._base = b"data: " + _encode_json(base)[:-1] + b',"choices":['
        self._set_suffix()
        key = b',"delta":{"content":' if dialect.has_roles else b',"text":'
        choices = range(head.num_choices)
        self._prefix = [self._place(choice) + key for choice in choices]
        for index, prompt in enumerate(head.prompts if head.echo else ()):
            if not prompt.is_heard:
                echo = _encode_json(prompt.text) + self._suffix
                self._echoes |= {choice: self._prefix[choice] + echo for choice in head.choices_of(index)}

    def _place(self, choice: int) -> bytes:
        return self._base + b'{"index":%d' % choice

    def _opening(self, choice: int, content: bytes) -> bytes:
        """What comes before a choice's first delta: an echo, or roles, of the choices before it, too. The official
        client's stream helper takes choices only in order."""
        frames = []
        role = b',"delta":{"role":"assistant","content":' + content + b',"refusal":null'
        first = self._head.num_choices - self._num_unsaid
        for unsaid in range(first, choice + 1) if self._num_unsaid else ():
            frames.append(self._place(unsaid) + role + self._suffix)
            self._num_unsaid -= 1
        return b"".join(frames) + self._echoes.pop(choice, b"")

    def _delta_frame(self, choice: int, delta: dict[str, Any]) -> bytes:
        """A chunk that is not text; a choice that begins with it has no content so far."""
        opening = self._opening(choice, b"null")
        return opening + self._place(choice) + b',"delta":' + _encode_json(delta)[:-1] + self._suffix

    def _call_frames(self, event: ToolCallDelta) -> bytes:
        """A piece of a call. Free text is JSON until its end, and is told when it is all there."""
        held = self._custom.get(event.choice)
        if held is not None and held[0].index == event.index:
            held.append(event)
            return b""
        frames = b"" if event.name is None else self._held_call(event.choice)
        if event.name in self._head.custom_tools:
            self._custom[event.choice] = [event]
            return frames
        return frames + self._delta_frame(event.choice, self._call(event))

    def _held_call(self, choice: int) -> bytes:
        """The call that is held of a choice, now that it has ended."""
        pieces = self._custom.pop(choice, None)
        if pieces is None:
            return b""
        first, arguments = pieces[0], "".join(piece.arguments for piece in pieces)
        told = {"index": first.index} | custom_call(first.id or "", first.name or "", arguments)
        return self._delta_frame(choice, {"tool_calls": [told]})

    def _call(self, event: ToolCallDelta) -> dict[str, Any]:
        function = {"arguments": event.arguments}
        if event.name is not None:
            function = {"name": event.name} | function
        if self._head.has_functions:
            return {"function_call": function}
        call: dict[str, Any] = {"index": event.index}
        if event.id is not None:
            call |= {"id": event.id, "type": "function"}
        return {"tool_calls": [call | {"function": function}]}

    def _open_echo(self, event: PromptLogprobs) -> None:
        if not self._head.echo:
            return
        prompt = self._head.prompt_of(event.choice)
        known = self._head.prompts[prompt].text
        text = prompt_text(event) if known is None else known
        tokens = echoed_tokens(event, text) if self._renderers else []
        for choice in self._head.choices_of(prompt):
            suffix = self._logprobs_suffix(choice, tokens) if tokens else self._suffix
            self._echoes[choice] = self._prefix[choice] + _encode_json(text) + suffix

    def _logprobs_suffix(self, choice: int, tokens: Iterable[TokenLogprob]) -> bytes:
        return self._close + b',"logprobs":' + _encode_json(self._renderers[choice].render(tokens)) + self._tail()

    def _set_suffix(self) -> None:
        self._suffix = self._close + b',"logprobs":null' + self._tail()

    def _count(self, event: Event) -> None:
        """Tell in the chunks of this event what was used up to it."""
        if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
            self._num_tokens += event.num_tokens
        started = event if isinstance(event, Started) else self._started
        if started is not None:
            used = Usage(started.prompt_tokens, self._num_tokens, started.cached_tokens)
            told = encode_usage(used, started.model, self._head.prices, names_content=self._head.names_content)
            self._usage_null = b',"usage":' + _encode_json(told)
            self._set_suffix()

    def _tail(self) -> bytes:
        return b',"finish_reason":null}]' + self._usage_null + b"}\n\n"

    def _finish_frame(self, event: ChoiceFinished) -> bytes:
        reason = finish_reason(self._head, event.reason).encode()
        body = b',"delta":{}' if self._head.dialect.has_roles else b',"text":""'
        end = b',"logprobs":null,"finish_reason":"' + reason + b'"}]' + self._usage_null
        is_last = not self._order.open_choices and not self._head.include_usage
        end += self._explanation() if is_last else b""
        return self._place(event.choice) + body + end + b"}\n\n"

    def _end(self, usage: Usage) -> bytes:
        if not self._head.include_usage or self._started is None:
            return DONE
        head = self._head
        told = encode_usage(usage, self._started.model, head.prices, names_content=head.names_content)
        return self._base + b'],"usage":' + _encode_json(told) + self._explanation() + b"}\n\n" + DONE

    def _explanation(self) -> bytes:
        if not self._head.explains_cache or self._started is None:
            return b""
        return b',"headrace":' + _encode_json(explain(self._started))


def _reasoning(event: ReasoningDelta) -> dict[str, Any]:
    return {"reasoning_content": event.text, "reasoning": event.text}
