"""Server-sent events, inwards (WHATWG HTML, 9.2.6): bytes of a backend's stream become whole frames, and what they say.

A frame is what stands up to and with an empty line. Readers want what it says (`FrameParser`); scanners want the bytes
as they came, in whole frames (`FrameCutter`), and look into few of them (`split_frames`, `parse_frame`). Data stays
bytes: whoever decodes it finds what is no UTF-8. What follows the last empty line was not finished and is never told.
Knows no protocol.
"""

import re
from typing import Final

from headrace.core.errors import UpstreamFault

MAX_FRAME_BYTES: Final = 16 * 2**20
"""A longer frame is refused rather than held; the last event of a response repeats all of it."""

_BOM: Final = b"\xef\xbb\xbf"
# Two ends of lines. A CR is never parted from an LF behind it, unless the bytes so far end between them: then the LF
# becomes an empty line at the start of the next frame, which says nothing.
_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_END_BYTES: Final = 4
_LINE: Final = re.compile(rb"\r\n|\n|\r")


class FrameCutter:
    """Bytes in, the same bytes out, whole frames at a time. Holds no more than one frame that is not whole."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._rest = bytearray()
        self._has_cr = False
        self._max_bytes = max_bytes

    @property
    def num_held(self) -> int:
        """Bytes of a frame whose end has not come."""
        return len(self._rest)

    def feed(self, data: bytes) -> bytes:
        """What is whole now. Raises UpstreamFault for a frame that is too long."""
        if not self._rest and data.endswith(b"\n\n"):
            return data  # how nearly all of them come
        rest = self._rest
        start = max(0, len(rest) - _END_BYTES + 1)
        rest += data
        end = self._find_end(start)
        if end == 0:
            if len(rest) > self._max_bytes:
                raise _too_long(self._max_bytes)
            return b""
        whole = bytes(rest[:end])
        del rest[:end]
        if len(rest) > self._max_bytes:
            raise _too_long(self._max_bytes)
        return whole

    def _find_end(self, start: int) -> int:
        """Where the last whole frame ends, 0 if none does."""
        rest = self._rest
        if not self._has_cr:
            self._has_cr = rest.find(b"\r", start) >= 0
        if not self._has_cr:
            end = rest.rfind(b"\n\n", start)
            return 0 if end < 0 else end + 2
        end = 0
        for match in _END.finditer(rest, start):
            end = match.end()
        return end


class FrameParser:
    """Bytes in, (event, data) out. `event` is empty where a frame names none; comments, ids and the wish of when to
    come back are no events."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._cutter = FrameCutter(max_bytes)
        self._is_first = True
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The events that are whole now. Raises UpstreamFault for a frame that is too long."""
        told = []
        for frame in split_frames(self._cutter.feed(data)):
            if len(frame) > self._max_bytes:
                raise _too_long(self._max_bytes)
            event = parse_frame(frame.removeprefix(_BOM) if self._is_first else frame)
            self._is_first = False
            if event is not None:
                told.append(event)
        return told


def split_frames(whole: bytes) -> list[bytes]:
    """The frames of what a cutter gave, each with its end; joined they are what it gave."""
    if b"\r" in whole:
        ends = [match.end() for match in _END.finditer(whole)]
    else:
        ends, end = [], 0
        while (end := whole.find(b"\n\n", end) + 2) >= 2:
            ends.append(end)
    if ends:
        ends[-1] = len(whole)  # an odd empty line behind the last end
    return [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def parse_frame(frame: bytes) -> tuple[str, bytes] | None:
    """What a frame says, None if nothing: event and data, lines of data joined by LF."""
    if frame.startswith(b"data: ") and frame.find(b"\n") == len(frame) - 2 and b"\r" not in frame:
        return "", frame[6:-2]  # how nearly all of them look
    event, data = "", []
    for line in _LINE.split(frame) if b"\r" in frame else frame.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode("utf-8", "replace")
    return (event, b"\n".join(data)) if data else None


def _too_long(max_bytes: int) -> UpstreamFault:
    return UpstreamFault(f"the backend sent an event of more than {max_bytes} bytes; ask for a shorter answer.")
