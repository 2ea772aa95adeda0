"""Tokens become text without half characters."""

import pytest

from headrace.engine.detokenizer import Detokenizer

TABLE = [
    b"a",
    "é".encode()[:1],
    "é".encode()[1:],
    b" word",
    b"",
    "€".encode()[:2],
    "€".encode()[2:],
    b"\xff",
    b" ",
    b"\x80",
]


def texts(tokens: list[int], **options: bool) -> list[str]:
    detokenizer = Detokenizer(TABLE, **options)
    return [*map(detokenizer.push, tokens), detokenizer.flush()]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([0, 3, 0], ["a", " word", "a", ""]),
        ([0, 1, 2, 0], ["a", "", "é", "a", ""]),
        ([5, 4, 6], ["", "", "€", ""]),
        ([1, 0], ["", "\ufffda", ""]),
        ([1], ["", "\ufffd"]),
        ([5], ["", "\ufffd"]),
        ([7, 0], ["\ufffd", "a", ""]),
        ([9, 9, 3], ["\ufffd", "\ufffd", " word", ""]),
        ([5, 1, 2], ["", "\ufffd", "é", ""]),
        ([], [""]),
    ],
)
def test_a_character_appears_when_it_is_whole(tokens: list[int], expected: list[str]) -> None:
    assert texts(tokens) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([3, 3], "word word"), ([4, 3], "word"), ([8, 3], " word"), ([1, 2, 3], "é word"), ([0], "a"), ([], "")],
)
def test_the_space_of_the_first_word_is_stripped_once_where_asked(tokens: list[int], expected: str) -> None:
    assert "".join(texts(tokens, strips_leading_space=True)) == expected


def test_a_flushed_detokenizer_starts_a_new_character() -> None:
    detokenizer = Detokenizer(TABLE)
    detokenizer.push(1)

    assert [detokenizer.flush(), detokenizer.push(0), detokenizer.push(9)] == ["\ufffd", "a", "\ufffd"]


def test_a_token_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(IndexError):
        Detokenizer(TABLE).push(len(TABLE))
