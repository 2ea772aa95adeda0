"""The verifier that runs in the browser, held beside the one of `headrace verify`: the same records, whole, broken in
each clause, and with single bytes changed; the same canonical forms of what was asked and answered."""

import asyncio
import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.console.verifying import ESBUILD, MODEL, b64, bundle_driver, clauses, stream_of, tell
from tests.doubles_gateway import ANSWER, ScriptedUpstream, ask, bench, read
from tests.doubles_records import Desk, NodeInMemory, desk
from tests.log_in_memory import ORIGIN, MemoryLog

from headrace.api.openai import Caller, decode_chat
from headrace.cli.saved_files import read_answer, request_forms
from headrace.core.errors import HeadraceError
from headrace.core.gateway import Ask, EventReply
from headrace.core.request import Principal
from headrace.core.transcript import transcript_digest
from headrace.trust.log.keys import Algorithm, Signer
from headrace.trust.log.note import parse_note
from headrace.trust.log.proof import parse_proof
from headrace.trust.records import dsse
from headrace.trust.records.bundle import Bundle, Exhibit
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import DelegationGrant, RecordKey, read_grant, sign_by_node
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Report, verify

pytestmark = pytest.mark.skipif(not ESBUILD.exists(), reason="needs Node's packages: make .venv/.done/console")

NUM_CHANGES = 1000
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "system", "content": "Be brief. \u2028é"}, {"role": "user", "content": "hi \U0001f600"}],
    "stream": True,
    "temperature": 0.3,
    "seed": 7,
}


STREAM = stream_of(
    {"index": 0, "delta": {"role": "assistant", "content": "hello"}},
    {"index": 0, "delta": {"content": " world"}},
    {"index": 0, "delta": {}, "finish_reason": "stop"},
)


async def record(at: Desk) -> None:
    def decode() -> Any:
        return decode_chat(json.dumps(BODY).encode(), Caller(request_id="r", principal=Principal())).request

    asked: Ask = replace(ask(raw=None), decode=decode)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(asked)
    assert isinstance(reply, EventReply) and reply.taken.receipt is not None
    reply.taken.is_claimed = True
    await read(reply)
    reply.taken.receipt.seal(transcript_digest(STREAM))


def recorded(*, is_witnessed: bool = True, is_late: bool = False) -> Desk:
    at = desk(MemoryLog(is_late=is_late))
    at.log.is_witnessed = is_witnessed
    asyncio.run(record(at))
    return at


@cache
def usual() -> Desk:
    return recorded()


def trust_text(at: Desk, *, quorum: bool = True) -> str:
    return at.node_line + at.log.trust_lines(quorum=quorum)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_driver(tmp_path_factory.mktemp("verify"))


def asked_of(bundle: Bundle | bytes, trust: str, *, stream: bytes | None = STREAM, body: Any = BODY) -> dict[str, Any]:
    data = bundle if isinstance(bundle, bytes) else bundle.encode()
    asked: dict[str, Any] = {"bundle": b64(data), "trust": b64(trust.encode())}
    if stream is not None:
        asked["stream"] = b64(stream)
    if body is not None:
        asked["request"] = body
    return asked


def python_says(bundle: Bundle, trust: str, *, stream: bytes | None = STREAM, body: Any = BODY) -> Report:
    forms = () if body is None else request_forms(json.dumps(body).encode())
    shown = None if stream is None else read_answer(stream).shown(forms)
    return verify(bundle, shown, read_trusted(trust.encode()))


def test_a_record_holds_clause_by_clause_as_the_command_says_it(driver: Path) -> None:
    at = usual()
    cases = [at.node_line, trust_text(at, quorum=False), trust_text(at)]
    told = tell(driver, [asked_of(at.bundle(), trust) for trust in cases])
    assert [one["level"] for one in told] == ["signed", "logged", "witnessed"] == [one["wanted"] for one in told]
    for one, trust in zip(told, cases, strict=True):
        report = python_says(at.bundle(), trust)
        assert clauses(one) == [(clause.name, clause.is_met) for clause in report.clauses]
    assert clauses(told[-1])[-3:] == [("request", True), ("log", True), ("witnesses", True)]
    assert all(is_met for _, is_met in clauses(told[-1]))


def test_what_is_not_there_yet_is_told_and_reaches_less(driver: Path) -> None:
    unseen, late, erased = recorded(is_witnessed=False), recorded(is_late=True), replace(usual().bundle(), nonce=b"")
    told = tell(
        driver,
        [
            asked_of(unseen.bundle(), trust_text(unseen)),
            asked_of(late.bundle(), trust_text(late)),
            asked_of(erased, trust_text(usual()), body=None),
        ],
    )
    assert [one["level"] for one in told] == ["logged", "signed", "witnessed"]
    assert ("witnesses", None) in clauses(told[0]) and ("log", None) in clauses(told[1])
    assert ("nonce", None) in clauses(told[2])


def test_an_answer_whose_bytes_are_gone_is_compared_by_what_it_said(driver: Path) -> None:
    said = {"text": "hello world", "reasoning": "", "calls": [], "finish": "stop"}
    usual_one = asked_of(usual().bundle(), trust_text(usual()), stream=None)
    others: list[dict[str, Any]] = [
        {"text": "hello moon!"},
        {"finish": "length"},
        {"calls": [{"name": "a", "arguments": ""}]},
    ]
    told = tell(driver, [usual_one | {"said": said | change} for change in [{}, *others]])
    report = python_says(usual().bundle(), trust_text(usual()))
    assert told[0]["level"] == "witnessed" and ("answer", None) in clauses(told[0])
    by_bytes = ("answer", True)
    assert [one for one in clauses(told[0]) if one[0] != "answer"] == [
        (clause.name, clause.is_met) for clause in report.clauses if (clause.name, clause.is_met) != by_bytes
    ]
    for one in told[1:]:
        assert one["level"] == "none" and clauses(one)[-1] == ("answer", False)


def grant_of(at: Desk) -> DelegationGrant:
    return read_grant(dsse.read(at.log.items[0].envelope).payload)


def forged(at: Desk, grant: DelegationGrant, key: RecordKey, *, time_s: int | None = None) -> Bundle:
    """The usual record, signed by another key that the node vouches for by this grant."""
    good = at.bundle()
    envelope = key.sign(dsse.read(good.record.envelope).payload)
    at_s = grant.not_before_s if time_s is None else time_s
    vouched = sign_by_node(at.node, grant.encode())
    return replace(
        good,
        record=Exhibit(envelope, entry_of("record", envelope, at_s).encode(), b""),
        delegation=Exhibit(vouched, entry_of("delegation", vouched, grant.not_before_s).encode(), b""),
    )


def broken() -> Iterator[tuple[str, Bundle, str, dict[str, Any]]]:
    """The clause that is broken, the bundle, the trust file, and what else is shown."""
    at, key = usual(), RecordKey(b"\x11" * 32)
    good, trust = at.bundle(), trust_text(at)
    grant = replace(grant_of(at), public=key.public)
    made_s = json.loads(good.record.entry)["time"]
    signed_twice = json.loads(good.record.envelope)
    signed_twice["signatures"] += json.loads(RecordKey(b"\x13" * 32).sign(b"x"))["signatures"]
    envelope = json.dumps(signed_twice).encode()
    stranger = NodeInMemory(b"\x09" * 32)
    vouched = sign_by_node(stranger, grant.encode())
    reordered = recorded()
    reordered.log.items.reverse()
    yield "form", replace(good, record=replace(good.record, envelope=b"")), trust, {}
    yield "form", replace(good, record_id="rec_other"), trust, {}
    yield "delegation", replace(good, delegation=Exhibit(vouched, good.delegation.entry)), trust, {}
    yield "delegation", forged(at, replace(grant, node="else"), key), trust, {}
    yield "delegation", forged(at, replace(grant, not_after_s=grant.not_before_s + 86_401), key), trust, {}
    yield "signature", replace(good, record=Exhibit(envelope, entry_of("record", envelope, 5).encode())), trust, {}
    yield "signature", replace(forged(at, grant, key), record=good.record), trust, {}
    yield "time", forged(at, grant, key, time_s=grant.not_after_s + 1), trust, {}
    yield "time", replace(good, record=replace(good.record, entry=good.delegation.entry)), trust, {}
    yield "time", good, f"{trust}revoked {grant_of(at).key_id} {made_s}\n", {}
    yield "nonce", replace(good, nonce=b"\0" * 16), trust, {}
    yield "answer", good, trust, {"stream": STREAM.replace(b"world", b"moon!")}
    yield "request", good, trust, {"body": BODY | {"seed": 8}}
    yield "request", good, trust, {"body": BODY | {"messages": BODY["messages"][1:]}}
    yield "log", replace(good, record=replace(good.record, proof=good.delegation.proof)), trust, {}
    yield "log", replace(good, log_origin="another.log/records"), trust, {}
    yield "log", reordered.bundle(), trust, {}
    late = replace(good, record=replace(good.record, proof=b""))
    yield "revocation", late, f"{trust}revoked {grant_of(at).key_id} {made_s + 1}\n", {}


def test_each_clause_is_refused_by_its_name_where_the_command_refuses_it(driver: Path) -> None:
    cases = list(broken())
    told = tell(driver, [asked_of(bundle, trust, **more) for _, bundle, trust, more in cases])
    for (name, bundle, trust, more), one in zip(cases, told, strict=True):
        report = python_says(bundle, trust, **more)
        assert one["level"] == "none" and clauses(one)[-1] == (name, False), (name, one)
        assert clauses(one) == [(clause.name, clause.is_met) for clause in report.clauses]


PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey
SaltLength = Any  # a number, or one of PSS's names for one


class NodeOfKms(NodeInMemory):
    """A node whose key is of another kind, as a KMS has it."""

    def __init__(self, key: PrivateKey, salt_length: SaltLength = PSS.DIGEST_LENGTH) -> None:
        super().__init__()
        self._other = key
        self._salt_length = salt_length

    @property
    def spki(self) -> bytes:
        """As `NodeSigner`."""
        return self._other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """As `NodeSigner`."""
        if isinstance(self._other, RSAPrivateKey):
            return self._other.sign(message, PSS(MGF1(SHA256()), self._salt_length), SHA256())
        digest = {256: SHA256(), 384: SHA384(), 521: SHA512()}[self._other.curve.key_size]
        return self._other.sign(message, ECDSA(digest))


@pytest.mark.parametrize("curve", [SECP256R1(), SECP384R1(), SECP521R1()], ids=lambda curve: curve.name)
def test_a_node_with_a_key_of_a_kms_vouches_too(driver: Path, curve: EllipticCurve) -> None:
    cases = []
    for number in range(20):  # lengths of ECDSA signatures differ from one to the next
        node = NodeOfKms(derive_private_key(10**9 + number, curve))
        line = f"node test {NodeKey('test', node.spki).encode()}\n"
        grant = replace(grant_of(usual()), public=RecordKey(b"\x11" * 32).public)
        at = replace(usual(), node=node)
        cases.append((forged(at, grant, RecordKey(b"\x11" * 32)), line))
    told = tell(driver, [asked_of(bundle, line) for bundle, line in cases])
    assert {one["level"] for one in told} == {"signed"}
    envelope = cases[0][0].delegation.envelope
    start = envelope.index(b'"sig":"') + 7
    bundle, line = cases[0]

    def changed(at: int) -> Bundle:
        other = b"B" if envelope[at : at + 1] == b"A" else b"A"
        return replace(
            bundle, delegation=replace(bundle.delegation, envelope=envelope[:at] + other + envelope[at + 1 :])
        )

    told = tell(driver, [asked_of(changed(at), line) for at in range(start, start + 90)])
    assert {(one["level"], clauses(one)[-1]) for one in told} == {("none", ("delegation", False))}


@cache
def rsa(num_bits: int) -> RSAPrivateKey:
    return generate_rsa(public_exponent=65537, key_size=num_bits)


def vouched_by(key: PrivateKey, salt_length: SaltLength = PSS.DIGEST_LENGTH) -> tuple[Bundle, str]:
    """The usual record, signed by a key that a node with this one vouches for; the node's line of a trust file."""
    at = replace(usual(), node=NodeOfKms(key, salt_length))
    grant = replace(grant_of(usual()), public=RecordKey(b"\x11" * 32).public)
    line = f"node test {NodeKey('test', at.node.spki).encode()}\n"
    return forged(at, grant, RecordKey(b"\x11" * 32)), line


def with_signature(bundle: Bundle, change: Callable[[bytes], bytes]) -> Bundle:
    """The node's signature is another."""
    envelope = json.loads(bundle.delegation.envelope)
    one = envelope["signatures"][0]
    one["sig"] = base64.b64encode(change(base64.b64decode(one["sig"]))).decode()
    data = json.dumps(envelope, separators=(",", ":")).encode()
    return replace(bundle, delegation=replace(bundle.delegation, envelope=data))


SALTS: list[SaltLength] = [PSS.DIGEST_LENGTH, PSS.MAX_LENGTH, 0, 1, 20, 48]


@pytest.mark.parametrize("num_bits", [2048, 2049, 3072, 4096])
def test_a_node_with_an_rsa_key_vouches_whatever_salt_its_vault_takes(driver: Path, num_bits: int) -> None:
    """A key whose number of bits is none of whole bytes has a padded form that is one byte shorter (RFC 8017 9.1.1)."""
    cases = [vouched_by(rsa(num_bits), salt) for salt in SALTS]
    assert {python_says(bundle, line).level.name for bundle, line in cases} == {"SIGNED"}
    told = tell(driver, [asked_of(bundle, line) for bundle, line in cases])
    for one, (bundle, line) in zip(told, cases, strict=True):
        assert one["level"] == "signed"
        assert clauses(one) == [(clause.name, clause.is_met) for clause in python_says(bundle, line).clauses]


def signatures_that_are_none(key: RSAPrivateKey, chance: random.Random) -> Iterator[Callable[[bytes], bytes]]:
    """What somebody makes of the node's signature, or in its place."""
    for _ in range(40):
        at, other = chance.randrange(256), chance.randrange(1, 256)
        yield lambda sig, at=at, other=other: sig[:at] + bytes([sig[at] ^ other]) + sig[at + 1 :]  # type: ignore[misc]
    yield lambda sig: sig[:-1]
    yield lambda sig: sig + b"\0"
    yield lambda sig: b"\0" + sig
    yield lambda sig: b""
    yield lambda sig: b"\0" * len(sig)
    number = key.public_key().public_numbers().n
    # The same residue, written as a number that is not below the modulus: a second text for one signature.
    yield lambda sig: (int.from_bytes(sig) + number).to_bytes(257)[-256:]
    yield lambda sig: key.sign(b"another message", PSS(MGF1(SHA256()), 32), SHA256())
    yield lambda sig: key.sign(MESSAGE, PSS(MGF1(SHA384()), 32), SHA256())
    yield lambda sig: key.sign(MESSAGE, PSS(MGF1(SHA256()), 32), SHA384())
    yield lambda sig: key.sign(MESSAGE, PKCS1v15(), SHA256())


# What the node signs in these tests: another scheme over the very message must not do either.
MESSAGE = dsse.pae(dsse.IN_TOTO, replace(grant_of(usual()), public=RecordKey(b"\x11" * 32).public).encode())


def test_what_is_no_signature_of_an_rsa_key_is_refused_where_the_command_refuses_it(driver: Path) -> None:
    bundle, line = vouched_by(rsa(2048))
    envelope = dsse.read(bundle.delegation.envelope)
    assert dsse.pae(envelope.payload_type, envelope.payload) == MESSAGE
    cases = [with_signature(bundle, change) for change in signatures_that_are_none(rsa(2048), random.Random(11))]
    told = tell(driver, [asked_of(one, line) for one in cases])
    for one, case in zip(told, cases, strict=True):
        assert clauses(one) == [(clause.name, clause.is_met) for clause in python_says(case, line).clauses]
        assert one["level"] == "none" and clauses(one)[-1] == ("delegation", False)


def test_an_rsa_key_that_is_too_short_vouches_for_nothing(driver: Path) -> None:
    bundle, line = vouched_by(rsa(1024))
    assert python_says(bundle, line).level.name == "NONE"
    (told,) = tell(driver, [asked_of(bundle, line)])
    assert told["level"] == "none" and clauses(told)[-1] == ("delegation", False)


def test_a_key_of_a_kind_that_is_not_checked_is_told_with_its_node(driver: Path) -> None:
    key = derive_private_key(10**9, SECP256K1())
    bundle, line = vouched_by(key)
    (told,) = tell(driver, [asked_of(bundle, line)])
    assert told["level"] == "none" and clauses(told)[-1] == ("delegation", None)
    assert "the key of the node test is of a kind" in told["clauses"][-1]["text"]


def test_a_signature_of_another_key_on_the_checkpoint_is_refused(driver: Path) -> None:
    at, other = usual(), Signer(ORIGIN, Algorithm.ED25519, b"\5" * 32)
    trust = at.node_line + f"log {other.key}\nquorum none\n"
    (told,) = tell(driver, [asked_of(at.bundle(), trust)])
    assert clauses(told)[-1] == ("log", False) and told["level"] == "none"


def places(bundle: Bundle) -> list[tuple[str, Callable[[bytes], Bundle], bytes]]:
    """Every part of a bundle whose bytes mean something: its name, how it is put back, its bytes."""

    def put(which: str, part: str) -> Callable[[bytes], Bundle]:
        return lambda data: replace(bundle, **{which: replace(getattr(bundle, which), **{part: data})})

    found: list[tuple[str, Callable[[bytes], Bundle], bytes]] = [
        ("nonce", lambda data: replace(bundle, nonce=data), bundle.nonce)
    ]
    for which in ("record", "delegation"):
        for part in ("envelope", "entry", "proof"):
            found += [(f"{which}.{part}", put(which, part), getattr(getattr(bundle, which), part))]
    return found


def test_of_a_thousand_single_bytes_that_are_changed_none_passes(driver: Path) -> None:
    """The checksum is made anew each time, so that each change has to be noticed by what it means. A change in the name
    or the id of a signature line makes it a stranger's, which has to be ignored: then less is reached than before."""
    chance, bundle, trust = random.Random(9), usual().bundle(), trust_text(usual())
    parts, cases = places(bundle), []
    while len(cases) < NUM_CHANGES:
        name, put, data = chance.choice(parts)
        at = chance.randrange(len(data))
        change = bytes([data[at] ^ chance.randrange(1, 256 if name == "nonce" else 128)])
        try:
            made = put(data[:at] + change + data[at + 1 :]).encode()
        except (HeadraceError, UnicodeDecodeError):
            continue  # no text any more: it cannot stand in a bundle
        cases.append((name, made))
    told = tell(driver, [asked_of(made, trust) for _, made in cases])
    passed = [(name, one) for (name, _), one in zip(cases, told, strict=True) if one.get("level") == "witnessed"]
    assert passed == []
    lower = [name for (name, _), one in zip(cases, told, strict=True) if one.get("level") in ("signed", "logged")]
    assert all(name.endswith(".proof") for name in lower) and len(lower) < NUM_CHANGES / 10


def test_a_changed_byte_anywhere_in_the_bundle_or_in_the_answer_is_refused(driver: Path) -> None:
    chance, trust = random.Random(4), trust_text(usual())
    data = usual().bundle().encode()
    asked = []
    for number in range(NUM_CHANGES // 2):
        of, in_bundle = (data, True) if number % 2 else (STREAM, False)
        at = chance.randrange(len(of))
        changed = of[:at] + bytes([of[at] ^ chance.randrange(1, 256)]) + of[at + 1 :]
        asked.append((in_bundle, of, changed))
    told = tell(
        driver, [asked_of(new if is_b else data, trust, stream=STREAM if is_b else new) for is_b, _, new in asked]
    )
    for (is_bundle, _, changed), one in zip(asked, told, strict=True):
        is_comment = not is_bundle and transcript_digest(changed) == transcript_digest(STREAM)
        assert ("refused" in one or one["level"] == "none") is not is_comment, (changed, one)


EXTRA = Signer(ORIGIN, Algorithm.COSIGNATURE_ML_DSA_44, b"\4" * 32)


def signed_twice(change: Callable[[bytes], bytes] = bytes) -> Bundle:
    """The usual record, the log's checkpoint with a second line of ML-DSA-44, whose bytes are changed."""

    def with_line(exhibit: Exhibit) -> Exhibit:
        proof = parse_proof(exhibit.proof)
        last = parse_note(proof.checkpoint.encode() + EXTRA.sign(proof.checkpoint.text, 5).encode()).signatures[-1]
        line = f"— {last.name} {base64.b64encode(last.key_id + change(last.data)).decode()}\n"
        note = parse_note(proof.checkpoint.encode() + line.encode())
        return replace(exhibit, proof=replace(proof, checkpoint=note).encode())

    good = usual().bundle()
    return replace(good, record=with_line(good.record), delegation=with_line(good.delegation))


def of_ml_dsa() -> tuple[str, str]:
    """Trust files with both of the log's keys, and with the second alone."""
    line = f"log {EXTRA.key}\n"
    return trust_text(usual()) + line, usual().node_line + line + "quorum none\n"


def test_a_second_signature_of_ml_dsa_is_checked_as_the_command_checks_it(driver: Path) -> None:
    both, alone = of_ml_dsa()
    told = tell(driver, [asked_of(signed_twice(), both), asked_of(signed_twice(), alone)])
    assert [one["level"] for one in told] == ["witnessed", "logged"]
    for one, trust in zip(told, (both, alone), strict=True):
        assert clauses(one) == [(clause.name, clause.is_met) for clause in python_says(signed_twice(), trust).clauses]


def test_a_changed_byte_in_a_signature_of_ml_dsa_is_refused(driver: Path) -> None:
    both, _ = of_ml_dsa()
    chance = random.Random(12)
    # The time is signed with it: its bytes come first.
    places = [*range(8), *(chance.randrange(8, 2428) for _ in range(40))]
    cases = [signed_twice(lambda data, at=at: flip(data, at)) for at in places]  # type: ignore[misc]
    told = tell(driver, [asked_of(one, both) for one in cases])
    for one, case in zip(told, cases, strict=True):
        assert one["level"] == "none" and clauses(one)[-1] == ("log", False)
        assert clauses(one) == [(clause.name, clause.is_met) for clause in python_says(case, both).clauses]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_where_there_is_no_ml_dsa_its_line_is_named_as_not_checked(driver: Path) -> None:
    both, alone = of_ml_dsa()
    asked = [asked_of(signed_twice(), trust) | {"lacks": "ML-DSA-44"} for trust in (both, alone)]
    told = tell(driver, asked)
    assert told[0]["level"] == "witnessed" and ("ml-dsa", None) in clauses(told[0])
    line = f"{ORIGIN} ({EXTRA.key.id.hex()})"
    assert line in next(one["text"] for one in told[0]["clauses"] if one["name"] == "ml-dsa")
    assert told[1]["level"] == "signed" and clauses(told[1])[-1] == ("log", None)
    assert line in told[1]["clauses"][-1]["text"] and "ML-DSA" in told[1]["clauses"][-1]["text"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("node test x\n", "line 1"),
        ("nodes a b\n", "no word"),
        ("log a\n", "line 1"),
        ("constructor a b\n", "no word"),
        (usual().node_line * 2, "twice"),
    ],
)
def test_a_trust_file_that_cannot_be_read_is_refused_with_its_line(driver: Path, text: str, word: str) -> None:
    (told,) = tell(driver, [asked_of(usual().bundle(), text)])
    assert word in told["refused"] and told["kind"] == "NotVerified"
