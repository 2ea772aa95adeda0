"""Reads small things from text that may still grow: words, JSON strings, JSON values.

Whoever reads asks piece by piece and goes on where it left off; `More` says that the text ends too early to tell. An
answer that was given once stays the same however the text goes on, which is what makes every way of cutting it equal.
Knows no family of calls.
"""

import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_BLANKS = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPEN_STRING = re.compile(r'"(?:[^"\\]|\\.)*\\?', re.DOTALL)
_SCALAR = re.compile(r"[-+.\w]+")
_INSIDE = re.compile(r'[^"\\]*')
_OUTSIDE = re.compile(r"[A-Za-z0-9_\s:,.+-]*")
_DECODER = json.JSONDecoder(strict=False)  # models put line breaks into strings


class More(Exception):
    """The text ends before it can be told."""


class Status(IntEnum):
    """How a value stands: it goes on, has ended, or cannot be one."""

    OPEN = 0
    DONE = 1
    BROKEN = 2


@dataclass(slots=True)
class Scan:
    """A place in a text; `is_last`: no more text comes, so nothing is waited for."""

    text: str
    at: int = 0
    is_last: bool = False

    def blanks(self) -> None:
        """Skip white space."""
        found = _BLANKS.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def word(self, word: str) -> bool:
        """Take `word`, if it stands here."""
        if self.text.startswith(word, self.at):
            self.at += len(word)
            return True
        if len(self.text) - self.at < len(word) and word.startswith(self.text[self.at :]):
            self.want()
        return False

    def matched(self, pattern: re.Pattern[str]) -> str | None:
        """Take what a pattern matches, if it cannot grow any more; None if it matches nothing."""
        found = pattern.match(self.text, self.at)
        end = self.at if found is None else found.end()
        if end == len(self.text):
            self.want()
        if found is None or end == self.at:
            return None
        self.at = end
        return found[0]

    def string(self) -> str | None:
        """Take a JSON string; what it says, None if there is none."""
        found = _STRING.match(self.text, self.at)
        if found is None:
            if self.at == len(self.text) or _OPEN_STRING.fullmatch(self.text, self.at):
                self.want()
            return None
        said = decode(found[0])
        if not isinstance(said, str):
            return None
        self.at = found.end()
        return said

    def value(self) -> str | None:
        """Take a whole JSON value; its text, None if there is none."""
        start = self.at
        if self.at == len(self.text):
            self.want()
        if self.text.startswith(("{", "["), self.at):
            scan = ValueScan()
            self.at, status = scan.feed(self.text, self.at)
            if status is Status.OPEN:
                self.want()
            taken = status is Status.DONE
        elif self.text.startswith('"', self.at):
            taken = self.string() is not None
        else:
            taken = self.matched(_SCALAR) is not None
        text = self.text[start : self.at]
        if taken and decode(text) is not _NOTHING:
            return text
        self.at = start
        return None

    def want(self) -> None:
        """Raise More, unless no more comes."""
        if not self.is_last:
            raise More


class ValueScan:
    """Follows a JSON object or array through a stream to its end, by its brackets and strings alone.

    `depth` brackets are open at the start. A character that JSON has no use for outside strings breaks it.
    """

    __slots__ = ("_depth", "_in_string", "_is_escaped")

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str, at: int = 0) -> tuple[int, Status]:
        """Where what belongs to the value ends in `text`, read from `at`, and how the value stands there."""
        size = len(text)
        while at < size:
            if self._in_string:
                at = self._inside(text, at)
                continue
            found = _OUTSIDE.match(text, at)
            assert found is not None
            at = found.end()
            if at == size:
                break
            char = text[at]
            if char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1, Status.DONE
            elif char == '"':
                self._in_string = True
            else:
                return at, Status.BROKEN
            at += 1
        return size, Status.OPEN

    def _inside(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        found = _INSIDE.match(text, at)
        assert found is not None
        at = found.end()
        if at == len(text):
            return at
        if text[at] == "\\":
            self._is_escaped = True
        else:
            self._in_string = False
        return at + 1


_NOTHING = object()


def is_value(text: str) -> bool:
    """Whether a text is JSON."""
    return decode(text) is not _NOTHING


def decode(text: str) -> Any:
    """A JSON value; something that equals no JSON value if it is none, or holds half of a surrogate pair."""
    try:
        value, end = _DECODER.raw_decode(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return _NOTHING
    return value if end == len(text) else _NOTHING
