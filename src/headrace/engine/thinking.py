"""Tells what a model thinks from what it answers: the beginning of its text, between two marks.

A text thinks if it begins with the first mark, or if the prompt has said it already; the second mark ends that, for
good. Line breaks just inside the marks, and behind them, are the marks' own. However the text is cut into pieces, what
comes out is the same, put together. Knows no tokens.
"""

from enum import IntEnum
from typing import NamedTuple


class Marks(NamedTuple):
    """What stands before a model's thoughts and behind them."""

    open: str
    close: str


MARKS = (Marks("<think>", "</think>"), Marks("[THINK]", "[/THINK]"))


class _Place(IntEnum):
    START = 0
    OPENED = 1  # behind the first mark, where line breaks are dropped
    THOUGHT = 2
    CLOSED = 3  # behind the second, likewise
    ANSWER = 4


class ThoughtSplitter:
    """See the file's head. `is_open`: the prompt ends with the first mark."""

    __slots__ = ("_held", "_marks", "_place")

    def __init__(self, marks: Marks, *, is_open: bool = False) -> None:
        self._marks = marks
        self._place = _Place.OPENED if is_open else _Place.START
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """Whether the text so far ends in a thought."""
        return self._place in {_Place.OPENED, _Place.THOUGHT}

    @property
    def is_over(self) -> bool:
        """Whether everything that comes is answer, and comes as it is."""
        return self._place is _Place.ANSWER

    def push(self, text: str) -> tuple[str, str]:
        """What more text adds to the thoughts and to the answer."""
        if self._place is _Place.ANSWER:
            return "", text
        self._held += text
        thought = ""
        if self._place is _Place.START:
            self._start()
        if self._place is _Place.OPENED:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._place = _Place.THOUGHT
        if self._place is _Place.THOUGHT:
            thought = self._think()
        if self._place is _Place.CLOSED:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._place = _Place.ANSWER
        answer = ""
        if self._place is _Place.ANSWER:
            answer, self._held = self._held, ""
        return thought, answer

    def flush(self) -> tuple[str, str]:
        """What was held, now that no more text comes."""
        held, self._held = self._held, ""
        return (held, "") if self._place is _Place.THOUGHT else ("", held)

    def _start(self) -> None:
        mark, begun = self._marks.open, self._held.lstrip()
        if begun.startswith(mark):
            self._held = begun[len(mark) :]
            self._place = _Place.OPENED
        elif not mark.startswith(begun):
            self._place = _Place.ANSWER

    def _think(self) -> str:
        mark, held = self._marks.close, self._held
        end = held.find(mark)
        if end >= 0:
            self._held = held[end + len(mark) :]
            self._place = _Place.CLOSED
            return held[:end].rstrip("\n")
        # The longest end that may yet become the mark, and the line breaks before it.
        kept = next((size for size in range(len(mark) - 1, 0, -1) if held.endswith(mark[:size])), 0)
        shown = len(held[: len(held) - kept].rstrip("\n"))
        self._held = held[shown:]
        return held[:shown]
