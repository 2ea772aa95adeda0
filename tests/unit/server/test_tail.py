"""What may end a stream is held, however its bytes are cut into pieces, and nothing of it is lost or changed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import UpstreamFault
from headrace.server.tail import MAX_HELD_BYTES, Tail, part

SSE = b"text/event-stream; charset=utf-8"
WORD = b'data: {"delta":{"content":"data: [DONE] \\"type\\":\\"message_stop\\""}}\n\n'
ENDS = [
    b"data: [DONE]\n\n",
    b"data:[DONE]\r\n\r\n",
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\ndata: [DONE]\n\n',
    b'data: {"sequence_number": 3, "type" : "response.incomplete"}\n\n: a comment\n\n',
    b"data: [DONE]",
]


@pytest.mark.parametrize("end", ENDS)
@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_however_a_stream_is_cut_its_end_is_held_and_all_else_goes_out(end: bytes, cuts: list[int]) -> None:
    stream, tail, out = WORD + b": silence\n\n" + WORD + end, Tail(), b""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    for start, stop in itertools.pairwise(places):
        out += tail.push(stream[start:stop])
    assert (out, tail.rest()) == (stream[: -len(end)], end)
    assert tail.rest() == b""


def test_what_looks_like_the_end_goes_out_when_more_is_said() -> None:
    tail, like = Tail(), b'data: {"metadata": {"type": "message_stop"}}\n\n'
    assert tail.push(WORD + like) == WORD
    assert tail.push(b": silence\n\n") == b""
    assert tail.push(WORD + ENDS[0]) == like + b": silence\n\n" + WORD
    assert tail.rest() == ENDS[0]


@pytest.mark.parametrize("end", [*ENDS[:4], b'data: {"type":"message_stop"}\n\n'])
def test_where_clients_stop_reading_nothing_that_is_said_behind_it_lets_it_go(end: bytes) -> None:
    tail = Tail()
    assert tail.push(end + WORD + b"event: ping\ndata: {}\n\n" + WORD) == b""
    assert tail.rest() == end + WORD + b"event: ping\ndata: {}\n\n" + WORD


def test_a_block_of_many_empty_comments_behind_an_end_is_read_once() -> None:
    tail, block = Tail(), b":\r\n" * 5000 + b"data: x\r\n\r\n"  # tried in every way, this takes for ever
    assert tail.push(ENDS[4].partition(b": a")[0] + block) == ENDS[4].partition(b": a")[0] + block


def test_a_frame_without_an_end_is_not_gathered_for_ever() -> None:
    tail = Tail()
    tail.push(b"data: " + bytes(MAX_HELD_BYTES - 6))
    with pytest.raises(UpstreamFault, match="a frame of more than"):
        tail.push(b"x")


@pytest.mark.parametrize(
    ("data", "kind", "last"),
    [
        (WORD + ENDS[0], SSE, ENDS[0]),
        (WORD, SSE, WORD),
        (b'{"a":1}\n{"done":true}\n', b"application/x-ndjson", b'{"done":true}\n'),
        (b'{"done":true}\n', b"application/x-ndjson", b'{"done":true}\n'),
    ],
)
def test_the_end_of_a_stream_that_was_written_here_is_its_last_frame(data: bytes, kind: bytes, last: bytes) -> None:
    assert part(data, kind) == (data[: -len(last)], last)
