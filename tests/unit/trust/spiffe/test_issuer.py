"""The embedded issuer: who gets which name, and keys that change without anybody being refused meanwhile."""

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spiffe import X509Svid as StockSvid
from tests.spiffe_world import ME, NOW_S, TD, SetClock, make_issuer

from headrace.core.workload import Attested
from headrace.trust.spiffe.authority import (
    Authorities,
    next_change_s,
    read_authorities,
    rotate,
    write_authorities,
)
from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import InvalidSvid, parse_id
from headrace.trust.spiffe.issuer import Issuer, Terms
from headrace.trust.spiffe.jwt_svid import verify_jwt_svid
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings
from headrace.trust.spiffe.x509_svid import verify_x509_svid

MAIL, CHAT = parse_id(f"spiffe://{TD}/agent/mail"), parse_id(f"spiffe://{TD}/agent/chat")


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        (EntrySettings(id=MAIL, uid=1000), True),
        (EntrySettings(id=MAIL, uid=0), False),
        (EntrySettings(id=MAIL, gid=1000), True),
        (EntrySettings(id=MAIL, gid=1), False),
        (EntrySettings(id=MAIL, exe="/usr/bin/agent"), True),
        (EntrySettings(id=MAIL, exe="/usr/bin/agent2"), False),
        (EntrySettings(id=MAIL, sha256="a" * 64), True),
        (EntrySettings(id=MAIL, sha256="b" * 64), False),
        (EntrySettings(id=MAIL, uid=1000, exe="/usr/bin/agent", sha256="a" * 64), True),
        (EntrySettings(id=MAIL, uid=1000, exe="/usr/bin/agent", sha256="b" * 64), False),
        (EntrySettings(id=MAIL, uid=1001, exe="/usr/bin/agent"), False),
    ],
)
def test_a_process_gets_a_name_if_all_that_an_entry_says_is_true_of_it(entry: EntrySettings, fits: bool) -> None:
    issuer = make_issuer()
    issuer.configure([entry])
    assert issuer.has_names(ME) == fits
    assert [one.spiffe_id for one in issuer.x509_svids(ME)] == [str(MAIL)] * fits
    assert [one.spiffe_id for one in issuer.jwt_svids(ME, ("a",))] == [str(MAIL)] * fits


def test_names_come_in_the_order_of_entries_each_once_and_hints_are_unique() -> None:
    issuer = make_issuer()
    issuer.configure(
        [
            EntrySettings(id=CHAT, uid=1000, hint="in"),
            EntrySettings(id=MAIL, uid=1000, hint="in"),
            EntrySettings(id=CHAT, gid=1000, hint="other"),
        ]
    )
    assert [(one.spiffe_id, one.hint) for one in issuer.x509_svids(ME)] == [(str(CHAT), "in"), (str(MAIL), "")]
    assert [one.spiffe_id for one in issuer.jwt_svids(ME, ("a",), str(MAIL))] == [str(MAIL)]
    assert issuer.jwt_svids(ME, ("a",), f"spiffe://{TD}/root") == ()
    nobody = Attested(pid=1, uid=5, gid=5, exe="/x", sha256="c" * 64)
    assert issuer.x509_svids(nobody) == issuer.jwt_svids(nobody, ("a",)) == ()


def test_names_of_other_trust_domains_are_not_given() -> None:
    issuer = make_issuer()
    with pytest.raises(InvalidSvid, match="not of the trust domain"):
        issuer.configure([EntrySettings(id=parse_id("spiffe://other.org/a"), uid=1)])
    with pytest.raises(InvalidSvid, match="own trust domain"):
        issuer.configure([], [Bundle(trust_domain=TD)])
    for wrong in ("spiffe://other.org/a", f"spiffe://{TD}"):
        with pytest.raises(InvalidSvid, match="no workload"):
            issuer.mint_x509(parse_id(wrong))
        with pytest.raises(InvalidSvid, match="no workload"):
            issuer.mint_jwt(parse_id(wrong), ("a",))
    for audience in ((), ("",)):
        with pytest.raises(InvalidSvid, match="needs an audience"):
            issuer.mint_jwt(MAIL, audience)


def test_the_stock_client_reads_what_is_issued() -> None:
    svid = make_issuer().mint_x509(MAIL)
    read = StockSvid.parse_raw(b"".join(svid.certificates), svid.private_key)
    assert str(read.spiffe_id) == str(MAIL)
    assert read.leaf.public_key() == read.private_key.public_key()
    assert read.leaf.not_valid_after_utc.timestamp() == svid.expires_s == NOW_S + 3600


def test_every_document_has_a_key_number_and_id_of_its_own() -> None:
    issuer = make_issuer()
    first, second = issuer.mint_x509(MAIL), issuer.mint_x509(MAIL)
    assert first.private_key != second.private_key
    read = [StockSvid.parse_raw(one.certificates[0], one.private_key).leaf.serial_number for one in (first, second)]
    assert read[0] != read[1]
    tokens = {issuer.mint_jwt(MAIL, ("a",)).token for _ in range(3)}
    assert len(tokens) == 3


def test_nothing_that_is_printed_has_a_private_key_or_a_token() -> None:
    issuer = make_issuer()
    svid, token = issuer.mint_x509(MAIL), issuer.mint_jwt(MAIL, ("a",))
    shown = repr((svid, token, issuer._authorities))
    assert repr(svid.private_key) not in shown
    assert token.token not in shown
    assert repr(issuer._authorities.x509_keys[0].private_key) not in shown


def test_keys_are_read_as_they_were_written_and_not_if_they_were_changed() -> None:
    authorities = make_issuer()._authorities
    text = write_authorities(authorities)
    assert read_authorities(text) == authorities
    document = json.loads(text)
    document["x509"][0]["private_key"] = document["jwt"][0]["private_key"]
    for wrong, why in (
        (json.dumps(document).encode(), "not that of its key"),
        (b"{}", "not as it was written"),
        (text.replace(b"example.org", b"Example.org"), "no trust domain"),
        (text[:-20], "no JSON"),
        (b"", "no JSON"),
    ):
        with pytest.raises(InvalidSvid, match=why):
            read_authorities(wrong)


def test_a_document_never_outlives_the_key_that_signed_it() -> None:
    rhythm = Rhythm(life_s=100, settle_s=10)
    issuer = make_issuer(terms=Terms(rhythm=rhythm, x509_ttl_s=3600, jwt_ttl_s=3600))
    assert issuer.mint_x509(MAIL).expires_s == issuer.mint_jwt(MAIL, ("a",)).expires_s == NOW_S + 100


def test_keys_change_at_half_of_their_life_and_the_new_one_signs_later() -> None:
    rhythm, random = Rhythm(life_s=1000, settle_s=100), Random(3)
    first = rotate(Authorities(trust_domain=TD), rhythm, now_s=NOW_S, random=random)
    assert (len(first.x509_keys), len(first.jwt_keys), first.sequence) == (1, 1, 1)
    assert next_change_s(first, rhythm) == NOW_S + 500
    assert rotate(first, rhythm, now_s=NOW_S + 499, random=random) is first
    both = rotate(first, rhythm, now_s=NOW_S + 500, random=random)
    assert (len(both.x509_keys), both.sequence) == (2, 2)
    clock = SetClock(NOW_S + 599)
    issuer = Issuer(both, Terms(rhythm=rhythm, jwt_ttl_s=10), clock, random)
    kids = list(issuer.bundle.jwt_authorities)

    def kid_of_now() -> str:
        found = verify_jwt_svid(
            issuer.mint_jwt(MAIL, ("a",)).token, issuer.bundles, audiences={"a"}, now_s=clock.unix_s()
        )
        assert found
        header = issuer.mint_jwt(MAIL, ("a",)).token.split(".")[0]
        return next(kid for kid in kids if kid in json.loads(_decode(header)).values())

    assert kid_of_now() == kids[0]
    clock.unix += 1
    assert kid_of_now() == kids[1]
    later = rotate(both, rhythm, now_s=NOW_S + 1000, random=random)
    assert both.x509_keys[0] not in later.x509_keys
    assert both.x509_keys[1] in later.x509_keys


def _decode(text: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(text + "==")


def test_a_clock_that_is_set_back_gets_keys_of_its_own_time() -> None:
    rhythm, random = Rhythm(life_s=1000, settle_s=100), Random(3)
    ahead = rotate(Authorities(trust_domain=TD), rhythm, now_s=NOW_S + 10_000, random=random)
    back = rotate(ahead, rhythm, now_s=NOW_S, random=random)
    issuer = Issuer(back, Terms(rhythm=rhythm, x509_ttl_s=10), SetClock(), random)
    svid = issuer.mint_x509(MAIL)
    assert verify_x509_svid(svid.certificates, issuer.bundles, now_s=NOW_S)


@given(st.lists(st.floats(0.5, 400), min_size=1, max_size=30), st.integers(0, 10**6))
def test_nobody_is_refused_while_keys_change(steps: list[float], seed: int) -> None:
    """Whoever holds a bundle no older than `settle_s` takes what is signed now, and today's bundle takes all that is
    not over yet."""
    rhythm, random, clock = Rhythm(life_s=1000, settle_s=100), Random(seed), SetClock()
    ttl_s = rhythm.max_document_s
    terms = Terms(rhythm=rhythm, x509_ttl_s=ttl_s, jwt_ttl_s=ttl_s)
    issuer = Issuer(rotate(Authorities(trust_domain=TD), rhythm, now_s=clock.unix, random=random), terms, clock, random)
    held, held_s = dict(issuer.bundles), clock.unix
    signed: list[tuple[float, tuple[bytes, ...], str]] = []
    for step in steps:
        clock.unix += step
        changed = rotate(issuer._authorities, rhythm, now_s=clock.unix, random=random)
        assert changed.sequence in {issuer._authorities.sequence, issuer._authorities.sequence + 1}
        issuer.adopt(changed)
        svid, token = issuer.mint_x509(MAIL), issuer.mint_jwt(MAIL, ("a",)).token
        signed = [one for one in signed if one[0] > clock.unix] + [(svid.expires_s, svid.certificates, token)]
        for bundles in (held, issuer.bundles) if clock.unix - held_s < rhythm.settle_s else (issuer.bundles,):
            assert verify_x509_svid(svid.certificates, bundles, now_s=clock.unix)
            assert verify_jwt_svid(token, bundles, audiences={"a"}, now_s=clock.unix)
        for _, certificates, old in signed:
            assert verify_x509_svid(certificates, issuer.bundles, now_s=clock.unix)
            assert verify_jwt_svid(old, issuer.bundles, audiences={"a"}, now_s=clock.unix)
        if clock.unix - held_s >= rhythm.settle_s:
            held, held_s = dict(issuer.bundles), clock.unix


def test_a_rhythm_that_leaves_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="settle_s"):
        Rhythm(life_s=100, settle_s=26)
    assert replace(Rhythm(), life_s=400, settle_s=100).max_document_s == 90
