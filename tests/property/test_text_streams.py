"""However a stream is cut, its text is the same as that of the whole."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.engine.detokenizer import Detokenizer
from headrace.engine.stop import StopMatcher

BYTES = st.lists(
    st.one_of(
        st.binary(max_size=4), st.text(max_size=3).map(str.encode), st.sampled_from([b" ", b"\xe2\x82", b"\xac"])
    ),
    max_size=20,
)
# Few letters, so that stop strings overlap with themselves, with each other and with the text.
LETTERS = "abé"
TEXT = st.text(LETTERS, max_size=30)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=5)


@given(BYTES)
@example([b"\xf0\x9f", b"\x98", b"\x80"])
@example([b"\xe2", b"\xe2\x82", b"\xac"])
@settings(max_examples=400, deadline=None)
def test_the_text_of_tokens_is_the_text_of_their_bytes(pieces: list[bytes]) -> None:
    detokenizer = Detokenizer(pieces)

    text = "".join(detokenizer.push(i) for i in range(len(pieces))) + detokenizer.flush()

    assert text == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(max_size=20), st.data())
@settings(max_examples=200, deadline=None)
def test_valid_text_is_never_shown_by_half_a_character(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    detokenizer = Detokenizer(pieces)

    shown = ""
    for i in range(len(pieces)):
        shown += detokenizer.push(i)
        assert text.startswith(shown)
    assert shown == text


def cut_plainly(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The slow twin: all ends of all stop strings in the whole text; the first, and of those the longest."""
    found = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    _, start, stop = min(found)
    return text[:start], stop


@given(TEXT, STOPS, st.data())
@settings(max_examples=600, deadline=None)
def test_stop_strings_cut_a_stream_as_they_cut_the_whole(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    matcher = StopMatcher(stops)
    shown, matched = "", None
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece, matched = matcher.push(text[start:end])
        shown += piece
        if matched:
            break
        held = text[:end][len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)
    if not matched:
        shown += matcher.flush()

    assert (shown, matched) == cut_plainly(text, stops)
