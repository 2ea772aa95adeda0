"""The recorder behind a gate: what it writes of answers that are whole, cut off, failed, passed and given again."""

import asyncio
import hashlib
import json
import logging
from dataclasses import replace

import pytest
from tests.doubles_gateway import (
    ANSWER,
    FAULT,
    Bench,
    HandSleep,
    ScriptedUpstream,
    Shelf,
    Wait,
    ask,
    bench,
    candidate,
    in_loop,
    read,
    shape,
)
from tests.doubles_oversight import ScriptedOverseer
from tests.doubles_records import desk

from headrace.core.errors import Forbidden, HeadraceError, Unavailable
from headrace.core.events import ChoiceFinished, Finished, FinishReason, Started, ToolCallDelta, Usage
from headrace.core.gateway import EventReply, RawReply, RawStream
from headrace.core.request import Principal, Request, Sampling
from headrace.core.trust import Confidentiality, Decision, Effect, Integrity, Label, ToolUse, Verdict
from headrace.gateway.contract import Plan
from headrace.gateway.oversight.recorder import Recording
from headrace.gateway.settings import ENGINE, Target
from headrace.trust.records import request_form
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.commitment import commit, derived_nonce
from headrace.trust.records.settings import RecordMode
from headrace.trust.records.verification import Level, Shown, verify

DIGESTS = {"model": "sha256:" + "a" * 64, "adapter": "sha256:" + "b" * 64, "quantisation": "Q4_1"}


def form(*events: object) -> AnswerForm:
    found = AnswerForm()
    for event in events:
        found.hear(event)  # type: ignore[arg-type]
    return found


@in_loop
async def test_an_answer_in_events_is_recorded_whole_and_verifies() -> None:
    at = desk()
    begun = replace(ANSWER[0], digests=DIGESTS)
    gate = bench({"a": ScriptedUpstream((begun, *ANSWER[1:]))}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert await read(reply)
    assert isinstance(reply, EventReply) and reply.taken.receipt is not None
    assert [item.kind for item in at.log.items] == ["delegation", "record"]
    statement = at.statement()
    assert statement.record_id == reply.taken.receipt.id
    assert statement.response_id == "r"
    assert statement.digests == {name: value for name, value in DIGESTS.items() if name != "quantisation"}
    assert statement.internal["engine"] == {"headrace": "0.1.0", "quantisation": "Q4_1"}
    assert statement.internal["outcome"] == {
        "state": "whole",
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "cached_tokens": 0,
    }
    assert statement.internal["way"]["backend"] == "a"
    assert statement.internal["evidence"] is None
    asked = request_form.encode(ask(raw=None).decode())
    report = verify(at.bundle(), Shown(answer=form(*ANSWER).encode(), requests=(asked,)), at.trusted())
    assert not report.is_refused and report.level is Level.LOGGED, report.clauses


@in_loop
async def test_an_answer_that_passes_as_bytes_is_recorded_by_its_bytes_and_its_body() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream((b"data: 1\n\n", b"data: 2\n\n"))}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask())
    assert isinstance(reply, RawStream)
    sent = b"".join([piece async for piece in reply.chunks])
    statement = at.statement()
    assert statement.subjects == {"body": hashlib.sha256(sent).digest()}
    assert statement.external["request"]["form"] == "body"
    body = request_form.encode_body("chat", {"model": b'"smart"'})
    shown = Shown(body_digest=hashlib.sha256(sent).digest(), requests=(body,))
    assert not verify(at.bundle(), shown, at.trusted()).is_refused


@in_loop
async def test_an_answer_that_its_reader_leaves_is_recorded_as_cut_off() -> None:
    at, wait = desk(), Wait()
    gate = bench({"a": ScriptedUpstream((*ANSWER[:2], wait, *ANSWER[2:]))}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    await anext(reply.events)
    await anext(reply.events)
    await reply.events.aclose()
    statement = at.statement()
    assert statement.internal["outcome"]["state"] == "cancelled"
    assert statement.internal["outcome"]["is_truncated"] is True
    report = verify(at.bundle(), Shown(answer=form(*ANSWER[:2]).encode()), at.trusted())
    assert not report.is_refused


@in_loop
async def test_an_answer_that_fails_halfway_says_by_what() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream((*ANSWER[:2], FAULT))}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    with pytest.raises(HeadraceError):
        await read(reply)
    assert at.statement().internal["outcome"] == {
        "state": "failed",
        "error": FAULT.code,
        "is_truncated": True,
        "cached_tokens": 0,
        "prompt_tokens": 100,
        "completion_tokens": at.statement().internal["outcome"]["completion_tokens"],
    }


@in_loop
async def test_what_is_refused_before_anything_runs_is_recorded_with_who_refused_it() -> None:
    at = desk()
    refuses = ScriptedOverseer(refuses=frozenset({"a"}), reads_answers=False)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(refuses, at.recorder))
    with pytest.raises(Forbidden):
        await gate.gate.ask(ask(raw=None))
    statement = at.statement()
    assert statement.internal["outcome"]["error"] == "policy_denied"
    assert "is_truncated" not in statement.internal["outcome"]
    assert list(statement.subjects) == ["answer"]


@in_loop
async def test_what_others_said_of_the_request_stands_in_its_record() -> None:
    at = desk()
    decision = Decision(action="request", resource="smart", is_allowed=True, policies=("p1",))

    class Judge(ScriptedOverseer):
        def begin(self, case):  # type: ignore[no-untyped-def]
            case.decisions.append(decision)
            case.verdicts.append(Verdict(monitor="hijack", version="1", score=0.25, is_shadow=True))
            case.label = Label(Integrity.TOOL, Confidentiality.SECRET, frozenset({"tool:web", "user"}))
            case.tools.append(
                ToolUse(
                    call_id="c1",
                    name="send",
                    manifest="sha256:" + "c" * 64,
                    arguments='{"to":"x"}',
                    effect=Effect.EGRESS,
                    decision=replace(decision, action="tool", is_allowed=False),
                )
            )
            return super().begin(case)

    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(Judge(reads_answers=False), at.recorder))
    await read(await gate.gate.ask(ask(raw=None)))
    internal = at.statement().internal
    assert internal["decisions"][0]["policies"] == ["p1"]
    assert internal["verdicts"] == [
        {"monitor": "hijack", "version": "1", "score": 0.25, "action": "note", "is_shadow": True}
    ]
    assert internal["label"] == {"integrity": "tool", "confidentiality": "secret", "sources": ["tool:web", "user"]}
    tool = internal["tools"][0]
    assert tool["decision"]["is_allowed"] is False and tool["effect"] == "egress"
    nonce = at.bundle().nonce
    form_of_arguments = b'"{\\"to\\":\\"x\\"}"'
    assert tool["arguments"] == "sha256:" + commit(derived_nonce(nonce, "tool:0"), form_of_arguments).hex()
    assert {
        "name": "tool",
        "digest": {"sha256": "c" * 64},
        "annotations": {"tool": "send"},
    } in at.statement().dependencies


@in_loop
async def test_an_answer_that_is_given_again_names_the_record_of_the_first() -> None:
    at, shelf = desk(), Shelf(source="first")
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,), cache=shelf)
    await read(await gate.gate.ask(ask(shape("first"), raw=None)))
    first = at.records[0]
    await read(await gate.gate.ask(ask(shape("second"), raw=None)))
    (source,) = at.statement(1).sources
    assert (source.relation, source.record_id) == ("cache", first.id)
    assert source.digest == hashlib.sha256(first.envelope).digest()
    assert at.statement(1).internal["way"]["cache"] == "exact"


@in_loop
async def test_a_request_of_the_engine_that_has_no_seed_gets_one_and_keeps_it() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    taken = (await gate.gate.ask(ask(raw=None))).taken
    recording = taken.receipt
    assert isinstance(recording, Recording)
    request = ask(raw=None).decode()
    asked = recording.prepare(request, Target(ENGINE, "m"))
    assert asked.sampling.seed is not None and 0 <= asked.sampling.seed < 2**53
    assert recording.prepare(request, Target(ENGINE, "m")).sampling.seed == asked.sampling.seed
    own = replace(request, sampling=Sampling(seed=5))
    assert recording.prepare(own, Target(ENGINE, "m")) is own
    assert recording.prepare(request, Target("a", "m")) is request


@in_loop
async def test_of_several_targets_the_one_that_answered_says_how_the_request_was_asked() -> None:
    at = desk(keeps_content=True)

    def name(request: Request, target: Target) -> Request:
        return replace(request, answer_start=f"for {target.backend}")

    sleep, slow = HandSleep(), Wait()
    gate = bench(
        {"a": ScriptedUpstream([slow, *ANSWER]), "b": ScriptedUpstream([Wait()])},
        plan=Plan(route="smart", candidates=(candidate("a"), candidate("b")), hedge_after_s=0.1),
        sleep=sleep,
        overseers=(ScriptedOverseer(on_prepare=name), at.recorder),
    )
    asking = asyncio.create_task(gate.gate.ask(ask()))
    await sleep.end_next()
    for _ in range(20):
        await asyncio.sleep(0)
    assert gate.upstreams["b"].requests, "the hedge was asked last"
    slow.go.set()
    await read(await asking)
    assert b"for a" in at.log.items[-1].content
    assert b"for b" not in at.log.items[-1].content
    assert gate.is_quiet


@in_loop
async def test_a_record_names_nobody_as_they_are_called_and_tells_one_tenants_people_apart() -> None:
    at = desk()
    who = Principal(tenant="t", key="laptop", user="ann@example.com", subject="key:laptop", workload="spiffe://x/y")
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    for principal in (who, who, replace(who, tenant="other")):
        await read(await gate.gate.ask(ask(shape(principal=principal), raw=None)))
    one, again, elsewhere = (at.statement(index).internal["principal"] for index in range(3))
    assert one == again
    assert one["user"] != elsewhere["user"] and one["key"] != one["user"]
    assert one["workload"] == "spiffe://x/y"
    for record in at.records:
        text = record.envelope + record.entry
        assert b"ann" not in text and b"laptop" not in text


@in_loop
async def test_names_are_told_where_the_operator_wants_them() -> None:
    at = desk(keeps_names=True)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    await read(await gate.gate.ask(ask(raw=None)))
    assert at.statement().internal["principal"]["key"] == "k"


@in_loop
async def test_content_is_kept_only_where_that_is_wanted() -> None:
    quiet, keeping = desk(), desk(keeps_content=True)
    for at in (quiet, keeping):
        gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
        await read(await gate.gate.ask(ask(raw=None)))
    assert quiet.records[0].content == b""
    content = json.loads(keeping.records[0].content)
    assert content["answer"]["choices"][0]["text"] == "hello world"
    assert content["request"]["messages"] == [{"role": "user", "text": "hi"}]


@in_loop
async def test_a_record_that_nobody_takes_is_counted_and_the_answer_goes_out(caplog: pytest.LogCaptureFixture) -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    at.log.refusal = Unavailable("the queue is full")
    with caplog.at_level(logging.WARNING):
        assert tuple(await read(await gate.gate.ask(ask(raw=None)))) == ANSWER
    assert at.recorder.counts.num_lost == 1 and at.recorder.counts.num_sealed == 0
    assert "the queue is full" in caplog.text
    assert gate.is_quiet


@in_loop
async def test_where_records_are_enforced_nothing_runs_that_could_not_be_recorded() -> None:
    at = desk(mode=RecordMode.ENFORCE)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    at.log.refusal = Unavailable("the disk is full")
    with pytest.raises(Unavailable, match="the disk is full"):
        await gate.gate.ask(ask(raw=None))
    assert not gate.book.begun
    at.log.refusal = None
    at.clock.now_s += 2 * 86_400  # and no key is vouched for any more
    with pytest.raises(Unavailable, match="vouched for"):
        await gate.gate.ask(ask(raw=None))
    at.keys.renew()
    await read(await gate.gate.ask(ask(raw=None)))
    assert len(at.records) == 1


@in_loop
async def test_a_receipt_is_sealed_once_and_not_before_the_end_is_known() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    reply.taken.is_claimed = True
    receipt = reply.taken.receipt
    assert receipt is not None
    digest = hashlib.sha256(b"sent").digest()
    assert receipt.seal(digest) is None and not at.records
    await read(reply)
    assert at.statement().subjects["body"] == digest
    assert receipt.seal(digest) is None and len(at.records) == 1


@in_loop
async def test_a_receipt_that_is_claimed_waits_for_the_bytes() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    reply.taken.is_claimed = True
    await read(reply)
    assert not at.records
    assert reply.taken.receipt is not None
    envelope = reply.taken.receipt.seal(b"\1" * 32)
    assert envelope == at.records[0].envelope


@in_loop
async def test_tool_calls_that_nobody_decides_about_are_told_with_the_tools_own_declaration() -> None:
    at = desk()
    events = (
        Started("r", "m", 5),
        ToolCallDelta(0, 0, '{"a":1}', 1, "call_1", "unheard_of"),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        Finished(Usage(5, 1)),
    )
    gate = bench({"a": ScriptedUpstream(events)}, overseers=(at.recorder,))
    await read(await gate.gate.ask(ask(raw=None)))
    (tool,) = at.statement().internal["tools"]
    assert (tool["name"], tool["effect"], "decision" in tool) == ("unheard_of", "egress", False)


@in_loop
async def test_the_next_key_signs_behind_its_own_delegation_and_old_records_still_verify() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    await read(await gate.gate.ask(ask(raw=None)))
    at.clock.now_s += 50_000
    at.keys.renew()
    await read(await gate.gate.ask(ask(raw=None)))
    assert [item.kind for item in at.log.items] == ["delegation", "record"] * 2
    for index in range(2):
        report = verify(at.bundle(index), Shown(answer=form(*ANSWER).encode()), at.trusted())
        assert report.level is Level.LOGGED, report.clauses
    assert at.bundle(0).delegation != at.bundle(1).delegation


@in_loop
async def test_a_name_with_half_a_surrogate_pair_does_not_end_a_record() -> None:
    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    await read(await gate.gate.ask(ask(shape(model="sm\ud800"), raw=None)))
    assert at.recorder.counts.num_sealed == 1
    assert at.statement().external["model"] == "sm\\ud800"


def test_counting_tokens_is_no_answer() -> None:
    assert asyncio.run(_count()) is None


async def _count() -> object:
    from headrace.core.request import Task

    at = desk()
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(shape(task=Task.COUNT), raw=None))
    await read(reply)
    assert isinstance(reply, EventReply) and not isinstance(reply, RawReply)
    return reply.taken.receipt


@in_loop
async def test_two_requests_of_one_name_at_once_have_two_records() -> None:
    at, wait = desk(), Wait()
    gate = bench({"a": ScriptedUpstream((*ANSWER[:2], wait, *ANSWER[2:]), ANSWER)}, overseers=(at.recorder,))
    first = asyncio.create_task(_whole(gate))
    await wait.reached.wait()
    second = await _whole(gate)
    wait.go.set()
    assert await first != second
    assert len({item.id for item in at.records}) == 2
    assert [at.statement(index).internal["sequence"] for index in range(2)] == [1, 2]


async def _whole(gate: Bench) -> str:
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply) and reply.taken.receipt is not None
    await read(reply)
    return reply.taken.receipt.id


@in_loop
async def test_a_tool_call_of_a_megabyte_is_recorded_as_it_is() -> None:
    at, arguments = desk(), "[" * 500_000 + "]" * 500_000
    events = (Started("r", "m", 5), ToolCallDelta(0, 0, arguments, 1, "c", "f"), *ANSWER[-2:])
    gate = bench({"a": ScriptedUpstream(events)}, overseers=(at.recorder,))
    await read(await gate.gate.ask(ask(raw=None)))
    report = verify(at.bundle(), Shown(answer=form(*events).encode()), at.trusted())
    assert not report.is_refused
    assert len(at.records[0].envelope) < 10_000
