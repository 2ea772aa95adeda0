"""Frames of a backend's stream: any cut of the bytes says the same, and what WHATWG's rules say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.api.outbound.frames import FrameCutter, FrameParser, parse_frame, split_frames
from headrace.core.errors import UpstreamFault

# Bytes that mean something, so that random streams are full of borders.
PIECES = st.sampled_from(
    [b"data", b"data: ", b"data:", b"event: ", b"event:", b":", b" ", b"x", b"\n", b"\r", b"\r\n", b"\n\n",
     b"\xef\xbb\xbf", b"id: 1", b"retry: 5", "ü".encode(), b"\xff", b"data: y\n\n", b"data: z\r\n\r\n", b"data: w\r\r"]
)  # fmt: skip
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)


def naive(stream: bytes) -> list[tuple[str, bytes]]:
    """The rules as they are written down, over a whole text, line by line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    told, event, data = [], b"", b""
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                told.append((event.decode("utf-8", "replace"), data[:-1]))
            event, data = b"", b""
            continue
        field, colon, value = line.partition(b":")
        if colon and value[:1] == b" ":
            value = value[1:]
        if field == b"event":
            event = value
        elif field == b"data":
            data += value + b"\n"
    return told


def cut(stream: bytes, borders: list[int]) -> list[bytes]:
    places = sorted({border % (len(stream) + 1) for border in borders})
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
@settings(deadline=None)
def test_any_cut_of_the_bytes_says_the_same_as_the_rules_over_the_whole_text(stream: bytes, borders: list[int]) -> None:
    parser = FrameParser()
    assert [event for piece in cut(stream, borders) for event in parser.feed(piece)] == naive(stream)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
@settings(deadline=None)
def test_a_cutter_gives_the_same_bytes_in_whole_frames(stream: bytes, borders: list[int]) -> None:
    cutter = FrameCutter()
    pieces = [cutter.feed(piece) for piece in cut(stream, borders)]
    whole = b"".join(pieces)
    assert stream.startswith(whole)
    assert cutter.num_held == len(stream) - len(whole)
    assert naive(whole) == naive(stream)  # nothing that is finished is held
    for piece in pieces:
        assert b"".join(split_frames(piece)) == piece
    told = [parse_frame(frame) for piece in pieces for frame in split_frames(piece)]
    if not stream.startswith(b"\xef\xbb\xbf"):
        assert [event for event in told if event is not None] == naive(stream)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        # The examples of the specification.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("", b"YHOO\n+2\n10")]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
         [("", b"first event"), ("", b"second event"), ("", b" third event")]),
        (b"data\n\ndata\ndata\n\ndata:", [("", b""), ("", b"\n")]),
        (b"data:test\n\ndata: test\n\n", [("", b"test"), ("", b"test")]),
        (b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", [("add", b"73857293"), ("remove", b"2153")]),
        # A name without data is forgotten; the last of two names counts; unknown fields say nothing.
        (b"event: lost\n\ndata: x\n\n", [("", b"x")]),
        (b"event: a\nevent: b\ndata: x\nfoo: y\ndatum: z\n\n", [("b", b"x")]),
        (b"data: whole\n\ndata: half", [("", b"whole")]),
        (b"data: whole\n\ndata: half\n", [("", b"whole")]),
        (b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n", [("", b"x")]),
    ],
)  # fmt: skip
def test_frames_say_what_the_specification_says(stream: bytes, told: list[tuple[str, bytes]]) -> None:
    assert FrameParser().feed(stream) == told


@given(st.integers(1, 40))
@settings(deadline=None)
def test_a_frame_that_is_too_long_is_refused_whatever_the_cut(step: int) -> None:
    long, fits = b"data: " + b"x" * 93 + b"\n\n", b"data: " + b"x" * 92 + b"\n\n"
    parser = FrameParser(max_bytes=100)
    pieces = [fits[start : start + step] for start in range(0, len(fits), step)]
    assert [event for piece in pieces for event in parser.feed(piece)] == [("", b"x" * 92)]
    with pytest.raises(UpstreamFault, match="more than 100 bytes"):
        for start in range(0, len(long), step):
            parser.feed(long[start : start + step])


def test_a_cutter_holds_no_more_than_it_may() -> None:
    cutter = FrameCutter(max_bytes=100)
    cutter.feed(b"data: " + b"x" * 94)
    with pytest.raises(UpstreamFault):
        cutter.feed(b"x")


def test_frames_that_come_whole_pass_without_a_copy() -> None:
    data = b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert FrameCutter().feed(data) is data
