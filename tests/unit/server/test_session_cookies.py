"""The text of a session over several cookies: what goes in comes out, and what is not whole is nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import Unauthenticated
from headrace.server.exchange import Exchange
from headrace.server.session_cookies import MAX_COOKIE_BYTES, MAX_PIECES, join, name_of, put, shown, split

NAME = "__Host-headrace-session-65535"
ATTRIBUTES = "; Max-Age=31536000; Path=/; HttpOnly; SameSite=Strict; Secure"
# Every fourth character is told from the next, so that no piece is like another.
TEXT = "".join(f"{index:04d}" for index in range(10_000))
MOST = max(length for length in range(19_000, 20_480) if split(NAME, TEXT[:length]) is not None)
PIECE = MOST // MAX_PIECES
EDGES = [length for number in range(MAX_PIECES) for length in range(number * PIECE - 1, number * PIECE + 3)]


def exchange(*cookies: str, host: str = "localhost:8000") -> Exchange:
    headers = [(b"host", host.encode()), *((b"cookie", cookie.encode("latin-1")) for cookie in cookies)]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}

    async def nothing(*_: object) -> Any:
        raise AssertionError

    return Exchange.open(scope, nothing, nothing, "one", 0.0)


@given(length=st.one_of(st.integers(0, MOST), st.sampled_from([max(0, edge) for edge in EDGES])))
def test_what_is_split_is_joined_again_at_every_length_and_fits_a_browser(length: int) -> None:
    cookies = split(NAME, TEXT[:length])
    assert cookies is not None
    assert len(cookies) == max(1, -(-length // PIECE))
    assert all(len(f"{name}={value}{ATTRIBUTES}") <= MAX_COOKIE_BYTES for name, value in cookies)
    assert join(NAME, cookies) == TEXT[:length]
    assert join(NAME, cookies[::-1]) == TEXT[:length]  # a browser orders them as it likes


@pytest.mark.parametrize("length", [MOST + 1, MOST + PIECE, len(TEXT)])
def test_what_takes_too_many_is_not_split(length: int) -> None:
    assert split(NAME, TEXT[:length]) is None


@pytest.mark.parametrize("length", [PIECE + 1, 3 * PIECE, MOST])
def test_without_one_of_its_pieces_there_is_no_text(length: int) -> None:
    cookies = split(NAME, TEXT[:length]) or []
    for missing in range(len(cookies)):
        assert join(NAME, cookies[:missing] + cookies[missing + 1 :]) is None


def test_pieces_of_a_longer_session_before_say_nothing() -> None:
    long, short = split(NAME, TEXT) or split(NAME, TEXT[:MOST]), split(NAME, "short")
    assert long is not None and short is not None
    assert join(NAME, [*short, *long[1:]]) == "short"


@pytest.mark.parametrize("told", ["", "0.", "6.", "-1.", "+1.", " 1.", "1", "01.", "1e0.", "\u00b2.", "\u0661."])
def test_a_number_of_pieces_that_nobody_wrote_is_none(told: str) -> None:
    found = join(NAME, [(NAME, f"{told}AAAA")])
    assert found is None


def test_a_cookie_that_is_there_twice_is_told_and_neither_is_taken() -> None:
    (cookie,) = split(NAME, "short") or []
    with pytest.raises(Unauthenticated, match="there twice"):
        join(NAME, [cookie, cookie])
    with pytest.raises(Unauthenticated, match="there twice"):
        join(NAME, [cookie, (f"{NAME}.1", "A"), (f"{NAME}.1", "B")])


def test_of_a_thousand_cookies_only_the_sessions_own_are_looked_at() -> None:
    others = "; ".join(f"headrace-session-{port}=1.AAAA" for port in range(9000, 10_000))
    assert shown(
        exchange(f"{others}; headrace-session-8000=1.B;headrace-session-8000.1 = C"), "headrace-session-8000"
    ) == [("headrace-session-8000", "1.B")]  # a name with a space behind it is another name
    assert shown(exchange("; ".join(f"headrace-session-8000.{n}=x" for n in range(1000))), "headrace-session-8000") == [
        (f"headrace-session-8000.{n}", "x") for n in range(1, MAX_PIECES)
    ]


def test_a_second_header_of_cookies_is_what_somebody_added() -> None:
    given = exchange("headrace-session-8000=1.A", "headrace-session-8000=1.B")
    assert shown(given, "headrace-session-8000") == [("headrace-session-8000", "1.A")]


def test_new_cookies_delete_the_old_ones_that_they_do_not_replace() -> None:
    old = "; ".join(f"{name}={value}" for name, value in split("headrace-session-8000", TEXT[: 4 * PIECE]) or [])
    asked = exchange(f"theme=dark; {old}; headrace-session-9000=1.x; headrace-session-9000.1=y")
    name = name_of(asked, "http")
    put(asked, "http", split(name, TEXT[: PIECE + 100]) or [], 60)
    lines = [value.decode() for _, value in asked.start(200, b"text/plain", [])["headers"] if _ == b"set-cookie"]
    told = [(line.partition("=")[0], "Max-Age=0" in line) for line in lines]
    assert told == [(name, False), (f"{name}.1", False), (f"{name}.2", True), (f"{name}.3", True)]
