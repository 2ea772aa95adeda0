"""X.509-SVIDs: each clause of X509-SVID.md and of RFC 5280's path validation has a certificate that breaks it alone."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.spiffe_world import BOTH, NOW_S, TD, Holder, Made, bundle_of, made_ca, make, make_issuer, usage

from headrace.trust.spiffe.ids import InvalidSvid, parse_id
from headrace.trust.spiffe.path import MAX_CHAIN
from headrace.trust.spiffe.x509_svid import End, verify_x509_svid

ROOT = make(made_ca("root"))
OTHER_ROOT = make(made_ca("other", uris=("spiffe://other.org",)))
INTERMEDIATE = make(made_ca("intermediate"), ROOT)
URI = x509.UniformResourceIdentifier


def verify(*chain: Holder, anchor: Holder = ROOT, now_s: float = NOW_S, end: End = End.CLIENT) -> str:
    return str(verify_x509_svid([one.der for one in chain], bundle_of(anchor), now_s=now_s, end=end).spiffe_id)


def test_a_leaf_under_the_bundles_authority_is_whose_its_name_says() -> None:
    leaf = make(Made(), ROOT)
    found = verify_x509_svid([leaf.der], bundle_of(ROOT), now_s=NOW_S)
    assert found.spiffe_id == parse_id(f"spiffe://{TD}/agent/mail")
    assert found.expires_s == NOW_S + 3600


def test_an_issuers_own_svid_is_valid_for_both_ends() -> None:
    issuer = make_issuer()
    svid = issuer.mint_x509(parse_id(f"spiffe://{TD}/x"))
    for end in End:
        assert (
            str(verify_x509_svid(svid.certificates, issuer.bundles, now_s=NOW_S, end=end).spiffe_id) == svid.spiffe_id
        )


LEAVES: dict[str, tuple[Made, str]] = {
    "no URI": (Made(uris=(), dns=("example.org",)), "has 0 URI names"),
    "no names at all": (Made(uris=(), common_name="x"), "has 0 URI names"),
    "two URIs": (Made(uris=(f"spiffe://{TD}/a", f"spiffe://{TD}/b")), "has 2 URI names"),
    "two URIs, one no SPIFFE ID": (Made(uris=(f"spiffe://{TD}/a", "https://example.org")), "has 2 URI names"),
    "the same URI twice": (Made(uris=(f"spiffe://{TD}/a", f"spiffe://{TD}/a")), "has 2 URI names"),
    "no SPIFFE ID": (Made(uris=("https://example.org/a",)), "no SPIFFE ID"),
    "a trust domain's ID": (Made(uris=(f"spiffe://{TD}",)), "needs a path"),
    "the root path": (Made(uris=(f"spiffe://{TD}/",)), "empty segment"),
    "a climbing path": (Made(uris=(f"spiffe://{TD}/a/../b",)), "names no place"),
    "an upper-case trust domain": (Made(uris=("spiffe://Example.org/a",)), "no trust domain"),
    "percent-encoding": (Made(uris=(f"spiffe://{TD}/%61",)), "other characters"),
    "no subject and names that are not critical": (Made(is_san_critical=False), "must be critical"),
    "CA:TRUE": (Made(ca=True), "CA:TRUE"),
    "CA:TRUE with an authority's usage": (Made(ca=True, usage=usage("key_cert_sign")), "CA:TRUE"),
    "no key usage": (Made(usage=None), "no key usage that is critical"),
    "a key usage that is not critical": (Made(is_usage_critical=False), "no key usage that is critical"),
    "no digitalSignature": (Made(usage=usage("key_encipherment")), "lacks the key usage digitalSignature"),
    "keyCertSign": (Made(usage=usage("digital_signature", "key_cert_sign")), "keyCertSign or cRLSign"),
    "cRLSign": (Made(usage=usage("digital_signature", "crl_sign")), "keyCertSign or cRLSign"),
    "only serverAuth": (Made(extended=(ExtendedKeyUsageOID.SERVER_AUTH,)), "lacks serverAuth or clientAuth"),
    "only clientAuth": (Made(extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)), "lacks serverAuth or clientAuth"),
    "expired a second ago": (Made(ends_s=-1), "was valid until"),
    "valid in a second": (Made(starts_s=1), "is not valid before"),
    "an unknown critical extension": (
        Made(more=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)),
        "critical extension 1.2.3.4",
    ),
    "a weak curve": (Made(key=ec.generate_private_key(ec.SECP224R1())), "too weak"),
    "a short RSA key": (Made(key=rsa.generate_private_key(65537, 1024)), "too weak"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_that_breaks_a_clause_is_refused_for_it(name: str) -> None:
    made, why = LEAVES[name]
    with pytest.raises(InvalidSvid, match=why):
        verify(make(made, ROOT))


@pytest.mark.parametrize(
    "made",
    [
        Made(dns=("example.org", "www.example.org")),
        Made(common_name="agent", is_san_critical=False),
        Made(ca=None),
        Made(extended=None),
        Made(usage=usage("digital_signature", "key_encipherment", "key_agreement")),
        Made(more=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False),)),
        Made(key=ed25519.Ed25519PrivateKey.generate()),
        Made(key=rsa.generate_private_key(65537, 2048)),
        Made(ends_s=0),
        Made(starts_s=0),
    ],
    ids=lambda made: "",
)
def test_what_the_standard_leaves_open_is_taken(made: Made) -> None:
    assert verify(make(made, ROOT)) == f"spiffe://{TD}/agent/mail"


def test_a_foreign_trust_domain_is_not_vouched_for_by_our_authority() -> None:
    foreign = make(Made(uris=("spiffe://other.org/agent",)), ROOT)
    with pytest.raises(InvalidSvid, match=r"other\.org is not trusted here"):
        verify(foreign)
    # ... and not when both are trusted, because the bundle of the name alone is asked
    both = bundle_of(ROOT) | bundle_of(OTHER_ROOT, trust_domain="other.org")
    with pytest.raises(InvalidSvid, match="no authority"):
        verify_x509_svid([foreign.der], both, now_s=NOW_S)
    assert verify_x509_svid([make(Made(uris=("spiffe://other.org/agent",)), OTHER_ROOT).der], both, now_s=NOW_S)


def test_an_empty_bundle_trusts_nobody() -> None:
    with pytest.raises(InvalidSvid, match="not trusted here"):
        verify_x509_svid([make(Made(), ROOT).der], bundle_of(), now_s=NOW_S)


def test_a_leaf_that_signs_itself_is_nobodys_unless_it_is_an_authority() -> None:
    with pytest.raises(InvalidSvid, match="no authority"):
        verify(make(Made(common_name="root")))


def test_an_authority_of_the_same_name_with_another_key_vouches_for_nothing() -> None:
    with pytest.raises(InvalidSvid, match="no authority"):
        verify(make(Made(), make(made_ca("root"))))


CHAINS: dict[str, tuple[Callable[[], list[Holder]], str]] = {
    "an intermediate that is no authority": (
        lambda: _under(Made(common_name="middle", uris=(), ca=False, usage=usage("key_cert_sign"), extended=None)),
        "CA:FALSE",
    ),
    "a leaf that signs": (lambda: _under(Made(common_name="leaf")), "CA:FALSE"),
    "an intermediate without basic constraints": (
        lambda: _under(made_ca("middle", ca=None)),
        "CA:FALSE",
    ),
    "an intermediate without keyCertSign": (
        lambda: _under(made_ca("middle", usage=usage("digital_signature"))),
        "lacks the key usage keyCertSign",
    ),
    "an intermediate without key usage": (lambda: _under(made_ca("middle", usage=None)), "lacks the key usage"),
    "an intermediate that has expired": (lambda: _under(made_ca("middle", ends_s=-1)), "was valid until"),
    "an intermediate for e-mail": (
        lambda: _under(made_ca("middle", extended=(ExtendedKeyUsageOID.EMAIL_PROTECTION,))),
        "extended key usage",
    ),
    "an intermediate with a workload's ID": (
        lambda: _under(made_ca("middle", uris=(f"spiffe://{TD}/ca",))),
        "ID of a workload",
    ),
    "an intermediate with two IDs": (
        lambda: _under(made_ca("middle", uris=(f"spiffe://{TD}", "spiffe://other.org"))),
        "or several",
    ),
    "names outside what an intermediate may sign": (
        lambda: _under(made_ca("middle", permitted=(URI("other.org"),))),
        "outside an authority's name constraints",
    ),
    "names that an intermediate may not sign": (
        lambda: _under(made_ca("middle", excluded=(URI(TD),))),
        "outside an authority's name constraints",
    ),
    "a constraint on hosts below, for the host itself": (
        lambda: _under(made_ca("middle", permitted=(URI(f".{TD}"),))),
        "outside an authority's name constraints",
    ),
    "a constraint on a kind of name that is not read": (
        lambda: _under(
            made_ca("middle", permitted=(x509.DirectoryName(x509.Name([])),)), Made(common_name="has a subject")
        ),
        "not read here",
    ),
    "a DNS name outside": (
        lambda: _under(made_ca("middle", permitted=(x509.DNSName("a.org"),)), Made(dns=("a.org.evil",))),
        "outside an authority's name constraints",
    ),
    "a longer path than the root allows": (
        lambda: _under(made_ca("middle", path_len=None), root=make(made_ca("root", path_len=0))),
        "pathLenConstraint",
    ),
}


def _under(middle: Made, leaf: Made | None = None, root: Holder | None = None) -> list[Holder]:
    """leaf, intermediate, root"""
    root = root or ROOT
    above = make(middle, root)
    return [make(leaf or Made(), above), above, root]


@pytest.mark.parametrize("name", CHAINS)
def test_a_path_that_breaks_a_rule_of_rfc_5280_is_refused_for_it(name: str) -> None:
    build, why = CHAINS[name]
    leaf, middle, root = build()
    with pytest.raises(InvalidSvid, match=why):
        verify(leaf, middle, anchor=root)


@pytest.mark.parametrize(
    "middle",
    [
        made_ca("middle"),
        made_ca("middle", path_len=0),
        made_ca("middle", uris=()),
        made_ca("middle", uris=(f"spiffe://{TD}/",)),  # as the standard's example of a bundle writes it
        made_ca("middle", permitted=(URI(TD),)),
        made_ca("middle", permitted=(URI(".org"),)),
        made_ca("middle", permitted=(x509.DNSName("a.org"),)),
        made_ca("middle", excluded=(URI("other.org"),)),
        made_ca("middle", extended=(ExtendedKeyUsageOID.CLIENT_AUTH,)),
        made_ca("middle", extended=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)),
    ],
    ids=lambda made: "",
)
def test_a_path_over_an_intermediate_is_found_whatever_the_order(middle: Made) -> None:
    leaf, above, root = _under(middle)
    noise = make(made_ca("noise"))
    assert verify(leaf, above) == verify(leaf, noise, root, above) == f"spiffe://{TD}/agent/mail"
    with pytest.raises(InvalidSvid, match="no authority"):
        verify(leaf)


def test_an_intermediate_in_the_bundle_is_an_anchor() -> None:
    leaf, above, _ = _under(made_ca("middle"))
    assert verify(leaf, anchor=above)


def test_an_authority_that_has_expired_vouches_for_nothing_even_in_the_bundle() -> None:
    old = make(made_ca("old", ends_s=10))
    leaf = make(Made(), old)
    assert verify(leaf, anchor=old, now_s=NOW_S + 10)
    with pytest.raises(InvalidSvid, match="was valid until"):
        verify(leaf, anchor=old, now_s=NOW_S + 11)


def test_the_result_ends_with_the_first_certificate_of_the_path() -> None:
    leaf, above, root = _under(made_ca("middle", ends_s=100))
    assert verify_x509_svid([leaf.der, above.der], bundle_of(root), now_s=NOW_S).expires_s == NOW_S + 100


def test_a_hundred_certificates_are_refused_before_any_is_read() -> None:
    with pytest.raises(InvalidSvid, match=f"from 1 to {MAX_CHAIN}"):
        verify_x509_svid([b"rubbish"] * 100, bundle_of(ROOT), now_s=NOW_S)
    with pytest.raises(InvalidSvid, match=f"from 1 to {MAX_CHAIN}"):
        verify_x509_svid([], bundle_of(ROOT), now_s=NOW_S)


def test_certificates_of_many_bytes_are_refused_before_any_is_read() -> None:
    large = make(Made(dns=tuple(f"{number}.example.org" for number in range(4000))), ROOT)
    with pytest.raises(InvalidSvid, match="is longer than 65536 bytes"):
        verify(large)


def test_the_longest_path_is_taken() -> None:
    chain = [make(made_ca("1"), ROOT)]
    for number in range(2, MAX_CHAIN):
        chain.insert(0, make(made_ca(str(number)), chain[0]))
    assert verify(make(Made(), chain[0]), *chain)


def test_authorities_that_all_sign_each_other_are_not_walked_to_the_end() -> None:
    """Seven of one name and key: 5,040 paths, and none of them leads anywhere."""
    one = make(made_ca("x"))
    others = [make(made_ca("x", key=one.key), one) for _ in range(MAX_CHAIN - 1)]
    with pytest.raises(InvalidSvid, match="too many paths"):
        verify(make(Made(), one), *others)


def test_a_subject_is_free_where_only_uris_are_constrained() -> None:
    leaf, above, _ = _under(made_ca("middle", permitted=(URI(TD),)), Made(common_name="agent"))
    assert verify(leaf, above)


@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA3_256()])
def test_a_signature_over_a_digest_that_is_not_taken_is_none(algorithm: hashes.HashAlgorithm) -> None:
    with pytest.raises(InvalidSvid, match="no authority"):
        verify(make(Made(hash=algorithm), ROOT))


def test_a_certificate_that_is_not_written_as_der_has_it_is_refused() -> None:
    leaf = make(Made(), ROOT)
    while leaf.certificate.signature[-1] & 1:  # a last bit that may be called unused
        leaf = make(Made(), ROOT)
    der = leaf.der
    place = len(der) - len(leaf.certificate.signature) - 1
    with pytest.raises(InvalidSvid, match="not written as DER"):
        verify_x509_svid([der[:place] + b"\x01" + der[place + 1 :]], bundle_of(ROOT), now_s=NOW_S)


def test_a_certificate_of_version_1_says_nothing_of_what_it_is_for() -> None:
    der = make(Made(), ROOT).der
    version = bytes.fromhex("a003020102")
    body = der[4:].replace(version, b"", 1)
    inner = int.from_bytes(body[2:4], "big") - len(version)
    body = body[:2] + inner.to_bytes(2, "big") + body[4:]
    first = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    with pytest.raises(InvalidSvid, match=r"not of version 3|cannot be read"):
        verify_x509_svid([first], bundle_of(ROOT), now_s=NOW_S)


def test_a_leaf_with_any_one_byte_changed_is_nobodys() -> None:
    leaf = make(Made(), ROOT).der
    for place in range(len(leaf)):
        for change in (1, 128):
            der = bytearray(leaf)
            der[place] ^= change
            with pytest.raises(InvalidSvid):
                verify_x509_svid([bytes(der)], bundle_of(ROOT), now_s=NOW_S)


@pytest.mark.parametrize("junk", [b"", b"\x30", b"\x30\x82\xff\xff", b"-----BEGIN CERTIFICATE-----", bytes(70_000)])
def test_what_is_no_certificate_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidSvid):
        verify_x509_svid([junk], bundle_of(ROOT), now_s=NOW_S)
    with pytest.raises(InvalidSvid):
        verify_x509_svid([make(Made(), ROOT).der, junk], bundle_of(ROOT), now_s=NOW_S)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="asks the program openssl, which is not installed here")
def test_no_chain_is_taken_that_openssl_refuses(tmp_path: Path) -> None:
    """The independent verdict on paths: OpenSSL knows RFC 5280, and nothing of what SPIFFE asks beside."""
    random, num_taken = Random(5), 0
    for _ in range(150):
        root = make(_some_ca(random, "root"))
        middle = make(_some_ca(random, "middle"), root)
        chain = (
            [make(_some_leaf(random), middle), middle] if random.random() < 0.7 else [make(_some_leaf(random), root)]
        )
        try:
            verify(*chain, anchor=root)
        except InvalidSvid:
            continue
        num_taken += 1
        assert _openssl_verdict(tmp_path, chain, root) == "OK"
    assert 20 < num_taken < 130  # both verdicts are among them
    good = make(Made(), ROOT)
    assert "expired" in _openssl_verdict(tmp_path, [make(Made(ends_s=-1), ROOT)], ROOT)
    assert _openssl_verdict(tmp_path, [good], make(made_ca("root"))) != "OK"


def _some_leaf(random: Random) -> Made:
    some = random.random
    return Made(
        common_name="leaf" if some() < 0.3 else None,
        dns=("a.org",) if some() < 0.2 else (),
        ends_s=-1 if some() < 0.1 else 3600,
        starts_s=random.choice([-60] * 9 + [-5]),
        extended=BOTH if some() < 0.8 else None,
    )


def _some_ca(random: Random, name: str) -> Made:
    some = random.random
    is_ca = some() < 0.95
    return made_ca(
        name,
        path_len=random.choice([None, None, 0, 1]) if is_ca else None,
        usage=usage("key_cert_sign") if some() < 0.9 else usage("digital_signature"),
        ends_s=-1 if some() < 0.05 else 86_400,
        ca=is_ca,
        permitted=random.choice(
            [None, None, (URI(TD),), (URI(".org"),), (URI("other.org"),), (x509.DNSName("b.org"),)]
        ),
        extended=random.choice([None, None, BOTH, (ExtendedKeyUsageOID.SERVER_AUTH,)]),
    )


def _openssl_verdict(folder: Path, chain: list[Holder], root: Holder) -> str:
    """OK, or what is wrong."""
    for name, holders in (("leaf", chain[:1]), ("others", chain), ("root", [root])):
        (folder / name).write_bytes(b"".join(one.certificate.public_bytes(Encoding.PEM) for one in holders))
    command = ["openssl", "verify", "-attime", str(int(NOW_S)), "-partial_chain", "-purpose", "sslclient"]
    command += ["-CAfile", "root", "-untrusted", "others", "leaf"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "OK" if done.returncode == 0 else done.stderr
