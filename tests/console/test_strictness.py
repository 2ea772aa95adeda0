"""Records, proofs and trust files that are odd in one place: what the command refuses for its form, the page's verifier
refuses, in the same clause; what the command takes, it takes. What is odd is signed anew: only its form is wrong."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.console.test_verifying import asked_of, grant_of, python_says, record, trust_text, usual
from tests.console.verifying import ESBUILD, bundle_driver, clauses, tell
from tests.doubles_records import Desk, desk
from tests.log_in_memory import ORIGIN, MemoryLog

from headrace.core.errors import HeadraceError
from headrace.core.provenance import LogItem
from headrace.trust.log.keys import Algorithm, Signer
from headrace.trust.log.proof import parse_proof
from headrace.trust.records import canonical, dsse
from headrace.trust.records.bundle import Exhibit, read_bundle
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import RecordKey, sign_by_node

pytestmark = pytest.mark.skipif(not ESBUILD.exists(), reason="needs Node's packages: make .venv/.done/console")
KEY = RecordKey(b"\x11" * 32)
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's verifier."""
    return bundle_driver(tmp_path_factory.mktemp("strict"))


def python_outcome(data: bytes, trust: str) -> Any:
    """None where it is refused before any clause; else the level and the clauses."""
    try:
        report = python_says(read_bundle(data), trust)
    except HeadraceError:
        return None
    return report.level.name.lower(), [(one.name, one.is_met) for one in report.clauses]


def page_outcome(told: dict[str, Any]) -> Any:
    if "refused" in told:
        assert told["kind"] == "NotVerified", told
        return None
    return told["level"], list(clauses(told))


def hold_beside(driver: Path, cases: list[tuple[bytes, str]]) -> list[Any]:
    """What both say of each bundle with each trust file, which has to be the same."""
    told = [page_outcome(one) for one in tell(driver, [asked_of(data, trust) for data, trust in cases])]
    for (data, trust), one in zip(cases, told, strict=True):
        assert one == python_outcome(data, trust), (data[-300:], trust)
    return told


def is_refused(outcome: Any) -> bool:
    return outcome is None or outcome[0] == "none"


def odd_bundles() -> Iterator[bytes]:
    """Bundles whose checksum is right."""
    good = json.loads(usual().bundle().encode())

    def made(change: Change) -> bytes:
        value = json.loads(json.dumps(good))
        change(value)
        value.pop("checksum", None)
        return canonical.encode(value | {"checksum": _checksum(value)})

    for change in (
        lambda v: v.update(format="headrace-record-bundle-v2"),
        lambda v: v.update(more=1),
        lambda v: v.pop("nonce"),
        lambda v: v.update(id=7),
        lambda v: v.update(nonce=base64.b64encode(b"\0" * 15).decode()),
        lambda v: v.update(nonce=v["nonce"].rstrip("=")),
        lambda v: v["record"].update(more=""),
        lambda v: v["record"].pop("proof"),
        lambda v: v["record"].update(entry=7),
        lambda v: v.update(record=[]),
    ):
        yield made(change)
    data = usual().bundle().encode()
    yield data.replace(b',"format"', b', "format"')
    yield json.dumps(json.loads(data)).encode()
    yield b" " + data
    yield data + b" "


def _checksum(value: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(canonical.encode(value)).hexdigest()


def test_bundles_in_another_form_are_refused(driver: Path) -> None:
    trust = trust_text(usual())
    assert all(map(is_refused, hold_beside(driver, [(data, trust) for data in odd_bundles()])))
    (good,) = hold_beside(driver, [(usual().bundle().encode() + b"\n\n", trust)])
    assert good[0] == "witnessed"


def vouched(envelope: bytes, delegation: bytes | None = None) -> bytes:
    """A bundle of an envelope that KEY signed, or says so."""
    at, good = usual(), usual().bundle()
    grant = replace(grant_of(at), public=KEY.public)
    by = sign_by_node(at.node, grant.encode()) if delegation is None else delegation
    time_s = grant.not_before_s
    return replace(
        good,
        record=Exhibit(envelope, entry_of("record", envelope, time_s).encode()),
        delegation=Exhibit(by, entry_of("delegation", by, time_s).encode()),
    ).encode()


@cache
def statement() -> bytes:
    """What the usual record says."""
    return dsse.read(usual().bundle().record.envelope).payload


def odd_envelopes() -> Iterator[bytes]:
    good = json.loads(KEY.sign(statement()))
    (signature,) = good["signatures"]
    sig = signature["sig"]
    spare = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="
    for change in (
        {"more": 1},
        {"payloadType": "application/json"},
        {"payloadType": 7},
        {"signatures": []},
        {"signatures": [signature] * 17},
        {"signatures": [signature] * 2},
        {"signatures": [signature | {"more": 1}]},
        {"signatures": [{"keyid": signature["keyid"]}]},
        {"signatures": [{"sig": sig}]},
        {"signatures": [signature | {"keyid": 7}]},
        {"signatures": [signature | {"sig": sig.rstrip("=")}]},
        {"signatures": [signature | {"sig": sig + "\n"}]},
        {"signatures": [signature | {"sig": sig.replace("+", "-").replace("/", "_") + "-"}]},
        {"signatures": [signature | {"sig": spare}]},
        {"signatures": {"0": signature}},
        {"payload": good["payload"] + " "},
        {"payload": 7},
    ):
        yield json.dumps({**good, **change}).encode()
    yield json.dumps([good]).encode()
    yield json.dumps(good).encode()[:-1] + b',"payload":"e30="}'


def test_envelopes_in_another_form_are_refused(driver: Path) -> None:
    trust = usual().node_line
    (good,) = hold_beside(driver, [(vouched(KEY.sign(statement())), trust)])
    assert good[0] == "signed"
    assert all(map(is_refused, hold_beside(driver, [(vouched(one), trust) for one in odd_envelopes()])))


ODD_STATEMENTS: tuple[Change, ...] = (
    lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"),
    lambda v: v.update(predicateType="https://slsa.dev/provenance/v0.2"),
    lambda v: v["predicate"]["buildDefinition"].update(buildType="urn:other"),
    lambda v: v.update(subject=[]),
    lambda v: v.update(subject=v["subject"] * 2),
    lambda v: v["subject"].extend({"name": str(n), "digest": {"sha256": "0" * 64}} for n in range(20)),
    lambda v: v["subject"][0]["digest"].update(sha256="0" * 62),
    lambda v: v["subject"][0]["digest"].update(sha256="A" * 64),
    lambda v: v["subject"][0].update(digest={"sha512": "0" * 128}),
    lambda v: v["subject"][0].update(name=7),
    lambda v: v["predicate"]["buildDefinition"].pop("resolvedDependencies"),
    lambda v: v["predicate"]["buildDefinition"].update(resolvedDependencies=[{"name": "x"}]),
    lambda v: v["predicate"]["buildDefinition"].update(
        resolvedDependencies=[{"name": "record", "digest": {"sha256": "0" * 64}}]
    ),
    lambda v: v["predicate"]["buildDefinition"].update(
        resolvedDependencies=[{"name": "x", "digest": {"sha256": "0" * 64}, "annotations": []}]
    ),
    lambda v: v["predicate"]["buildDefinition"].update(resolvedDependencies=[{"name": "x", "uri": "u"}] * 4097),
    lambda v: v["predicate"]["buildDefinition"].update(internalParameters=[]),
    lambda v: v["predicate"]["buildDefinition"]["internalParameters"].pop("way"),
    lambda v: v["predicate"]["buildDefinition"]["internalParameters"].update(engine=7),
    lambda v: v["predicate"]["buildDefinition"]["internalParameters"].update(outcome={}),
    lambda v: v["predicate"]["buildDefinition"]["internalParameters"].update(tools={}),
    lambda v: v["predicate"]["buildDefinition"]["internalParameters"].update(tools=[{"name": "x"}]),
    lambda v: v["predicate"]["buildDefinition"]["internalParameters"].update(
        tools=[{"name": "x", "manifest": "", "decision": {"is_allowed": 1}}]
    ),
    lambda v: v["predicate"]["buildDefinition"]["externalParameters"].update(model=None),
    lambda v: v["predicate"]["runDetails"].pop("metadata"),
    lambda v: v["predicate"]["runDetails"].update(byproducts=[]),
    lambda v: v["predicate"]["runDetails"]["metadata"].update(startedOn=7),
)  # fmt: skip


def test_statements_in_another_form_are_refused_though_they_are_signed(driver: Path) -> None:
    def made(change: Change) -> bytes:
        value = json.loads(statement())
        change(value)
        return vouched(KEY.sign(json.dumps(value).encode()))

    told = hold_beside(driver, [(made(change), usual().node_line) for change in ODD_STATEMENTS])
    assert all(map(is_refused, told))
    kept = made(
        lambda v: v["predicate"]["buildDefinition"].update(resolvedDependencies=[{"name": "x", "uri": "u"}] * 4096)
    )
    assert hold_beside(driver, [(kept, usual().node_line)])[0][0] == "signed"
    twice = statement()[:-1] + b',"_type":"https://in-toto.io/Statement/v1"}'
    assert is_refused(hold_beside(driver, [(vouched(KEY.sign(twice)), usual().node_line)])[0])


ODD_GRANTS: tuple[Change, ...] = (
    lambda v: v.update(_type="x"),
    lambda v: v.update(predicateType="urn:headrace:revocation:v1"),
    lambda v: v.update(subject=v["subject"] * 2),
    lambda v: v.update(more=1),
    lambda v: v["subject"][0]["digest"].update(sha256="0" * 64),
    lambda v: v["subject"][0].update(name="other"),
    lambda v: v["predicate"].update(purpose="anything"),
    lambda v: v["predicate"].update(more=1),
    lambda v: v["predicate"]["key"].update(keytype="ecdsa"),
    lambda v: v["predicate"]["key"].update(public=base64.b64encode(b"\1" * 31).decode()),
    lambda v: v["predicate"]["key"].update(public=7),
    lambda v: v["predicate"].update(not_before_s=float(v["predicate"]["not_before_s"])),
    lambda v: v["predicate"].update(not_before_s=str(v["predicate"]["not_before_s"])),
    lambda v: v["predicate"].update(not_after_s=v["predicate"]["not_before_s"] - 1),
    lambda v: v["predicate"].update(not_after_s=v["predicate"]["not_before_s"] + 86_401),
    lambda v: v["predicate"].update(not_after_s=2**60),
    lambda v: v["predicate"].pop("log_origin"),
)


def test_delegations_in_another_form_vouch_for_nobody_though_the_node_signed_them(driver: Path) -> None:
    grant = replace(grant_of(usual()), public=KEY.public)

    def made(change: Change) -> bytes:
        value = json.loads(grant.encode())
        change(value)
        payload = json.dumps(value, separators=(",", ":")).encode()
        return vouched(KEY.sign(statement()), sign_by_node(usual().node, payload))

    def nothing(_: Any) -> None:
        pass

    told = hold_beside(driver, [(made(change), usual().node_line) for change in (nothing, *ODD_GRANTS)])
    assert told[0][0] == "signed" and all(map(is_refused, told[1:]))


@cache
def tall() -> Desk:
    """A record in a log of a dozen entries, so that proofs have several hashes."""
    at = desk(MemoryLog())
    at.log.is_witnessed = True
    for number in range(5):
        at.log.submit(LogItem(id=f"x{number}", kind="evidence", tenant="t", entry=b"%d" % number, envelope=b"x"))
    asyncio.run(record(at))
    for number in range(5, 12):
        at.log.submit(LogItem(id=f"x{number}", kind="evidence", tenant="t", entry=b"%d" % number, envelope=b"x"))
    return at


def with_proof(change: Callable[[bytes], bytes]) -> bytes:
    good = tall().bundle()
    return replace(good, record=replace(good.record, proof=change(good.record.proof))).encode()


def signed_anew(edit: Callable[[bytes], bytes], *, time_s: int = 1_000_000) -> Callable[[bytes], bytes]:
    """The checkpoint edited, and signed by log and witness as it is then."""

    def change(proof: bytes) -> bytes:
        head, _, _ = proof.partition(b"\n\n")
        text = edit(parse_proof(proof).checkpoint.text)
        lines = tall().log.signer.sign(text, 0) + tall().log.witness.sign(text, time_s)
        return head + b"\n\n" + text + b"\n" + lines.encode()

    return change


def line(name: str, data: bytes) -> bytes:
    return f"— {name} {base64.b64encode(data).decode()}\n".encode()


def hashes_of(proof: bytes) -> list[bytes]:
    return proof.partition(b"\n\n")[0].split(b"\n")[2:]


ODD_PROOFS: tuple[Callable[[bytes], bytes], ...] = (
    lambda p: p.replace(b"tlog-proof@v1", b"tlog-proof@v2"),
    lambda p: p.replace(b"index 6", b"index 06"),
    lambda p: p.replace(b"index 6", b"index +6"),
    lambda p: p.replace(b"index 6", b"index 18"),
    lambda p: p.replace(b"index 6", b"index 5"),
    lambda p: p.replace(b"index 6", b"index 9223372036854775808"),
    lambda p: p.replace(b"index 6\n", b""),
    lambda p: p.replace(b"index 6", b"extra \nindex 6"),
    lambda p: p.replace(b"index 6", b"extra x\nindex 6"),
    lambda p: p.replace(b"\nindex 6", b"\n\nindex 6"),
    lambda p: p.replace(hashes_of(p)[-1] + b"\n", b""),
    lambda p: p.replace(hashes_of(p)[-1], hashes_of(p)[-1] + b"\n" + hashes_of(p)[-1]),
    lambda p: p.replace(hashes_of(p)[-1], hashes_of(p)[-1] + (b"\n" + hashes_of(p)[-1]) * 70),
    lambda p: p.replace(hashes_of(p)[0], hashes_of(p)[1]),
    lambda p: p.replace(hashes_of(p)[0], base64.b64encode(b"\0" * 31)),
    lambda p: p.replace(hashes_of(p)[0], hashes_of(p)[0].rstrip(b"=")),
    lambda p: p.replace(b"\n", b"\r\n"),
    lambda p: p.replace(b"tlog", "tl\u00f6g".encode()),
    lambda p: p[:-1],
    lambda p: p + b"\n",
    lambda p: p + b"x\n",
    lambda p: p + line("stranger", b"\0" * 4),
    lambda p: p + line("two words", b"\0" * 40),
    lambda p: p + line("a+b", b"\0" * 40),
    lambda p: p + line("stranger", b"\0" * 40) * 40,
    lambda p: p + line(ORIGIN, bytes.fromhex(tall().log.signer.key.id.hex()) + b"\0" * 64),
    lambda p: p + line(ORIGIN, bytes.fromhex(tall().log.signer.key.id.hex()) + b"\0" * 63),
    signed_anew(lambda text: text.replace(b"\n14\n", b"\n014\n")),
    signed_anew(lambda text: text.replace(b"\n14\n", b"\n40\n")),
    signed_anew(lambda text: text.replace(b"\n14\n", b"\n8\n")),
    signed_anew(lambda text: text.replace(b"\n14\n", b"\n6\n")),
    signed_anew(lambda text: b"\n".join(text.split(b"\n")[:2]) + b"\n"),
    signed_anew(lambda text: text + b"\x07\n"),
    signed_anew(lambda text: text.replace(ORIGIN.encode(), b"other.test/log")),
    signed_anew(lambda text: text, time_s=2**63),
)


def test_proofs_in_another_form_or_of_another_place_are_refused(driver: Path) -> None:
    trust = trust_text(tall())
    told = hold_beside(driver, [(with_proof(change), trust) for change in ODD_PROOFS])
    assert all(map(is_refused, told))
    assert {one[1][-1] for one in told} == {("log", False)}


def test_what_others_add_to_a_proof_or_a_checkpoint_is_passed_over(driver: Path) -> None:
    trust = trust_text(tall())
    fine: list[Callable[[bytes], bytes]] = [
        lambda p: p,
        lambda p: p.replace(b"index 6", b"extra eHl6\nindex 6"),
        lambda p: p + line("stranger", b"\0" * 40) * 20,
        lambda p: p + line(ORIGIN, b"\0" * 68),  # the log's name, and another id
        lambda p: p.rstrip(b"\n") + b"\n" + p.rstrip(b"\n").rpartition(b"\n")[2] + b"\n",  # the witness's line, twice
        signed_anew(lambda text: text + b"an extension\n"),
    ]
    told = hold_beside(driver, [(with_proof(change), trust) for change in fine])
    assert {one[0] for one in told} == {"witnessed"}


def odd_trust_files() -> Iterator[str]:
    """Each with the right node, so that only its own line is wrong."""
    at = tall()
    node, log, witness = at.node_line, f"log {at.log.signer.key}\n", f"witness w {at.log.witness.key}\n"
    other = Signer("w2.test", Algorithm.COSIGNATURE_ED25519, b"\6" * 32).key
    key_id = "a" * 64
    vkey = node.split()[2]
    plain = node + log + witness
    yield from (
        plain,  # no quorum
        plain + "quorum none\nquorum none\n",
        plain + "quorum nobody\n",
        plain + "quorum none more\n",
        plain + "quorum none\r\n",
        plain + "quorum none\x07\n",
        plain + log + "quorum none\n",
        plain + witness + "quorum none\n",
        plain + f"witness w {other}\nquorum none\n",
        plain + f"witness none {other}\nquorum none\n",
        node + f"log {at.log.witness.key}\nquorum none\n",
        node + log + f"witness w {at.log.signer.key}\nquorum none\n",
        plain + f"log {other}x\nquorum none\n",
        plain + "log a+00000000+AQID\nquorum none\n",
        plain + f"witness x {str(other).replace(other.id.hex(), '00000000')}\nquorum none\n",
        plain + "group g any\nquorum none\n",
        plain + "group g 2 w\nquorum g\n",
        plain + "group g 0 w\nquorum g\n",
        plain + "group g some w\nquorum g\n",
        plain + "group g constructor w\nquorum g\n",
        plain + "group g any nobody\nquorum g\n",
        plain + "group g any w w\nquorum g\n",
        plain + "group g any w\ngroup h any w\nquorum g\n",
        plain + "group w any w\nquorum w\n",
        plain + f"revoked {key_id} 5\nrevoked {key_id} 6\nquorum none\n",
        plain + f"revoked {key_id.upper()} 5\nquorum none\n",
        plain + f"revoked {key_id} 05\nquorum none\n",
        plain + f"revoked {key_id[:-1]} 5\nquorum none\n",
        plain + f"revoked {key_id}\nquorum none\n",
        plain + f"node other {vkey}\nquorum none\n",
        plain + f"node x {vkey[:-4]}AAA=\nquorum none\n",
        plain + "node x x+c4ad58a5+/w==\nquorum none\n",
        plain + "toString a\nquorum none\n",
        plain + "# a comment\x07\nquorum none\n",
        node.replace(vkey, f"test+00000000+{vkey.split('+', 2)[2]}") + log + "quorum none\n",
        log + "quorum none\n",
    )


def test_trust_files_in_another_form_are_refused(driver: Path) -> None:
    told = hold_beside(driver, [(tall().bundle().encode(), trust) for trust in odd_trust_files()])
    assert all(map(is_refused, told))


def test_trust_files_in_every_form_that_there_is_are_read(driver: Path) -> None:
    at = tall()
    node, log, witness = at.node_line, f"log {at.log.signer.key}", f"witness w {at.log.witness.key}"
    other = Signer("w2.test", Algorithm.COSIGNATURE_ED25519, b"\6" * 32).key
    two = f"{node}{log}\n{witness}\nwitness v {other}\n"
    cases = {
        f"# a comment\n\n{node}{log} https://log.test\n{witness} https://w.test\nquorum w": "witnessed",
        f"{node}{log}\n{witness}\n\tquorum\tnone": "logged",
        two + "group g any v w\nquorum g\n": "witnessed",
        two + "group g all v w\nquorum g\n": "logged",
        two + "group g 2 v w\nquorum g\n": "logged",
        two + "group g 1 v w\ngroup h all g\nquorum h\n": "witnessed",
        two + "quorum v\n": "logged",
        two + f"revoked {'a' * 64} 0\nquorum w\n": "witnessed",
    }
    told = hold_beside(driver, [(at.bundle().encode(), trust) for trust in cases])
    assert [one[0] for one in told] == list(cases.values())
