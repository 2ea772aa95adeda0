"""Stop strings end a text at the first that is complete, across borders, and hold no more than they must."""

import pytest

from headrace.engine.stop import StopMatcher


def pushes(stops: list[str], pieces: list[str]) -> list[tuple[str, str | None]]:
    matcher = StopMatcher(stops)
    return [matcher.push(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        ([], ["abc"], [("abc", None)]),
        (["END"], ["abc", "def"], [("abc", None), ("def", None)]),
        (["END"], ["ab END cd"], [("ab ", "END")]),
        (["END"], ["a E", "N", "D x"], [("a ", None), ("", None), ("", "END")]),
        (["END"], ["a EN", "EN", "x"], [("a ", None), ("EN", None), ("ENx", None)]),
        (["aab"], ["aa", "ab"], [("", None), ("a", "aab")]),
        (["abab", "bb"], ["aba", "bb"], [("", None), ("", "abab")]),
        (["abc", "b"], ["ab"], [("a", "b")]),
        (["ab", "abc"], ["abc"], [("", "ab")]),
        (["cd", "bcd"], ["ab", "cd"], [("a", None), ("", "bcd")]),
        (["\n\n"], ["x\n", "\n"], [("x", None), ("", "\n\n")]),
        (["é"], ["caf", "é!"], [("caf", None), ("", "é")]),
        (["]", "^"], ["a-b", "^"], [("a-b", None), ("", "^")]),
        (["x", "x", ""], ["ax"], [("a", "x")]),
    ],
)
def test_text_before_a_stop_string_is_shown_and_the_stop_string_is_not(
    stops: list[str], pieces: list[str], expected: list[tuple[str, str | None]]
) -> None:
    assert pushes(stops, pieces) == expected


def test_what_was_held_appears_when_the_text_ends() -> None:
    matcher = StopMatcher(["END"])

    assert [matcher.push("a EN"), matcher.flush(), matcher.flush()] == [("a ", None), "EN", ""]


def test_text_is_held_only_while_it_is_the_beginning_of_a_stop_string() -> None:
    matcher = StopMatcher(["abcabd"])
    shown = [matcher.push(char)[0] for char in "abcabcabx"]

    assert shown == ["", "", "", "", "", "abc", "", "", "abcabx"]
