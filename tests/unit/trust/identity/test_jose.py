"""Signed tokens: what is read, what is refused, and why; the bad inputs of RFC 8725 one by one."""

import base64
import json
from typing import Any

import pytest
from tests.tokens import AUDIENCE, ISSUER, NOW_S, claims, encode, key, key_set, public, sign, token

from headrace.trust.identity.jose import (
    MAX_HEADER_CHARS,
    MAX_TOKEN_CHARS,
    Bounds,
    Profile,
    UnknownKey,
    WrongToken,
    check_claims,
    read_jws,
    verify,
)
from headrace.trust.identity.jwk import ALGORITHMS, MAX_SET_BYTES, read_key, read_key_set
from headrace.trust.strict import NotStrict

PROFILE = Profile(algs=frozenset({"ES256", "EdDSA", "RS256", "PS256"}), types=frozenset({"", "jwt", "at+jwt"}))
BOUNDS = Bounds(issuer=ISSUER, audiences=frozenset({AUDIENCE, "other"}), skew_s=30)
HEADER = {"alg": "ES256", "kid": "one", "typ": "JWT"}


def check(text: str, keys: bytes | None = None, profile: Profile = PROFILE) -> dict[str, Any]:
    jws = read_jws(text, profile)
    verify(jws, read_key_set(key_set(key()) if keys is None else keys))
    found = jws.claims()
    check_claims(found, BOUNDS, NOW_S)
    return found


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "EdDSA", "RS256", "PS384"])
def test_a_good_token_is_good(alg: str) -> None:
    profile = Profile(algs=frozenset(ALGORITHMS), types=frozenset({"at+jwt"}))
    assert check(token(alg=alg), key_set(key(alg)), profile)["sub"] == "anna"


def hs256(secret: bytes) -> str:
    """A token whose secret is the issuer's public key: who takes the algorithm from the token takes this."""
    import hashlib
    import hmac

    signed = encode(json.dumps({"alg": "HS256", "kid": "one"}).encode()) + "." + encode(json.dumps(claims()).encode())
    return signed + "." + encode(hmac.digest(secret, signed.encode(), hashlib.sha256))


NONE = encode(b'{"alg":"none"}') + "." + encode(json.dumps(claims()).encode()) + "."
BAD = {
    "alg none": NONE,
    "alg None": NONE.replace(encode(b'{"alg":"none"}'), encode(b'{"alg":"None"}')),
    "alg missing": sign({"kid": "one"}, claims(), key()),
    "alg a list": sign({"alg": ["ES256"], "kid": "one"}, claims(), key()),
    "HS with the public key": hs256(key().as_pem(private=False)),
    "HS with the JWK": hs256(json.dumps(public(key())).encode()),
    "an algorithm that is not allowed": token(key("ES384"), "ES384"),
    "unknown crit": sign(HEADER | {"crit": ["exp"], "exp": 1}, claims(), key()),
    "empty crit": sign(HEADER | {"crit": []}, claims(), key()),
    "unencoded payload": sign(HEADER | {"crit": ["b64"], "b64": False}, claims(), key()),
    "b64 without crit": sign(HEADER | {"b64": False}, claims(), key()),
    "a name twice in the header": sign('{"alg":"none","alg":"ES256","kid":"one"}', claims(), key()),
    "a name twice in the payload": sign(HEADER, json.dumps(claims())[:-1] + ',"sub":"root"}', key()),
    "a name twice deep within": sign(HEADER, json.dumps(claims())[:-1] + ',"a":{"b":1,"b":2}}', key()),
    "typ of a workload's token": sign(HEADER | {"typ": "wit+jwt"}, claims(), key()),
    "typ of a proof": sign(HEADER | {"typ": "dpop+jwt"}, claims(), key()),
    "typ no text": sign(HEADER | {"typ": 1}, claims(), key()),
    "kid no text": sign(HEADER | {"kid": 1}, claims(), key()),
    "kid of nobody": sign(HEADER | {"kid": "two"}, claims(), key()),
    "another's signature": sign(HEADER, claims(), key("ES256", "other")),
    "four parts": token() + ".",
    "two parts": token().rpartition(".")[0],
    "no signature": token().rpartition(".")[0] + ".",
    "padding": token() + "=",
    "a line's end": token() + "\n",
    "a space": " " + token(),
    "base64 and not base64url": token().replace("-", "+").replace("_", "/") + "+",
    "not UTF-8": sign(HEADER, b'{"iss":"\xff"}', key()),
    "an array": sign(HEADER, "[]", key()),
    "NaN": sign(HEADER, json.dumps(claims(exp=float("nan"))), key()),
    "depth": sign(HEADER, '{"a":' * 2000 + "1" + "}" * 2000, key()),
    "iss of another": token(iss="https://id.example/"),
    "iss missing": token(iss=None),
    "aud missing": token(aud=None),
    "aud of another": token(aud="https://api.example/"),
    "aud an empty list": token(aud=[]),
    "aud a list with a number": token(aud=[AUDIENCE, 1]),
    "aud an object": token(aud={AUDIENCE: 1}),
    "exp missing": token(exp=None),
    "exp a text": token(exp=str(NOW_S + 100)),
    "exp 2^63": token(exp=2**63),
    "exp infinite": sign(HEADER, json.dumps(claims())[:-1] + ',"nbf":1e999}', key()),
    "exp negative": token(exp=-1),
    "exp true": token(exp=True),
    "exp a second too long ago": token(exp=NOW_S - 30),
    "nbf in the future": token(nbf=NOW_S + 31),
    "nbf a text": token(nbf="0"),
    "iat in the future": token(iat=NOW_S + 31),
    "iat null": sign(HEADER, json.dumps(claims())[:-1] + ',"nbf":null}', key()),
    "too long": token(padding="x" * 20_000),
    "a header of a megabyte": sign(HEADER | {"x": "y" * 1_000_000}, claims(), key()),
}


FORGED = {"another's signature", "no signature"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_token_is_refused(name: str) -> None:
    with pytest.raises(WrongToken) as caught:
        check(BAD[name])
    assert ("signature that is not valid" in str(caught.value)) == (name in FORGED)


GOOD = {
    "aud a list": token(aud=["x", AUDIENCE]),
    "exp a fraction": token(exp=NOW_S + 0.5),
    "expired within the skew": token(exp=NOW_S - 29),
    "nbf within the skew": token(nbf=NOW_S + 30),
    "iat within the skew": token(iat=NOW_S + 30),
    "typ in full": sign(HEADER | {"typ": "application/AT+JWT"}, claims(), key()),
    "no typ": sign({"alg": "ES256", "kid": "one"}, claims(), key()),
    "no kid": sign({"alg": "ES256"}, claims(), key()),
    "an unknown header that is not critical": sign(HEADER | {"x": 1}, claims(), key()),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_only_looks_odd_is_taken(name: str) -> None:
    check(GOOD[name])


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_a_token_cannot_bring_its_own_key(name: str) -> None:
    attacker = key("ES256", "attacker")
    brought: dict[str, Any] = {
        "jwk": public(attacker),
        "jku": "https://attacker.example/keys",
        "x5u": "https://attacker.example/cert",
        "x5c": ["MIIB"],
    }
    for kid in ("one", None, "attacker"):
        header = {"alg": "ES256", name: brought[name]} | ({} if kid is None else {"kid": kid})
        with pytest.raises(WrongToken):
            check(sign(header, claims(), attacker))
    with pytest.raises(WrongToken, match="no place"):
        refusing = Profile(algs=PROFILE.algs, types=PROFILE.types, refused=frozenset({name}))
        check(sign(HEADER | {name: brought[name]}, claims(), key()), profile=refusing)


def test_bits_that_mean_nothing_make_no_second_text_of_a_token() -> None:
    text = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(text[-1])  # 64 bytes: the last character has four bits that mean nothing
    assert last % 16 == 0
    twin = text[:-1] + alphabet[last + 1]
    assert base64.urlsafe_b64decode(twin.split(".")[2] + "==") == base64.urlsafe_b64decode(text.split(".")[2] + "==")
    check(text)
    with pytest.raises(WrongToken, match="mean nothing"):
        check(twin)


def test_sizes_are_bounded_where_they_say_and_before_anything_is_computed() -> None:
    at_most = "A" * MAX_HEADER_CHARS
    for text, why in (
        (f"{at_most}.A.A", "part that"),
        (f"{at_most}A.A.A", "header of more"),
        (f"A.{'A' * (MAX_TOKEN_CHARS - 4)}.A", "part that"),
        (f"A.{'A' * (MAX_TOKEN_CHARS - 3)}.A", "longer than"),
    ):
        with pytest.raises(WrongToken, match=why):
            read_jws(text, PROFILE)
    room = MAX_SET_BYTES - len(b'{"keys":[]}')
    assert read_key_set(b'{"keys":[]' + b" " * room + b"}").keys == ()
    with pytest.raises(NotStrict, match="longer"):
        read_key_set(b'{"keys":[]' + b" " * (room + 1) + b"}")
    assert read_key_set(b'{"keys":[' + b",".join([b"{}"] * 128) + b"]}").keys == ()


def test_a_key_must_be_of_a_kind_and_have_all_that_makes_it() -> None:
    for jwk, why in (
        ({}, "type"),
        ({"kty": "XYZ"}, "type"),
        ({"kty": ["EC"]}, "type"),
        ({"kty": "EC", "crv": "P-256", "x": "AAAA"}, "no y"),
        ({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": 1}, "no y"),
        ({"kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"}, "curve"),
        ({"kty": "OKP", "crv": "X25519", "x": "AAAA"}, "curve"),
    ):
        with pytest.raises(NotStrict, match=why):
            read_key(jwk)


def test_an_unknown_key_is_told_apart_from_a_wrong_signature() -> None:
    with pytest.raises(UnknownKey):
        check(token(), key_set(key("ES256", "other")))
    with pytest.raises(WrongToken) as caught:
        check(token(), key_set(public(key("ES256", "other"), kid="one")))
    assert not isinstance(caught.value, UnknownKey)


def test_a_token_is_only_so_old_as_it_may_be() -> None:
    bounds = Bounds(issuer=ISSUER, audiences=frozenset({AUDIENCE}), skew_s=0, max_age_s=60)
    assert check_claims(claims(iat=NOW_S - 59), bounds, NOW_S) == NOW_S + 1
    for given in (claims(iat=NOW_S - 60), claims(iat=None)):
        with pytest.raises(WrongToken, match="iat"):
            check_claims(given, bounds, NOW_S)


def test_a_profile_cannot_allow_what_is_no_signature() -> None:
    for alg in ("none", "HS256", "ES256K", ""):
        with pytest.raises(ValueError, match="algs"):
            Profile(algs=frozenset({alg}), types=frozenset({""}))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (b"[]", "no JSON object"),
        (b"{}", "no list"),
        (b'{"keys":{}}', "no list"),
        (b'{"keys":[1]}', "no object"),
        (b'{"keys":[],"keys":[]}', "twice"),
        (b'{"keys":[' + b",".join([b"{}"] * 129) + b"]}", "no list"),
        (b" " * 300_000, "longer"),
        (key_set(key().as_dict(private=True)), "private"),
        (key_set(key(), {"kty": "oct", "k": "c2VjcmV0", "kid": "two"}), "symmetric"),
        (key_set(key(), public(key("EdDSA"), kid="one")), "two keys"),
        (key_set(public(key(), x="AAAA")), "cannot be read"),
        (key_set(public(key(), y=public(key())["x"])), "cannot be read"),
        (key_set(public(key(), x=public(key())["x"] + "=")), "base64url"),
        (key_set(public(key(), kid=1)), "id"),
        (key_set(public(key(), kid="x" * 513)), "id"),
    ],
)
def test_a_key_set_that_nobody_should_publish_is_refused(keys: bytes, why: str) -> None:
    with pytest.raises(NotStrict, match=why):
        read_key_set(keys)


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "ES384"},
        {"alg": 1},
        {"kty": "NEW"},
        {"crv": "secp256k1"},
        {"crv": None},
    ],
)
def test_a_key_that_is_for_something_else_checks_nothing(changed: dict[str, Any]) -> None:
    with pytest.raises(UnknownKey):
        check(token(), key_set(public(key(), **changed)))


def test_a_short_rsa_key_and_one_of_a_broken_chip_are_refused() -> None:
    short = {"kty": "RSA", "e": "AQAB", "n": encode((2**1023 + 1).to_bytes(128, "big"))}
    long = {"kty": "RSA", "e": "AQAB", "n": encode((2**9000 + 1).to_bytes(1126, "big"))}
    broken = {"kty": "RSA", "e": "AQAB", "n": encode(pow(65537, 131).to_bytes(263, "big"))}
    slow = {**public(key("RS256")), "e": encode(b"\x01" * 5)}
    for jwk, why in ((short, "bits"), (long, "bits"), (broken, "broken"), (slow, "time")):
        with pytest.raises(NotStrict, match=why):
            read_key(jwk)


def test_a_thumbprint_is_that_of_rfc_7638() -> None:
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
        "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA"
        "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
        "kEgU8awapJzKnqDKgw"
    )
    jwk = {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert read_key(jwk).thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
