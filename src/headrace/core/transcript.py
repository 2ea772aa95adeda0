"""The bytes of a streamed answer as a record commits to them: what was sent, without its comments.

    data: {"a":1}\\n\\n  : keep-alive\\n\\n  : headrace-record eyJ...\\n\\n  data: [DONE]\\n\\n
    '-- counted ---'  '-- a silence --'  '-- the record itself ------'  '-- counted --'

A comment is a line that begins with a colon (WHATWG HTML, 9.2.6): whoever passes a stream on may add some or leave some
out, and every client skips them. With it goes the empty line behind comments that stand alone. Who makes an answer and
who verifies it count alike by this. Knows no records and no sockets.
"""

import hashlib
import re
from typing import Final

COMMENT: Final = b": headrace-record "
"""What a record inside a stream begins with; base64 (RFC 4648, 4) of the signed envelope's JSON follows."""

# A line with its end: \r\n, \n or \r. A \r that is the last byte may be half an end.
_LINE: Final = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r(?!\Z))")
_FOUND: Final = re.compile(rb"(?:\A|[\r\n])" + re.escape(COMMENT) + rb"([A-Za-z0-9+/]+={0,2})[ \t]*(?=[\r\n]|\Z)")


class Transcript:
    """The running SHA-256 of one stream, in pieces of any size. `num_bytes` were given, comments among them."""

    __slots__ = ("_hash", "_held", "_is_comment", "_is_inside", "num_bytes")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._held = b""  # the beginning of a line
        self._is_comment = False  # the lines of this block so far were comments
        self._is_inside = False  # some line of this block was none
        self.num_bytes = 0

    def add(self, data: bytes) -> None:
        """The next bytes."""
        self.num_bytes += len(data)
        is_plain = data[:1] != b":" and b"\n:" not in data and b"\r" not in data and data[-2:] == b"\n\n"
        if is_plain and not self._held and not self._is_comment:
            self._hash.update(data)
            self._is_inside = False
            return
        data, end = self._held + data, 0
        for match in _LINE.finditer(data):
            end = match.end()
            self._add_line(match[0])
        self._held = data[end:]

    def copy(self) -> "Transcript":
        """The same so far, to go on by itself."""
        other = Transcript()
        other._hash, other._held = self._hash.copy(), self._held
        other._is_comment, other._is_inside, other.num_bytes = self._is_comment, self._is_inside, self.num_bytes
        return other

    def digest(self) -> bytes:
        """Of all that was given so far."""
        if not self._held or self._held[:1] == b":":
            return self._hash.digest()
        whole = self._hash.copy()
        if not (self._is_comment and not self._is_inside and not self._held.strip(b"\r\n")):
            whole.update(self._held)
        return whole.digest()

    def _add_line(self, line: bytes) -> None:
        if line[:1] == b":":
            self._is_comment = True
        elif line in (b"\n", b"\r\n", b"\r"):
            if self._is_inside or not self._is_comment:
                self._hash.update(line)
            self._is_comment = self._is_inside = False
        else:
            self._is_inside = True
            self._hash.update(line)


def transcript_digest(data: bytes) -> bytes:
    """The SHA-256 of a whole stream without its comments."""
    transcript = Transcript()
    transcript.add(data)
    return transcript.digest()


def records_in(data: bytes) -> list[bytes]:
    """What stands in base64 in the comments of a stream that say that they are records, in order. Anybody on the way
    may have put one there: which one is true, its signature and its digest tell."""
    return [match[1] for match in _FOUND.finditer(data)]
