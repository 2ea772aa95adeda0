"""The index of a text beside a search that looks everywhere, place by place."""

import random
from array import array

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.draft.history import (
    BORDER,
    ENOUGH,
    MAX_CHAIN,
    MAX_MATCH,
    MIN_MATCH,
    NO_MATCH,
    History,
    Match,
    Outputs,
)

few_tokens = st.lists(st.integers(0, 3), max_size=12)


def naive_find(tokens: list[int], start: int, tail: list[int]) -> Match:
    """Compare every place, among the latest MAX_CHAIN that follow the same two tokens."""
    found: list[tuple[int, int]] = []
    if len(tail) >= MIN_MATCH:
        places = [at for at in range(MIN_MATCH, len(tokens)) if tokens[at - 2 : at] == tail[-2:]]
        for at in places[::-1][:MAX_CHAIN]:
            length = 0
            while length < min(at, len(tail)) and tokens[at - 1 - length] == tail[-1 - length]:
                length += 1
            if tokens[at] != BORDER:
                found.append((length, at + start))
            if [length for length, _ in found].count(len(tail)) == ENOUGH:
                break
    best = max((length for length, _ in found), default=0)
    return Match(best, [place for length, place in found if length == best])


class HistoryMachine(RuleBasedStateMachine):
    """The model: a plain list, and how many tokens were taken from its front."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.start = 0
        self.text = array("i")
        self.history = History(self.text)

    @rule(tokens=few_tokens, repeats=st.sampled_from([1, 1, 1, 5, 40]))
    def grow(self, tokens: list[int], repeats: int) -> None:
        self.tokens += tokens * repeats
        self.text.extend(tokens * repeats)

    @rule(seed=st.integers(0, 100), count=st.integers(50, 300))
    def grow_much(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        self.grow([rng.randrange(4) for _ in range(count)], 1)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.tokens)))
        self.history.forget(count)
        del self.tokens[:count]
        self.start += count

    @rule(length=st.integers(0, MAX_MATCH))
    def find_own_end(self, length: int) -> None:
        tail = self.tokens[len(self.tokens) - length :] if length <= len(self.tokens) else self.tokens
        self.find(tail)

    @rule(tail=few_tokens)
    def find(self, tail: list[int]) -> None:
        assert self.history.find(array("i", tail)) == naive_find(self.tokens, self.start, tail)

    @invariant()
    def the_index_is_whole(self) -> None:
        self.history.check()
        assert self.history.end == self.start + len(self.tokens)


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=80, stateful_step_count=25, deadline=None, derandomize=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), vocab=st.sampled_from([40, 2000, 260_000]), steps=st.integers(1, 6))
def test_pairs_that_share_a_chain_are_never_taken_for_each_other(seed: int, vocab: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    text = array("i")
    history = History(text)
    for _ in range(steps):
        text.extend(rng.integers(0, vocab, int(rng.integers(1, 400))).tolist())
        copied = int(rng.integers(0, len(text)))
        text.extend(text[copied : copied + 40])
        tail = text[-MAX_MATCH:]
        match = history.find(tail)
        for place in match.places:
            assert text[place - match.length : place] == tail[len(tail) - match.length :]
            assert place < len(text)
        history.check()


def test_many_tokens_at_once_are_indexed_as_one_after_the_other() -> None:
    rng = random.Random(5)
    tokens = [rng.randrange(9) for _ in range(3000)]
    slow, fast = History(array("i")), History(array("i"))
    for token in tokens:
        slow.text.append(token)
        slow.find(slow.text[-MAX_MATCH:])
    fast.text.extend(tokens)
    for history in (slow, fast):
        history.check()
    for _ in range(200):
        at = rng.randrange(40, 3000)
        tail = array("i", tokens[at - MAX_MATCH : at])
        assert slow.find(tail) == fast.find(tail) != NO_MATCH


def test_memory_stays_within_a_few_bytes_a_token() -> None:
    history = History(array("i", range(100_000)))
    history.find(array("i", [1, 2]))
    places = history._previous.buffer_info()[1] * 8
    heads = history._heads.buffer_info()[1] * 8
    assert places + heads <= 100_000 * (8 + 16)


def test_outputs_are_forgotten_whole_and_the_oldest_first() -> None:
    outputs = Outputs(max_tokens=20)
    for first in (10, 20, 30):
        outputs.add(array("i", range(first, first + 7)))
        outputs.check()
    assert outputs.history.find(array("i", [10, 11])) == NO_MATCH
    assert outputs.history.find(array("i", [20, 21, 22])).length == 3
    assert outputs.history.find(array("i", [30, 31, 32])).length == 3


def test_a_match_never_reaches_across_the_border_of_two_outputs() -> None:
    outputs = Outputs(max_tokens=100)
    outputs.add(array("i", [1, 2, 3, 4]))
    outputs.add(array("i", [5, 6, 7, 8]))
    assert outputs.history.find(array("i", [3, 4])) == NO_MATCH, "nothing follows the end of an output"
    assert outputs.history.find(array("i", [2, 3, 4, 5, 6])).length == 2


def test_an_output_that_is_longer_than_the_room_is_not_remembered() -> None:
    outputs = Outputs(max_tokens=10)
    outputs.add(array("i", [1, 2, 3, 4]))
    outputs.add(array("i", range(50)))
    outputs.check()
    assert outputs.history.find(array("i", [1, 2, 3])).length == 3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 60), max_size=60), most=st.integers(4, 100))
def test_outputs_hold_the_latest_that_fit(lengths: list[int], most: int) -> None:
    outputs = Outputs(max_tokens=most)
    kept: list[list[int]] = []
    for number, length in enumerate(lengths):
        tokens = [number] * length
        outputs.add(array("i", tokens))
        outputs.check()
        if MIN_MATCH < length < most:
            kept.append(tokens)
            while sum(len(each) + 1 for each in kept) > most:
                kept.pop(0)
    assert outputs.history.text.tolist() == [token for each in kept for token in [*each, BORDER]]
