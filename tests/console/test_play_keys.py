"""Verifying in the browser with nodes whose keys a vault or KMS holds, and with a log that signs with ML-DSA-44 too: a
record of the real server, vouched for by a key of another kind, and the trust file that names it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP521R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.console.browser import expect
from tests.console.served import ConsoleServer
from tests.console.tampering import flipped
from tests.console.test_play import answers, asked, choose, opened, verified

from headrace.trust.log.trust_file import parse_trust_file
from headrace.trust.records import dsse
from headrace.trust.records.bundle import Bundle, Exhibit, read_bundle
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import key_id, read_grant
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import verify

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Sign = Callable[[bytes], bytes]
NODE = "console.test"


def rsa_with(salt_length: Any) -> tuple[bytes, Sign]:
    key = generate_rsa(public_exponent=65537, key_size=2048)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki, lambda message: key.sign(message, PSS(MGF1(SHA256()), salt_length), SHA256())


def p521() -> tuple[bytes, Sign]:
    key = generate_ec(SECP521R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki, lambda message: key.sign(message, ECDSA(SHA512()))


KINDS = {
    "rsa": lambda: rsa_with(PSS.DIGEST_LENGTH),
    "rsa-longest-salt": lambda: rsa_with(PSS.MAX_LENGTH),
    "p-521": p521,
}


def vouched_anew(bundle: Bundle, spki: bytes, sign: Sign) -> Bundle:
    """The record, its key vouched for by a node of that key, in no log yet."""
    payload = dsse.read(bundle.delegation.envelope).payload
    signature = dsse.Signature(key_id(spki), sign(dsse.pae(dsse.IN_TOTO, payload)))
    envelope = dsse.encode(dsse.IN_TOTO, payload, [signature])
    entry = entry_of("delegation", envelope, read_grant(payload).not_before_s).encode()
    return replace(bundle, record=replace(bundle.record, proof=b""), delegation=Exhibit(envelope, entry, b""))


def answered_with(page: "Page", change: Callable[[Bundle], Bundle]) -> None:
    """From now on the server's records come so."""

    def handle(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=change(read_bundle(answer.body())).encode())

    page.unroute("**/v1/provenance/rec_*")
    page.route("**/v1/provenance/rec_*", handle)


def pick(answer: Any, text: str) -> None:
    """A trust file is chosen."""
    answer.get_by_role("button", name="Record", exact=True).click()
    answer.get_by_text("Trusted keys: none yet").click()
    file = {"name": "trust.txt", "mimeType": "text/plain", "buffer": text.encode()}
    answer.get_by_label("Trust file").last.set_input_files(file)
    expect(answer.get_by_text("Trusted keys: from a file")).to_be_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_whose_key_a_vault_holds_is_verified_in_the_browser(open_page: Open, kind: str) -> None:
    spki, sign = KINDS[kind]()
    line = f"node {NODE} {NodeKey(NODE, spki).encode()}\n"
    page = opened(open_page)
    answer = asked(page, "Hello?")
    pick(answer, line)
    seen: list[Bundle] = []

    def vouched(bundle: Bundle) -> Bundle:
        seen.append(vouched_anew(bundle, spki, sign))
        return seen[-1]

    answered_with(page, vouched)
    report = verified(answer)
    expect(report).to_contain_text("Level: signed")
    expect(report.locator("li.met strong").nth(1)).to_have_text("delegation")
    said = verify(seen[-1], None, read_trusted(line.encode()))
    assert said.level.name == "SIGNED"

    def forged(bundle: Bundle) -> Bundle:
        made = vouched(bundle)
        envelope = made.delegation.envelope
        envelope = flipped(envelope, envelope.index(b'"sig":"') + 90)
        entry = entry_of("delegation", envelope, json.loads(made.delegation.entry)["time"]).encode()
        return replace(made, delegation=Exhibit(envelope, entry, b""))

    answered_with(page, forged)
    report = verified(answer)
    expect(report).to_contain_text("Not verified")
    expect(report.locator("li.not strong")).to_have_text(["delegation"])


LACKING_ML_DSA = """
    const known = SubtleCrypto.prototype.importKey;
    SubtleCrypto.prototype.importKey = function (...given) {
      const isOne = given[2].name === 'ML-DSA-44';
      return isOne ? Promise.reject(new DOMException('no', 'NotSupportedError')) : known.apply(this, given);
    };
"""


def test_the_second_line_of_the_log_is_checked_or_named_as_not_checked(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = opened(open_page)
    report = verified(asked(page, "Hello?"))
    expect(report).to_contain_text("Level: logged")
    expect(report.locator("li.unknown strong")).to_have_text(["witnesses"])
    page = open_page()
    page.add_init_script(LACKING_ML_DSA)
    page.goto("/console/play")
    choose(page, "scripted")
    report = verified(asked(page, "Hello?"))
    expect(report).to_contain_text("Level: logged")
    expect(report.locator("li.unknown strong")).to_have_text(["ml-dsa", "witnesses"])
    trust = parse_trust_file(console_server.call("GET", "/v1/provenance/trust-file").encode())
    second = next(one.key for one in trust.logs if one.key.is_cosigner)
    expect(report.locator("li.unknown").first).to_contain_text(f"{second.name} ({second.id.hex()}) signed as well")
    expect(report.locator("li.unknown").first).to_contain_text("not looked at")
    assert answers(page).count() == 1
