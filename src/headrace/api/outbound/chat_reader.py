"""Streams of Chat Completions and of Completions as events, from OpenAI and from those who speak alike.

What providers do differently and is read as it is meant: calls whole in one chunk, without ids, without an index, or
all with index 0; names and ids repeated on every piece; arguments that are an object; reasoning under two names or as
parts of the content (Mistral); usage in the last chunk of a choice, in a chunk of its own, or nowhere; streams that end
without `[DONE]`. What contradicts itself is an UpstreamFault.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.api.outbound.answer_state import AnswerState
from headrace.api.outbound.chat_refusals import read_error_event, read_error_frame
from headrace.api.outbound.chat_usage import ChatUsage, read_usage
from headrace.core.errors import UpstreamFault
from headrace.core.events import Event, FinishReason, TokenLogprob
from headrace.core.request import Request

DONE: Final = b"[DONE]"

_REASONS: Final = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "complete": FinishReason.STOP,  # Cohere
    "normal": FinishReason.STOP,  # Qianfan
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,  # Mistral: the context was full
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.FILTERED,
    "safety": FinishReason.FILTERED,  # Gemini
    "recitation": FinishReason.FILTERED,
    "sensitive": FinishReason.FILTERED,  # GLM
}


class TopToken(msgspec.Struct):
    """A likely token at a place."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class ChatToken(TopToken):
    """The token at a place, and the likely ones."""

    top_logprobs: list[TopToken] | None = None


class ChatLogprobs(msgspec.Struct):
    """`logprobs` of a chat's choice; those of a refusal stand apart."""

    content: list[ChatToken] | None = None
    refusal: list[ChatToken] | None = None


class TextLogprobs(msgspec.Struct):
    """`logprobs` of a completion's choice: lists side by side."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class CalledFunction(msgspec.Struct):
    """A piece of a function's call."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallDelta(msgspec.Struct):
    """A piece of one of `tool_calls`."""

    index: int | None = None
    id: str | None = None
    function: CalledFunction | None = None


class Delta(msgspec.Struct):
    """What is new of a choice. Content is a text, or Mistral's list of parts."""

    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: CalledFunction | None = None


class ChatChoice(msgspec.Struct):
    """One choice of a chunk; `message` stands instead of `delta` where a provider sends a whole answer as a stream."""

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the string or the token that ended it


class Chunk(msgspec.Struct):
    """What a chunk may hold beside choices. An older vLLM puts an error's words at the top."""

    usage: ChatUsage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None
    code: Any = None

    @property
    def failure(self) -> Any:
        """The error that it is, None if it is none."""
        if self.error is None and self.object == "error":
            return {"message": self.message, "code": self.code}
        return self.error


class ChatChunk(Chunk):
    """One chunk of a chat."""

    choices: list[ChatChoice] | None = None


class TextChoice(msgspec.Struct):
    """One choice of a completion's chunk."""

    index: int = 0
    text: str | None = None
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class TextChunk(Chunk):
    """One chunk of a completion."""

    choices: list[TextChoice] | None = None


_BYTES_NAME: Final = re.compile(r"bytes:(?:\\x[0-9a-f]{2})+")

_decode_chat = msgspec.json.Decoder(ChatChunk).decode
_decode_text = msgspec.json.Decoder(TextChunk).decode


class _ChunkReader:
    """What both routes do alike."""

    def __init__(self, request: Request, model: str) -> None:
        self._state = AnswerState(request, model)
        self._tells_logprobs = request.logprobs is not None

    @property
    def is_done(self) -> bool:
        """True once `Finished` was told."""
        return self._state.is_done

    def feed(self, event: str, data: bytes) -> list[Event]:
        """What one server-sent event says. Raises the error that it carries, and UpstreamFault for garbage."""
        if data.startswith(DONE):
            self._state.finish()
        elif event == "error":
            raise read_error_event(data)
        elif not self.is_done and data:
            self._read(data)
        return self._state.take()

    def end(self) -> list[Event]:
        """The connection is at its end. Raises UpstreamFault if the answer was not whole."""
        self._state.finish()
        return self._state.take()

    def _read(self, data: bytes) -> None:
        raise NotImplementedError

    def _note(self, chunk: ChatChunk | TextChunk) -> None:
        """What a chunk says beside its choices."""
        if (failure := chunk.failure) is not None:
            raise read_error_frame(failure)
        if chunk.usage is not None:
            self._state.usage = read_usage(chunk.usage)
        if chunk.choices:
            self._state.begin(self._state.usage)


@dataclass(slots=True)
class _Call:
    """A call as a provider tells it. `number` is that of our events, None before its name has come."""

    index: int | None
    id: str | None
    number: int | None = None
    held: str = ""
    has_arguments: bool = False


class ChatReader(_ChunkReader):
    """One chat's stream in, events out."""

    def __init__(self, request: Request, model: str) -> None:
        super().__init__(request, model)
        self._calls: dict[int, list[_Call]] = {}  # by choice

    def _read(self, data: bytes) -> None:
        try:
            chunk = _decode_chat(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
            raise garbage(error) from None
        self._note(chunk)
        for choice in chunk.choices or ():
            self._read_choice(choice)

    def _read_choice(self, choice: ChatChoice) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            self._read_delta(choice.index, delta, choice.logprobs)
        if choice.finish_reason:
            if any(call.number is None for call in self._calls.get(choice.index, ())):
                raise UpstreamFault("the backend called a tool and did not say which.")
            match = choice.stop_reason if isinstance(choice.stop_reason, str) else None
            self._state.finish_choice(choice.index, reason_of(choice.finish_reason), match)

    def _read_delta(self, index: int, delta: Delta, logprobs: ChatLogprobs | None) -> None:
        state = self._state
        thought, text = _parts(delta.content) if isinstance(delta.content, list) else ("", delta.content or "")
        state.add_reasoning(index, delta.reasoning_content or delta.reasoning or thought)
        state.add_text(index, text + (delta.refusal or ""), self._logprobs(logprobs))
        if delta.refusal:
            state.refuse(index)
        for call in delta.tool_calls or ():
            self._read_call(index, call)
        if delta.function_call is not None:
            self._read_call(index, CallDelta(0, None, delta.function_call))

    def _read_call(self, choice: int, piece: CallDelta) -> None:
        function = piece.function or CalledFunction()
        arguments = function.arguments or ""
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        calls = self._calls.setdefault(choice, [])
        call = _called(calls, piece, function.name)
        if call is None:
            call = _Call(piece.index, piece.id)
            calls.append(call)
        call.has_arguments = call.has_arguments or bool(arguments)
        if call.number is not None:
            self._state.add_arguments(choice, call.number, arguments)
        elif function.name:
            call.number = self._state.begin_call(choice, call.id or piece.id, function.name, call.held + arguments)
        else:
            call.held += arguments

    def _logprobs(self, told: ChatLogprobs | None) -> tuple[TokenLogprob, ...]:
        if told is None or not self._tells_logprobs:
            return ()
        return token_logprobs((*(told.content or ()), *(told.refusal or ())))


class TextReader(_ChunkReader):
    """One completion's stream in, events out."""

    def _read(self, data: bytes) -> None:
        try:
            chunk = _decode_text(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
            raise garbage(error) from None
        self._note(chunk)
        for choice in chunk.choices or ():
            self._state.add_text(choice.index, choice.text or "", self._logprobs(choice.logprobs))
            if choice.finish_reason:
                match = choice.stop_reason if isinstance(choice.stop_reason, str) else None
                self._state.finish_choice(choice.index, reason_of(choice.finish_reason), match)

    def _logprobs(self, told: TextLogprobs | None) -> tuple[TokenLogprob, ...]:
        if told is None or not self._tells_logprobs:
            return ()
        tokens, logprobs = told.tokens or [], told.token_logprobs or []
        tops = told.top_logprobs or [None] * len(tokens)
        if not len(tokens) == len(logprobs) == len(tops):
            raise UpstreamFault("the backend's lists of log-probabilities have different lengths.")
        return tuple(
            TokenLogprob(
                _text_of(token),
                _named_bytes(token),
                math.nan if logprob is None else logprob,
                tuple(
                    (_text_of(name), _named_bytes(name), likely)
                    for name, likely in sorted((top or {}).items(), key=lambda one: -one[1])
                ),
            )
            for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
        )


def token_logprobs(tokens: Sequence[ChatToken]) -> tuple[TokenLogprob, ...]:
    """Tokens as a chat or a response tells them. Raises UpstreamFault for bytes that are none."""
    return tuple(
        TokenLogprob(
            token.token,
            _bytes(token),
            token.logprob,
            tuple((top.token, _bytes(top), top.logprob) for top in token.top_logprobs or ()),
        )
        for token in tokens
    )


def reason_of(told: str) -> FinishReason:
    """Why a choice ended. Raises UpstreamFault for one that did not end well: an error of the provider's, or a reason
    that nobody knows."""
    reason = _REASONS.get(told.lower())
    if reason is None:
        raise UpstreamFault(f"the backend broke the answer off; it gives {told[:80]!r} as the reason.")
    return reason


def garbage(error: Exception) -> UpstreamFault:
    """What was sent is not the protocol."""
    return UpstreamFault(f"the backend sent what is not its protocol ({str(error)[:200]}).")


def _called(calls: list[_Call], piece: CallDelta, name: str | None) -> _Call | None:
    """The call that a piece belongs to, None if it begins a new one: that of its index, unless a name comes with
    another id, or with none where there never was one and arguments have come. Without an index it is that of the id;
    else a name begins one, and what has neither goes on with the last."""
    if piece.index is None:
        same = [call for call in calls if piece.id and call.id == piece.id]
        return same[-1] if same else None if name or not calls else calls[-1]
    same = [call for call in calls if call.index == piece.index]
    if not same:
        return None
    call = same[-1]
    if name and call.number is not None:
        is_other = piece.id != call.id if piece.id and call.id else not piece.id and not call.id and call.has_arguments
        return None if is_other else call
    return call


def _parts(content: list[dict[str, Any]]) -> tuple[str, str]:
    """Reasoning and text of a list of parts."""
    thought, text = [], []
    for part in content:
        inner = part.get("thinking")
        if isinstance(inner, str):
            thought.append(inner)
        elif isinstance(inner, list):
            thought.extend(one["text"] for one in inner if isinstance(one, dict) and isinstance(one.get("text"), str))
        elif isinstance(part.get("text"), str):
            text.append(part["text"])
    return "".join(thought), "".join(text)


def _bytes(token: TopToken) -> bytes:
    """The bytes of a token; where they are not told, those of its text."""
    if token.bytes is None:
        return token.token.encode("utf-8", "surrogatepass")
    if any(not 0 <= byte < 256 for byte in token.bytes):
        raise UpstreamFault("the backend told a token whose bytes are none.")
    return bytes(token.bytes)


def _named_bytes(name: str) -> bytes:
    """OpenAI names what is no whole character by its bytes: `bytes:\\xe2\\x9d`."""
    if _BYTES_NAME.fullmatch(name):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    return name.encode("utf-8", "surrogatepass")


def _text_of(name: str) -> str:
    return _named_bytes(name).decode("utf-8", "replace")
