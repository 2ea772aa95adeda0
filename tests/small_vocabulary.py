"""A vocabulary for tests of grammars: every byte, some pieces of JSON and words, a control token and two that end.

Text becomes tokens by the longest piece first. Also how tests look at a mask, and a way to draw from one.
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from headrace.engine.grammar.matcher import Grammar, Matcher

_PIECES = ['{"', '":', '":"', '","', '",', '"}', '"]', '{}', "[]", "},", "],", ": ", ", ", "\n ", "\n  ", "true", "fal",
           "se", "null", "foo", "bar", "name", "ab", "abc", "12", "100", "0.", "e+", "\\u", '\\"', "Ünï", "</",
           "think", "é"]  # fmt: skip


class SmallVocabulary:
    """Byte b is token b; see the file's head for the rest."""

    byte_table: ClassVar[list[bytes]] = [
        *(bytes([byte]) for byte in range(256)), *(piece.encode() for piece in _PIECES), b"", b"", b"",
    ]  # fmt: skip
    num_tokens = 256 + len(_PIECES) + 3
    special_tokens: ClassVar[dict[str, int]] = {
        "<start>": num_tokens - 3,
        "<end>": num_tokens - 2,
        "<stop>": num_tokens - 1,
    }
    eos_ids = frozenset({num_tokens - 2, num_tokens - 1})

    def encode_inside(self, text: str) -> list[int]:
        data, ids = text.encode(), []
        while data:
            token = max((t for t, piece in enumerate(self.byte_table) if piece and data.startswith(piece)),
                        key=lambda t: len(self.byte_table[t]))  # fmt: skip
            ids.append(token)
            data = data[len(self.byte_table[token]) :]
        return ids


def allowed_tokens(matcher: Matcher, grammar: Grammar) -> NDArray[np.intp]:
    """Ids of the tokens that a matcher's mask allows."""
    row = np.zeros(grammar.num_words, np.uint32)
    matcher.mask(row)
    return np.flatnonzero(np.unpackbits(row.astype("<u4").view(np.uint8), bitorder="little"))


def draw_answer(
    grammar: Grammar,
    table: list[bytes],
    eos_ids: frozenset[int],
    choose: Callable[[NDArray[np.intp], int], int],
    limit: int,
) -> tuple[bytes, bool]:
    """Choose tokens until one ends the answer: its bytes, and whether it is complete after at most `limit` tokens."""
    matcher = grammar.start()
    text = b""
    for step in range(limit):
        token = choose(allowed_tokens(matcher, grammar), step)
        if token in eos_ids:
            return text, True
        matcher.accept(token)
        text += table[token]
        if matcher.is_finished:
            return text, True
    return text, False
