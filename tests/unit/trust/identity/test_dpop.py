"""Proofs of possession (RFC 9449): the RFC's own examples, and every way to be wrong that it names."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokens import NOW_S, encode, key, proof, public, sign

from headrace.core.errors import Overloaded
from headrace.core.identity import Shown
from headrace.trust.identity.dpop import NONCE_S, Proof, Proofs, WrongProof
from headrace.trust.identity.jwk import read_key
from headrace.trust.identity.replay import AHEAD_S, Replays
from headrace.trust.identity.uri import normalize
from headrace.trust.strict import NotStrict

URL = "http://localhost:8000/v1/chat/completions"
SECRET = b"s" * 32
TOKEN = "eyJ.a.token"

# RFC 9449, sections 4.1 and 7.1, figures 2 and 12; the token's confirmation in figure 7.
RFC_HEADER = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJ"
    "oRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
)
RFC_TOKEN_PROOF = (
    f"{RFC_HEADER}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rv"
    "a2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3"
    "Lg"
)
RFC_RESOURCE_PROOF = (
    f"{RFC_HEADER}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9w"
    "cm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFby"
    "J9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def shown(text: str | None, method: str = "POST", url: str = URL, now_s: float = NOW_S, **more: Any) -> Shown:
    headers = {} if text is None else {b"dpop": text.encode("latin-1")}
    return Shown(method=method, url=url, headers=headers, scheme="dpop", token=TOKEN, came_unix_s=now_s, **more)


def proofs(max_proofs: int = 100) -> Proofs:
    return Proofs(60, max_proofs, SECRET)


def good(**changed: Any) -> str:
    return proof(key(), TOKEN, **changed)


def test_the_proof_of_rfc_9449_is_good_for_its_request_and_for_no_other() -> None:
    url = "https://resource.example.org/protectedresource"
    seen = shown(RFC_RESOURCE_PROOF, "GET", url, 1562262618)
    found = proofs().read(seen, RFC_TOKEN)
    assert found == Proof(RFC_THUMBPRINT, "e1j3V_bKic8-LAEB")
    for other, bound in (
        (dataclasses.replace(seen, method="POST"), RFC_TOKEN),
        (dataclasses.replace(seen, url=url + "/"), RFC_TOKEN),
        (dataclasses.replace(seen, came_unix_s=1562262618 + 60), RFC_TOKEN),
        (seen, RFC_TOKEN + "x"),
    ):
        with pytest.raises(WrongProof):
            proofs().read(other, bound)


def test_the_proof_for_a_token_of_rfc_9449_is_none_for_a_resource() -> None:
    with pytest.raises(WrongProof, match="ath"):
        proofs().read(shown(RFC_TOKEN_PROOF, "POST", "https://server.example.com/token", 1562262616), RFC_TOKEN)


def test_a_proof_is_taken_once_and_only_for_its_own_key() -> None:
    judge = proofs()
    found = judge.read(shown(good()), TOKEN)
    with pytest.raises(WrongProof, match="another key"):
        judge.take(found, read_key(public(key("ES256", "other"))).thumbprint, 0.0)
    judge.take(found, found.thumbprint, 0.0)
    with pytest.raises(WrongProof, match="before"):
        judge.take(judge.read(shown(good()), TOKEN), found.thumbprint, 1.0)


def private() -> dict[str, Any]:
    return {name: value for name, value in key().as_dict(private=True).items() if name != "kid"}


BAD = {
    "no proof": None,
    "two proofs": f"{good()}, {good()}",
    "typ JWT": good(header={"typ": "JWT"}),
    "typ missing": good(header={"typ": None}),
    "alg none": encode(b'{"typ":"dpop+jwt","alg":"none"}') + "." + good().split(".")[1] + ".",
    "a symmetric key": good(header={"jwk": {"kty": "oct", "k": "c2VjcmV0"}}),
    "a private key": good(header={"jwk": private()}),
    "no key": good(header={"jwk": None}),
    "a key that is a text": good(header={"jwk": "key"}),
    "another's key": good(header={"jwk": {k: v for k, v in public(key("ES256", "other")).items() if k != "kid"}}),
    "a key for another algorithm": good(header={"jwk": public(key("ES384"))}),
    "a place of keys": good(header={"jku": "https://attacker.example/keys"}),
    "unknown crit": good(header={"crit": ["x"], "x": 1}),
    "jti missing": good(jti=None),
    "jti empty": good(jti=""),
    "jti a number": good(jti=1),
    "jti of 300 characters": good(jti="x" * 300),
    "jti of 100 kB": good(jti="x" * 100_000),
    "htm missing": good(htm=None),
    "htm of another method": good(htm="GET"),
    "htm in lower case": good(htm="post"),
    "htu missing": good(htu=None),
    "htu a list": good(htu=[URL]),
    "htu of another host": good(htu=URL.replace("localhost", "localhost.example")),
    "htu of another port": good(htu=URL.replace("8000", "8001")),
    "htu of another scheme": good(htu=URL.replace("http", "https")),
    "htu with a slash at its end": good(htu=URL + "/"),
    "htu in another case": good(htu=URL.replace("/v1/", "/V1/")),
    "htu with a user": good(htu=URL.replace("localhost", "root@localhost")),
    "htu without scheme": good(htu="/v1/chat/completions"),
    "iat missing": good(iat=None),
    "iat a text": good(iat=str(NOW_S)),
    "iat true": good(iat=True),
    "iat not a number": good(iat=float("nan")),
    "iat an hour ago": good(iat=NOW_S - 3600),
    "iat a minute ago": good(iat=NOW_S - 60),
    "iat in an hour": good(iat=NOW_S + 3600),
    "iat in six seconds": good(iat=NOW_S + AHEAD_S + 1),
    "ath missing": good(ath=None),
    "ath of another token": good(ath=encode(b"x" * 32)),
    "a name twice": sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": public(key())}, '{"jti":"1","jti":"2"}', key()),
}


@pytest.mark.parametrize("name", BAD)
def test_a_proof_that_is_wrong_is_refused(name: str) -> None:
    with pytest.raises(WrongProof):
        proofs().read(shown(BAD[name]), TOKEN)


GOOD = {
    "a query": good(htu=URL + "?a=1"),
    "a fragment": good(htu=URL + "#a"),
    "the host in capitals": good(htu=URL.replace("localhost", "LOCALHOST")),
    "the scheme in capitals": good(htu=URL.replace("http", "HTTP")),
    "escapes of what needs none": good(htu=URL.replace("chat", "%63hat")),
    "dots": good(htu=URL.replace("/v1/", "/x/../v1/./")),
    "a key's id, which says nothing": good(header={"kid": "of nobody"}),
    "five seconds ahead": good(iat=NOW_S + AHEAD_S),
    "59 seconds ago": good(iat=NOW_S - 59),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_only_looks_different_is_the_same(name: str) -> None:
    proofs().read(shown(GOOD[name]), TOKEN)


@pytest.mark.parametrize("alg", ["ES256", "ES384", "EdDSA", "RS256", "PS256"])
def test_keys_of_every_kind_can_prove(alg: str) -> None:
    proofs().read(shown(proof(key(alg), TOKEN, alg=alg)), TOKEN)


def test_a_usual_port_need_not_be_said() -> None:
    url = "https://api.example.com/v1/models"
    for one, other in ((url, url.replace(".com", ".com:443")), (url.replace(".com", ".com:443"), url)):
        proofs().read(shown(good(htu=one), url=other), TOKEN)


def test_a_host_that_is_not_ours_cannot_be_proved() -> None:
    with pytest.raises(WrongProof, match="allowed_hosts"):
        proofs().read(shown(good(), is_own_url=False), TOKEN)


def test_a_nonce_is_good_for_its_period_and_the_next_and_only_where_it_was_made() -> None:
    judge = proofs()
    with pytest.raises(WrongProof) as caught:
        judge.read(shown(good()), TOKEN, needs_nonce=True)
    nonce = caught.value.nonce
    assert nonce is not None
    judge.read(shown(good(nonce=nonce)), TOKEN, needs_nonce=True)
    for later_s, is_good in ((NONCE_S, True), (2 * NONCE_S, False)):
        now_s = NOW_S + later_s
        seen = shown(good(nonce=nonce, iat=now_s), now_s=now_s)
        if is_good:
            judge.read(seen, TOKEN, needs_nonce=True)
        else:
            with pytest.raises(WrongProof, match="nonce"):
                judge.read(seen, TOKEN, needs_nonce=True)
    for wrong in (nonce[:-2], "", "x" * 32, 1, Proofs(60, 100, b"other" * 8).nonce(NOW_S)):
        with pytest.raises(WrongProof, match="nonce"):
            judge.read(shown(good(nonce=wrong)), TOKEN, needs_nonce=True)


def test_a_clock_that_is_set_back_makes_no_old_proof_new() -> None:
    judge = proofs()
    judge.read(shown(good(iat=NOW_S + 600), now_s=NOW_S + 600), TOKEN)
    with pytest.raises(WrongProof, match="iat"):
        judge.read(shown(good()), TOKEN)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://a/",
        "http://",
        "http:///a",
        "http://a:b/",
        "http://a b/",
        "http://[::1/",
        "http://é/",
        "a" * 3000,
    ],
)
def test_what_is_no_url_has_no_form(url: str) -> None:
    with pytest.raises(NotStrict):
        normalize(url)


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("HTTP://EXAMPLE.com:80", "http://example.com/"),
        ("http://[::1]:8000/a", "http://[::1]:8000/a"),
        ("http://a/%7euser/%2f", "http://a/~user/%2F"),
        ("http://a/b/c/./../../g", "http://a/g"),
        ("http://a/b/../../../c/d", "http://a/c/d"),
        ("http://a/b/..", "http://a/"),
        ("http://a/../..", "http://a/"),
        ("http://a/b/.", "http://a/b/"),
        ("http://a//b", "http://a//b"),
    ],
)
def test_the_one_form_of_a_url(url: str, form: str) -> None:
    assert normalize(url) == form
    assert normalize(form) == form


# Callers show ids that were made at some time, time passes, bounds change: in any order.
STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 12), st.integers(0, 4), st.integers(-4, 20), st.sampled_from([5, 10])
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS)
def test_no_id_is_taken_twice_and_none_is_refused_that_nobody_has_shown(
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    """The slow twin remembers everything that ever was."""
    replays = Replays(10, 16, since_s=1000.9)
    taken: dict[tuple[str, int, int], float] = {}
    now, age, since = 1000, 10, 1000
    for caller, number, later_s, ago_s, wanted_s in steps:
        now += later_s
        if wanted_s != age:
            replays.resize(wanted_s, 16)
            age = wanted_s
        made = now - ago_s
        is_fresh = replays.is_fresh(made, now)
        if not now - age < made <= now + AHEAD_S or made < since:
            assert not is_fresh
        if not is_fresh:
            continue
        try:
            is_new = replays.take(caller, f"{number} {made}", now)
        except Overloaded:
            assert len(replays) >= 4
            continue
        assert is_new == ((caller, number, made) not in taken)
        taken[caller, number, made] = now
        assert len(replays) <= 16


def test_what_is_fresh_is_taken_while_there_is_room() -> None:
    replays = Replays(10, 8, since_s=NOW_S)
    assert replays.is_fresh(NOW_S, NOW_S) and replays.take("a", "1", 0) and replays.take("a", "2", 0)
    with pytest.raises(Overloaded):  # a quarter of all
        replays.take("a", "3", 14.9)
    assert replays.take("b", "3", 14.9)
    assert replays.take("a", "3", 15.0)
    assert len(replays) == 2
    for number in range(6):
        assert replays.take(f"c{number}", "1", 16.0)
    with pytest.raises(Overloaded):
        replays.take("d", "1", 16.0)
    assert len(replays) == 8


def test_what_was_made_before_the_memory_began_is_not_taken() -> None:
    replays = Replays(60, 8, since_s=NOW_S + 0.7)
    assert not replays.is_fresh(NOW_S - 1, NOW_S + 1)
    assert replays.is_fresh(NOW_S, NOW_S + 1)


def test_a_longer_memory_does_not_make_new_what_the_shorter_forgot() -> None:
    replays = Replays(10, 8)
    assert replays.is_fresh(NOW_S, NOW_S) and replays.take("a", "1", 0)
    assert replays.is_fresh(NOW_S + 50, NOW_S + 50) and replays.take("a", "2", 50)
    replays.resize(600, 8)
    assert not replays.is_fresh(NOW_S, NOW_S + 50)
    assert replays.is_fresh(NOW_S + 50, NOW_S + 300) and not replays.take("a", "2", 300)
