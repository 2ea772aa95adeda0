"""JSON text as models write it made into JSON text as parsers take it: line breaks inside strings are escaped.

Models put raw line breaks and tabs into the strings of arguments, which RFC 8259 (7) forbids and clients that parse
while the text comes stop at. Nothing else is repaired. Knows no protocol.
"""

import re
from typing import Final

_SPECIAL: Final = re.compile(r'["\\\x00-\x1f]')
_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


class StringEscaper:
    """Text in pieces in, the same text out with control characters inside its strings escaped."""

    __slots__ = ("_is_escaped", "_is_string")

    def __init__(self) -> None:
        self._is_string = False
        self._is_escaped = False  # the next character: a backslash stands before it

    def push(self, text: str) -> str:
        """The next piece."""
        if not text:
            return ""
        out: list[str] = []
        start, escaped_at = 0, 0 if self._is_escaped else -1
        for match in _SPECIAL.finditer(text):
            at, char = match.start(), match[0]
            if at == escaped_at:
                continue
            if char == '"':
                self._is_string = not self._is_string
            elif char == "\\":
                escaped_at = at + 1 if self._is_string else escaped_at
            elif self._is_string:
                out += text[start:at], _SHORT.get(char) or f"\\u{ord(char):04x}"
                start = at + 1
        self._is_escaped = escaped_at == len(text)
        return "".join(out) + text[start:]
