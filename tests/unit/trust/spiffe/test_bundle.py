"""SPIFFE bundles: written, read by us and by the stock client, and what is broken in one."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from spiffe import JwtBundle, TrustDomain, X509Bundle
from tests.spiffe_world import NOW_S, TD, Holder, SetClock, make_ca, make_issuer, turn

from headrace.trust.spiffe.bundle import (
    Bundle,
    parse_bundle,
    parse_jwt_authorities,
    parse_x509_authorities,
    write_bundle,
    write_jwt_authorities,
)
from headrace.trust.spiffe.ids import InvalidSvid
from headrace.trust.spiffe.rhythm import Rhythm

ROOT: Holder = make_ca("root")


def entry(**changes: Any) -> dict[str, Any]:
    """One key of a document that an issuer wrote, for tokens unless `use` says otherwise."""
    use = changes.get("use", "jwt-svid")
    found: dict[str, Any] = next(
        one for one in json.loads(write_bundle(make_issuer().bundle))["keys"] if one["use"] == use
    )
    return {name: value for name, value in {**found, **changes}.items() if value is not ...}


def read(*entries: Any, **more: Any) -> Bundle:
    return parse_bundle(json.dumps({"keys": list(entries), **more}).encode(), TD)


def test_a_bundle_is_read_as_it_was_written() -> None:
    clock, rhythm = SetClock(), Rhythm()
    issuer = make_issuer(clock)
    turn(issuer, rhythm, NOW_S + rhythm.life_s / 2)
    written = write_bundle(issuer.bundle)
    document = json.loads(written)
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (2, 900)
    assert [one["use"] for one in document["keys"]] == ["x509-svid"] * 2 + ["jwt-svid"] * 2
    assert all(("kid" in one) == (one["use"] == "jwt-svid") for one in document["keys"])
    assert parse_bundle(written, TD) == issuer.bundle


def test_what_the_workload_api_gives_is_read_by_the_stock_client_and_by_us() -> None:
    bundle = make_issuer().bundle
    der, keys = b"".join([*bundle.x509_authorities, ROOT.der]), write_jwt_authorities(bundle.jwt_authorities)
    assert len(X509Bundle.parse_raw(TrustDomain(TD), der).x509_authorities) == 2
    assert set(JwtBundle.parse(TrustDomain(TD), keys).jwt_authorities) == set(bundle.jwt_authorities)
    assert parse_x509_authorities(der) == (*bundle.x509_authorities, ROOT.der)
    assert parse_jwt_authorities(keys) == bundle.jwt_authorities
    assert b'"use"' not in keys


def test_rsa_keys_are_read_and_written() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    bundle = Bundle(trust_domain=TD, jwt_authorities={"r": key})
    assert parse_bundle(write_bundle(bundle), TD).jwt_authorities == {"r": key}
    short = rsa.generate_private_key(65537, 1024).public_key()
    with pytest.raises(InvalidSvid, match="1024 bits"):
        parse_bundle(write_bundle(Bundle(trust_domain=TD, jwt_authorities={"r": short})), TD)


@pytest.mark.parametrize(
    "ignored",
    [
        entry(use="jwt-svid", kty="OKP"),
        {**entry(), "use": "wit-svid"},
        {**entry(), "use": "sig"},
        {**entry(), "use": "JWT-SVID"},
        {key: value for key, value in entry().items() if key != "use"},
        {**entry(use="x509-svid"), "x5c": []},
        {key: value for key, value in entry(use="x509-svid").items() if key != "x5c"},
        {**entry(), "crv": "secp256k1"},
    ],
    ids=["kty", "wit", "sig", "case", "no use", "x5c empty", "no x5c", "curve"],
)
def test_an_entry_of_unknown_kind_is_ignored_with_all_of_it(ignored: dict[str, Any]) -> None:
    found = read(ignored)
    assert (found.x509_authorities, dict(found.jwt_authorities)) == ((), {})


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (entry(kid=...), "no kid"),
        (entry(kid=7), "no kid"),
        (entry(x=...), "no x"),
        (entry(x="AAAA"), "a coordinate of this curve has 32"),
        (entry(y=entry()["x"]), "no point of the curve"),
        (entry(x=entry()["x"] + "="), "base64url"),
        (entry(d="AAAA"), "private key"),
        (entry(use="x509-svid", x5c=["AAAA"]), "no DER certificate"),
        (entry(use="x509-svid", x5c=["é"]), "no base64"),
        (entry(use="x509-svid", x5c="AAAA"), "no list of texts"),
        (entry(use="x509-svid", x5c=[base64.b64encode(ROOT.der + b"x").decode()]), "no DER certificate"),
        ("text", "no object"),
    ],
)
def test_an_entry_of_known_kind_that_is_broken_is_refused(broken: Any, why: str) -> None:
    with pytest.raises(InvalidSvid, match=why):
        read(broken)


def test_only_the_first_certificate_of_an_entry_counts() -> None:
    first = base64.b64encode(ROOT.der).decode()
    assert read(entry(use="x509-svid", x5c=[first, "rubbish"])).x509_authorities == (ROOT.der,)


def test_two_keys_of_one_kid_are_refused() -> None:
    with pytest.raises(InvalidSvid, match="two keys"):
        read(entry(), entry())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "no list keys"),
        (b'{"keys":{}}', "no list keys"),
        (b'{"keys":[],"keys":[]}', "a name twice"),
        (b'{"keys":[],"spiffe_sequence":-1}', "spiffe_sequence"),
        (b'{"keys":[],"spiffe_sequence":1.5}', "spiffe_sequence"),
        (b'{"keys":[],"spiffe_sequence":true}', "spiffe_sequence"),
        (b'{"keys":[],"spiffe_sequence":%d}' % 2**63, "spiffe_sequence"),
        (b'{"keys":[],"spiffe_refresh_hint":"1"}', "spiffe_refresh_hint"),
        (b" " * (5 * 2**20), "longer than"),
    ],
)
def test_a_document_that_is_broken_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(InvalidSvid, match=why):
        parse_bundle(text, TD)


def test_an_empty_bundle_is_one() -> None:
    assert read(spiffe_sequence=3) == Bundle(trust_domain=TD, sequence=3)


def test_a_row_of_certificates_has_an_end() -> None:
    assert parse_x509_authorities(ROOT.der * 256) == (ROOT.der,)
    with pytest.raises(InvalidSvid, match="more than 256"):
        parse_x509_authorities(ROOT.der * 257)


@pytest.mark.parametrize("text", [b"{}", b'{"keys":{}}', b"[]", b""])
def test_what_is_no_set_of_keys_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidSvid, match="JWK set"):
        parse_jwt_authorities(text)


@pytest.mark.parametrize("rubbish", [b"\x30", b"\x30\x05abc", b"\x30\x84\xff\xff\xff\xff", b"rubbish", ROOT.der[:-1]])
def test_rubbish_is_no_row_of_certificates(rubbish: bytes) -> None:
    with pytest.raises(InvalidSvid):
        parse_x509_authorities(ROOT.der + rubbish)
