"""Keyword arguments in Python's syntax as a JSON object, while they come: what stands between a call's brackets.

Strings are told as they grow. Not read, because no JSON is like it: names, sums, tuples, sets, prefixed strings. Knows
no call.
"""

import ast
import json
import re
from dataclasses import dataclass
from enum import IntEnum

from headrace.engine.tools.scan import More, Scan, Status

_KEYWORD = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[-+\d.](?:[eE][-+]|[\w.])*")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_PLAIN = {quote: re.compile(rf"[^\\{quote}]+") for quote in "\"'"}
_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_ESCAPE_CHARS = {"x": 4, "u": 6, "U": 10}


class _Due(IntEnum):
    """What comes next inside a bracket."""

    ITEM = 0  # or the end
    VALUE = 1
    COLON = 2
    COMMA = 3  # or the end


@dataclass(slots=True)
class _Bracket:
    closes: str  # as written
    ends: str  # in JSON
    due: _Due = _Due.ITEM
    is_empty: bool = True


class LiteralReader:
    """See `family.ArgumentReader`."""

    __slots__ = ("_brackets", "_quote", "is_complete")

    def __init__(self) -> None:
        self._brackets: list[_Bracket] = []
        self._quote = ""  # of the string that is open
        self.is_complete = False

    def feed(self, text: str, *, is_last: bool) -> tuple[int, str, Status]:
        """See `family.ArgumentReader`."""
        scan = Scan(text, 0, is_last)
        told: list[str] = []
        if not self._brackets:
            self._brackets.append(_Bracket(")", "}"))
            told.append("{")
        done, status = 0, Status.OPEN
        try:
            while status is Status.OPEN:
                status = self._string(scan, told) if self._quote else self._part(scan, told)
                # What could not be read is left for others to read.
                done = done if status is Status.BROKEN else scan.at
        except More:
            pass
        return done, "".join(told), status

    def _part(self, scan: Scan, told: list[str]) -> Status:
        """One part outside strings. Nothing changes before it is known what it is."""
        bracket = self._brackets[-1]
        scan.blanks()
        if bracket.due is _Due.COLON:
            return self._go_on(scan.word(":"), told, ": ", _Due.VALUE)
        if bracket.due is _Due.COMMA and scan.word(","):
            bracket.due = _Due.ITEM
            return Status.OPEN
        if bracket.due is not _Due.VALUE and scan.word(bracket.closes):
            told.append(bracket.ends)
            self._brackets.pop()
            self.is_complete = not self._brackets
            return Status.DONE if self.is_complete else Status.OPEN
        if bracket.due is _Due.COMMA:
            return Status.BROKEN
        between = "" if bracket.is_empty or bracket.due is _Due.VALUE else ", "
        if len(self._brackets) == 1 and bracket.due is _Due.ITEM:
            key = scan.matched(_KEYWORD)
            scan.blanks()
            is_key = key is not None and scan.word("=")
            return self._go_on(is_key, told, f"{between}{json.dumps(key, ensure_ascii=False)}: ", _Due.VALUE)
        return self._value(scan, told, between)

    def _go_on(self, is_there: bool, told: list[str], text: str, due: _Due) -> Status:
        if not is_there:
            return Status.BROKEN
        told.append(text)
        self._brackets[-1].due = due
        self._brackets[-1].is_empty = False
        return Status.OPEN

    def _value(self, scan: Scan, told: list[str], between: str) -> Status:
        bracket = self._brackets[-1]
        is_key = bracket.closes == "}" and bracket.due is _Due.ITEM
        due = _Due.COLON if is_key else _Due.COMMA
        if (quote := _quote_at(scan)) is not None:
            self._quote = quote
            return self._go_on(True, told, between + '"', due)
        if not is_key:
            for opens, closes in (("[", "]"), ("{", "}")):
                if scan.word(opens):
                    self._go_on(True, told, between + opens, due)
                    self._brackets.append(_Bracket(closes, closes))
                    return Status.OPEN
            if (word := scan.matched(_KEYWORD)) is not None:
                return self._go_on(word in _WORDS, told, between + _WORDS.get(word, ""), due)
        number = _number(scan.matched(_NUMBER))
        if number is not None and is_key:
            number = f'"{number}"'
        return self._go_on(number is not None, told, f"{between}{number}", due)

    def _string(self, scan: Scan, told: list[str]) -> Status:
        """One part of a string: plain characters, an escape, or its end."""
        if scan.at == len(scan.text):
            scan.want()
            return Status.BROKEN
        if (plain := _PLAIN[self._quote[0]].match(scan.text, scan.at)) is not None:
            scan.at = plain.end()
            told.append(text_inside(plain[0]))
        elif scan.word(self._quote):
            self._quote = ""
            told.append('"')
        elif scan.text[scan.at] == "\\":
            told.append(text_inside(_escape(scan)))
        else:
            told.append(text_inside(scan.text[scan.at]))  # a quotation mark, where it takes three to end the string
            scan.at += 1
        return Status.OPEN


def _quote_at(scan: Scan) -> str | None:
    """Take the beginning of a string: one quotation mark, or three."""
    if scan.at == len(scan.text):
        scan.want()
        return None
    mark = scan.text[scan.at]
    if mark not in _PLAIN:
        return None
    if not scan.word(mark * 3):
        scan.at += 1
        return mark
    return mark * 3


def _escape(scan: Scan) -> str:
    start = scan.at
    kind = scan.text[start + 1 : start + 2]
    size = _ESCAPE_CHARS.get(kind, 2)
    if len(scan.text) - start < size:
        scan.want()
    found = _ESCAPE.match(scan.text, start)
    if found is None or len(found[0]) < size:
        scan.at = min(start + 2, len(scan.text))
        return scan.text[start : scan.at]
    scan.at = found.end()
    if found[0] in {"\\N", "\\\n"} or kind.isdigit():
        return "" if kind == "\n" else {"\\0": "\0"}.get(found[0], found[0])
    try:
        return str(ast.literal_eval(f"'{found[0]}'"))
    except (SyntaxError, ValueError):
        return found[0]


def literal_as_json(text: str) -> str | None:
    """One of Python's literals as JSON, if it is one that JSON has something like."""
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def text_inside(text: str) -> str:
    """As it stands between the quotation marks of a JSON string."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(text)[1:-1]
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _number(text: str | None) -> str | None:
    return None if text is None else literal_as_json(text)
