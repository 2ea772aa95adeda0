"""On which line of a TOML text each key stands: what `tomllib` does not tell.

Reads only texts that `tomllib` has read without complaint, so what is not a bracket, a quote, a comma or a comment is
taken for part of a plain value. Knows no settings.
"""

import tomllib
from collections.abc import Mapping
from typing import Final

Path = tuple[str | int, ...]
"""Of a key: the names of tables, and places in arrays of them."""

_SPACE: Final = " \t"
_BLANK: Final = " \t\r\n"
_ENDS: Final = ",]}#\r\n"


class Lines:
    """Where the keys of one text are. Lines count from 1."""

    def __init__(self, text: str) -> None:
        self._lines = _Scan(text).run()

    def find(self, path: Path) -> int | None:
        """The line of a key, or of the nearest table around it that stands there; None if there is none."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return None

    def paths(self) -> Mapping[Path, int]:
        """Every key with its line."""
        return self._lines


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0  # up to where lines are counted
        self._lines: dict[Path, int] = {}
        self._sizes: dict[Path, int] = {}  # of arrays of tables

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK):
            if self._text.startswith("[[", self._at):
                table = self._header("[[")
            elif self._text[self._at] == "[":
                table = self._header("[")
            else:
                self._pair(table)
        return self._lines

    def _header(self, bracket: str) -> Path:
        line = self._now()
        self._at += len(bracket)
        names = self._key()
        self._at += len(bracket)
        path: Path = ()
        for index, name in enumerate(names):
            path += (name,)
            is_last = index == len(names) - 1
            if is_last and bracket == "[[":
                self._lines.setdefault(path, line)
                self._sizes[path] = self._sizes.get(path, 0) + 1
            elif is_last:
                self._lines[path] = line  # a table that stands there wins over one that was only passed through
            else:
                self._lines.setdefault(path, line)
            if path in self._sizes:
                path += (self._sizes[path] - 1,)
                self._lines.setdefault(path, line)
        return path

    def _pair(self, table: Path) -> None:
        line = self._now()
        path = table
        for name in self._key():
            path += (name,)
            self._lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip(_SPACE)
            names.append(self._name())
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _name(self) -> str:
        start = self._at
        if self._text[start] in "\"'":
            self._string()
            return str(tomllib.loads("k = " + self._text[start : self._at])["k"])
        while self._text[self._at] not in " \t.=]":
            self._at += 1
        return self._text[start : self._at]

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._at += 1
            while self._skip(_BLANK + ",") and self._text[self._at] != "}":
                self._pair(path)
            self._at += 1
        else:
            while self._at < len(self._text) and self._text[self._at] not in _ENDS:
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip(_BLANK + ",") and self._text[self._at] != "]":
            self._lines.setdefault((*path, index), self._now())
            self._value((*path, index))
            index += 1
        self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        marks = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(marks)
        while not self._text.startswith(marks, self._at):
            self._at += 2 if self._text[self._at] == "\\" and quote == '"' else 1
        self._at += len(marks)
        # Up to two quotes may stand right before the three that end a text.
        while len(marks) == 3 and self._text.startswith(quote, self._at):
            self._at += 1

    def _skip(self, what: str) -> bool:
        """Past these and past comments; whether anything is left."""
        while self._at < len(self._text):
            if self._text[self._at] in what:
                self._at += 1
            elif self._text[self._at] == "#" and "\n" in what:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return True
        return False

    def _now(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line
