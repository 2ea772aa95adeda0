"""Line breaks that models put into the strings of arguments."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.tools.json_strings import StringEscaper

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(max_codepoint=200), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def loose(value: Any) -> str:
    """JSON as a model writes it: some escapes left out, white space between things."""
    text = json.dumps(value, indent=1)
    for escape, char in (("\\n", "\n"), ("\\t", "\t"), ("\\u0001", "\x01"), ("\\r", "\r")):
        text = text.replace("\\\\", "\0").replace(escape, char).replace("\0", "\\\\")
    return text


def test_what_breaks_a_string_is_escaped_and_white_space_between_strings_is_not() -> None:
    assert StringEscaper().push('{\n"a\tb": "c\nd\\"\n\x01"\n}') == '{\n"a\\tb": "c\\nd\\"\\n\\u0001"\n}'


@given(VALUES, st.lists(st.integers(1, 4)))
def test_however_it_is_cut_a_strict_parser_reads_what_was_meant(value: Any, cuts: list[int]) -> None:
    text = loose(value)
    assert json.loads(text, strict=False) == value
    escaper, out, rest = StringEscaper(), "", text
    for cut in cuts:
        out += escaper.push(rest[:cut])
        rest = rest[cut:]
    out += escaper.push(rest)
    assert json.loads(out) == value
    assert StringEscaper().push(text) == out
    assert StringEscaper().push(out) == out
