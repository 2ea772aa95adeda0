"""Records verified offline: what holds, each clause broken once, and ten thousand bytes changed at random."""

import base64
import hashlib
import json
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_gateway import ANSWER, ScriptedUpstream, ask, bench, in_loop, read
from tests.doubles_records import Desk, NodeInMemory, desk
from tests.log_in_memory import MemoryLog

from headrace.cli.lineage import _told, _tree
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.events import ReasoningDelta
from headrace.core.gateway import EventReply
from headrace.trust.records import dsse, request_form
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.bundle import Bundle, Exhibit, read_bundle
from headrace.trust.records.canonical import NotCanonical
from headrace.trust.records.commitment import entry_of, read_entry
from headrace.trust.records.keys import (
    DelegationGrant,
    RecordKey,
    Revocation,
    read_grant,
    read_revocation,
    sign_by_node,
)
from headrace.trust.records.lineage import trace
from headrace.trust.records.statement import MAX_SUBJECTS, read_statement
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Included, Level, Report, Shown, Trusted, verify

BODY = b'{"choices":[{"text":"hello world"}]}'
EVENTS = (ANSWER[0], ReasoningDelta(0, "hm", 1), *ANSWER[1:])


def form() -> AnswerForm:
    found = AnswerForm()
    for event in EVENTS:
        found.hear(event)
    return found


ASKED = request_form.encode(ask(raw=None).decode())
SHOWN = Shown(
    body_digest=hashlib.sha256(BODY).digest(),
    answer=form().encode(),
    reasoning=form().encode_reasoning(),
    requests=(b"another", ASKED),
)


async def record(at: Desk) -> None:
    gate = bench({"a": ScriptedUpstream(EVENTS)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply) and reply.taken.receipt is not None
    reply.taken.is_claimed = True
    await read(reply)
    reply.taken.receipt.seal(hashlib.sha256(BODY).digest())


def recorded(*, is_witnessed: bool = True, is_late: bool = False) -> Desk:
    import asyncio

    at = desk(MemoryLog(is_late=is_late))
    at.log.is_witnessed = is_witnessed
    asyncio.run(record(at))
    return at


@cache
def usual() -> Desk:
    return recorded()


def last(report: Report) -> tuple[str, str]:
    assert report.is_refused and report.level is Level.NONE, report.clauses
    return report.clauses[-1].name, report.clauses[-1].text


def test_the_level_is_what_the_trust_file_and_the_proofs_allow() -> None:
    at = usual()
    only_node = read_trusted(at.node_line.encode())
    assert only_node.wanted is Level.SIGNED
    assert verify(at.bundle(), SHOWN, only_node).level is Level.SIGNED
    assert at.trusted().wanted is Level.LOGGED
    assert verify(at.bundle(), SHOWN, at.trusted()).level is Level.LOGGED
    assert at.trusted(quorum=True).wanted is Level.WITNESSED
    report = verify(at.bundle(), SHOWN, at.trusted(quorum=True))
    assert report.level is Level.WITNESSED
    assert [one.name for one in report.clauses] == [
        "form", "delegation", "signature", "time", "nonce", "answer", "meaning", "reasoning", "request", "log",
        "witnesses",
    ]  # fmt: skip
    assert all(one.is_met for one in report.clauses)


def test_what_no_witness_has_seen_is_logged_and_no_more() -> None:
    at = recorded(is_witnessed=False)
    report = verify(at.bundle(), SHOWN, at.trusted(quorum=True))
    assert report.level is Level.LOGGED and not report.is_refused


def test_a_record_that_the_log_has_not_taken_in_yet_is_signed_and_no_more() -> None:
    at = recorded(is_late=True)
    report = verify(at.bundle(), SHOWN, at.trusted())
    assert report.level is Level.SIGNED and not report.is_refused


def test_another_answer_or_request_is_refused_in_whatever_way_it_is_shown() -> None:
    at = usual()
    other = AnswerForm()
    for event in ANSWER[:-2]:
        other.hear(event)
    unread = replace(SHOWN, is_rewritten=True)
    for name, shown in (
        ("answer", replace(SHOWN, body_digest=hashlib.sha256(b"x").digest())),
        ("answer", replace(unread, answer=other.encode())),
        ("answer", replace(SHOWN, answer=None, body_digest=None)),
        ("answer", replace(unread, reasoning=b'["x"]')),
        ("request", replace(SHOWN, requests=(b"x",))),
    ):
        assert last(verify(at.bundle(), shown, at.trusted()))[0] == name


def test_the_right_bytes_are_the_answer_however_their_protocol_tells_it() -> None:
    at = usual()
    report = verify(at.bundle(), replace(SHOWN, answer=b"echoed", reasoning=b"hidden"), at.trusted())
    assert not report.is_refused
    assert {one.name: one.is_met for one in report.clauses if one.name in ("answer", "meaning", "reasoning")} == {
        "answer": True,
        "meaning": None,
        "reasoning": None,
    }


def test_a_request_that_goes_on_from_what_only_the_server_has_is_not_called_another() -> None:
    at = usual()
    report = verify(at.bundle(), replace(SHOWN, requests=(b"x",), is_partial=True), at.trusted())
    assert not report.is_refused
    assert [one.is_met for one in report.clauses if one.name == "request"] == [None]


def test_a_file_that_was_written_anew_is_verified_by_what_it_says() -> None:
    at = usual()
    shown = replace(SHOWN, body_digest=hashlib.sha256(b"written anew").digest())
    assert "--rewritten" in last(verify(at.bundle(), shown, at.trusted()))[1]
    assert verify(at.bundle(), replace(shown, is_rewritten=True), at.trusted()).level is Level.LOGGED


def test_after_erasure_the_bytes_still_verify_and_what_was_committed_to_does_not_open() -> None:
    at = usual()
    erased = replace(at.bundle(), nonce=b"")
    assert verify(erased, replace(SHOWN, requests=()), at.trusted()).level is Level.LOGGED
    assert last(verify(erased, SHOWN, at.trusted()))[0] == "request"
    assert last(verify(erased, replace(SHOWN, is_rewritten=True), at.trusted()))[0] == "answer"
    gone = replace(erased, record=replace(erased.record, envelope=b""))
    assert "erased" in last(verify(gone, SHOWN, at.trusted()))[1]


def grant_of(at: Desk) -> DelegationGrant:
    return read_grant(dsse.read(at.log.items[0].envelope).payload)


def forged(at: Desk, grant: DelegationGrant, key: RecordKey, *, time_s: int | None = None) -> Bundle:
    """The usual record, signed by another key that the node vouches for by this grant."""
    good = at.bundle()
    payload = dsse.read(good.record.envelope).payload
    envelope = key.sign(payload)
    at_s = grant.not_before_s if time_s is None else time_s
    vouched = sign_by_node(at.node, grant.encode())
    return replace(
        good,
        record=Exhibit(envelope, entry_of("record", envelope, at_s).encode(), b""),
        delegation=Exhibit(vouched, entry_of("delegation", vouched, grant.not_before_s).encode(), b""),
    )


def test_a_key_signs_only_while_it_is_vouched_for() -> None:
    at, key = usual(), RecordKey(b"\x11" * 32)
    grant = replace(grant_of(at), public=key.public)
    for time_s, holds in (
        (grant.not_before_s, True),
        (grant.not_after_s, True),
        (grant.not_before_s - 60, False),
        (grant.not_after_s + 1, False),
    ):
        report = verify(forged(at, grant, key, time_s=time_s), SHOWN, at.trusted())
        assert report.is_refused is not holds, report.clauses
        assert holds or report.clauses[-1].name == "time"


@pytest.mark.parametrize("life_s", [86_401, 10 * 86_400, -1])
def test_a_delegation_that_lasts_too_long_or_ends_before_it_begins_vouches_for_nobody(life_s: int) -> None:
    at, key = usual(), RecordKey(b"\x11" * 32)
    grant = replace(grant_of(at), public=key.public)
    grant = replace(grant, not_after_s=grant.not_before_s + life_s)
    assert last(verify(forged(at, grant, key), SHOWN, at.trusted()))[0] == "delegation"


def test_a_revoked_key_is_believed_only_for_what_a_log_has_from_before() -> None:
    at = usual()
    bundle, key_id = at.bundle(), grant_of(at).key_id
    made_s, logged = json.loads(bundle.record.entry)["time"], at.node_line + at.log.trust_lines()
    for from_s, holds in ((made_s + 1, True), (made_s, False)):
        report = verify(bundle, SHOWN, read_trusted(f"{logged}revoked {key_id} {from_s}\n".encode()))
        assert report.is_refused is not holds
    # Whoever has taken a key writes the time of an entry as it likes.
    undated = replace(bundle, record=replace(bundle.record, proof=b""))
    for shown, lines in ((undated, logged), (bundle, at.node_line + "quorum none\n")):
        assert verify(shown, SHOWN, read_trusted(lines.encode())).level is Level.SIGNED
        report = verify(shown, SHOWN, read_trusted(f"{lines}revoked {key_id} {made_s + 1}\n".encode()))
        assert last(report)[0] == "revocation"
        assert (report.is_refused, report.level) == (True, Level.NONE)


@pytest.mark.parametrize("origin", [None, "", "elsewhere.example/log"])
def test_a_key_signs_for_the_log_that_it_is_vouched_for_in_and_for_no_other(origin: str | None) -> None:
    at, key = usual(), RecordKey(b"\x11" * 32)
    grant = replace(grant_of(at), public=key.public)
    bundle = forged(at, grant if origin is None else replace(grant, log_origin=origin), key)
    shown = replace(
        bundle, record=replace(bundle.record, proof=b"x"), delegation=replace(bundle.delegation, proof=b"x")
    )

    def prove(_: bytes, entry: bytes) -> Included:
        return Included(bundle.log_origin, int(json.loads(entry)["kind"] == "record"), is_witnessed=False)

    report = verify(shown, SHOWN, replace(at.trusted(), prove=prove))
    assert report.is_refused is (origin is not None)
    assert report.level is (Level.LOGGED if origin is None else Level.NONE)


def test_a_revocation_reads_back() -> None:
    revocation = Revocation(node="n", key_id="a" * 64, from_s=5, reason="lost")
    assert read_revocation(revocation.encode()) == revocation
    with pytest.raises(NotCanonical):
        read_revocation(grant_of(usual()).encode())


def test_a_node_that_is_not_trusted_or_has_another_name_vouches_for_nobody() -> None:
    at, key = usual(), RecordKey(b"\x11" * 32)
    stranger = Trusted(nodes=read_trusted(desk().node_line.encode()).nodes[:0])
    assert last(verify(at.bundle(), SHOWN, stranger))[0] == "delegation"
    other = NodeInMemory(b"\x09" * 32)
    grant = replace(grant_of(at), public=key.public)
    vouched = sign_by_node(other, grant.encode())
    bundle = replace(at.bundle(), delegation=Exhibit(vouched, entry_of("delegation", vouched, 0).encode()))
    assert last(verify(bundle, SHOWN, at.trusted()))[0] == "delegation"
    renamed = replace(grant, node="someone-else")
    assert "speaks for" in last(verify(forged(at, renamed, key), SHOWN, at.trusted()))[1]


@pytest.mark.parametrize("name", ["node", "instance", "log_origin"])
def test_a_delegation_whose_names_are_no_texts_vouches_for_nobody(name: str) -> None:
    at, key = usual(), RecordKey(b"\x11" * 32)
    grant = replace(grant_of(at), public=key.public, **{name: None})
    report = verify(forged(at, grant, key), SHOWN, at.trusted())
    assert last(report)[0] == "delegation" and report.is_refused


def test_a_key_signs_no_delegation_for_another() -> None:
    at, key = usual(), RecordKey(b"\x11" * 32)
    grant = replace(grant_of(at), public=RecordKey(b"\x12" * 32).public)
    bundle = replace(at.bundle(), delegation=Exhibit(key.sign(grant.encode()), at.bundle().delegation.entry))
    assert last(verify(bundle, SHOWN, at.trusted()))[0] == "delegation"


def test_a_second_signature_that_nobody_vouches_for_is_not_carried_along() -> None:
    at = usual()
    good = at.bundle()
    value = json.loads(good.record.envelope)
    extra = json.loads(RecordKey(b"\x13" * 32).sign(b"x"))["signatures"]
    value["signatures"] += extra
    envelope = json.dumps(value).encode()
    bundle = replace(good, record=Exhibit(envelope, entry_of("record", envelope, 5).encode()))
    assert last(verify(bundle, SHOWN, at.trusted()))[0] == "signature"


def test_a_delegation_behind_its_record_in_the_log_is_worth_nothing() -> None:
    at = recorded()
    first, second = at.log.items
    at.log.items[:] = [second, first]
    assert "before the delegation" in last(verify(at.bundle(), SHOWN, at.trusted()))[1]


def test_a_proof_of_another_log_or_of_another_entry_is_refused() -> None:
    at, other = usual(), recorded()
    other.log.items.reverse()
    bundle = at.bundle()
    wrong = replace(bundle, record=replace(bundle.record, proof=bundle.delegation.proof))
    assert last(verify(wrong, SHOWN, at.trusted()))[0] == "log"
    elsewhere = replace(bundle, log_origin="another.log/records")
    assert last(verify(elsewhere, SHOWN, at.trusted()))[0] == "log"


def test_an_entry_that_commits_to_something_else_is_refused_without_a_log_too() -> None:
    at = usual()
    only_node, good = read_trusted(at.node_line.encode()), at.bundle()
    swapped = replace(good, record=replace(good.record, entry=good.delegation.entry))
    other_kind = entry_of("evidence", good.record.envelope, read_entry(good.record.entry).time_s).encode()
    renamed = replace(good, record=replace(good.record, entry=other_kind))
    for bundle in (swapped, renamed, replace(good, delegation=replace(good.delegation, entry=good.record.entry))):
        assert last(verify(bundle, SHOWN, only_node))[0] == "time"


def test_a_nonce_that_is_not_the_records_is_refused_even_if_it_opens_nothing() -> None:
    at = usual()
    bundle = replace(at.bundle(), nonce=b"\0" * 16)
    assert last(verify(bundle, replace(SHOWN, requests=()), at.trusted()))[0] == "nonce"
    assert last(verify(bundle, None, at.trusted()))[0] == "nonce"


@pytest.mark.parametrize(
    "data",
    [
        b'{"digest":"sha256:%b","kind":"record","time": 5}' % (b"0" * 64),
        b'{"kind":"record","digest":"sha256:%b","time":5}' % (b"0" * 64),
        b'{"digest":"sha256:%b","kind":"record","time":5,"x":1}' % (b"0" * 64),
        b'{"digest":"sha256:%b","kind":"record","time":5}' % (b"0" * 62),
        b'{"digest":"sha512:%b","kind":"record","time":5}' % (b"0" * 64),
        b'{"digest":"sha256:%b","kind":"record","time":5}' % (b"A" * 64),
        b'{"digest":"sha256:%b","kind":"record","time":5.0}' % (b"0" * 64),
        b'{"digest":"sha256:%b","kind":"record","time":1e999}' % (b"0" * 64),
        b'{"digest":"sha256:%b","kind":"record","time":true}' % (b"0" * 64),
        b'{"digest":"sha256:%b","kind":7,"time":5}' % (b"0" * 64),
        b"[]",
        b"7",
        b"",
    ],
)
def test_an_entry_is_written_in_one_way_only(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        read_entry(data)


def test_a_bundle_reads_back_and_damage_is_told_from_nothing_else() -> None:
    bundle = usual().bundle()
    data = bundle.encode()
    assert read_bundle(data) == bundle and read_bundle(data + b"\n") == bundle
    for damaged in (
        data + b" ",
        b" " + data,
        data.replace(b'"checksum":"sha256:', b'"checksum":"sha256:0'),
        data[:-1] + b',"id":"x"}',
        json.dumps(json.loads(data)).encode(),
        b"{}",
        b"[]",
        b"",
    ):
        with pytest.raises(NotCanonical):
            read_bundle(damaged)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda v: v.update(predicateType="https://slsa.dev/provenance/v0.2"),
        lambda v: v["predicate"]["buildDefinition"].update(buildType="urn:other"),
        lambda v: v.update(subject=[]),
        lambda v: v.update(subject=v["subject"] * 2),
        lambda v: v.update(subject=[{"name": str(n), "digest": {"sha256": "0" * 64}} for n in range(10**5)]),
        lambda v: v["subject"][0]["digest"].update(sha256="0" * 63),
        lambda v: v["subject"][0]["digest"].update(sha256="A" * 64),
        lambda v: v["subject"][0].update(digest={"sha512": "0" * 128}),
        lambda v: v["predicate"]["buildDefinition"].pop("resolvedDependencies"),
        lambda v: v["predicate"]["buildDefinition"].update(resolvedDependencies=[{"name": "x"}]),
        lambda v: v["predicate"]["buildDefinition"].update(internalParameters=[]),
        lambda v: v["predicate"]["runDetails"].pop("metadata"),
    ],
)
def test_a_statement_in_another_form_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(dsse.read(usual().records[0].envelope).payload)
    read_statement(json.dumps(value).encode())
    change(value)
    with pytest.raises(NotCanonical):
        read_statement(json.dumps(value).encode())
    assert MAX_SUBJECTS < 10**5


def test_a_statement_has_the_form_that_in_toto_and_slsa_print() -> None:
    """Statement v1 and Provenance v1, field by field as their specifications list them."""
    value = json.loads(dsse.read(usual().records[0].envelope).payload)
    assert set(value) == {"_type", "subject", "predicateType", "predicate"}
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    for subject in value["subject"]:
        assert set(subject) == {"name", "digest"} and set(subject["digest"]) == {"sha256"}
    definition, run = value["predicate"]["buildDefinition"], value["predicate"]["runDetails"]
    assert set(value["predicate"]) == {"buildDefinition", "runDetails"}
    assert set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert ":" in definition["buildType"]
    for one in definition["resolvedDependencies"]:
        assert set(one) <= {"uri", "digest", "name", "downloadLocation", "mediaType", "content", "annotations"}
        assert {"uri", "digest", "content"} & set(one)
    assert set(run) == {"builder", "metadata", "byproducts"}
    assert set(run["builder"]) <= {"id", "version", "builderDependencies"}
    assert set(run["metadata"]) == {"invocationId", "startedOn", "finishedOn"}
    from datetime import datetime

    for name in ("startedOn", "finishedOn"):
        assert run["metadata"][name].endswith("Z")
        assert datetime.fromisoformat(run["metadata"][name]).tzinfo is not None


def mutated(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    changed = bytearray(data)
    changed[at] ^= chance.randrange(1, 256)
    return bytes(changed)


def is_refused(bundle: bytes, body: bytes, trusted: Trusted) -> bool:
    try:
        read_in = read_bundle(bundle)
    except HeadraceError:
        return True
    shown = replace(SHOWN, body_digest=hashlib.sha256(body).digest())
    report = verify(read_in, shown, trusted)
    return report.is_refused or report.level < trusted.wanted


@pytest.mark.parametrize("what", ["bundle", "body", "envelope", "entry", "proof", "nonce", "delegation"])
def test_no_byte_of_a_record_can_change(what: str) -> None:
    """10,000 changes in all. Within a bundle each part is changed alone and the checksum made anew: whoever forges can
    do that, too."""
    at, chance = usual(), random.Random(what)
    trusted, good = at.trusted(quorum=True), at.bundle()
    data = good.encode()
    assert not is_refused(data, BODY, trusted)
    for _ in range(1429):
        bundle, body = data, BODY
        if what == "bundle":
            bundle = mutated(data, chance)
        elif what == "body":
            body = mutated(BODY, chance)
        else:
            try:
                bundle = changed_in(good, what, chance).encode()
            except UnicodeDecodeError:
                continue  # it would not even be a text of JSON
        assert is_refused(bundle, body, trusted), (what, bundle)


def changed_in(good: Bundle, what: str, chance: random.Random) -> Bundle:
    if what == "nonce":
        return replace(good, nonce=mutated(good.nonce, chance))
    if what == "delegation":
        part = chance.choice(["envelope", "entry", "proof"])
        return replace(good, delegation=replaced(good.delegation, part, chance))
    return replace(good, record=replaced(good.record, what, chance))


def replaced(exhibit: Exhibit, part: str, chance: random.Random) -> Exhibit:
    return replace(exhibit, **{part: mutated(getattr(exhibit, part), chance)})


@pytest.mark.parametrize(
    "text",
    [
        "node test\n",
        "node test x\n",
        "revoked x 5\n",
        "revoked abc 5\n",
        "revoked " + "a" * 64 + " -5\n",
        "unheard of\n",
        "log x\nquorum none\n",
    ],
)
def test_a_trust_file_that_is_wrong_says_in_which_line(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line 2|quorum"):
        read_trusted(b"# a comment\n" + text.encode())


def test_a_trust_file_gives_a_node_its_own_key_once() -> None:
    at = usual()
    with pytest.raises(InvalidRequest, match="twice"):
        read_trusted((at.node_line * 2).encode())
    with pytest.raises(InvalidRequest, match="own line"):
        read_trusted(at.node_line.replace("node test", "node other", 1).encode())


@in_loop
async def test_a_record_without_a_nonce_in_base64_is_not_taken_for_one() -> None:
    value = json.loads(usual().bundle().encode())
    value["nonce"] = base64.b64encode(b"short").decode()
    with pytest.raises(NotCanonical, match="nonce"):
        read_bundle(json.dumps(value).encode())


JUNK = st.sampled_from([None, True, 0, -1, 2**60, 1.5, "", "x", "sha256:", [], {}, [[]], {"a": []}, "\u2028"])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    found = [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        found += places(inner, (*path, name))
    return found


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_node_that_signs_nonsense_is_met_with_a_sentence(data: st.DataObject) -> None:
    """Whoever holds the keys can sign any JSON: readers say what is wrong with it, or take it for what it says."""
    at = usual()
    value = json.loads(dsse.read(at.records[0].envelope).payload)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(value)[1:]))
        inner = value
        for name in path[:-1]:
            inner = inner[name]
        if data.draw(st.booleans()) and isinstance(inner, dict):
            del inner[path[-1]]
        else:
            inner[path[-1]] = deepcopy(data.draw(JUNK))  # it may be changed in turn
    key = RecordKey(b"\x11" * 32)
    grant = replace(grant_of(at), public=key.public)
    good = forged(at, grant, key)
    envelope = key.sign(json.dumps(value).encode())
    bundle = replace(
        good,
        record=Exhibit(envelope, entry_of("record", envelope, grant.not_before_s).encode(), at.bundle().record.proof),
    )
    verify(bundle, SHOWN, at.trusted())
    verify(bundle, replace(SHOWN, is_rewritten=True, model="m"), at.trusted())
    lineage = trace(bundle.record_id, {bundle.record_id: envelope}.get)
    told = "\n".join(_tree(lineage, {}))
    assert bundle.record_id in told
    json.dumps(_told(lineage, {}))
