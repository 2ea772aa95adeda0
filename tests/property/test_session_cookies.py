"""Whatever cookies a request bears, they are one session whole or none: mixed, moved, changed, cut."""

from hashlib import sha512
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.doubles_http import HandClock
from tests.doubles_sessions import SealInMemory

from headrace.core.errors import Unauthenticated
from headrace.core.sessions import SessionEnded
from headrace.server.exchange import Exchange
from headrace.server.sessions import Proof, Recalled, Sessions
from headrace.trust.strict import encode_base64url

CLOCK = HandClock()
NAMES = ("headrace-session-8000", *(f"headrace-session-8000.{number}" for number in range(1, 5)))
NOISE = encode_base64url(b"".join(sha512(b"%d" % one).digest() for one in range(200)))
# Two processes of one state, which seal with one key; a third of another state.
PLACES = [
    Sessions(SealInMemory(key), 3600.0, CLOCK, iter(f"{place}{one}" for one in range(100)).__next__)
    for place, key in enumerate((bytes(32), bytes(32), bytes([1]) * 32))
]


def exchange(cookies: str = "") -> Exchange:
    given = {"host": "localhost:8000", "x-headrace-console": "1", "cookie": cookies}
    headers = [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}

    async def nothing(*_: object) -> Any:
        raise AssertionError

    return Exchange.open(scope, nothing, nothing, "one", 0.0)


def begun(place: int, start: int, num_chars: int) -> tuple[str, dict[str, str]]:
    """A token and the cookies of the session that it began."""
    asked, token = exchange(), NOISE[start : start + num_chars]
    PLACES[place].begin(asked, "http", Proof(CLOCK.unix_s() + 3600, token=token))
    lines = [value.decode() for name, value in asked.start(200, b"", [])["headers"] if name == b"set-cookie"]
    return token, dict(line.partition(";")[0].split("=", 1) for line in lines)


SESSIONS = [begun(0, 0, 15_000), begun(1, 100, 15_000), begun(0, 200, 9_000), begun(1, 300, 1_000), begun(2, 0, 15_000)]


def recall(cookies: list[tuple[str, str]]) -> Recalled | None:
    return PLACES[0].recall(exchange("; ".join(f"{name}={value}" for name, value in cookies)), "http")


def is_session(cookies: list[tuple[str, str]]) -> bool:
    try:
        return recall(cookies) is not None
    except SessionEnded:
        return False


@given(chosen=st.tuples(*(st.sampled_from([None, 0, 1, 2, 3, 4]) for _ in NAMES)), order=st.permutations(range(5)))
def test_pieces_of_several_sessions_are_the_one_that_is_whole_or_none(
    chosen: tuple[int | None, ...], order: list[int]
) -> None:
    jar = {
        name: SESSIONS[session][1][name]
        for name, session in zip(NAMES, chosen, strict=True)
        if session is not None and name in SESSIONS[session][1]
    }
    asked = [(NAMES[index], jar[NAMES[index]]) for index in order if NAMES[index] in jar]
    first = chosen[0]
    token, cookies = ("", {"": ""}) if first is None else SESSIONS[first]
    if first != 4 and all(jar.get(name) == value for name, value in cookies.items()):
        found = recall(asked)
        assert found is not None and found.token == token
    else:
        assert not is_session(asked)


@given(
    session=st.sampled_from([0, 1, 2, 3]),
    piece=st.integers(0, 4),
    at=st.integers(0, 4096),
    change=st.sampled_from(["replace", "insert", "delete", "cut", "grow"]),
    by=st.characters(min_codepoint=33, max_codepoint=255, exclude_characters=";"),
)
@example(session=0, piece=1, at=0, change="grow", by="\xa0")  # a space to Python, and none to HTTP
def test_any_single_change_of_any_piece_is_no_session(session: int, piece: int, at: int, change: str, by: str) -> None:
    token, cookies = SESSIONS[session]
    assert (found := recall(list(cookies.items()))) is not None and found.token == token
    name = NAMES[piece % len(cookies)]
    value = cookies[name]
    at %= len(value)
    changed = {
        "replace": value[:at] + by + value[at + 1 :],
        "insert": value[:at] + by + value[at:],
        "delete": value[:at] + value[at + 1 :],
        "cut": value[:at],
        "grow": value + by * (at + 1),
    }[change]
    if changed != value:
        assert not is_session(list((cookies | {name: changed}).items()))


@given(session=st.sampled_from([0, 1, 2]), swapped=st.permutations(range(5)))
def test_pieces_in_one_anothers_place_are_no_session(session: int, swapped: list[int]) -> None:
    _, cookies = SESSIONS[session]
    names = [name for name in NAMES if name in cookies]
    order = [one for one in swapped if one < len(names)]
    asked = [(name, cookies[names[index]]) for name, index in zip(names, order, strict=True)]
    assert is_session(asked) == (dict(asked) == cookies)


@given(session=st.sampled_from([0, 2, 3]), piece=st.integers(0, 4), others=st.sampled_from([0, 1, 2]))
def test_a_piece_that_is_there_twice_is_refused_whichever_comes_first(session: int, piece: int, others: int) -> None:
    _, cookies = SESSIONS[session]
    name = NAMES[piece % len(cookies)]
    double = (name, SESSIONS[others][1].get(name, "AAAA"))
    for asked in ([double, *cookies.items()], [*cookies.items(), double]):
        with pytest.raises(Unauthenticated, match="there twice"):
            recall(asked)
