"""Drafts as the engine asks for them: what is copied, from whom, and what is learnt from what became of it."""

from array import array
from collections.abc import Iterable

import numpy as np
import pytest

from headrace.core.request import Sampling
from headrace.engine.draft.drafter import MAX_SALTS, Drafter, continuation
from headrace.engine.draft.history import BORDER, History, Match
from headrace.engine.draft.policy import MOST_DRAFTED
from headrace.engine.kv.salt import Salt
from headrace.engine.sequence import Sequence, Work

POEM = list(range(100, 160))


def known(tokens: list[int], tenant: str = "") -> Sequence:
    """A sequence with this prompt."""
    work = Work(
        model="toy",
        tokens=np.array(tokens, np.int32),
        sampling=Sampling(temperature=0.0),
        seed=0,
        max_tokens=1000,
        salt=Salt(tenant),
    )
    return Sequence(work, 1, 0)


def say(sequence: Sequence, tokens: Iterable[int]) -> Sequence:
    """Let the model generate tokens."""
    for token in tokens:
        sequence.append(token)
    return sequence


def ready(drafter: Drafter, streams: int = 1) -> Drafter:
    """With a plain step measured, so that drafting may begin."""
    drafter.observe_step(streams, 0, 0.004)
    assert drafter.limit(streams) > 0
    return drafter


def answered(drafter: Drafter, prompt: list[int], answer: list[int], tenant: str = "") -> None:
    """A sequence of another time, from its first draft to its end."""
    sequence = known(prompt, tenant)
    ready(drafter).propose(sequence, 8)
    drafter.end(say(sequence, answer))


def test_a_text_that_is_begun_again_is_drafted_on() -> None:
    drafter = Drafter()
    draft = ready(drafter).propose(known([*POEM, 7, 8, 9, *POEM[:8]]), 32)
    assert 4 <= len(draft) <= MOST_DRAFTED
    assert draft == POEM[8 : 8 + len(draft)]
    drafter.check()


def test_a_draft_has_at_most_the_tokens_that_there_is_room_for() -> None:
    assert ready(Drafter()).propose(known(POEM * 2), 3) == POEM[:3]
    assert ready(Drafter()).propose(known(POEM * 2), 0) == []


def test_what_is_new_is_not_drafted() -> None:
    drafter = ready(Drafter(), 2)
    assert drafter.propose(known(POEM), 32) == drafter.propose(known([5]), 32) == []


def test_tokens_that_were_generated_are_seen_without_being_told() -> None:
    drafter = Drafter()
    sequence = known([1, 2, 3])
    assert ready(drafter).propose(sequence, 8) == []
    say(sequence, [*POEM, *POEM[:5]])
    draft = ready(drafter).propose(sequence, 8)
    assert draft and draft == POEM[5 : 5 + len(draft)]


def test_an_output_serves_later_sequences_of_the_same_salt_and_no_other() -> None:
    drafter = Drafter()
    answered(drafter, [1, 2, 3], POEM, "mine")
    prompt = [4, 5, *POEM[:6]]
    draft = ready(drafter).propose(known(prompt, "mine"), 8)
    assert draft and draft == POEM[6 : 6 + len(draft)]
    assert ready(drafter).propose(known(prompt, "neighbour"), 8) == []
    drafter.check()


def test_a_prompt_does_not_serve_other_sequences() -> None:
    drafter = Drafter()
    answered(drafter, POEM, [1, 2, 3, 4])
    assert ready(drafter).propose(known(POEM[:8]), 8) == []


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([13, 14, 55, 56, 9, 10, 11, 12, 13, 14], 77),  # five tokens of another output, two of its own text
        ([9, 11, 12, 13, 14, 55, 56, 9, 11, 12, 13, 14], 55),  # five of its own
        ([8, 12, 13, 14, 55, 56, 9, 12, 13, 14], 55),  # three of both
    ],
)
def test_the_longest_match_wins_and_among_equals_the_own_text(tokens: list[int], expected: int) -> None:
    drafter = Drafter()
    answered(drafter, [1], [10, 11, 12, 13, 14, 77, 78])
    assert ready(drafter).propose(known(tokens), 2)[0] == expected


def test_most_places_decide_and_a_draft_ends_where_they_part() -> None:
    text = array("i", [1, 2, 5, 6, 0, 1, 2, 5, 7, 0, 1, 2, 8, 8, 0, 1, 2])
    history = History(text)
    match = history.find(array("i", [1, 2]))
    assert match == Match(2, [12, 7, 2])
    assert continuation(history, match, 1) == [5]
    assert continuation(history, match, 4)[:2] == [5, 7], "of two places the later decides"
    many = array("i", [token for last in range(20, 30) for token in (1, 2, last)] + [1, 2])
    assert continuation(History(many), History(many).find(array("i", [1, 2])), 4) == [], "ten places, ten ways to go on"


def test_what_has_begun_to_repeat_goes_on_repeating() -> None:
    text = array("i", [9, 1, 2, 3, 1, 2, 3])
    history = History(text)
    assert continuation(history, history.find(text), 8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_a_draft_ends_with_the_output_it_is_from() -> None:
    history = History(array("i", [1, 2, 3, 4, BORDER, 5, 6, BORDER]))
    assert continuation(history, history.find(array("i", [1, 2])), 8) == [3, 4]
    assert continuation(history, history.find(array("i", [1, 2])), 2) == [3, 4]


def test_a_stream_that_refutes_its_drafts_is_left_alone_and_one_that_repeats_itself_is_found_again() -> None:
    drafter = Drafter()
    sequence = known([*POEM, 1, 2])
    refuted = 0
    for number in range(200):  # two known tokens, and then always something else
        say(sequence, [(POEM[number % 50], POEM[number % 50 + 1], 1000 + number)[number % 3]])
        if draft := ready(drafter).propose(sequence, 8):
            drafter.observe(sequence, len(draft), 0)
            refuted += 1
            drafter.observe_step(1, len(draft), 0.004 * (1 + 0.1 * len(draft)))
    assert refuted < 15
    drafted = right = 0
    for _ in range(20):
        for token in POEM:
            if draft := ready(drafter).propose(sequence, 8):
                drafted += 1
                right += token == draft[0]
                drafter.observe(sequence, len(draft), len(draft))
            say(sequence, [token])
    assert drafted > 600 and right > 0.9 * drafted, "what was only compared has shown that drafts hold"


def test_a_sequence_that_ended_or_was_never_asked_for_is_left_alone() -> None:
    drafter = Drafter()
    sequence = known(POEM * 2)
    draft = ready(drafter).propose(sequence, 4)
    drafter.end(sequence)
    drafter.observe(sequence, len(draft), 1)
    drafter.end(sequence)
    drafter.end(known(POEM))
    drafter.check()


def test_what_became_of_drafts_is_told_once() -> None:
    drafter = Drafter()
    sequence = known(POEM * 2)
    for accepted in (4, 1):
        drafter.observe(sequence, 4, accepted)
    assert drafter.tally() == (2, 8, 5)
    assert drafter.tally() == (0, 0, 0)


def test_salts_beyond_the_room_are_forgotten_the_longest_unused_first() -> None:
    drafter = Drafter()
    for number in range(MAX_SALTS + 1):
        answered(drafter, [1], POEM, str(number))
        if number == 1:
            answered(drafter, [1], [2], str(0))
    drafter.check()
    for salt, is_known in ((0, True), (2, True), (1, False)):
        assert bool(ready(drafter).propose(known(POEM[:8], str(salt)), 8)) == is_known


def test_many_streams_are_not_looked_at() -> None:
    drafter = Drafter()
    drafter.observe_step(64, 0, 0.03)
    assert drafter.limit(64) == 0


@pytest.mark.parametrize("streams", [2, 8])
def test_every_stream_is_looked_at_in_turn(streams: int) -> None:
    drafter = Drafter()
    members = [known(POEM * 2) for _ in range(streams)]
    drafted = set()
    for _ in range(8):
        ready(drafter, streams)
        for sequence in members:
            if draft := drafter.propose(sequence, 8):
                drafted.add(sequence)
                drafter.observe(sequence, len(draft), len(draft))
    assert drafted == set(members)
