"""Callers by their signatures: the examples of RFC 9421, what a signature must say, and how it may be wrong."""

import warnings
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from http_message_signatures import HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures.algorithms import ECDSA_P256_SHA256
from tests.signed import ENOUGH, KEY, digest, pem, sign

from headrace.core.errors import Overloaded, Unauthenticated
from headrace.core.identity import Identity, Shown
from headrace.core.request import SCOPES, Principal
from headrace.trust.identity.settings import SignerSettings
from headrace.trust.identity.signatures import Signatures, WrongSignature, choose, read_digest, read_signer

NOW_S = 1_700_000_100
URL = "https://api.example/v1/chat/completions"
BODY = b'{"model":"chat"}'
SETTINGS = SignerSettings(name="desk", key=Path("desk.pem"), tenant="acme", labels=frozenset({"internal"}))
PARAMETERS: dict[str, Any] = {"created": NOW_S, "keyid": "desk", "nonce": "n1"}


def signatures(settings: SignerSettings = SETTINGS, key: bytes | None = None, max_ids: int = 100) -> Signatures:
    return Signatures([read_signer(settings, key or pem())], max_ids)


def shown(headers: dict[str, str], method: str = "POST", url: str = URL, **more: Any) -> Shown:
    given = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    return Shown(**({"method": method, "url": url, "headers": given, "came_unix_s": NOW_S} | more))


def made(components: Any = ENOUGH, method: str = "POST", url: str = URL, **more: Any) -> dict[str, str]:
    headers = {"content-digest": digest(BODY), "content-length": str(len(BODY)), "content-type": "application/json"}
    headers |= more.pop("headers", {})
    return sign(method, url, headers, components, **(PARAMETERS | more))


def refused(headers: dict[str, str], why: str, judge: Signatures | None = None, **more: Any) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        (judge or signatures()).authenticate(shown(headers, **more))
    assert caught.value.code == "invalid_signature"


def test_a_signed_request_is_its_signers_and_its_body_is_bound() -> None:
    found = signatures().authenticate(shown(made()))
    principal = Principal(tenant="acme", labels=frozenset({"internal"}), subject="signer:desk")
    assert found == Identity(principal, "desk", body_digest=read_digest(digest(BODY).encode()))


@pytest.mark.parametrize(
    ("components", "url"),
    [
        (("@method", "@target-uri", "content-digest"), URL + "?a=1"),
        (("@method", "@authority", "@path", "content-digest"), URL),
        (("@method", "@authority", "@path", "@query", "content-digest"), URL + "?a=1"),
        (("content-digest", "content-type", "@scheme", "@path", "@authority", "@method", "content-length"), URL),
    ],
)
def test_what_makes_a_request_may_be_covered_in_parts_and_in_any_order(components: Any, url: str) -> None:
    assert signatures().authenticate(shown(made(components, url=url), url=url)) is not None


@pytest.mark.parametrize(
    ("components", "missing"),
    [
        ((), "@authority, @method, @path, @query, content-digest"),
        (("@method", "@target-uri"), "content-digest"),
        (("@target-uri", "content-digest"), "@method"),
        (("@method", "content-digest"), "@authority, @path, @query"),
        (("@method", "@path", "content-digest"), "@authority"),
        (("@method", "@authority", "@path", "content-digest"), "@query"),
        (("@method", "@request-target", "content-digest"), "@authority"),
        (("@method", "@target-uri", "content-digest;sf"), "content-digest"),
        (("@method", "@target-uri", 'content-digest;key="sha-256"'), "content-digest"),
    ],
)
def test_a_signature_that_another_request_could_have_is_refused(components: Any, missing: str) -> None:
    refused(made(components, url=URL + "?a=1"), f"cover {missing}", url=URL + "?a=1")


def test_what_else_a_signer_must_cover_is_for_the_operator_to_say() -> None:
    judge = signatures(replace(SETTINGS, components=("content-type",)))
    refused(made(), "content-type", judge)
    assert judge.authenticate(shown(made((*ENOUGH, "content-type")))) is not None


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "dpop", "x-headrace-delegation"])
def test_credentials_beside_a_signature_are_covered_by_it(name: str) -> None:
    headers = {name: "Bearer hr_x"}
    refused(made(headers=headers), name)
    assert signatures().authenticate(shown(made((*ENOUGH, name), headers=headers))) is not None


def test_a_request_without_a_body_needs_no_digest_but_one_that_is_there_holds() -> None:
    headers = sign("GET", URL, {}, ("@method", "@target-uri"), **PARAMETERS)
    found = signatures().authenticate(shown(headers, "GET"))
    assert found is not None and found.body_digest is None
    refused(headers | {"content-length": "5"}, "content-digest", method="GET")
    refused(headers | {"transfer-encoding": "chunked"}, "content-digest", method="GET")
    covered = sign("GET", URL, {"content-digest": digest(b"")}, ENOUGH, **PARAMETERS)
    found = signatures().authenticate(shown(covered, "GET"))
    assert found is not None and found.body_digest == read_digest(digest(b"").encode())


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"url": URL + "?a=1"},
        {"url": URL + "/"},
        {"url": URL.replace("https", "http")},
        {"url": URL.replace("api", "other")},
        {"url": URL.replace("api.example", "api.example:8443")},
        {"content-digest": digest(b"other")},
        {"signature": "sig1=:" + "A" * 86 + "==:"},
    ],
)
def test_another_request_has_not_this_signature(changed: dict[str, str]) -> None:
    headers = made() | {name: value for name, value in changed.items() if name not in ("method", "url")}
    more = {name: value for name, value in changed.items() if name in ("method", "url")}
    refused(headers, "not valid for this request", **more)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"created": NOW_S - 60}, "not made just now"),
        ({"created": NOW_S - 3600}, "not made just now"),
        ({"created": NOW_S + 6}, "not made just now"),
        ({"created": None}, "created"),
        ({"created": str(NOW_S)}, "created"),
        ({"expires": NOW_S}, "expired"),
        ({"expires": NOW_S - 1}, "expired"),
        ({"expires": "never"}, "expired"),
        ({"nonce": None}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"nonce": "x" * 257}, "nonce"),
        ({"alg": "ecdsa-p256-sha256"}, "not valid"),
        ({"alg": "hmac-sha256"}, "not valid"),
        ({"alg": "rsa-v1_5-sha256"}, "not valid"),
        ({"surprise": "x"}, "not valid"),
    ],
)
def test_a_signature_says_when_it_was_made_and_how(parameters: dict[str, Any], why: str) -> None:
    refused(made(**parameters), why)


def test_a_signature_is_taken_once() -> None:
    judge = signatures()
    assert judge.authenticate(shown(made())) is not None
    refused(made(), "before", judge)
    refused(made(created=NOW_S - 1), "before", judge)
    assert judge.authenticate(shown(made(nonce="n2"))) is not None


def test_without_nonces_the_same_request_of_the_same_second_is_a_replay_whatever_its_signature_looks_like() -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    class P1363:
        """ES256 as RFC 9421, section 3.3.4, has it; signing twice gives two signatures."""

        def sign(self, data: bytes) -> bytes:
            r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    judge = signatures(replace(SETTINGS, nonce="off"), pem(key))
    first, second = made(nonce=None, key=P1363()), made(nonce=None, key=P1363())
    assert first["signature"] != second["signature"]
    assert judge.authenticate(shown(first)) is not None
    refused(second, "before", judge)


def test_a_clock_that_is_set_back_makes_no_old_signature_new() -> None:
    judge = signatures()
    later = made(created=NOW_S + 600, nonce="later")
    assert judge.authenticate(shown(later, came_unix_s=NOW_S + 600)) is not None
    refused(made(), "not made just now", judge)


def test_when_no_more_can_be_remembered_nothing_is_taken() -> None:
    judge = signatures(max_ids=4)  # of which one signer may have one
    assert judge.authenticate(shown(made())) is not None
    with pytest.raises(Overloaded):
        judge.authenticate(shown(made(nonce="n2")))


def both(*labels: str, tags: tuple[str | None, ...]) -> dict[str, str]:
    """Several signatures on one request."""
    parts = [made(label=label, nonce=label, tag=tag) for label, tag in zip(labels, tags, strict=True)]
    joined = {name: ", ".join(part[name] for part in parts) for name in ("signature", "signature-input")}
    return parts[0] | joined


def test_of_several_signatures_the_one_with_the_signers_tag_counts() -> None:
    judge = signatures(replace(SETTINGS, tag="llm"))
    assert judge.authenticate(shown(both("a", "b", tags=("proxy", "llm")))) is not None
    assert judge.authenticate(shown(made(tag="other"))) is None
    refused(both("a", "b", tags=("llm", "llm")), "several", judge)
    refused(both("a", "b", tags=(None, None)), "several")


def test_one_of_several_without_a_tag_is_refused() -> None:
    other = made(label="b", keyid="proxy", key=ed25519.Ed25519PrivateKey.generate())
    ours = made(label="a")
    headers = ours | {name: f"{ours[name]}, {other[name]}" for name in ("signature", "signature-input")}
    refused(headers, "no tag")


def test_signatures_of_others_are_not_ours_to_judge() -> None:
    assert signatures().authenticate(shown(made(keyid="proxy"))) is None
    assert signatures().authenticate(shown({})) is None


def test_a_name_that_is_not_the_servers_cannot_be_signed_for() -> None:
    refused(made(), "allowed_hosts", is_own_url=False)


GOOD = made()
BAD = {
    "no signature": {name: value for name, value in GOOD.items() if name != "signature"},
    "no input": {name: value for name, value in GOOD.items() if name != "signature-input"},
    "a label twice": GOOD | {"signature-input": f"{GOOD['signature-input']}, {GOOD['signature-input']}"},
    "a label twice in the signature": GOOD | {"signature": f"{GOOD['signature']}, {GOOD['signature']}"},
    "other labels": GOOD | {"signature": GOOD["signature"].replace("sig1", "sig2")},
    "more labels": GOOD | {"signature": GOOD["signature"] + ", sig2=:AAAA:"},
    "a parameter twice": GOOD | {"signature-input": GOOD["signature-input"] + ';keyid="desk"'},
    "no list": GOOD | {"signature-input": 'sig1="x";keyid="desk"'},
    "no dictionary": GOOD | {"signature-input": "("},
    "empty": GOOD | {"signature-input": "", "signature": ""},
    "a signature that is a text": GOOD | {"signature": 'sig1="x"'},
    "over several lines": GOOD | {"signature-input": GOOD["signature-input"].replace(" ", "\r\n ", 1)},
    "a long header": GOOD | {"signature-input": GOOD["signature-input"] + f';tag="{"x" * 9000}"'},
    "many components": made(
        (*ENOUGH, *(f"x-{number}" for number in range(70))), headers={f"x-{number}": "1" for number in range(70)}
    ),
    "a component twice": made((*ENOUGH, "@method")),
    "an unknown component": GOOD
    | {"signature-input": GOOD["signature-input"].replace('"@method"', '"@method" "@nothing"')},
    "a header that is not there": GOOD
    | {"signature-input": GOOD["signature-input"].replace('"@method"', '"@method" "x-nothing"')},
    "a status": GOOD | {"signature-input": GOOD["signature-input"].replace('"@method"', '"@method" "@status"')},
    "another request's part": GOOD | {"signature-input": GOOD["signature-input"].replace('"@method"', '"@method";req')},
    "sf and bs together": made((*ENOUGH, "content-type;sf;bs"), headers={"content-type": "application/json"}),
    "a name in capitals": GOOD | {"signature-input": GOOD["signature-input"].replace("content-", "Content-")},
    "a number for a component": GOOD | {"signature-input": GOOD["signature-input"].replace('"@method"', "1")},
    "keyid a token": GOOD | {"signature-input": GOOD["signature-input"].replace('"desk"', "desk")},
    "digest of another algorithm": made(headers={"content-digest": "md5=:AAAA:"}),
    "digest twice": made(headers={"content-digest": f"{digest(BODY)}, {digest(b'other')}"}),
    "digest too short": made(headers={"content-digest": "sha-256=:AAAA:"}),
    "digest a text": made(headers={"content-digest": 'sha-256="x"'}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_signature_that_is_wrong_is_refused(name: str) -> None:
    try:
        found = signatures().authenticate(shown(BAD[name]))
    except Unauthenticated:
        return
    assert found is None  # no key of ours is named


def test_a_signature_that_is_right_and_too_long_is_refused() -> None:
    refused(made(tag="x" * 9000), "too long")
    assert signatures().authenticate(shown(made(tag="x" * 1000))) is not None


def test_a_header_of_several_lines_counts_in_their_order() -> None:
    headers = made((*ENOUGH, "x-list"), headers={"x-list": "a, b"})
    assert signatures().authenticate(shown(headers)) is not None
    refused(headers | {"x-list": "b, a"}, "not valid")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (b"", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private key"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "kind"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "kind"),
        (pem(rsa.generate_private_key(65537, 1024)), "kind"),
    ],
)
def test_a_key_that_cannot_be_taken_is_told(key: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_signer(SETTINGS, key)


def test_a_signature_beside_a_key_is_a_second_proof_of_its_holder() -> None:
    judge = signatures(replace(SETTINGS, with_key="laptop"))
    found = judge.authenticate(shown(made()))
    assert found is not None
    assert (found.principal.subject, found.principal.scopes) == ("key:laptop", frozenset(SCOPES))
    assert judge.bound_keys == {"laptop"}


# RFC 9421, appendix B. The request of B.2, its keys, and what was signed of it.

RFC_URL = "https://example.com/foo?param=Value&Pet=dog"
RFC_S = 1618884473
RFC_HEADERS = {
    "host": "example.com",
    "date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "content-type": "application/json",
    "content-digest": "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew"
    "==:",
    "content-length": "18",
}
RSA_PSS = b"""-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----
"""
ECC_P256 = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END PUBLIC KEY-----
"""
ED25519 = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
FULL = '("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length")'
EXAMPLES = {
    "b21": (
        "test-key-rsa-pss",
        RSA_PSS,
        'sig-b21=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"',
        "sig-b21=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJ"
        "MkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZ"
        "sfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8"
        "ssinQ98Xw9Q==:",
    ),
    "b22": (
        "test-key-rsa-pss",
        RSA_PSS,
        'sig-b22=("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";'
        'tag="header-example"',
        "sig-b22=:LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4"
        "+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+"
        "H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe"
        "4bXTugEjHSw==:",
    ),
    "b23": (
        "test-key-rsa-pss",
        RSA_PSS,
        f'sig-b23={FULL};created=1618884473;keyid="test-key-rsa-pss"',
        "sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCU"
        "b38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1"
        "xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIzt"
        "sDZKEgM4cUA==:",
    ),
    "b26": (
        "test-key-ed25519",
        ED25519,
        'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;'
        'keyid="test-key-ed25519"',
        "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_signatures_of_rfc_9421_are_valid_and_no_other_request_has_them(name: str) -> None:
    keyid, key, said, value = EXAMPLES[name]
    judge = Signatures([read_signer(replace(SETTINGS, name=keyid, nonce="off"), key)], 10)
    headers = RFC_HEADERS | {"signature-input": said, "signature": value}
    seen = shown(headers, url=RFC_URL, came_unix_s=RFC_S)
    chosen = choose(seen.headers, {keyid: read_signer(replace(SETTINGS, name=keyid), key)})
    assert chosen is not None
    assert '"@signature-params": ' in judge._verify(seen, chosen)
    if name != "b21":  # which covers nothing
        for changed in (
            replace(seen, url="https://example.org/foo?param=Value&Pet=cat"),
            shown(headers | {"content-digest": digest(b"x"), "date": "now"}, url=RFC_URL),
        ):
            with pytest.raises(WrongSignature):
                judge._verify(changed, chosen)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_signatures_of_rfc_9421_say_too_little_for_us(name: str) -> None:
    keyid, key, said, value = EXAMPLES[name]
    judge = Signatures([read_signer(replace(SETTINGS, name=keyid, nonce="off"), key)], 10)
    headers = RFC_HEADERS | {"signature-input": said, "signature": value}
    # B.2.3 covers everything; its digest is a SHA-512, and bodies are held to SHA-256 here.
    refused(headers, "sha-256" if name == "b23" else "does not cover", judge, url=RFC_URL, came_unix_s=RFC_S)


def test_the_librarys_check_of_a_response_agrees_with_rfc_9421() -> None:
    digest_512 = "mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ=="
    made_by = "wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw=="

    class Response:
        status_code = 200
        request = None
        headers = MappingProxyType(
            {
                "content-type": "application/json",
                "content-digest": f"sha-512=:{digest_512}:",
                "content-length": "23",
                "signature-input": 'sig-b24=("@status" "content-type" "content-digest" "content-length");'
                'created=1618884473;keyid="test-key-ecc-p256"',
                "signature": f"sig-b24=:{made_by}:",
            }
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolver = MappingKeyResolver(public_keys={"test-key-ecc-p256": ECC_P256}, private_keys={})
        verifier = HTTPMessageVerifier(signature_algorithm=ECDSA_P256_SHA256, key_resolver=resolver)
        assert len(verifier.verify(Response(), max_age=None)) == 1
