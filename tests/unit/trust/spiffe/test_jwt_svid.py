"""JWT-SVIDs: each clause of JWT-SVID.md, and every way known to us in which a token can be read twice."""

import base64
import hmac
import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt as oracle
from joserfc.jwk import ECKey
from tests.spiffe_world import NOW_S, TD, SetClock, make_issuer, sign

from headrace.trust.spiffe.bundle import Bundle, JwtKey
from headrace.trust.spiffe.ids import InvalidSvid, parse_id
from headrace.trust.spiffe.jwt_svid import MAX_TOKEN_CHARS, verify_jwt_svid
from headrace.trust.strict import encode_base64url

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ID = f"spiffe://{TD}/agent/mail"
HEADER = {"alg": "ES256", "kid": "k1", "typ": "JWT"}
CLAIMS = {"sub": ID, "aud": ["gateway"], "exp": NOW_S + 300, "iat": NOW_S}


def bundles(trust_domain: str = TD, **keys: JwtKey) -> dict[str, Bundle]:
    given: Mapping[str, JwtKey] = keys or {"k1": KEY.public_key()}
    return {trust_domain: Bundle(trust_domain=trust_domain, jwt_authorities=given)}


def verify(token: str, known: Mapping[str, Bundle] | None = None, *, now_s: float = NOW_S) -> str:
    found = verify_jwt_svid(token, known or bundles(), audiences={"gateway"}, now_s=now_s)
    return str(found.spiffe_id)


def without(claims: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in claims.items() if key != name}


def signed_by_rsa(algorithm: str, key: rsa.RSAPrivateKey) -> str:
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]
    signed = ".".join(encode_base64url(json.dumps(one).encode()) for one in ({**HEADER, "alg": algorithm}, CLAIMS))
    is_pss = algorithm.startswith("PS")
    pad = padding.PSS(padding.MGF1(digest), digest.digest_size) if is_pss else padding.PKCS1v15()
    return f"{signed}.{encode_base64url(key.sign(signed.encode(), pad, digest))}"


def test_a_token_that_the_issuer_made_is_whose_it_says_and_another_library_agrees() -> None:
    issuer = make_issuer()
    token = issuer.mint_jwt(parse_id(ID), ("gateway",)).token
    found = verify_jwt_svid(token, issuer.bundles, audiences={"gateway"}, now_s=NOW_S)
    assert str(found.spiffe_id) == ID
    assert found.expires_s == NOW_S + 300
    (kid, public), *_ = issuer.bundle.jwt_authorities.items()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    read = oracle.decode(token, ECKey.import_key(pem), algorithms=["ES256"])
    assert read.header == {"alg": "ES256", "kid": kid, "typ": "JWT"}
    assert read.claims == found.claims


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (HEADER, CLAIMS),
        (without(HEADER, "typ"), CLAIMS),
        ({**HEADER, "typ": "JOSE"}, CLAIMS),
        (without(HEADER, "kid"), CLAIMS),
        (HEADER, {**CLAIMS, "aud": "gateway"}),
        (HEADER, {**CLAIMS, "aud": ["other", "gateway"]}),
        (HEADER, {**CLAIMS, "exp": NOW_S + 0.5}),
        (HEADER, without(CLAIMS, "iat")),
        (HEADER, {**CLAIMS, "nbf": NOW_S + 59, "iat": NOW_S + 59}),
        (HEADER, {**CLAIMS, "private": {"a": [1, None]}}),
    ],
)
def test_what_the_standard_leaves_open_is_taken(header: dict[str, Any], claims: dict[str, Any]) -> None:
    assert verify(sign(header, claims, KEY)) == ID


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_rsa_is_taken_and_bound_to_its_algorithm(algorithm: str) -> None:
    assert verify(signed_by_rsa(algorithm, RSA), bundles(k1=RSA.public_key())) == ID
    with pytest.raises(InvalidSvid, match="no key that this token names"):
        verify(signed_by_rsa(algorithm, RSA))


@pytest.mark.parametrize(("algorithm", "curve"), [("ES384", ec.SECP384R1()), ("ES512", ec.SECP521R1())])
def test_larger_curves_are_taken_and_bound_to_their_algorithm(algorithm: str, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    token = sign({**HEADER, "alg": algorithm}, CLAIMS, key)
    assert verify(token, bundles(k1=key.public_key())) == ID
    with pytest.raises(InvalidSvid, match="its alg fits"):
        verify(sign(HEADER, CLAIMS, key), bundles(k1=key.public_key()))


HEADERS: dict[str, tuple[Any, str]] = {
    "none": ({**HEADER, "alg": "none"}, "alg is 'none'"),
    "NONE": ({**HEADER, "alg": "NoNe"}, "alg is 'NoNe'"),
    "no alg": (without(HEADER, "alg"), "alg is 'None'"),
    "alg a list": ({**HEADER, "alg": ["ES256"]}, "alg is"),
    "EdDSA": ({**HEADER, "alg": "EdDSA"}, "alg is 'EdDSA'"),
    "Ed25519": ({**HEADER, "alg": "Ed25519"}, "alg is 'Ed25519'"),
    "ES256K": ({**HEADER, "alg": "ES256K"}, "alg is 'ES256K'"),
    "HS256": ({**HEADER, "alg": "HS256"}, "alg is 'HS256'"),
    "another curve's algorithm": ({**HEADER, "alg": "ES384"}, "its alg fits"),
    "RSA's algorithm": ({**HEADER, "alg": "RS256"}, "its alg fits"),
    "typ of a WIT-SVID": ({**HEADER, "typ": "wit+jwt"}, "typ is 'wit"),
    "typ of an access token": ({**HEADER, "typ": "at+jwt"}, "typ is 'at"),
    "typ of DPoP": ({**HEADER, "typ": "dpop+jwt"}, "typ is 'dpop"),
    "typ in small letters": ({**HEADER, "typ": "jwt"}, "typ is 'jwt'"),
    "typ null": ({**HEADER, "typ": None}, "typ is 'None'"),
    "crit": ({**HEADER, "crit": ["exp"]}, "has 'crit'"),
    "b64": ({**HEADER, "b64": False}, "has 'b64'"),
    "jwk": ({**HEADER, "jwk": {"kty": "EC"}}, "has 'jwk'"),
    "jku": ({**HEADER, "jku": "https://evil.org"}, "has 'jku'"),
    "x5u": ({**HEADER, "x5u": "https://evil.org"}, "has 'x5u'"),
    "x5c": ({**HEADER, "x5c": ["AAAA"]}, "has 'x5c'"),
    "cty": ({**HEADER, "cty": "JWT"}, "has 'cty'"),
    "an unknown kid": ({**HEADER, "kid": "k2"}, "no key that this token names"),
    "kid a number": ({**HEADER, "kid": 1}, "kid is no text"),
    "kid empty": ({**HEADER, "kid": ""}, "kid is no text"),
    "alg twice": (b'{"alg":"none","alg":"ES256","kid":"k1"}', "has a name twice"),
    "no object": (b'["ES256"]', "no JSON object"),
    "no JSON": (b'{"alg":"ES256"', "is no JSON"),
    "no UTF-8": (b'{"alg":"ES256\xff"}', "is no JSON"),
    "more behind it": (b'{"alg":"ES256","kid":"k1"} x', "is no JSON"),
    "a megabyte": ({**HEADER, "kid": "k" * 2**20}, "at most"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_breaks_a_clause_is_refused_for_it(name: str) -> None:
    header, why = HEADERS[name]
    with pytest.raises(InvalidSvid, match=why):
        verify(sign(header, CLAIMS, KEY))


PAYLOADS: dict[str, tuple[Any, str]] = {
    "no sub": (without(CLAIMS, "sub"), "no sub"),
    "sub a list": ({**CLAIMS, "sub": [ID]}, "no sub"),
    "sub no SPIFFE ID": ({**CLAIMS, "sub": "anna"}, "no SPIFFE ID"),
    "sub a trust domain": ({**CLAIMS, "sub": f"spiffe://{TD}"}, "needs a path"),
    "sub of a foreign trust domain": ({**CLAIMS, "sub": "spiffe://other.org/a"}, r"other\.org is not trusted"),
    "no aud": (without(CLAIMS, "aud"), "no aud"),
    "aud null": ({**CLAIMS, "aud": None}, "no aud"),
    "aud empty": ({**CLAIMS, "aud": []}, "no aud"),
    "aud an empty text": ({**CLAIMS, "aud": ""}, "no aud"),
    "aud with a number": ({**CLAIMS, "aud": ["gateway", 1]}, "no aud"),
    "aud an object": ({**CLAIMS, "aud": {"gateway": 1}}, "no aud"),
    "another aud": ({**CLAIMS, "aud": ["other"]}, "another audience"),
    "aud in other letters": ({**CLAIMS, "aud": ["Gateway"]}, "another audience"),
    "too many aud": ({**CLAIMS, "aud": ["gateway", *map(str, range(100))]}, "no aud"),
    "no exp": (without(CLAIMS, "exp"), "no exp"),
    "exp null": ({**CLAIMS, "exp": None}, "exp is no number"),
    "exp a text": ({**CLAIMS, "exp": str(NOW_S + 300)}, "exp is no number"),
    "exp true": ({**CLAIMS, "exp": True}, "exp is no number"),
    "exp now": ({**CLAIMS, "exp": NOW_S}, "has expired"),
    "exp a second ago": ({**CLAIMS, "exp": NOW_S - 1}, "has expired"),
    "exp half a second ago": ({**CLAIMS, "exp": NOW_S - 0.5}, "has expired"),
    "exp 2^63": ({**CLAIMS, "exp": 2**63}, "exp is no time"),
    "exp negative": ({**CLAIMS, "exp": -1}, "exp is no time"),
    "exp infinite": (b'{"exp":1e999,"sub":"%b","aud":"gateway"}' % ID.encode(), "exp is no time"),
    "exp NaN": (b'{"exp":NaN,"sub":"%b","aud":"gateway"}' % ID.encode(), "a number that is none"),
    "exp of ten thousand digits": (b'{"exp":%b,"sub":"x","aud":"gateway"}' % (b"9" * 10_000), "is no JSON"),
    "nbf ahead": ({**CLAIMS, "nbf": NOW_S + 61}, "nbf lies in the future"),
    "iat ahead": ({**CLAIMS, "iat": NOW_S + 3600}, "iat lies in the future"),
    "nbf a text": ({**CLAIMS, "nbf": "now"}, "nbf is no number"),
    "sub twice": (b'{"sub":"a","sub":"%b","aud":"gateway","exp":9}' % ID.encode(), "has a name twice"),
    "a list": (b"[]", "no JSON object"),
    "deep": (b'{"a":' * 3000 + b"1" + b"}" * 3000, "is no JSON|at most"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_that_breaks_a_clause_is_refused_for_it(name: str) -> None:
    claims, why = PAYLOADS[name]
    with pytest.raises(InvalidSvid, match=why):
        verify(sign(HEADER, claims, KEY))


def test_a_public_key_is_not_taken_for_the_secret_of_an_hmac() -> None:
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = ".".join(encode_base64url(json.dumps(one).encode()) for one in ({**HEADER, "alg": "HS256"}, CLAIMS))
    token = f"{signed}.{encode_base64url(hmac.digest(pem, signed.encode(), 'sha256'))}"
    with pytest.raises(InvalidSvid, match="alg is 'HS256'"):
        verify(token, bundles(k1=RSA.public_key()))


def test_a_right_signature_by_ed25519_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    signed = ".".join(encode_base64url(json.dumps(one).encode()) for one in ({**HEADER, "alg": "EdDSA"}, CLAIMS))
    with pytest.raises(InvalidSvid, match="alg is 'EdDSA'"):
        verify(f"{signed}.{encode_base64url(key.sign(signed.encode()))}")


def test_the_signature_is_checked_and_a_key_of_another_trust_domain_is_no_key() -> None:
    with pytest.raises(InvalidSvid, match="not that of its key"):
        verify(sign(HEADER, CLAIMS, OTHER))
    with pytest.raises(InvalidSvid, match="not that of its key"):
        verify(sign(without(HEADER, "kid"), CLAIMS, OTHER))
    both = bundles() | bundles("other.org", k1=OTHER.public_key())
    with pytest.raises(InvalidSvid, match="not that of its key"):
        verify(sign(HEADER, CLAIMS, OTHER), both)
    with pytest.raises(InvalidSvid, match="not trusted here"):
        verify(sign(HEADER, CLAIMS, KEY), {TD: Bundle(trust_domain=TD)})


def test_a_signature_in_another_form_is_refused() -> None:
    head, payload, signature = sign(HEADER, CLAIMS, KEY).split(".")
    der = KEY.sign(f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    raw = base64.urlsafe_b64decode(signature + "==")
    longer = encode_base64url(raw[:32] + b"\0" + raw[32:])  # the same numbers
    for wrong in (encode_base64url(der), signature[:-2], "", encode_base64url(bytes(64)), longer):
        with pytest.raises(InvalidSvid):
            verify(f"{head}.{payload}.{wrong}")


def test_base64_in_another_spelling_is_refused() -> None:
    head, payload, signature = sign(HEADER, CLAIMS, KEY).split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = signature[:-1] + last[last.index(signature[-1]) ^ 1]  # the same bytes: only unused bits differ
    for wrong in (f"{head}.{payload}.{other}", f"{head}.{payload}.{signature}=", f"{head}=.{payload}.{signature}"):
        with pytest.raises(InvalidSvid, match="base64url"):
            verify(wrong)
    for wrong in (f" {head}.{payload}.{signature}", f"{head}.{payload}.{signature}\n", f"{head}.{payload}.+/=="):
        with pytest.raises(InvalidSvid, match="base64url"):
            verify(wrong)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b", "a.b.c.d", "hr_key", "é.é.é", "x" * (MAX_TOKEN_CHARS + 1)])
def test_what_is_no_compact_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidSvid):
        verify(token)


@given(st.randoms(use_true_random=False))
def test_a_token_with_one_character_changed_is_nobodys(random: Random) -> None:
    token = _TOKEN
    place = random.randrange(len(token))
    other = random.choice([one for one in "ABCxyz019-_." if one != token[place]])
    with pytest.raises(InvalidSvid):
        verify(token[:place] + other + token[place + 1 :])


_TOKEN = sign(HEADER, CLAIMS, KEY)


def test_a_token_is_valid_up_to_its_end() -> None:
    clock = SetClock()
    issuer = make_issuer(clock)
    token = issuer.mint_jwt(parse_id(ID), ("gateway",)).token
    assert verify(token, issuer.bundles, now_s=NOW_S + 299.9)
    with pytest.raises(InvalidSvid, match="has expired"):
        verify(token, issuer.bundles, now_s=NOW_S + 300)
