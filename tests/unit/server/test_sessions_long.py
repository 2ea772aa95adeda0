"""Sessions of long tokens, which take several cookies, and of several processes on one state."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles_http import HandClock, chat
from tests.doubles_sessions import SealInMemory
from tests.tokens import token
from tests.unit.server.test_credentials import ANNA, Scripted
from tests.unit.server.test_sessions import CHAT, SESSION, Visitor, with_tokens

from headrace.core.errors import Unavailable
from headrace.core.identity import Identity
from headrace.server.sessions import LOOK_S, Recalled, decode, encode
from headrace.trust.identity.jose import MAX_TOKEN_CHARS
from headrace.trust.strict import encode_base64url


def hex_ids(digest: bytes) -> str:
    return digest.hex()[:32]


def noise(digest: bytes) -> str:
    return encode_base64url(digest)


def directory_names(digest: bytes) -> str:
    return f"cn={digest.hex()[:8]},ou=groups,dc=corp,dc=example"


def token_of(num_chars: int, group: Callable[[bytes], str] = noise) -> str:
    """A token of so many characters or a few more, of groups."""
    groups = [group(hashlib.sha512(b"%d" % one).digest()) for one in range(400)]
    tokens = (token(scope="llm:use", groups=groups[:count]) for count in range(400))
    return next(one for one in tokens if len(one) >= num_chars)


@pytest.mark.parametrize(
    ("num_chars", "group", "num_cookies"),
    [
        (3_000, noise, 1),
        (8_000, directory_names, 1),
        (8_000, hex_ids, 2),
        (8_000, noise, 2),
        (12_000, noise, 3),
        (16_000, noise, 4),
    ],
)
def test_a_token_of_many_groups_signs_in_and_goes_on_as_any_other(
    num_chars: int, group: Callable[[bytes], str], num_cookies: int
) -> None:
    anna = with_tokens()
    long = token_of(num_chars, group)
    reply = anna.sign_in(long)
    assert (reply.status, len(anna.cookies)) == (200, num_cookies)
    lines = reply.all("set-cookie")
    assert all({"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=320"} <= set(line.split("; ")) for line in lines)
    assert all(len(line) <= 4096 and long[100:200] not in line for line in lines)
    assert anna.chat().status == 200
    assert anna.backend.requests[0].principal.user == "anna"
    anna.restart()
    assert anna.told()["tenant"] == "acme"
    copied = dict(anna.cookies)
    assert anna.ask("DELETE", SESSION).status == 204
    assert anna.cookies == {}
    anna.cookies = copied
    assert anna.chat().error()["code"] == "session_ended"
    anna.cookies = {}
    anna.sign_in(long)
    anna.clock.now_s += 400
    assert anna.chat().status == 401


def test_the_longest_token_that_is_read_signs_in_whatever_it_holds() -> None:
    longest = "".join(hashlib.sha512(b"%d" % one).hexdigest() for one in range(200))
    for secret in (longest[:MAX_TOKEN_CHARS], f"~{encode_base64url(longest.encode())}"[:MAX_TOKEN_CHARS]):
        anna = Visitor(authenticators=[Scripted({secret: Identity(ANNA, is_token=True)})])
        assert anna.sign_in(secret).status == 200
        assert anna.chat().status == 200


def test_a_shorter_session_leaves_no_piece_of_a_longer_one() -> None:
    anna = with_tokens()
    anna.sign_in(token_of(12_000))
    assert len(anna.cookies) == 3
    anna.sign_in()
    assert list(anna.cookies) == ["headrace-session-8000"]
    assert anna.chat().status == 200


def test_over_tls_every_piece_is_this_hosts_alone() -> None:
    anna = with_tokens(host="localhost", scheme="https")
    lines = anna.sign_in(token_of(12_000)).all("set-cookie")
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("__Host-headrace-session") and {"Secure", "Path=/"} <= set(line.split("; "))
    assert anna.chat().status == 200


@given(texts=st.lists(st.text("abcXYZ019-_=.~é", max_size=12), max_size=4), is_key=st.booleans())
def test_every_token_comes_back_as_it_was_whether_or_not_it_is_base64(texts: list[str], is_key: bool) -> None:
    given = Recalled("1", 2.5, digest="0f" * 32) if is_key else Recalled("1", 2.5, token=".".join(texts))
    assert decode(encode(given)) == given


# Other processes ------------------------------------------------------------------------------------------------------


def two_processes(**fields: Any) -> tuple[Visitor, Visitor]:
    """Anna at one, and a copy of her cookies at another of the same state."""
    clock, ended = HandClock(), dict[str, float]()
    anna, copy = (Visitor(clock=clock, seal=SealInMemory(ended=ended), **fields) for _ in range(2))
    anna.sign_in()
    copy.cookies = dict(anna.cookies)
    return anna, copy


def test_a_sign_out_reaches_another_process_within_a_second() -> None:
    anna, copy = two_processes()
    assert copy.chat().status == 200
    anna.ask("DELETE", SESSION)
    copy.clock.now_s += LOOK_S
    assert copy.chat().error()["code"] == "session_ended"


def test_others_sign_outs_are_looked_for_once_a_second_and_for_sessions_only() -> None:
    anna, copy = two_processes()
    for _ in range(5):
        assert copy.chat().status == 200
    assert copy.seal.num_looks == 1
    copy.clock.now_s += LOOK_S
    copy.ask("POST", CHAT, {"cookie": "", "authorization": "Bearer hr_alice"}, chat())
    copy.ask("POST", CHAT, {"cookie": "headrace-session-8000=1.AAAA"}, chat())  # nobody's
    assert copy.seal.num_looks == 1
    copy.chat()
    assert copy.seal.num_looks == 2
    assert anna.seal.num_looks == 0


def test_processes_forget_none_of_each_others_sign_outs() -> None:
    anna, copy = two_processes()
    bob, bobs_copy = dict[str, str](), dict(anna.cookies)
    copy.cookies = bob
    copy.sign_in()
    bob = dict(copy.cookies)
    anna.ask("DELETE", SESSION)
    copy.ask("DELETE", SESSION)
    for one in (anna, copy):
        one.restart()
        for cookies in (bob, bobs_copy):
            one.cookies = dict(cookies)
            assert one.chat().status == 401


def test_a_list_that_is_gone_or_damaged_brings_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    anna, copy = two_processes()
    anna.ask("DELETE", SESSION)
    copy.chat()
    copy.seal.ended.clear()
    copy.clock.now_s += LOOK_S
    assert copy.chat().error()["code"] == "session_ended"  # what it knows stays

    def damaged(self: SealInMemory) -> None:
        raise Unavailable("sessions cannot be judged now.", code="key_unavailable")

    copy.cookies = {}
    copy.sign_in()
    assert copy.chat().status == 200
    with monkeypatch.context() as patched:
        patched.setattr(SealInMemory, "look_ended", damaged)
        copy.clock.now_s += LOOK_S
        for _ in range(2):  # until it is mended nobody is let in, whether it is looked at or not
            assert (copy.chat().status, copy.chat().error()["code"]) == (503, "key_unavailable")
        assert copy.chat(cookie="", authorization="Bearer hr_alice").status == 200
    copy.clock.now_s += LOOK_S
    assert copy.chat().status == 200
