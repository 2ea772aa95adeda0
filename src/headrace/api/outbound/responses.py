"""OpenAI's Responses as the protocol of a backend.

    responses_body.py    requests out          responses_reader.py   streams as events
    chat_refusals.py     errors, which are chat's

A stream that passes through is looked into where it begins and where it ends. Bodies pass through only where nothing of
them is kept by anybody: which those are is the gateway's knowledge.
"""

import re
from typing import Any, Final

import msgspec

from headrace.api.outbound.chat import secret_header
from headrace.api.outbound.chat_reader import garbage
from headrace.api.outbound.chat_refusals import read_error, read_error_frame
from headrace.api.outbound.chat_scanner import GaugedScanner, usage_or_none
from headrace.api.outbound.codec import OutboundCall, OutboundCodec, Quirks
from headrace.api.outbound.frames import parse_frame, split_frames
from headrace.api.outbound.reframing import bound_field, rewrite, wants_stream, write_fields
from headrace.api.outbound.responses_body import MAX_TOKENS, PATH, encode_response
from headrace.api.outbound.responses_reader import (
    ResponsesReader,
    ResponseUsage,
    StreamEvent,
    carried_error,
    decode_count,
    read_response_usage,
)
from headrace.core.errors import UpstreamFault
from headrace.core.events import Usage
from headrace.core.gateway import RawBody

_LAST: Final = re.compile(rb"response\.(?:completed|incomplete|failed|cancelled)\b")
_LAST_TYPES: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"}
)
_FAILED_TYPES: Final = frozenset({"response.failed", "response.cancelled", "error"})


class _Response(msgspec.Struct):
    usage: ResponseUsage | None = None
    error: Any = None
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_event = msgspec.json.Decoder(StreamEvent).decode
_decode_response = msgspec.json.Decoder(_Response).decode


class ResponsesScanner(GaugedScanner):
    """Bytes of a stream in, whole frames out."""

    def __init__(self) -> None:
        super().__init__()
        self._is_ended = False

    @property
    def is_done(self) -> bool:
        """Whether `[DONE]` has come, which only some say."""
        return self._is_ended and b"data: [DONE]" in self._last

    @property
    def can_end(self) -> bool:
        """Whether the response has been told to its end."""
        return self._is_ended

    def feed(self, data: bytes) -> bytes:
        """What of these bytes goes on. Raises the error that a first frame carries instead of a response, and
        UpstreamFault for a first frame that is none of the protocol."""
        whole = self._cut(data)
        if not whole:
            return whole
        if self._is_first or _LAST.search(whole) or b'"error"' in whole:
            for frame in split_frames(whole):
                self._look_into(frame)
        return b"" if self._is_first else whole  # comments keep a connection alive and begin no answer

    def _look_into(self, frame: bytes) -> None:
        if not (self._is_first or _LAST.search(frame) or b'"error"' in frame):
            return
        told = parse_frame(frame)
        if told is None:
            return
        if told[1].startswith(b"[DONE]"):
            if self._is_first:
                raise UpstreamFault("the backend's stream ended before its response began.")
            return
        is_first, self._is_first = self._is_first, False
        try:
            event = _decode_event(told[1])
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
            if is_first:
                raise garbage(error) from None
            return
        kind = event.type or told[0]
        if is_first and not kind.startswith("response.") and kind != "error":
            raise UpstreamFault("the backend streams what is no response.")
        if is_first and kind in _FAILED_TYPES:
            raise carried_error(event)
        if kind in _LAST_TYPES:
            self._is_ended = True
            if event.response is not None and event.response.usage is not None:
                self._usage = usage_or_none(read_response_usage, event.response.usage)


def usage_of(body: bytes) -> Usage | None:
    """What a whole response told. Raises UpstreamFault for a body that is none, and the error of one that carries
    nothing else."""
    try:
        told = _decode_response(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise garbage(error) from None
    if told.output is msgspec.UNSET:
        if told.error is not None:
            raise read_error_frame(told.error)
        raise UpstreamFault("the backend answered with what is no response.")
    return None if told.usage is None else usage_or_none(read_response_usage, told.usage)


def reframe(raw: RawBody, model: str, max_tokens: int | None, quirks: Quirks) -> OutboundCall:
    """A body as it came but for the model's name and the bound of the answer. Raises InvalidRequest for a bound that is
    no number."""
    fields = rewrite(raw.fields, model, quirks)
    bound_field(fields, MAX_TOKENS, max_tokens)
    return OutboundCall(path=PATH, body=write_fields(fields), is_stream=wants_stream(fields))


RESPONSES: Final = OutboundCodec(
    name="responses",
    takes=frozenset({"responses"}),
    encode=encode_response,
    reader=ResponsesReader,
    decode=decode_count,
    reframe=reframe,
    scanner=lambda raw: ResponsesScanner(),
    usage_of=usage_of,
    read_error=read_error,
    secret_header=secret_header,
)
