"""Every case of Wycheproof's sets for JWS, JWK and ECDSA on P-256; each disagreement is named with its reason.

Skipped where the vectors are not beside the repository.
"""

import json
from functools import cache
from typing import Any

import pytest
from tests.vectors import vectors

from headrace.trust.identity.jose import Profile, read_jws, verify
from headrace.trust.identity.jwk import ALGORITHMS, Key, read_key, read_key_set
from headrace.trust.strict import encode_base64url

FOLDER = vectors("wycheproof")
EVERYTHING = Profile(algs=frozenset(ALGORITHMS), types=frozenset({"", "jwt"}))

SYMMETRIC = "shared secrets are never taken: who can check such a token can make it"
OTHER_ALG = "the key says that it is for another algorithm than the token's (RFC 7517, 4.4); the RFC's figure does not"
JWS_EXCEPTIONS = {
    **dict.fromkeys((1, 348, 352, 357, 358, 359, 372, 373, 376, 377), SYMMETRIC),
    **dict.fromkeys((346, 347, 350, 351), OTHER_ALG),
}
JWK_EXCEPTIONS = dict.fromkeys((2, 13, 14, 15), SYMMETRIC)


@cache
def groups(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["testGroups"]


def cases(name: str) -> list[Any]:
    return [
        pytest.param(group, case, id=f"{case['tcId']}-{case['comment'][:40]}")
        for group in groups(name)
        for case in group["tests"]
    ]


def is_taken(group: Any, case: Any) -> bool:
    """What we say of a token, with the keys of its group as its issuer would publish them."""
    keys = group.get("public") or group["private"]
    data = json.dumps(keys if "keys" in keys else {"keys": [keys]}).encode()
    text = case["jws"] if isinstance(case["jws"], str) else json.dumps(case["jws"])
    try:
        verify(read_jws(text, EVERYTHING), read_key_set(data))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("group", "case"), cases("json_web_signature_test"))
def test_jws(group: Any, case: Any) -> None:
    is_exception = case["tcId"] in JWS_EXCEPTIONS
    assert is_taken(group, case) == ((case["result"] == "valid") != is_exception), JWS_EXCEPTIONS.get(case["tcId"])


@pytest.mark.parametrize(("group", "case"), cases("json_web_key_test"))
def test_jwk(group: Any, case: Any) -> None:
    is_exception = case["tcId"] in JWK_EXCEPTIONS
    assert is_taken(group, case) == ((case["result"] == "valid") != is_exception), JWK_EXCEPTIONS.get(case["tcId"])


def test_no_exception_takes_what_the_vectors_call_wrong() -> None:
    for name, exceptions in (("json_web_signature_test", JWS_EXCEPTIONS), ("json_web_key_test", JWK_EXCEPTIONS)):
        results = {case["tcId"]: case["result"] for group in groups(name) for case in group["tests"]}
        assert {results[number] for number in exceptions} == {"valid"}


@cache
def p256(uncompressed: str) -> Key:
    point = bytes.fromhex(uncompressed)
    x, y = (encode_base64url(point[start : start + 32]) for start in (1, 33))
    return read_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})


@pytest.mark.parametrize(("group", "case"), cases("ecdsa_secp256r1_sha256_p1363_test"))
def test_es256(group: Any, case: Any) -> None:
    key = p256(group["publicKey"]["uncompressed"])
    is_valid = key.verify("ES256", bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
    assert is_valid == (case["result"] == "valid")
