"""One choice's text, parted: thoughts, answer, calls; stops where they count; every token and every id once."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.events import ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from headrace.engine.speech import Delta, Speech, call_id
from headrace.engine.thinking import MARKS, Marks, ThoughtSplitter
from headrace.engine.tools.bare import GENERIC
from headrace.engine.tools.hermes import Hermes
from headrace.engine.tools.parser import MAX_HELD_CHARS, CallParser, Said

THINK = MARKS[0]
CALL = '{"name": "f", "arguments": {"a": "."}}'


def speak(
    pieces: list[str],
    *,
    stops: tuple[str, ...] = (),
    most: int | None = None,
    thinks: bool = True,
    is_open: bool = False,
    steps: bool = False,
) -> tuple[list[Delta], Speech]:
    """What comes of pieces, one a token; with `steps` deltas are taken after each."""
    speech = Speech(
        "r1",
        0,
        thoughts=ThoughtSplitter(THINK, is_open=is_open) if thinks else None,
        calls=CallParser(GENERIC, frozenset({"f"})),
        stops=stops,
        max_calls=most,
    )
    deltas: list[Delta] = []
    for piece in pieces:
        speech.push(piece)
        if steps:
            deltas += speech.take_deltas(0, is_last=False)
        if speech.is_over:
            break
    else:
        speech.flush()
    return [*deltas, *speech.take_deltas(0, is_last=True)], speech


def said(deltas: list[Delta]) -> list[tuple[str, str]]:
    """Kinds and texts, neighbours joined."""
    told = [
        (
            f"{delta.index}:{delta.name or ''}" if isinstance(delta, ToolCallDelta) else type(delta).__name__,
            delta.arguments if isinstance(delta, ToolCallDelta) else delta.text,
        )
        for delta in deltas
    ]
    kinds = itertools.groupby(told, key=lambda one: one[0].partition(":")[0])
    joined = []
    for _, group in kinds:
        members = list(group)
        joined.append((members[0][0], "".join(text for _, text in members)))
    return [one for one in joined if one[1]]


def test_thoughts_text_and_calls_are_told_apart_and_every_token_is_counted() -> None:
    pieces = ["<th", "ink>\nLet me", " see.\n", "</think>", "\n\n", "I look.\n", CALL[:20], CALL[20:], "\n" + CALL]
    for steps in (False, True):
        deltas, speech = speak(pieces, steps=steps)
        assert said(deltas) == [
            ("ReasoningDelta", "Let me see."),
            ("TextDelta", "I look."),
            ("0:f", '{"a": "."}'),
            ("1:f", '{"a": "."}'),
        ]
        assert sum(delta.num_tokens for delta in deltas) == len(pieces)
        assert speech.num_reasoning == 3  # the first is not known to be one when it comes
        assert speech.has_called
        ids = [delta.id for delta in deltas if isinstance(delta, ToolCallDelta) and delta.id]
        assert ids == [call_id("r1", 0, 0), call_id("r1", 0, 1)]
        assert len(set(ids)) == 2 and all(len(one) == len("call_") + 24 for one in ids)


def test_the_same_request_gives_the_same_ids_and_others_do_not() -> None:
    ids = {call_id(request, choice, index) for request in ("a", "b") for choice in (0, 1) for index in (0, 1)}
    assert len(ids) == 8
    assert call_id("a", 0, 0) == call_id("a", 0, 0)


def test_a_stop_string_ends_the_answer_but_neither_a_thought_nor_a_call() -> None:
    deltas, speech = speak(["<think>a. b</think>", CALL, "\nSo it is", ". More"], stops=(".",))
    assert said(deltas) == [("ReasoningDelta", "a. b"), ("0:f", '{"a": "."}'), ("TextDelta", "So it is")]
    assert speech.stop_match == "."
    # No stop string reaches over a call, and what was held for one is not lost.
    deltas, speech = speak(["Wait.\n", CALL], stops=(".and",))
    assert said(deltas) == [("TextDelta", "Wait."), ("0:f", '{"a": "."}')]
    assert speech.stop_match is None


def test_after_the_last_call_that_may_be_made_nothing_more_is_told() -> None:
    deltas, speech = speak([CALL, "\n", CALL + "\nmore", "x"], most=1)
    assert said(deltas) == [("0:f", '{"a": "."}')]
    assert speech.is_over
    assert speech.has_called
    for rest in (f"\n{CALL}\nmore", "\nmore", "; x"):
        at_once, _ = speak([f"{CALL}{rest}"], most=1)
        assert said(at_once) == said(deltas)
    # A call that broke off is none that was made.
    deltas, speech = speak(['{"name": "f", "arguments": {<} so', " be it"], most=1)
    assert said(deltas) == [("0:f", "{"), ("TextDelta", "<} so be it")]
    assert not speech.is_over


def test_a_call_that_was_begun_and_not_ended_is_no_whole_call() -> None:
    deltas, speech = speak(['{"name": "f", "arguments": {"a"'])
    assert said(deltas) == [("0:f", '{"a"')]
    assert not speech.has_called
    deltas, speech = speak(['{"name": "f", "argum'])
    assert said(deltas) == [("TextDelta", '{"name": "f", "argum')]


def test_tokens_that_made_nothing_are_counted_with_what_was_told_last() -> None:
    deltas, _ = speak(["<think>a</think>", CALL, "\n", ""], steps=True)
    assert [type(delta) for delta in deltas] == [ReasoningDelta, ToolCallDelta, ToolCallDelta]
    assert deltas[-1] == ToolCallDelta(0, 0, "", 2)
    deltas, _ = speak([""], steps=True)
    assert deltas == [TextDelta(0, "", 1)]


def test_a_thought_that_never_ends_is_all_there_is() -> None:
    deltas, _ = speak(["a", "b</thi"], is_open=True)
    assert said(deltas) == [("ReasoningDelta", "ab</thi")]


def test_log_probabilities_go_with_the_text_they_are_of() -> None:
    speech = Speech("r", 0, thoughts=ThoughtSplitter(THINK), calls=None, stops=())
    for number, piece in enumerate(["<think>", "hm", "</think>", "Yes", " no"]):
        speech.add_logprob(TokenLogprob(piece, piece.encode(), -float(number)))
        speech.push(piece)
    speech.flush()
    thought, text = speech.take_deltas(0, is_last=True)
    assert isinstance(thought, ReasoningDelta)
    assert isinstance(text, TextDelta)
    assert [one.token for one in text.logprobs][-2:] == ["Yes", " no"]
    assert "hm" not in [one.token for one in text.logprobs]


@settings(max_examples=300)
@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "<th", "\n", " ", "a", "<", "[THINK]", "[/THINK]"])).map(
        "".join
    ),
    places=st.sets(st.integers(0, 40)),
    is_open=st.booleans(),
    marks=st.sampled_from(MARKS),
)
def test_thoughts_are_the_same_however_the_text_is_cut(
    text: str, places: set[int], is_open: bool, marks: Marks
) -> None:
    cuts = [0, *sorted(place for place in places if place < len(text)), len(text)]
    splitter = ThoughtSplitter(marks, is_open=is_open)
    parts = [splitter.push(text[start:end]) for start, end in itertools.pairwise(cuts)]
    parts.append(splitter.flush())
    thought, answer = ("".join(part) for part in zip(*parts, strict=True))
    # All at once.
    body = text if is_open else text.lstrip()
    if not is_open and not body.startswith(marks.open):
        assert (thought, answer) == ("", text)
        return
    before, mark, behind = (body if is_open else body.removeprefix(marks.open)).partition(marks.close)
    before = before.lstrip("\n")
    assert thought == (before.rstrip("\n") if mark else before)
    assert answer == behind.lstrip("\n")


def test_what_may_become_a_call_is_not_held_for_ever() -> None:
    parser = CallParser(Hermes(), frozenset({"f"}))
    text = '<tool_call>{"arguments": {"a": "' + "x" * MAX_HELD_CHARS
    pieces = [piece for start in range(0, len(text), 999) for piece in parser.push(text[start : start + 999])]
    assert "".join(piece.text for piece in pieces if isinstance(piece, Said)).startswith("<tool_call>{")
    whole = CallParser(Hermes(), frozenset({"f"}))
    end = '"}, "name": "f"}</tool_call>'
    cut = [*pieces, *parser.push(end), *parser.flush()]
    at_once = [*whole.push(text + end), *whole.flush()]
    assert all(isinstance(piece, Said) for piece in cut + at_once)
    assert "".join(piece[0] for piece in cut) == "".join(piece[0] for piece in at_once) == text + end


@pytest.mark.parametrize("marks", MARKS)
def test_a_text_without_thoughts_passes_through_at_once(marks: Marks) -> None:
    splitter = ThoughtSplitter(marks)
    assert splitter.push("Hi") == ("", "Hi")
    assert splitter.is_over
