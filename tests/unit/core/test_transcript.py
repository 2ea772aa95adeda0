"""A stream's digest: comments change nothing of it, everything else does, and pieces of any size tell the same."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.transcript import COMMENT, Transcript, records_in, transcript_digest

PIECES = (
    b"data: a\n\n",
    b": keep-alive\n\n",
    b"event: x\ndata: b\n\n",
    b":\n",
    b"\n",
    b"\r\n",
    b"\r",
    b": c\r\n\r\n",
    b"d",
    b":",
)


def naive(data: bytes) -> bytes:
    """The rule, said once more and slowly: blocks of lines; comments go, and blocks of nothing else with their end."""
    lines = re.findall(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z", data)
    kept, block = b"", []
    for line in lines:
        block.append(line)
        if not line.strip(b"\r\n"):
            others = [one for one in block[:-1] if not one.startswith(b":")]
            is_comment = len(block) > 1 and not others
            kept += b"" if is_comment else b"".join(others) + line
            block = []
    kept += b"".join(one for one in block if not one.startswith(b":"))
    return hashlib.sha256(kept).digest()


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.integers(1, 7), max_size=20))
def test_a_stream_has_one_digest_in_whatever_pieces_it_comes(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    transcript, rest = Transcript(), data
    for cut in cuts:
        transcript.add(rest[:cut])
        rest = rest[cut:]
    transcript.add(rest)
    assert transcript.digest() == transcript_digest(data) == naive(data)
    assert transcript.num_bytes == len(data)


def test_comments_may_come_and_go_and_nothing_else_may() -> None:
    plain = b"data: a\n\ndata: [DONE]\n\n"
    digest = hashlib.sha256(plain).digest()
    assert transcript_digest(plain) == digest
    assert (
        transcript_digest(b": hello\n\n: again\n\ndata: a\n: inside\n\n" + COMMENT + b"eA==\n\ndata: [DONE]\n\n")
        == digest
    )
    for changed in (
        b"data: a\n\n\ndata: [DONE]\n\n",
        b"data: b\n\ndata: [DONE]\n\n",
        b"data: a\n\n",
        plain + b"x",
        b" " + plain,
    ):
        assert transcript_digest(changed) != digest


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_record_is_found_where_it_is_a_comment_and_not_in_what_somebody_said(end: bytes) -> None:
    said = b'data: {"text":"\\n: headrace-record ZWlu\\n"}' + end + end
    stream = said + b": keep-alive" + end + end + COMMENT + b"eyJ9" + end + end + b"data: [DONE]" + end + end
    assert records_in(stream) == [b"eyJ9"]
    assert records_in(COMMENT + b"YQ==") == [b"YQ=="]
    assert records_in(COMMENT + b"not base64!\n") == []
