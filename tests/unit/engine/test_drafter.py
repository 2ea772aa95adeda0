"""Drafts as the engine asks for them: what is copied, from whom, and what is learnt from what became of it."""

from array import array

import pytest

from headrace.engine.draft.drafter import MAX_SALTS, Drafter, continuation
from headrace.engine.draft.history import BORDER, History, Match
from headrace.engine.draft.policy import MOST_DRAFTED

POEM = list(range(100, 160))


def ready(drafter: Drafter, streams: int = 1) -> Drafter:
    """With a plain step measured, so that drafting may begin."""
    drafter.observe_step(streams, 0, 0.004)
    assert drafter.begin_step(streams)
    return drafter


def test_a_text_that_is_begun_again_is_drafted_on() -> None:
    drafter = Drafter()
    tokens = array("i", [*POEM, 7, 8, 9, *POEM[:8]])
    drafter.begin("a", tokens, b"")
    draft = ready(drafter).propose("a", 32)
    assert 4 <= len(draft) <= MOST_DRAFTED
    assert draft == POEM[8 : 8 + len(draft)]
    drafter.check()


def test_a_draft_has_at_most_the_tokens_that_there_is_room_for() -> None:
    drafter = Drafter()
    drafter.begin("a", array("i", POEM * 2), b"")
    assert ready(drafter).propose("a", 3) == POEM[:3]
    assert ready(drafter).propose("a", 0) == []


def test_what_is_new_is_not_drafted() -> None:
    drafter = Drafter()
    drafter.begin("a", array("i", POEM), b"")
    drafter.begin("b", array("i", [5]), b"")
    ready(drafter, 2)
    assert drafter.propose("a", 32) == drafter.propose("b", 32) == []


def test_tokens_that_were_generated_are_seen_without_being_told() -> None:
    drafter = Drafter()
    tokens = array("i", [1, 2, 3])
    drafter.begin("a", tokens, b"")
    assert ready(drafter).propose("a", 8) == []
    tokens.extend([*POEM, *POEM[:5]])
    draft = ready(drafter).propose("a", 8)
    assert draft and draft == POEM[5 : 5 + len(draft)]


def test_an_output_serves_later_sequences_of_the_same_salt_and_no_other() -> None:
    drafter = Drafter()
    first = array("i", [1, 2, 3])
    drafter.begin("a", first, b"tenant")
    first.extend(POEM)
    drafter.end("a")
    for name, salt in (("same", b"tenant"), ("other", b"neighbour")):
        drafter.begin(name, array("i", [4, 5, *POEM[:6]]), salt)
        draft = ready(drafter).propose(name, 8)
        assert draft == (POEM[6 : 6 + len(draft)] if name == "same" else [])
        assert bool(draft) == (name == "same")
        drafter.end(name)
    drafter.check()


def test_a_prompt_does_not_serve_other_sequences() -> None:
    drafter = Drafter()
    drafter.begin("a", array("i", POEM), b"")
    drafter.end("a")
    drafter.begin("b", array("i", POEM[:8]), b"")
    assert ready(drafter).propose("b", 8) == []


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
    first = array("i", [1])
    drafter.begin("a", first, b"")
    first.extend([10, 11, 12, 13, 14, 77, 78])
    drafter.end("a")
    drafter.begin("b", array("i", tokens), b"")
    assert ready(drafter).propose("b", 2)[0] == expected


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
    tokens = array("i", [*POEM, 1, 2])
    drafter.begin("a", tokens, b"")
    refuted = 0
    for number in range(200):  # two known tokens, and then always something else
        tokens.extend([POEM[number % 50], POEM[number % 50 + 1], 1000 + number][number % 3 : number % 3 + 1])
        if draft := ready(drafter).propose("a", 8):
            drafter.observe("a", len(draft), 0)
            refuted += 1
            drafter.observe_step(1, len(draft), 0.004 * (1 + 0.1 * len(draft)))
    assert refuted < 15
    drafted = accepted = 0
    for _ in range(20):
        for token in POEM:
            if (draft := ready(drafter).propose("a", 8)) and token == draft[0]:
                accepted += 1
            drafted += bool(draft)
            drafter.observe("a", len(draft), len(draft))
            tokens.append(token)
    assert drafted > 600 and accepted > 0.9 * drafted, "what was only compared has shown that drafts hold"


def test_a_sequence_that_ended_or_never_began_is_left_alone() -> None:
    drafter = Drafter()
    drafter.begin("a", array("i", POEM * 2), b"")
    draft = ready(drafter).propose("a", 4)
    drafter.end("a")
    drafter.observe("a", len(draft), 1)
    drafter.end("a")
    drafter.end("never")
    drafter.check()


def test_salts_beyond_the_room_are_forgotten_the_longest_unused_first() -> None:
    drafter = Drafter()
    for number in range(MAX_SALTS + 1):
        tokens = array("i", [1])
        drafter.begin(number, tokens, bytes([number]))
        tokens.extend(POEM)
        drafter.end(number)
        if number == 1:
            drafter.begin("again", array("i", [1]), bytes([0]))
            drafter.end("again")
    drafter.check()
    for salt, is_known in ((0, True), (2, True), (1, False)):
        drafter.begin("new", array("i", POEM[:8]), bytes([salt]))
        assert bool(ready(drafter).propose("new", 8)) == is_known
        drafter.end("new")


def test_many_streams_are_not_looked_at() -> None:
    drafter = Drafter()
    drafter.observe_step(64, 0, 0.03)
    assert not drafter.begin_step(64)


@pytest.mark.parametrize("streams", [2, 8])
def test_every_stream_is_looked_at_in_turn(streams: int) -> None:
    drafter = Drafter()
    for number in range(streams):
        drafter.begin(number, array("i", POEM * 2), b"")
    drafted = set()
    for _ in range(8):
        ready(drafter, streams)
        for number in range(streams):
            if draft := drafter.propose(number, 8):
                drafted.add(number)
                drafter.observe(number, len(draft), len(draft))
    assert drafted == set(range(streams))
