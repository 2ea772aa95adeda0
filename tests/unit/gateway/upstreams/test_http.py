"""Heads of requests, and which headers of others travel."""

import pytest

from headrace.core.errors import InvalidRequest
from headrace.gateway.upstreams.address import read_url
from headrace.gateway.upstreams.http import OURS, Head, headers_down, headers_up


def test_a_head_is_written_once_per_path_and_framed_by_us_alone() -> None:
    head = Head(read_url("https://host/v1"), [(b"authorization", b"Bearer k")])
    for body in (0, 12):
        assert head.write("POST", "/chat?alt=sse", [(b"x-a", b"b")], body) == (
            b"POST /v1/chat?alt=sse HTTP/1.1\r\nhost: host\r\nuser-agent: headrace\r\naccept-encoding: identity\r\n"
            b"authorization: Bearer k\r\nx-a: b\r\ncontent-length: %d\r\n\r\n" % body
        )


@pytest.mark.parametrize(
    "path", ["/a b", "/a\r\nhost: x", "/models/../admin:generate", "/ü", "relative", "/a?b c", "/a?b#c"]
)
def test_a_path_that_would_be_another_request_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match="path"):
        Head(read_url("http://host"), []).write("POST", path, [], 0)


@pytest.mark.parametrize("name", [b"a b", b"", b"a:", b"a\r\nb", b"\xff"])
def test_a_name_that_is_none_is_refused(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match="header"):
        Head(read_url("http://host"), []).write("POST", "/", [(name, b"v")], 0)
    with pytest.raises(ValueError, match="header"):
        Head(read_url("http://host"), [(name, b"v")])


@pytest.mark.parametrize("name", [b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding"])
def test_an_operator_cannot_frame_requests_either(name: bytes) -> None:
    with pytest.raises(ValueError, match="written by the gateway itself"):
        Head(read_url("http://host"), [(name, b"1")])


def test_no_header_that_frames_or_authorises_goes_up_or_down() -> None:
    every = [(name, b"1") for name in OURS] + [(b"set-cookie", b"a"), (b"server", b"s"), (b"x-headrace-backend", b"b")]
    assert headers_up(every) == []
    assert {name for name, _ in headers_down(every)} == {b"x-upstream-request-id", b"x-should-retry"}


def test_whose_account_pays_is_not_told_to_clients() -> None:
    accounts = (b"openai-organization", b"openai-project", b"anthropic-organization-id")
    told = [*((name, b"org-7") for name in accounts), (b"openai-version", b"2020-10-01")]
    assert headers_down(told) == [(b"openai-version", b"2020-10-01")]


def test_the_memory_of_paths_is_bounded_for_callers_choose_some_of_them() -> None:
    head = Head(read_url("http://host"), [])
    for index in range(1000):
        head.write("POST", f"/models/m{index}:generateContent", [], 0)
    assert len(head._heads) <= 64
