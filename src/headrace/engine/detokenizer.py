"""Tokens to text, one at a time, without ever showing half a character.

The text of a stream is exactly `b"".join(...).decode("utf-8", "replace")` of its tokens, however they are cut. Knows
nothing of control tokens (their bytes are empty) or of stop strings (`stop.py`).
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence

_Utf8Decoder = getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one choice. `token_bytes` is the tokenizer's table.

    `strips_leading_space` is for SentencePiece models, whose first word carries the space of a word's start: set it
    where the answer begins a text of its own, which is where the tokenizer would have added that space.
    """

    __slots__ = ("_at_start", "_decode", "_held", "_token_bytes")

    def __init__(self, token_bytes: Sequence[bytes], *, strips_leading_space: bool = False) -> None:
        self._token_bytes = token_bytes
        self._decode = _Utf8Decoder("replace").decode
        self._held = False  # whether the decoder may hold the beginning of a character
        self._at_start = strips_leading_space

    def push(self, token: int) -> str:
        """The text that this token completes; empty while it is the beginning of a character."""
        data = self._token_bytes[token]
        if self._held or self._at_start or not data.isascii():
            return self._push_slowly(data)
        return data.decode("ascii")

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole, else nothing."""
        self._held = False
        return self._decode(b"", True)

    def _push_slowly(self, data: bytes) -> str:
        text = self._decode(data)
        if data:
            # A character can only stay open behind a byte outside ASCII.
            self._held = not data[-1] < 0x80
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text
