"""A text of tokens and an index of its places, to find where its present end stood before and what followed there.

The index is that of a Lempel-Ziv compressor: `_heads` maps a hash of two tokens to the last place that follows them,
`_previous` every place to the one before it with the same hash. An entry is never removed: a place before `start` is
forgotten, and two pairs of tokens that share a hash share a chain, because whatever a chain names is compared with the
text before it is believed. A search walks the `MAX_CHAIN` latest places of a chain, or up to the fourth that matches
completely, and no further.

Adding a token costs O(1) amortised, is put off until somebody searches, and is vectorised when many have come. A place
costs eight bytes and its share of the heads, sixteen more at most. Knows no request, no tenant and no model.
"""

from array import array
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_MATCH = 2
MAX_MATCH = 32  # tokens that are compared: a longer match says no more
MAX_CHAIN = 16
ENOUGH = 4  # places that match as much as there is to match: the search ends
BORDER = -1  # a token that no text has, between two outputs
_FIRST, _SECOND = 0x9E3779B1, 0x85EBCA6B  # odd, with well mixed bits; the slot is the product's upper bits
_BULK = 48  # places from which on arrays are quicker than a loop
_SMALLEST_BITS = 8


class Match(NamedTuple):
    """Places that follow the `length` last tokens of a text, or of more than MAX_MATCH; the latest place first."""

    length: int
    places: list[int]


NO_MATCH = Match(0, [])


class History:
    """One text and the index of its places. A place is named by the number of tokens before it since the beginning.

    `text` may grow at its end by anybody's hand; only `forget` may take from its front.
    """

    __slots__ = ("_heads", "_previous", "_shift", "start", "text")

    def __init__(self, text: "array[int]") -> None:
        self.text = text
        self.start = 0  # the place of text[0]
        self._previous = array("q", bytes(8 * min(len(text), MIN_MATCH)))
        self._shift = 32 - _SMALLEST_BITS
        self._heads = array("q", [-1]) * (1 << _SMALLEST_BITS)

    @property
    def end(self) -> int:
        """The place behind the last token."""
        return self.start + len(self.text)

    def find(self, tail: "array[int]") -> Match:
        """Where the longest end of `tail` that stands in the text stands, among the latest places of its chain.

        The end of the text itself is no such place: nothing follows it. `tail`: at most MAX_MATCH last tokens.
        """
        if len(tail) < MIN_MATCH:
            return NO_MATCH
        self._catch_up()
        text, previous, start = self.text, self._previous, self.start
        first = start + MIN_MATCH
        place = self._heads[((tail[-2] * _FIRST + tail[-1] * _SECOND) & 0xFFFFFFFF) >> self._shift]
        best, places = MIN_MATCH, []
        for _ in range(MAX_CHAIN):
            if place < first:
                break
            at = place - start
            # A place that is not better where the best one ends need not be compared at all.
            if at >= best and text[at - best] == tail[-best] and text[at] != BORDER:
                length = match_length(text, at, tail)
                if length > best:
                    best, places = length, [place]
                elif length == best:
                    places.append(place)
                    if len(places) == ENOUGH and best == len(tail):
                        break
            place = previous[at]
        return Match(best, places) if places else NO_MATCH

    def forget(self, count: int) -> None:
        """Take the first `count` tokens away; places keep their names."""
        self._catch_up()
        del self.text[:count]
        del self._previous[:count]
        self.start += count

    def check(self) -> None:
        """Assert that the chains hold every indexed place once, latest first, each under its own hash."""
        text, start = self.text, self.start
        assert len(self._previous) <= len(text) or len(text) < MIN_MATCH, "a place is indexed that nothing follows"
        seen: set[int] = set()
        for slot, head in enumerate(self._heads):
            place, before = head, self.end
            while place >= start + MIN_MATCH:
                assert place < before, "a chain does not go back"
                assert place not in seen, f"place {place} is in two chains"
                at = place - start
                assert at < len(self._previous), f"place {place} is in a chain and not indexed"
                assert self._slot(text[at - 2], text[at - 1]) == slot, f"place {place} is in a wrong chain"
                seen.add(place)
                before, place = place, self._previous[at]
        expected = max(0, len(self._previous) - MIN_MATCH)
        assert len(seen) == expected, f"{expected - len(seen)} places are in no chain"
        assert len(self._heads) == 1 << (32 - self._shift), "the table of heads has a wrong size"

    def _slot(self, first: int, second: int) -> int:
        return ((first * _FIRST + second * _SECOND) & 0xFFFFFFFF) >> self._shift

    def _catch_up(self) -> None:
        """Index all places that a token follows."""
        text, heads, previous, shift = self.text, self._heads, self._previous, self._shift
        known, size = len(previous), len(text)
        if size > len(heads):
            self._grow(size)
        elif size - known > _BULK:
            self._index(known)
        else:
            start = self.start
            for at in range(known, size):
                if at < MIN_MATCH:
                    previous.append(-1)
                    continue
                slot = ((text[at - 2] * _FIRST + text[at - 1] * _SECOND) & 0xFFFFFFFF) >> shift
                previous.append(heads[slot])
                heads[slot] = start + at

    def _grow(self, size: int) -> None:
        """Make the table of heads larger than the text, and fill it again."""
        bits = size.bit_length()
        self._shift = 32 - bits
        self._heads = array("q", [-1]) * (1 << bits)
        self._previous = array("q", bytes(8 * MIN_MATCH))
        self._index(MIN_MATCH)

    def _index(self, known: int) -> None:
        """`_catch_up` for many places at once: what precedes a place in its chain is its neighbour in a stable sort."""
        known = max(known, MIN_MATCH)
        self._previous.extend([-1] * (known - len(self._previous)))
        tokens = np.array(self.text[known - MIN_MATCH : -1], np.int64)
        places = np.arange(known, len(self.text), dtype=np.int64) + self.start
        keys = tokens[:-1] * _FIRST + tokens[1:] * _SECOND
        slots = (keys & 0xFFFFFFFF) >> self._shift
        order = np.argsort(slots, kind="stable")
        slots, places = slots[order], places[order]
        heads: NDArray[np.int64] = np.frombuffer(self._heads, np.int64)
        before = np.empty_like(places)
        before[1:] = places[:-1]
        is_first = np.ones(len(slots), np.bool_)
        is_first[1:] = slots[1:] != slots[:-1]
        before[is_first] = heads[slots[is_first]]
        is_last = np.ones(len(slots), np.bool_)
        is_last[:-1] = is_first[1:]
        heads[slots[is_last]] = places[is_last]
        previous = np.empty_like(before)
        previous[order] = before
        self._previous.frombytes(previous.tobytes())


class Outputs:
    """Recent outputs of one tenant as one history; whole outputs are forgotten, the oldest first.

    Holds at most `max_tokens` tokens, borders included.
    """

    __slots__ = ("_lengths", "_max_tokens", "history")

    def __init__(self, max_tokens: int) -> None:
        self.history = History(array("i"))
        self._lengths: deque[int] = deque()
        self._max_tokens = max_tokens

    def add(self, tokens: "array[int]") -> None:
        """Remember an output; one that is too short to be found or too long to be held is not."""
        length = len(tokens) + 1
        if not MIN_MATCH + 1 < length <= self._max_tokens:
            return
        excess = len(self.history.text) + length - self._max_tokens
        count = 0
        while count < excess:
            count += self._lengths.popleft()
        if count:
            self.history.forget(count)
        self._lengths.append(length)
        self.history.text.extend(tokens)
        self.history.text.append(BORDER)

    def check(self) -> None:
        """Assert that the lengths are those of the outputs, and that the index is whole."""
        text = self.history.text
        assert sum(self._lengths) == len(text) <= self._max_tokens, "the outputs' lengths are wrong"
        at = 0
        for length in self._lengths:
            at += length
            assert text[at - 1] == BORDER and text[at - length : at].count(BORDER) == 1, "an output lost its border"
        self.history.check()


def match_length(text: "array[int]", at: int, tail: "array[int]") -> int:
    """How many tokens before text[at] are the last of `tail`."""
    most = min(at, len(tail))
    if most == len(tail) and text[at - most : at] == tail:
        return most
    length = 0
    while length < most and text[at - 1 - length] == tail[-1 - length]:
        length += 1
    return length
