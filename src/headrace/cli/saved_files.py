"""Answers and requests as somebody saved them: a body of JSON, or a stream as it came, of any protocol.

Bytes and what they say; whether that is what was signed is `trust/records`'s. Uses the server's own codecs, so that a
request means here what it meant there.
"""

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.api import anthropic, ollama, openai, openai_embeddings, rerank, responses
from headrace.api.openai import Caller
from headrace.api.outbound.frames import FrameParser
from headrace.api.responses_items import complete
from headrace.api.responses_service import CreateCall
from headrace.api.saved_answer import read_saved, read_saved_stream, saved_model
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.events import Event
from headrace.core.request import Principal, Request
from headrace.core.transcript import records_in, transcript_digest
from headrace.trust.records import canonical, request_form
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.verification import Shown

DIALECTS: Final = ("chat", "completions", "embeddings", "responses", "messages")
_REFERENCES: Final = ("previous_response_id", "conversation", "cached_content", "context")
_DECODERS: Final[tuple[Callable[[bytes, Caller], Any], ...]] = (
    openai.decode_chat,
    openai.decode_completion,
    anthropic.decode_messages,
    responses.decode_create,
    ollama.decode_chat,
    ollama.decode_generate,
    ollama.decode_embed,
    ollama.decode_embeddings,
    openai_embeddings.decode_embeddings,
    rerank.decode_score,
    rerank.decode_rerank,
)


@dataclass(frozen=True, slots=True)
class SavedAnswer:
    """An answer. `digest` is of its bytes, without a stream's comments; `events` what they say, None if that cannot be
    read, and `model` who they say said it; `records` are the envelopes that stand in a stream."""

    digest: bytes
    events: tuple[Event, ...] | None
    model: str | None = None
    records: tuple[bytes, ...] = ()

    def shown(self, requests: tuple[bytes, ...] = (), *, is_rewritten: bool = False, is_partial: bool = False) -> Shown:
        """For verification."""
        form = AnswerForm()
        for event in self.events or ():
            form.hear(event)
        is_read = self.events is not None
        return Shown(
            body_digest=self.digest,
            answer=form.encode() if is_read else None,
            reasoning=form.encode_reasoning() if is_read else None,
            model=self.model,
            is_rewritten=is_rewritten,
            requests=requests,
            is_partial=is_partial,
        )


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes. Raises InvalidRequest."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{what}: {path} cannot be read ({error.strerror or error}).") from error


def read_answer(data: bytes) -> SavedAnswer:
    """An answer from its bytes."""
    if _is_stream(data):
        said = _said(_frames(data), is_stream=True)
        return SavedAnswer(transcript_digest(data), *said, tuple(_records(data)))
    lines = [line for line in data.split(b"\n") if line.strip()]
    is_lines = len(lines) > 1 and all(line.startswith(b"{") for line in lines)  # Ollama's streams
    return SavedAnswer(sha256(data).digest(), *_said(lines if is_lines else [data], is_stream=is_lines))


def _is_stream(data: bytes) -> bool:
    return data.lstrip(b"\xef\xbb\xbf\r\n").startswith((b"data:", b"event:", b":", b"id:", b"retry:"))


def _said(texts: list[bytes], *, is_stream: bool) -> tuple[tuple[Event, ...] | None, str | None]:
    try:
        values = [canonical.read(text) for text in texts]  # strictly: a name that is there twice says two things
        events = tuple(read_saved_stream(values) if is_stream else read_saved(values[0]))
    except HeadraceError:
        return None, None
    return events, saved_model(values)


def _frames(data: bytes) -> list[bytes]:
    parser = FrameParser()
    frames = [frame for _, frame in parser.feed(data)]
    return [frame for frame in frames if frame and frame != b"[DONE]"]


def _records(data: bytes) -> Iterator[bytes]:
    for text in records_in(data):
        try:
            yield base64.b64decode(text, validate=True)
        except binascii.Error:
            continue


def decoded(data: bytes) -> Iterator[Request]:
    """What a request's body can mean, in every protocol that it is one of."""
    caller = Caller(request_id="", principal=Principal())
    for decode in _DECODERS:
        try:
            call = decode(data, caller)
        except HeadraceError:
            continue
        request = getattr(call, "request", None)
        if isinstance(call, CreateCall):
            # What was said before the items of this one stands in the server's memory and not in the body.
            request = complete(call.request, call.instructions, call.items, call.cache)
        if isinstance(request, Request):
            yield request


def request_forms(data: bytes) -> tuple[bytes, ...]:
    """Canonical forms that a request's body can have. Raises InvalidRequest if it is no body of JSON."""
    found = canonical.read(data, "the request")
    if not isinstance(found, dict):
        raise InvalidRequest("the request is no JSON object; save the body as it was sent.")
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    named = {name: bytes(value) for name, value in fields.items()}
    forms = [request_form.encode_body(dialect, named) for dialect in DIALECTS]
    return (*forms, *map(request_form.encode, decoded(data)))


def goes_on(data: bytes) -> bool:
    """Whether a request goes on from what only the server has: a stored response, a conversation, a cache, a file."""
    found = canonical.read(data, "the request")
    return isinstance(found, dict) and any(found.get(name) for name in _REFERENCES)
