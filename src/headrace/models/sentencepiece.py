"""SentencePiece's BPE as llama.cpp runs it: always merge the neighbours whose union has the best score.

Kept in Python because the `tokenizers` library ranks pairs and not results, so it cannot break ties between equal
scores the same way. One word is one heap of at most three candidates a character: n log n, whatever the text. Words are
independent where no token spans their border, and common words are remembered. Knows nothing of special tokens.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from heapq import heapify, heappop, heappush

SPACE = "▁"  # how the vocabulary writes a space
_CROSSING = re.compile(f"[^{SPACE}\0]{SPACE}")
_MAX_REMEMBERED = 16_384  # words; with _MAX_REMEMBERED_CHARS this bounds the memory to a few MB
_MAX_REMEMBERED_CHARS = 32


class ScoredMerges:
    """Encodes text with a scored vocabulary; characters that it lacks become byte tokens.

    Cache: word -> ids, at most 16,384 words of 32 characters, emptied when full; never stale; holds ids only.
    """

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], byte_ids: Sequence[int | None]) -> None:
        self._ids = ids
        self._scores = scores
        self._byte_ids = byte_ids
        self._words = _word_pattern(ids)
        self._remembered: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, whose spaces may be plain or escaped. Bytes without a token are dropped."""
        text = text.replace(" ", SPACE)
        ids: list[int] = []
        for word in self._words.findall(text):
            known = self._remembered.get(word)
            ids.extend(self._remember(word) if known is None else known)
        return ids

    def _remember(self, word: str) -> list[int]:
        ids = self._encode_word(word)
        if len(word) <= _MAX_REMEMBERED_CHARS:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[word] = ids
        return ids

    def _encode_word(self, word: str) -> list[int]:
        ids: list[int] = []
        for piece in self._merge(word):
            token = self._ids.get(piece)
            if token is not None:
                ids.append(token)
            else:
                found = (self._byte_ids[byte] for byte in piece.encode("utf-8"))
                ids.extend(byte_id for byte_id in found if byte_id is not None)
        return ids

    def _merge(self, word: str) -> list[str]:
        pieces: list[str] = list(word)
        following = list(range(1, len(pieces) + 1))  # index of the piece to the right; len(pieces) ends the chain
        preceding = list(range(-1, len(pieces) - 1))
        ids, scores, end = self._ids, self._scores, len(pieces)
        # Best score first, leftmost among equals; the lengths tell whether a candidate is still what it was.
        candidates: list[tuple[float, int, int, int]] = []

        def offer(left: int, right: int) -> tuple[float, int, int, int] | None:
            joined = pieces[left] + pieces[right]
            token = ids.get(joined)
            return None if token is None else (-scores[token], left, right, len(joined))

        candidates = [found for left in range(end - 1) if (found := offer(left, left + 1))]
        heapify(candidates)
        while candidates:
            _, left, right, length = heappop(candidates)
            if not pieces[left] or not pieces[right] or len(pieces[left]) + len(pieces[right]) != length:
                continue
            pieces[left] += pieces[right]
            pieces[right] = ""
            after = following[left] = following[right]
            if after < end:
                preceding[after] = left
                if found := offer(left, after):
                    heappush(candidates, found)
            before = preceding[left]
            if before >= 0 and (found := offer(before, left)):
                heappush(candidates, found)
        return [piece for piece in pieces if piece]


def _word_pattern(tokens: Collection[str]) -> re.Pattern[str]:
    """Finds words, spaces first, that end only where no token goes on: before a space that follows another character.

    Some vocabularies have a few tokens with a space inside; after the characters before it a word goes on.
    """
    joined = "\0".join(tokens)
    crossed = {found[0] for found in _CROSSING.findall(joined)}
    if joined.count("\0") >= len(tokens):  # the separator is a character of this vocabulary: nothing is known of it
        crossed.add("\0")
    word = f"{SPACE}*[^{SPACE}]+"
    if crossed:
        after = "".join(map(re.escape, sorted(crossed)))
        word += f"(?:(?<=[{after}]){SPACE}+[^{SPACE}]*)*"
    return re.compile(f"{word}|{SPACE}+")
