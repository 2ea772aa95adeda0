"""One line of a batch: which endpoints a line may ask, how its body is read and its answer written, and what a dialect
of batches says of the line around that.

`LINE_CODECS` is the table that a new endpoint enters, `BatchDialect` what a new vendor's batches are described by. A
line's answer is always whole. Knows no files and no order of lines.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from headrace.api.anthropic import Call as MessagesCall
from headrace.api.anthropic import decode_messages
from headrace.api.anthropic_answers import AnswerWriter as MessageWriter
from headrace.api.errors import ErrorDialect
from headrace.api.inputs import InputsCall, ResultTable, reword
from headrace.api.openai import Call, Caller, decode_chat, decode_completion
from headrace.api.openai_answers import CHAT, COMPLETION, AnswerWriter, Dialect, answer_head
from headrace.api.openai_embeddings import decode_embeddings
from headrace.api.rerank import decode_rerank, decode_score
from headrace.core.errors import HeadraceError, InvalidRequest, UnsupportedField
from headrace.core.events import Event


class LineAnswer(Protocol):
    """Events in, the body of one answer out."""

    @property
    def is_done(self) -> bool:
        """True once `encode` has everything it needs."""
        ...

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer. Raises HeadraceError."""
        ...

    def encode(self) -> bytes:
        """The answer as JSON."""
        ...


@dataclass(frozen=True, slots=True)
class LineCodec:
    """An endpoint that lines may ask: how ids of its answers begin, how a body is read, how its answer is written
    (`created` is Unix time in whole seconds), and a backend's refusal in the caller's words."""

    id_prefix: str
    decode: Callable[[bytes, Caller], Any]
    answer: Callable[[Any, int], LineAnswer]
    reword: Callable[[Any, InvalidRequest], InvalidRequest]


class InputsAnswer:
    """The answer to a request with many inputs, as one body."""

    def __init__(self, call: InputsCall, created_s: int) -> None:
        self._call = call
        self._created_s = created_s
        self._table = ResultTable(call.request)

    @property
    def is_done(self) -> bool:
        """True when every input has its result."""
        return self._table.is_done

    def add(self, events: Iterable[Event]) -> None:
        """Take in more results. Raises EngineFault."""
        self._table.add(events)

    def encode(self) -> bytes:
        """The answer as JSON."""
        return b"".join(self._call.encode(self._table, self._created_s))


def _generation(dialect: Dialect, decode: Callable[[bytes, Caller], Call]) -> LineCodec:
    def answer(call: Call, created: int) -> AnswerWriter:
        return AnswerWriter(answer_head(dialect, call, created))

    def decode_line(data: bytes, caller: Caller) -> Call:
        call = decode(data, caller)
        if call.stream:
            raise UnsupportedField("stream: an answer in a batch is always whole; leave it out.", param="stream")
        if call.others:
            raise UnsupportedField("prompt: a line of a batch has one prompt; give each its own line.", param="prompt")
        if call.cached_content is not None:
            raise UnsupportedField(
                "cached_content: is not supported in a batch; write the content into the line.", param="cached_content"
            )
        if call.stores:
            raise UnsupportedField("store: answers of batches are kept in their files; leave it out.", param="store")
        return call

    return LineCodec(dialect.id_prefix, decode_line, answer, lambda call, error: call.reword(error))


def _inputs(id_prefix: str, decode: Callable[[bytes, Caller], Any]) -> LineCodec:
    return LineCodec(id_prefix, decode, InputsAnswer, lambda call, error: reword(error, call.field))


def _decode_message(data: bytes, caller: Caller) -> MessagesCall:
    """A line that asks for a message is read as if it named betas: its batch's header is gone when it runs."""
    call = decode_messages(data, replace(caller, headers={b"anthropic-beta": b"message-batches-2024-09-24"}))
    if call.request.limits.max_tokens == 0:
        raise InvalidRequest(
            "max_tokens: 0 reads the prompt into the cache, which a batch has no use for; give 1 or more.",
            param="max_tokens",
        )
    return call


def _answer_message(call: MessagesCall, _: int) -> MessageWriter:
    return MessageWriter(call, lambda _: None, tier="batch")


LINE_CODECS: Final[dict[str, LineCodec]] = {
    "/v1/chat/completions": _generation(CHAT, decode_chat),
    "/v1/completions": _generation(COMPLETION, decode_completion),
    "/v1/messages": LineCodec("msg_", _decode_message, _answer_message, lambda call, error: call.reword(error)),
    "/v1/embeddings": _inputs("embd-", decode_embeddings),
    "/v1/rerank": _inputs("rerank-", decode_rerank),
    "/v1/score": _inputs("score-", decode_score),
}


@dataclass(frozen=True, slots=True)
class ReadLine:
    """A line as its caller wrote it: a name, the body for the endpoint, and the model that the body names."""

    custom_id: str
    body: bytes
    model: str


@dataclass(frozen=True, slots=True)
class LineNames:
    """How a line's result is called: an id of ours for the line, its caller's name for it, and its request's id."""

    id: str
    custom_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class BatchDialect:
    """One vendor's batches.

    `read(data, endpoint)` raises InvalidRequest, whose code says what is wrong with a line of the input. `succeeded`,
    `failed` and `unrun` write a line of the results: of an answer, of an error, and of a line that never ran, given the
    word for why: cancelled or expired. With `splits` what has no answer goes into a file of its own.
    """

    name: str
    errors: ErrorDialect
    read: Callable[[bytes, str], ReadLine]
    succeeded: Callable[[LineNames, bytes], bytes]
    failed: Callable[[LineNames, HeadraceError], bytes]
    unrun: Callable[[LineNames, str], bytes]
    splits: bool
