"""Streams and whole bodies of OpenAI's older routes that pass through: what is looked into, and what is left out.

A frame is decoded only if the bytes of a usage object or of an error are in it; every other costs two searches. What is
told of usage where the caller did not ask for it is left out if it is all that a chunk says. Knows no policies.
"""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from headrace.api.outbound.chat_reader import Chunk, garbage
from headrace.api.outbound.chat_refusals import read_error_event, read_error_frame
from headrace.api.outbound.chat_usage import ChatUsage, read_usage
from headrace.api.outbound.frames import FrameCutter, parse_frame, split_frames
from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.core.events import Usage

# A key of JSON: inside a string its quotes would be escaped.
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_DONE: Final = b"data: [DONE]"
_ENDS: Final = re.compile(rb'^data: ?\[DONE\]|"finish_reason"\s*:\s*"|"usage"\s*:\s*\{', re.MULTILINE)
_TEXT: Final = re.compile(rb'"(?:content|reasoning_content|reasoning|arguments|text|delta)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_NUM_MEASURED: Final = 4
"""Pieces of a stream by which it is found out how much of a frame is not the answer."""
_Told = TypeVar("_Told")


class _Chunk(Chunk):
    choices: list[msgspec.Raw] | None = None


class _Whole(msgspec.Struct):
    usage: ChatUsage | None = None
    error: Any = None
    choices: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    results: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_whole = msgspec.json.Decoder(_Whole).decode


class OutputGauge:
    """How many bytes of a stream are the answer's text, about. The first frames with text are measured exactly; of
    later ones the smallest envelope of those is taken off, but never all: each counts one byte at least."""

    def __init__(self) -> None:
        self._measured = 0
        self._num_measured = 0
        self._envelope = 0
        self._num_bytes = 0
        self._num_frames = 0

    @property
    def num_bytes(self) -> int:
        """Bytes so far."""
        return self._measured + max(self._num_frames, self._num_bytes - self._num_frames * self._envelope)

    def add(self, whole: bytes) -> None:
        """Count what a cutter gave."""
        if self._num_measured < _NUM_MEASURED:
            for frame in split_frames(whole):
                self._measure(frame)
            return
        self._num_bytes += len(whole)
        self._num_frames += whole.count(b"\n\n") or 1

    def _measure(self, frame: bytes) -> None:
        size = sum(map(len, _TEXT.findall(frame)))
        if size:
            self._measured += size
            self._num_measured += 1
            self._envelope = min(self._envelope or len(frame), len(frame) - size)


class GaugedScanner:
    """What scanners of OpenAI's streams share: whole frames, how much text is in them, what usage they told."""

    def __init__(self) -> None:
        self._cutter = FrameCutter()
        self._gauge = OutputGauge()
        self._usage: Usage | None = None
        self._is_first = True
        self._last = b""

    @property
    def usage(self) -> Usage | None:
        """What was told so far."""
        return self._usage

    @property
    def num_output_bytes(self) -> int:
        """Bytes of the answer's text so far, about."""
        return self._gauge.num_bytes

    def _cut(self, data: bytes) -> bytes:
        """The frames that are whole now, measured; maybe none."""
        whole = self._cutter.feed(data)
        if whole:
            self._last = whole
            self._gauge.add(whole)
        return whole


class ChatScanner(GaugedScanner):
    """Bytes of a stream in, whole frames out. `asked` says whether the caller wants to be told of usage."""

    def __init__(self, *, asked: bool) -> None:
        super().__init__()
        self._asked = asked
        self._has_failed = False

    @property
    def is_done(self) -> bool:
        """Whether the stream has said its last word."""
        return not self._has_failed and _DONE in self._last

    @property
    def can_end(self) -> bool:
        """Whether what came last may be the end: `[DONE]`, the end of a choice, or the usage."""
        return not self._has_failed and _ENDS.search(self._last) is not None

    def feed(self, data: bytes) -> bytes:
        """What of these bytes goes on. Raises the error that a first frame carries instead of an answer, and
        UpstreamFault for a first frame that is none of the protocol."""
        whole = self._cut(data)
        if not whole:
            return whole
        if (
            self._is_first
            or (b'"usage"' in whole and _USAGE.search(whole))
            or b'"error"' in whole
            or b"event: error" in whole
        ):
            return self._look_into(whole)
        return whole

    def _look_into(self, whole: bytes) -> bytes:
        frames = split_frames(whole)
        kept = [frame for frame in frames if self._keeps(frame)]
        return whole if len(kept) == len(frames) else b"".join(kept)

    def _keeps(self, frame: bytes) -> bool:
        has_usage, has_error = (
            _USAGE.search(frame) is not None,
            b'"error"' in frame or b"event: error" in frame,
        )
        if not (self._is_first or has_usage or has_error):
            return True
        told = parse_frame(frame)
        if told is None:
            return not self._is_first  # a comment, which keeps a connection alive and begins no answer
        is_first, self._is_first = self._is_first, False
        if told[1].startswith(b"[DONE]"):
            if is_first:
                raise UpstreamFault("the backend's stream ended before its answer began.")
            return True
        try:
            chunk = _decode_chunk(told[1])
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
            if is_first:
                raise garbage(error) from None
            return True
        if told[0] == "error" or chunk.failure is not None:
            if is_first:
                raise read_error_event(told[1]) if told[0] == "error" else read_error_frame(chunk.failure)
            self._has_failed = True
            return True
        if chunk.usage is not None:
            self._usage = usage_or_none(read_usage, chunk.usage)
        return self._asked or chunk.usage is None or bool(chunk.choices)


def usage_of(body: bytes) -> Usage | None:
    """What a whole answer told. Raises UpstreamFault for a body that is no answer, and the error of one that carries
    nothing else."""
    try:
        told = _decode_whole(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise garbage(error) from None
    if told.choices is told.data is told.results is msgspec.UNSET:
        raise _no_answer(told.error)
    return None if told.usage is None else usage_or_none(read_usage, told.usage)


def usage_or_none(read: Callable[[_Told], Usage], told: _Told) -> Usage | None:
    """The counts of an answer that passes through. Those that cannot be are as good as none: the answer is right."""
    try:
        return read(told)
    except UpstreamFault:
        return None


def _no_answer(error: object) -> HeadraceError:
    if error is not None:
        return read_error_frame(error)
    return UpstreamFault("the backend answered with what is no answer of its protocol.")
