"""A tier up when an answer is not good enough: what is refused, what is charged, what the caller sees."""

from dataclasses import replace

import pytest
from tests.doubles_gateway import USAGE, Bench, ScriptedUpstream, ask, bench, candidate, in_loop, shape

from headrace.core.errors import InvalidRequest, UpstreamFault
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from headrace.core.gateway import Ask, EventReply, RawReply
from headrace.core.request import FormatKind, Message, Request, ResponseFormat, Role, TextPart, Tool
from headrace.gateway.contract import Plan, UpstreamReply
from headrace.gateway.settings import CandidateSettings, Escalation, Policy, RouteSettings, Target
from headrace.gateway.verifiers import objection


def says(text: str, reason: FinishReason = FinishReason.STOP, logprob: float | None = None) -> tuple[Event, ...]:
    logprobs = () if logprob is None else (TokenLogprob(text, text.encode(), logprob),)
    return (
        Started("r", "m", 100),
        TextDelta(0, text, 10, logprobs),
        ChoiceFinished(0, reason),
        Finished(USAGE),
    )


def tiered(*scripts: object, verifiers: tuple[str, ...] = ("json",), **about: object) -> Bench:
    names = "abc"[: len(scripts)]
    plan = Plan(
        route="smart", candidates=tuple(candidate(name, tier=tier) for tier, name in enumerate(names)), reason="easy"
    )
    route = RouteSettings(
        name="smart",
        candidates=tuple(CandidateSettings(target=Target(name, "m"), tier=tier) for tier, name in enumerate(names)),
        policies=(Policy.COMPLEXITY,),
        escalation=Escalation(verifiers=verifiers),
    )
    upstreams = {name: ScriptedUpstream(script) for name, script in zip(names, scripts, strict=True)}  # type: ignore[arg-type]
    return bench(upstreams, plan=plan, route=route, **about)  # type: ignore[arg-type]


async def heard(at: Bench, asked: Ask | None = None) -> tuple[list[Event], EventReply]:
    reply = await at.gate.ask(asked or ask())
    assert isinstance(reply, EventReply)
    return [event async for event in reply.events], reply


@in_loop
async def test_an_answer_that_nobody_objects_to_is_told_whole_and_its_tier_alone_is_asked() -> None:
    at = tiered(says("{}"), says("{}"))
    events, reply = await heard(at)
    assert tuple(events) == says("{}")
    assert not at.upstreams["b"].requests
    assert (reply.taken.backend, at.book.records[0].cost_nanos) == ("a", 200_000)
    assert at.book.reserved[0].bound.nanos == 10_000_000
    assert at.is_quiet


@in_loop
async def test_a_refused_answer_is_not_seen_but_charged_and_the_last_tiers_is_told_whatever_it_is() -> None:
    at = tiered(says("not json"), says("not json either"))
    events, reply = await heard(at)
    assert tuple(events) == says("not json either")
    (record,) = at.book.records
    assert (record.backend, record.cost_nanos, record.num_attempts) == ("b", 400_000, 2)
    assert (record.prompt_tokens, record.completion_tokens) == (200, 20)
    assert "a tier up from 0 (json)" in reply.taken.reason
    assert at.is_quiet


@in_loop
async def test_a_tier_that_fails_halfway_is_charged_and_nobody_sees_it() -> None:
    at = tiered([*says("{")[:2], UpstreamFault("broke")], says("{}"))
    events, _ = await heard(at)
    assert tuple(events) == says("{}")
    (record,) = at.book.records
    assert (record.outcome, record.is_estimated, record.prompt_tokens) == ("ok", True, 200)
    assert at.is_quiet


@in_loop
async def test_a_callers_own_mistake_goes_up_no_tier() -> None:
    at = tiered([InvalidRequest("no")], says("{}"))
    with pytest.raises(InvalidRequest):
        await heard(at)
    assert not at.upstreams["b"].requests
    assert at.is_quiet


@in_loop
async def test_log_probabilities_are_asked_for_where_they_are_needed_and_not_told_unasked() -> None:
    at = tiered(says("sure", logprob=-0.1), says("other"), verifiers=("min_logprob:-0.5",))
    events, _ = await heard(at)
    assert at.upstreams["a"].requests[0].logprobs == 0
    assert tuple(events) == says("sure")

    at = tiered(says("unsure", logprob=-2.0), says("other"), verifiers=("min_logprob:-0.5",))
    events, _ = await heard(at)
    assert tuple(events) == says("other")
    assert at.upstreams["b"].requests[0].logprobs is None


@in_loop
async def test_there_is_no_tier_up_where_a_budget_has_room_for_one_answer_only() -> None:
    at = tiered(says("not json"), says("{}"), left_nanos=9_000_000)
    reply = await at.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    assert tuple([event async for event in reply.events]) == says("not json")
    assert "no tier up, which the budget has no room for" in reply.taken.reason


@in_loop
async def test_a_body_that_cannot_be_decoded_passes_unread() -> None:
    whole = UpstreamReply(status=200, headers=(), body=b"not json", usage=USAGE)
    at = tiered([whole], says("{}"))
    reply = await at.gate.ask(ask(shape(is_stream=False), error=InvalidRequest("a field that is not ours")))
    assert isinstance(reply, RawReply)
    assert (reply.body, reply.taken.num_attempts) == (b"not json", 1)
    assert at.is_quiet


@in_loop
async def test_a_reader_that_leaves_a_buffered_answer_pays_for_all_of_it() -> None:
    at = tiered(says("{}"), says("{}"))
    reply = await at.gate.ask(ask())
    assert isinstance(reply, EventReply)
    await reply.events.aclose()
    (record,) = at.book.records
    assert (record.outcome, record.cost_nanos) == ("cancelled", 200_000)
    assert at.is_quiet


REQUEST = Request(id="r", model="m", messages=(Message(Role.USER, (TextPart("hi"),)),))
FORM = ResponseFormat(FormatKind.JSON_SCHEMA, schema={"type": "object", "required": ["a"]})
TOOL = Tool("f", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})


def calls(arguments: str) -> tuple[Event, ...]:
    return (
        Started("r", "m", 1),
        ToolCallDelta(0, 0, arguments, 1, "call", "f"),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        Finished(USAGE),
    )


@pytest.mark.parametrize(
    ("name", "request_", "events", "is_refused"),
    [
        ("json", REQUEST, says('{"a": 1}'), False),
        ("json", REQUEST, says("a"), True),
        ("json", REQUEST, calls('{"n": 1}'), False),
        ("json", REQUEST, calls('{"n": 1'), True),
        ("schema", replace(REQUEST, response_format=FORM), says('{"a": 1}'), False),
        ("schema", replace(REQUEST, response_format=FORM), says('{"b": 1}'), True),
        ("schema", replace(REQUEST, response_format=FORM), says("a"), True),
        ("schema", REQUEST, says("anything"), False),
        ("schema", replace(REQUEST, tools=(TOOL,)), calls('{"n": 1}'), False),
        ("schema", replace(REQUEST, tools=(TOOL,)), calls('{"n": "1"}'), True),
        ("finished", REQUEST, says("a"), False),
        ("finished", REQUEST, says("a", FinishReason.LENGTH), True),
        ("finished", REQUEST, says("a", FinishReason.FILTERED), True),
        ("min_logprob:-1", REQUEST, says("a", logprob=-0.5), False),
        ("min_logprob:-1", REQUEST, says("a", logprob=-1.5), True),
        ("min_logprob:-1", REQUEST, says("a"), False),
    ],
)
def test_a_verifier_says_no_to(name: str, request_: Request, events: tuple[Event, ...], is_refused: bool) -> None:
    assert objection((name,), request_, events) == (name if is_refused else "")


def test_all_choices_must_pass() -> None:
    second = (TextDelta(1, "no", 1), ChoiceFinished(1, FinishReason.STOP))
    assert objection(("finished", "json"), REQUEST, (*says("{}"), *second)) == "json"
