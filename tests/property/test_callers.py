"""Whatever a caller shows, it is known, refused or nobody, and never a defect; and what is changed by a character is
never taken."""

import contextlib
import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.signed import inputs
from tests.tokens import NOW_S, claims, encode, key, proof, public, sign, token
from tests.unit.trust.identity.test_signatures import made, signatures
from tests.unit.trust.identity.test_signatures import shown as signed_shown
from tests.unit.trust.identity.test_users import BOUND, CLIENT_KEY, shown, users

from headrace.core.errors import Unauthenticated
from headrace.trust.identity.jwk import read_key, read_key_set
from headrace.trust.identity.uri import normalize
from headrace.trust.strict import NotStrict, decode_base64url, read_json_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("alg", "typ", "kid", "crit", "jwk", "b64", "x5c", "zip")
CLAIMS = ("iss", "sub", "aud", "exp", "nbf", "iat", "cnf", "scope", "jti", "htm", "htu", "ath", "nonce")


def changed(text: str, place: int, character: str) -> str:
    place %= len(text)
    return text[:place] + character + text[place + 1 :]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from("ABCabc019-_.=+/ \n\x00é"))
def test_a_token_that_is_changed_by_a_character_is_never_taken(place: int, character: str) -> None:
    text = token()
    other = changed(text, place, character)
    with contextlib.suppress(Unauthenticated):
        assert users().authenticate(shown(other)) is None or other == text


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from("ABCabc019-_.=+/ "))
def test_a_proof_that_is_changed_by_a_character_is_never_taken(place: int, character: str) -> None:
    text = proof(CLIENT_KEY, BOUND)
    other = changed(text, place, character)
    with contextlib.suppress(Unauthenticated):
        users().authenticate(shown(BOUND, "dpop", other))
        assert other == text


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["signature", "signature-input", "content-digest"]), st.integers(0, 10**6), st.characters())
def test_a_signed_request_that_is_changed_by_a_character_is_never_taken(name: str, place: int, one: str) -> None:
    headers = made()
    other = changed(headers[name], place, one.encode("latin-1", "replace").decode("latin-1"))
    judge = signatures()
    with contextlib.suppress(Unauthenticated):
        found = judge.authenticate(signed_shown(headers | {name: other}))
        # Case of labels, spaces and the like may mean the same; the body's digest and the signer may not change.
        assert found is None or found == judge.authenticate(signed_shown(made(nonce="n2")))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    st.dictionaries(st.sampled_from(CLAIMS), JSON, max_size=5),
    st.booleans(),
)
def test_headers_and_claims_of_any_kind_are_refused_or_right(
    header: dict[str, Any], said: dict[str, Any], is_proof: bool
) -> None:
    if is_proof:
        jwk = public(CLIENT_KEY)
        text = sign({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk} | header, {"jti": "1"} | said, CLIENT_KEY)
        seen = shown(BOUND, "dpop", text)
    else:
        seen = shown(sign({"alg": "ES256", "kid": "one"} | header, claims() | said, key()))
    with contextlib.suppress(Unauthenticated):
        found = users().authenticate(seen)
        assert found is None or found.principal.tenant == "acme"


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=60), st.text(st.characters(max_codepoint=255), max_size=60))
def test_signature_headers_of_any_kind_are_refused(given_input: str, given_signature: str) -> None:
    headers = {"signature-input": given_input, "signature": given_signature}
    for one in (headers, headers | {"signature-input": f"a={inputs(('@method',), created=NOW_S)}{given_input}"}):
        with contextlib.suppress(Unauthenticated):
            assert signatures().authenticate(signed_shown(one)) is None
    name = given_input.encode("latin-1")
    with contextlib.suppress(Unauthenticated):
        seen = signed_shown(made())
        signatures().authenticate(replace(seen, headers={**seen.headers, b"content-digest": name}))


@settings(max_examples=150, deadline=None)
@given(JSON, st.text(max_size=40), st.binary(max_size=40))
def test_readers_of_what_others_write_raise_only_what_they_say(value: Any, text: str, data: bytes) -> None:
    for read, given_value in (
        (read_key_set, json.dumps({"keys": value}).encode()),
        (read_key_set, json.dumps({"keys": [value]}).encode()),
        (read_key_set, data),
        (read_json_object, data),
        (decode_base64url, text),
        (normalize, text),
        (normalize, f"http://{text}"),
        (read_key, value if isinstance(value, dict) else {"kty": value}),
        (read_key, {"kty": "EC", "crv": "P-256", "x": encode(data), "y": encode(data)}),
        (read_key, {"kty": "RSA", "n": encode(data * 8), "e": encode(data)}),
        (read_key, {"kty": "OKP", "crv": text, "x": encode(data)}),
    ):
        with contextlib.suppress(NotStrict):
            read(given_value)  # type: ignore[operator]
