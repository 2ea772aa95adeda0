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
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.console.verifying import ESBUILD, b64, bundle_driver, clauses, tell
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
from headrace.trust.records import canonical, dsse
from headrace.trust.records.answer_form import arguments_form
from headrace.trust.records.bundle import Bundle, Exhibit
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import DelegationGrant, RecordKey, read_grant, sign_by_node
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Report, verify

pytestmark = pytest.mark.skipif(not ESBUILD.exists(), reason="needs Node's packages: make .venv/.done/console")

MODEL = "m"
NUM_CHANGES = 1000
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "system", "content": "Be brief. \u2028é"}, {"role": "user", "content": "hi \U0001f600"}],
    "stream": True,
    "temperature": 0.3,
    "seed": 7,
}


def stream_of(*pieces: dict[str, Any]) -> bytes:
    """Chunks of a chat as a server streams them, with a silence in between."""
    frames = [f"data: {json.dumps({'model': MODEL, 'choices': [piece]})}\n\n" for piece in pieces]
    return "".join([frames[0], ": keep-alive\n\n", *frames[1:], "data: [DONE]\n\n"]).encode()


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


def test_a_second_signature_of_ml_dsa_is_told_as_not_checked(driver: Path) -> None:
    at = recorded()
    extra = Signer(ORIGIN, Algorithm.COSIGNATURE_ML_DSA_44, b"\4" * 32)

    def with_line(exhibit: Exhibit) -> Exhibit:
        proof = parse_proof(exhibit.proof)
        text = proof.checkpoint.text
        note = parse_note(proof.checkpoint.encode() + extra.sign(text, 5).encode())
        return replace(exhibit, proof=replace(proof, checkpoint=note).encode())

    good = at.bundle()
    bundle = replace(good, record=with_line(good.record), delegation=with_line(good.delegation))
    both = trust_text(at) + f"log {extra.key}\n"
    alone = at.node_line + f"log {extra.key}\nquorum none\n"
    told = tell(driver, [asked_of(bundle, both), asked_of(bundle, alone)])
    assert told[0]["level"] == "witnessed" and ("ml-dsa", None) in clauses(told[0])
    assert told[1]["level"] == "signed" and clauses(told[1])[-1] == ("log", None)
    assert "ML-DSA" in told[1]["clauses"][-1]["text"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("quorum none\n", "no node"),
        ("node test x\n", "line 1"),
        ("nodes a b\n", "no word"),
        ("log a\n", "line 1"),
        ("constructor a b\n", "no word"),
    ],
)
def test_a_trust_file_that_cannot_be_read_is_refused_with_its_line(driver: Path, text: str, word: str) -> None:
    (told,) = tell(driver, [asked_of(usual().bundle(), text)])
    assert word in told["refused"] and told["kind"] == "NotVerified"


NUMBERS = st.one_of(
    st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=4, deadline=None)
@given(values=st.lists(VALUES, min_size=40, max_size=40))
def test_canonical_json_is_the_same_as_pythons(driver: Path, values: list[Any]) -> None:
    told = tell(driver, [{"canonical": b64(json.dumps(value, ensure_ascii=False).encode())} for value in values])
    for value, one in zip(values, told, strict=True):
        assert base64.b64decode(one["form"]) == canonical.encode(value)


@pytest.mark.parametrize(
    "text",
    [b'{"a":1,"a":2}', b"[1,]", b"{,}", b"01", b"+1", b"1.", b".5", b"NaN", b"Infinity", b"[1] x", b'"\\x"', b'"\\u12"',
     b'"\n"', b"'a'", b"", b"{", b"nul", b"\xff", b"\xef\xbb\xbf1", b"-", b"[" * 100_000, b'{"a" 1}', b"{1:2}"],
)  # fmt: skip
def test_json_that_python_refuses_is_refused(driver: Path, text: bytes) -> None:
    with pytest.raises(canonical.NotCanonical):
        canonical.read(text)
    (told,) = tell(driver, [{"canonical": b64(text)}])
    assert told["kind"] == "NotVerified"


ARGUMENTS = [
    "", "{}", ' {"b": 1, "a": [1.0, 1e3, -0.0, 12345678901234567890]} ', '{"a":1,"a":2}', "not json", '{"é":"\\u00e9"}',
    '{"n": 1e400}', '"\\ud800"', "[" * 200 + "]" * 200, '{"x": 0.1}', "{" + '"a":' * 3, '{"a":' + "9" * 5000 + "}",
    '{"\U0001f600":1,"\ufb33":2}', "\ufeff{}",
]  # fmt: skip


def test_arguments_of_tool_calls_have_pythons_form(driver: Path) -> None:
    told = tell(driver, [{"arguments": text} for text in ARGUMENTS])
    assert [base64.b64decode(one["form"]).decode() for one in told] == [arguments_form(text) for text in ARGUMENTS]


TEXTS = st.text(max_size=30)
CALLS = st.lists(
    st.builds(
        lambda call_id, name, arguments: {
            "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}
        },
        st.text(min_size=1, max_size=5), st.sampled_from(["look", "say"]), TEXTS,
    ),
    max_size=2,
)  # fmt: skip
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "d", "parameters": {"a": 1152921504606847000, "b": [1.5]}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "maximum": 1e22}}}
MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "user"]), TEXTS),
        st.builds(lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls}, TEXTS, CALLS),
        st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS),
        st.builds(lambda text: {"role": "tool", "tool_call_id": "c", "content": text}, TEXTS),
    ),
    min_size=1,
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "a/b"]), "messages": MESSAGES, "stream": st.just(True)},
    optional={
        "stream_options": st.just({"include_usage": True}),
        "temperature": st.sampled_from([0, 1, 1.0, 0.7, 2]),
        "top_p": st.sampled_from([0.1, 1]),
        "top_k": st.sampled_from([0, 40]),
        "min_p": st.sampled_from([0, 0.05]),
        "max_tokens": st.integers(0, 1000),
        "seed": st.sampled_from([0, 1, -5, 2**53 - 1]),
        "stop": st.one_of(st.just("x"), st.just(["a", "b"]), st.just([])),
        "presence_penalty": st.sampled_from([0, 0.5]),
        "frequency_penalty": st.sampled_from([0, -0.5]),
        "repetition_penalty": st.sampled_from([1, 1.1]),
        "reasoning_effort": st.sampled_from(["none", "low", "max"]),
        "tools": st.just([TOOL]),
        "parallel_tool_calls": st.booleans(),
        "response_format": st.sampled_from([SCHEMA, {"type": "json_object"}, {"type": "text"}]),
        "logprobs": st.just(True),
    },
)


@settings(max_examples=4, deadline=None)
@given(bodies=st.lists(BODIES, min_size=60, max_size=60))
def test_what_was_asked_has_the_forms_that_the_command_makes_of_it(driver: Path, bodies: list[dict[str, Any]]) -> None:
    told = tell(driver, [{"request": body} for body in bodies])
    for body, one in zip(bodies, told, strict=True):
        # The page sends what JSON.stringify makes: numbers as ECMAScript writes them.
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).replace("1.0,", "1,").encode()
        made = {base64.b64decode(form) for form in one["requests"]}
        neutral = [form for form in request_forms(data) if not form.startswith(b'{"body"')]
        assert neutral and set(neutral) & made, (body, made)


PIECES = st.lists(
    st.one_of(
        st.builds(lambda text: {"delta": {"content": text}}, TEXTS),
        st.builds(lambda text: {"delta": {"reasoning_content": text, "reasoning": text}}, TEXTS),
        st.builds(
            lambda index, name, text: {
                "delta": {"tool_calls": [{"index": index, "id": "c", "function": {"name": name, "arguments": text}}]}
            },
            st.integers(0, 2), st.sampled_from(["look", None]), st.sampled_from(["{", '"a":', "1}", "x", ""]),
        ),
        st.builds(
            lambda reason: {"delta": {}, "finish_reason": reason},
            st.sampled_from(["stop", "length", "tool_calls", "content_filter", None, "odd"]),
        ),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@settings(max_examples=4, deadline=None)
@given(answers=st.lists(st.tuples(PIECES, st.sampled_from(["\n", "\r\n", "\r"])), min_size=60, max_size=60))
def test_what_was_answered_has_the_form_and_the_digest_of_the_command(
    driver: Path, answers: list[tuple[list[dict[str, Any]], str]]
) -> None:
    streams = [
        stream_of(*({"index": number % 2, **piece} for number, piece in enumerate(pieces))).replace(b"\n", end.encode())
        for pieces, end in answers
    ]
    for stream, one in zip(streams, tell(driver, [{"stream": b64(stream)} for stream in streams]), strict=True):
        shown = read_answer(stream).shown()
        assert one["digest"] == transcript_digest(stream).hex() == (shown.body_digest or b"").hex()
        assert one["form"] == (None if shown.answer is None else b64(shown.answer)), stream
        assert one["reasoning"] == (None if shown.reasoning is None else b64(shown.reasoning))
        assert one["model"] == shown.model


@pytest.mark.parametrize(
    "data",
    [b"", b":", b": a", b": a\n", b": a\n\n", b"data: 1", b"data: 1\n", b"data: 1\n\n\n: x\n\n\n",
     b"\n\n: a\n\ndata: b\n: c\n\n",
     b"data\n\n", b"data:\n\n", b"data: a\ndata: b\n\n", b": a\r\n\r\ndata: b\r\r", b"\r\n: a\r\r\ndata: x\n\r"],
)  # fmt: skip
def test_comments_do_not_count_wherever_they_stand(driver: Path, data: bytes) -> None:
    (told,) = tell(driver, [{"stream": b64(data)}])
    assert told["digest"] == transcript_digest(data).hex()
