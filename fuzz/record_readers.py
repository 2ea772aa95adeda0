"""Fuzz what reads records: bundles, envelopes with statements, trust files, saved answers, forms of requests. Each is
read or refused with a sentence, and what was read can be verified without falling over it.
"""

from collections.abc import Callable
from typing import Any

from fuzz.target import Check, Target

from headrace.cli.saved_files import read_answer, request_forms
from headrace.core.errors import HeadraceError
from headrace.core.request import Message, Request, Role, TextPart
from headrace.trust.records import dsse, request_form
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.bundle import Bundle, Exhibit, read_bundle
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import SPKI_ED25519, DelegationGrant, RecordKey
from headrace.trust.records.lineage import trace
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.statement import Facts, Maker, Outcome, Way, Who, encode_statement, read_statement
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Shown, Trusted, verify

NODE = RecordKey(b"\1" * 32)
KEY = RecordKey(b"\2" * 32)
FACTS = Facts(
    record_id="rec_1",
    response_id="r",
    sequence=1,
    started_s=1.0,
    ended_s=2.0,
    nonce=b"\0" * 16,
    task="generate",
    asked_model="m",
    request=b"{}",
    request_form="neutral",
    answer=AnswerForm().encode(),
    reasoning=None,
    body_digest=b"\0" * 32,
    who=Who(tenant="t"),
    way=Way(),
    outcome=Outcome(state="whole"),
    maker=Maker(node="n", instance="i", build={"headrace": "0"}, log_origin="log.test"),
    digests={"model": "sha256:" + "a" * 64},
)
ENVELOPE = KEY.sign(encode_statement(FACTS))
GRANT = NODE.sign(DelegationGrant(node="n", instance="i", public=KEY.public, not_before_s=1, not_after_s=9).encode())
VKEY = NodeKey("n", SPKI_ED25519 + NODE.public)
TRUSTED = Trusted(nodes=(VKEY,))
BUNDLE = Bundle(
    record_id="rec_1",
    log_origin="log.test",
    record=Exhibit(ENVELOPE, entry_of("record", ENVELOPE, 2).encode()),
    delegation=Exhibit(GRANT, entry_of("delegation", GRANT, 1).encode()),
    nonce=b"\0" * 16,
)
TRUST = f"# ours\nnode n {VKEY.encode()}\nrevoked {'a' * 64} 5\nquorum none\n".encode()
ANSWERS = [
    b'{"choices":[{"index":0,"message":{"content":"a","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]},'
    b'"finish_reason":"stop"}],"model":"m"}',
    b'{"type":"message","content":[{"type":"text","text":"a"},{"type":"tool_use","id":"c","name":"f","input":{"a":1.5}}],'
    b'"stop_reason":"end_turn"}',
    b'{"object":"response","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}',
    b'{"object":"list","data":[{"index":0,"embedding":[0.5,-1]}]}',
    b'{"message":{"content":"a"},"done":false}\n{"done":true,"done_reason":"stop"}\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n: headrace-record e30=\n\ndata: [DONE]\n\n',
    b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
    b'data: {"type":"content_block_delta","index":0,"delta":{"text":"a"}}\n\n',
    b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
]
REQUEST = Request(id="", model="m", messages=(Message(Role.USER, (TextPart("hi"),)),), answer_start="x")


def _reading(read: Callable[[bytes], Any]) -> Check:
    def check(data: bytes) -> bool:
        try:
            read(data)
        except HeadraceError as error:
            assert 400 <= error.status < 500 and 0 < len(error.message) < 4_000, repr(error)
            return False
        return True

    return check


def _bundle(data: bytes) -> None:
    report = verify(read_bundle(data), Shown(body_digest=b"\0" * 32, requests=(b"{}",)), TRUSTED)
    assert not report.is_refused or data != BUNDLE.encode()


def _statement(data: bytes) -> None:
    read_statement(dsse.read(data).payload)
    trace("rec_1", {"rec_1": data}.get)


def _answer(data: bytes) -> None:
    read_answer(data).shown()


TARGETS = [
    Target("record-bundle", [BUNDLE.encode()], _reading(_bundle), share=0.3),
    Target("record-envelope", [ENVELOPE], _reading(_statement), share=0.5),
    Target("record-statement", [encode_statement(FACTS)], _reading(read_statement)),
    Target("trust-file", [TRUST], _reading(read_trusted)),
    Target("saved-answer", ANSWERS, _reading(_answer)),
    Target("request-form", [request_form.encode(REQUEST)], _reading(request_form.read)),
    Target(
        "request-forms", [b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'], _reading(request_forms), 0.2
    ),
]
