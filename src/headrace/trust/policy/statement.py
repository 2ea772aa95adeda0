"""Cuts the text of policies into its statements, so that each is known by file and line: Cedar's parser tells no place.

Knows only as much of Cedar's grammar as that takes: texts in quotes, comments, and the semicolon that ends a policy.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|;|\s+|[^";/\s]+|.', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one file of policies; `name` is what is told of it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy's text, and where it begins: the line of its first word, from 1."""

    source: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """As compilers say it: FILE:LINE."""
        return f"{self.source}:{self.line}"


def split(source: Source) -> Iterator[Statement]:
    """The statements of a file, in order. What follows the last semicolon is one, too, so that its parser may say what
    is wrong with it; comments and blanks alone are none."""
    line = 1
    begun: int | None = None
    pieces: list[str] = []
    for piece in _TOKEN.findall(source.text):
        is_blank = piece.isspace() or piece.startswith("//")
        if begun is None and not is_blank:
            begun = line
        if begun is not None:
            # A comment may hold anything; it is left out, and its line stays.
            pieces.append(" " if piece.startswith("//") else piece)
        line += piece.count("\n")
        if piece == ";" and begun is not None:
            yield Statement(source.name, begun, "".join(pieces))
            begun, pieces = None, []
    if begun is not None:
        yield Statement(source.name, begun, "".join(pieces))
