"""The gate: one way for bytes and events, each request settled once, and what it is charged."""

import asyncio
from dataclasses import replace

import pytest
from tests.doubles_gateway import (
    ANSWER,
    FAULT,
    WHOLE,
    Plans,
    ScriptedUpstream,
    Wait,
    ask,
    backend,
    bench,
    candidate,
    in_loop,
    read,
    shape,
)

from headrace.core.errors import (
    BudgetExceeded,
    ContextTooLong,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    Unavailable,
    UnsupportedField,
    UpstreamFault,
)
from headrace.core.events import Finished, Started
from headrace.core.gateway import WATCH, EventReply, RawReply, RawStream, Taken
from headrace.core.request import Limits, Message, Request, Role, TextPart
from headrace.gateway.contract import Bound, Plan
from headrace.gateway.gate import MAX_BUDGETS
from headrace.gateway.settings import CandidateSettings, Escalation, RetrySettings, RouteSettings, Target


@in_loop
async def test_a_whole_answer_passes_as_bytes_and_is_settled_when_it_is_here() -> None:
    at = bench({"a": ScriptedUpstream([WHOLE])})
    reply = await at.gate.ask(ask(shape(is_stream=False)))
    assert isinstance(reply, RawReply)
    assert (reply.status, reply.headers, reply.body) == (200, WHOLE.headers, WHOLE.body)
    (record,) = at.book.records
    assert (record.outcome, record.backend, record.model, record.num_attempts) == ("ok", "a", "m", 1)
    assert (record.prompt_tokens, record.completion_tokens, record.cost_nanos) == (100, 10, 200_000)
    assert (record.tenant, record.key, record.asked_model, record.route) == ("t", "k", "smart", "smart")
    assert reply.taken.cost_nanos == 200_000
    assert at.is_quiet


@in_loop
async def test_a_stream_passes_as_bytes_and_is_settled_by_its_usage_at_its_end() -> None:
    at = bench({"a": ScriptedUpstream([b"one", b"two"])})
    reply = await at.gate.ask(ask())
    assert isinstance(reply, RawStream)
    assert not at.book.records
    assert [chunk async for chunk in reply.chunks] == [b"one", b"two"]
    await reply.chunks.aclose()
    (record,) = at.book.records
    assert (record.outcome, record.cost_nanos, record.is_estimated) == ("ok", 200_000, False)
    assert at.is_quiet


@in_loop
async def test_events_are_the_backends_own_and_settled_before_the_last_is_told() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER)})
    reply = await at.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    async for event in reply.events:
        if isinstance(event, Finished):
            assert at.book.records[0].outcome == "ok"
            assert reply.taken.cost_nanos == 200_000
    await reply.events.aclose()
    assert at.is_quiet


@in_loop
async def test_a_neutral_request_is_governed_in_the_same_way_and_each_run_is_accounted_for_by_itself() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER)})
    request = Request(id="resp_1", model="smart", messages=(Message(Role.USER, (TextPart("hi"),)),))
    for _ in range(2):
        assert tuple([event async for event in at.gate.run(request)]) == ANSWER
    first, second = at.book.records
    assert first.request_id != second.request_id
    assert first.request_id.startswith("resp_1.")
    assert at.upstreams["a"].requests[0].model == "m"
    assert at.is_quiet


@in_loop
async def test_a_stream_that_nobody_reads_is_settled_and_closed_all_the_same() -> None:
    at = bench({"a": ScriptedUpstream([b"one", b"two"])})
    reply = await at.gate.ask(ask())
    assert isinstance(reply, RawStream)
    await reply.chunks.aclose()
    assert at.book.records[0].outcome == "cancelled"
    assert at.is_quiet


@in_loop
async def test_an_error_before_anything_came_charges_nothing_and_goes_to_the_next_candidate() -> None:
    at = bench({"a": ScriptedUpstream([FAULT]), "b": ScriptedUpstream([WHOLE])})
    reply = await at.gate.ask(ask(shape(is_stream=False)))
    assert isinstance(reply, RawReply)
    assert (reply.taken.backend, reply.taken.num_attempts) == ("b", 2)
    (record,) = at.book.records
    assert (record.backend, record.cost_nanos, record.num_attempts) == ("b", 200_000, 2)
    assert at.is_quiet


@in_loop
async def test_an_error_of_every_candidate_is_the_answer_and_is_recorded_at_no_cost() -> None:
    at = bench({"a": ScriptedUpstream([FAULT]), "b": ScriptedUpstream([FAULT])})
    with pytest.raises(UpstreamFault):
        await at.gate.ask(ask())
    (record,) = at.book.records
    assert (record.outcome, record.cost_nanos, record.num_attempts) == ("upstream_fault", 0, 3)
    assert at.is_quiet


@in_loop
async def test_an_error_after_the_first_event_is_the_answers_end_and_is_charged() -> None:
    at = bench({"a": ScriptedUpstream([*ANSWER[:2], FAULT]), "b": ScriptedUpstream(ANSWER)})
    reply = await at.gate.ask(ask(raw=None))
    with pytest.raises(UpstreamFault):
        await read(reply)
    (record,) = at.book.records
    assert (record.outcome, record.backend, record.prompt_tokens) == ("upstream_fault", "a", 100)
    assert not at.upstreams["b"].requests
    assert at.is_quiet


@in_loop
async def test_a_callers_own_mistake_is_never_asked_twice() -> None:
    at = bench({"a": ScriptedUpstream([InvalidRequest("no")]), "b": ScriptedUpstream([WHOLE])})
    with pytest.raises(InvalidRequest):
        await at.gate.ask(ask())
    assert not at.upstreams["b"].relayed
    assert at.is_quiet


@in_loop
async def test_a_field_that_one_backends_protocol_lacks_is_left_to_another() -> None:
    at = bench({"a": ScriptedUpstream([UnsupportedField("no top_k")]), "b": ScriptedUpstream(ANSWER)})
    assert tuple(await read(await at.gate.ask(ask(raw=None)))) == ANSWER
    assert at.is_quiet


@in_loop
async def test_a_body_that_cannot_be_decoded_goes_only_to_backends_that_take_it_as_it_is() -> None:
    odd = InvalidRequest("a field that is not ours")
    at = bench({"a": ScriptedUpstream(ANSWER, takes=frozenset()), "b": ScriptedUpstream([WHOLE])})
    reply = await at.gate.ask(ask(shape(is_stream=False), error=odd))
    assert isinstance(reply, RawReply)
    assert reply.taken.num_attempts == 1

    at = bench({"a": ScriptedUpstream(ANSWER, takes=frozenset())})
    with pytest.raises(InvalidRequest, match="not ours"):
        await at.gate.ask(ask(error=odd))
    assert at.book.records[0].outcome == "invalid_value"
    assert at.is_quiet


@in_loop
async def test_the_bound_of_the_answer_goes_to_the_backend_in_either_form() -> None:
    plan = Plan(route="smart", candidates=(candidate("a", max_tokens=64),))
    at = bench({"a": ScriptedUpstream([WHOLE], ANSWER)}, plan=plan)
    await at.gate.ask(ask(shape(is_stream=False)))
    assert at.upstreams["a"].relayed[0][2] == 64
    await read(await at.gate.ask(ask(raw=None)))
    assert at.upstreams["a"].requests[0].limits == Limits(max_tokens=64, fits_context=True)
    for asked, sent in ((10, 10), (100, 64)):
        request = Request(
            id="r", model="smart", messages=(Message(Role.USER, (TextPart("hi"),)),), limits=Limits(max_tokens=asked)
        )
        assert [event async for event in at.gate.run(request)]
        assert at.upstreams["a"].requests[-1].limits == Limits(max_tokens=sent)


@in_loop
async def test_what_does_not_fit_a_budget_is_reserved_for_cheaper_candidates_and_the_reason_says_so() -> None:
    plan = Plan(route="smart", candidates=(candidate("a", nanos=9), candidate("b", nanos=5), candidate("c", nanos=9)))
    upstreams = {name: ScriptedUpstream([WHOLE]) for name in "abc"}
    at = bench(upstreams, plan=plan, left_nanos=6)
    reply = await at.gate.ask(ask(shape(is_stream=False)))
    assert isinstance(reply, RawReply)
    assert reply.taken.backend == "b"
    assert "without a/m, c/m, which the budget has no room for" in reply.taken.reason
    assert at.book.reserved[0].bound == Bound(1000, 5)

    at = bench(upstreams, plan=plan, left_nanos=4)
    with pytest.raises(BudgetExceeded):
        await at.gate.ask(ask())
    assert not at.book.records
    assert at.is_quiet


@in_loop
async def test_a_request_that_cannot_be_planned_leaves_nothing() -> None:
    at = bench({"a": ScriptedUpstream()}, plan=NotFound("no such model"))
    with pytest.raises(NotFound):
        await at.gate.ask(ask())
    assert at.is_quiet


@in_loop
async def test_a_caller_cancelled_while_a_backend_is_silent_is_settled_and_the_backend_let_go() -> None:
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, *ANSWER])})
    task = asyncio.create_task(at.gate.ask(ask(raw=None)))
    await wait.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = at.book.records
    assert (record.outcome, record.completion_tokens, record.is_estimated) == ("cancelled", 0, True)
    assert at.book.ended[0] == (None, None, True)
    assert at.is_quiet


@in_loop
async def test_a_passed_deadline_is_an_error_and_ends_the_work() -> None:
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, *ANSWER])})
    task = asyncio.create_task(at.gate.ask(ask(shape(deadline_s=1e-9), raw=None)))
    with pytest.raises(DeadlineExceeded):
        await task
    assert at.book.records[0].outcome == "deadline_exceeded"
    assert not task.cancelled()
    assert at.is_quiet


@in_loop
async def test_a_deadline_that_passes_while_the_reader_is_away_ends_the_stream_at_its_next_read() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER)})
    reply = await at.gate.ask(ask(shape(deadline_s=1e6), raw=None))
    assert isinstance(reply, EventReply)
    assert isinstance(await anext(reply.events), Started)
    next(iter(at.gate.parts.deadlines._ticks)).expire()
    with pytest.raises(DeadlineExceeded):
        await anext(reply.events)
    assert at.is_quiet


@in_loop
async def test_who_finds_every_place_of_a_backend_taken_waits_and_the_wait_is_told() -> None:
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, WHOLE], [WHOLE])}, backends={"a": backend("a", max_concurrency=1)})
    first = asyncio.create_task(at.gate.ask(ask(shape("1", is_stream=False))))
    await wait.reached.wait()
    second = asyncio.create_task(at.gate.ask(ask(shape("2", is_stream=False))))
    await asyncio.sleep(0)
    at.clock.now_s += 3.0
    wait.go.set()
    for task in (first, second):
        assert isinstance(await task, RawReply)
    assert {record.request_id: record.queue_s for record in at.book.records} == {"1": 0.0, "2": 3.0}
    assert at.is_quiet


@in_loop
async def test_what_no_place_is_left_for_is_refused_before_anything_else() -> None:
    at = bench({"a": ScriptedUpstream([WHOLE])}, max_in_flight=0)
    with pytest.raises(Overloaded) as refused:
        await at.gate.ask(ask())
    assert refused.value.retry_after_s == 1.0
    assert not at.book.reserved


@in_loop
async def test_a_service_that_asks_for_a_caller_is_shown_which_way_it_went() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER)})
    shown: list[Taken] = []
    token = WATCH.set(shown.append)
    try:
        request = Request(id="resp_1", model="smart", messages=(Message(Role.USER, (TextPart("hi"),)),))
        assert [event async for event in at.gate.run(request)]
    finally:
        WATCH.reset(token)
    assert [(taken.backend, taken.cost_nanos) for taken in shown] == [("a", 200_000)]


@in_loop
async def test_other_parts_hold_for_who_comes_while_who_is_under_way_goes_on_with_theirs() -> None:
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, WHOLE])})
    first = asyncio.create_task(at.gate.ask(ask(shape("1", is_stream=False))))
    await wait.reached.wait()
    other = ScriptedUpstream([WHOLE])
    before = at.gate.replace(replace(at.gate.parts, upstreams={"a": other}))
    assert isinstance(await at.gate.ask(ask(shape("2", is_stream=False))), RawReply)
    assert len(other.relayed) == 1
    wait.go.set()
    assert isinstance(await first, RawReply)
    assert before.upstreams is at.upstreams
    assert at.is_quiet


def test_a_name_passes_as_bytes_only_if_all_that_it_leads_to_take_them_and_no_policy_reads_answers() -> None:
    assert bench({"a": ScriptedUpstream(), "b": ScriptedUpstream()}).gate.passes("smart", "chat")
    assert not bench({"a": ScriptedUpstream(), "b": ScriptedUpstream()}).gate.passes("smart", "responses")
    assert not bench({"a": ScriptedUpstream(), "b": ScriptedUpstream(takes=frozenset())}).gate.passes("smart", "chat")
    assert not bench({"a": ScriptedUpstream()}, plan=NotFound("no")).gate.passes("smart", "chat")
    verified = RouteSettings(name="smart", candidates=(), escalation=Escalation(verifiers=("json",)))
    assert not bench({"a": ScriptedUpstream()}, route=verified).gate.passes("smart", "chat")


@in_loop
async def test_a_backend_that_ends_its_events_early_is_a_fault() -> None:
    for script in (ANSWER[:-1], ()):
        at = bench({"a": ScriptedUpstream(script)})
        with pytest.raises(UpstreamFault):
            await read(await at.gate.ask(ask(raw=None)))
        assert at.book.records[0].outcome == "upstream_fault"
        assert at.gate.parts.standings.breakers("a")["m"].num_failed > 0
        assert at.is_quiet


@in_loop
async def test_what_a_backend_says_after_its_last_event_is_too_late_to_matter() -> None:
    at = bench({"a": ScriptedUpstream([*ANSWER, UpstreamFault("late")])})
    assert tuple(await read(await at.gate.ask(ask(raw=None)))) == ANSWER
    assert at.book.records[0].outcome == "ok"
    assert at.is_quiet


@in_loop
async def test_times_are_told_apart_the_gates_own_the_queues_and_the_first_event() -> None:
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, *ANSWER])})
    task = asyncio.create_task(at.gate.ask(ask(raw=None)))
    await wait.reached.wait()
    at.clock.now_s += 2.0
    wait.go.set()
    reply = await task
    assert isinstance(reply, EventReply)
    assert reply.taken.overhead_s == 0.0
    await anext(reply.events)
    at.clock.now_s += 1.0
    await read(reply)
    (record,) = at.book.records
    assert (record.overhead_s, record.ttft_s, record.duration_s) == (0.0, 3.0, 3.0)
    assert record.started_s == 1_700_000_000.0 + 1000.0


@in_loop
async def test_the_error_that_is_told_is_of_who_was_asked_and_not_of_who_could_not_be() -> None:
    at = bench({"a": ScriptedUpstream([FAULT]), "b": ScriptedUpstream([WHOLE])})
    at.gate.parts.standings.drain("b")
    with pytest.raises(UpstreamFault):
        await at.gate.ask(ask())
    at.gate.parts.standings.drain("a")
    with pytest.raises(Unavailable, match="draining"):
        await at.gate.ask(ask())
    assert at.is_quiet


@pytest.mark.parametrize("is_named", [False, True])
@in_loop
async def test_what_is_too_long_for_one_model_goes_to_another_if_the_route_says_so(is_named: bool) -> None:
    on = frozenset({"context_length_exceeded", "invalid_value"}) if is_named else RetrySettings().on
    candidates = tuple(CandidateSettings(target=Target(name, "m")) for name in "ab")
    route = RouteSettings(name="smart", candidates=candidates, retry=RetrySettings(on=on))
    at = bench({"a": ScriptedUpstream([ContextTooLong("too long")]), "b": ScriptedUpstream([WHOLE])}, route=route)
    if is_named:
        assert isinstance(await at.gate.ask(ask(shape(is_stream=False))), RawReply)
        assert len(at.upstreams["a"].relayed) == 1
    else:
        with pytest.raises(ContextTooLong):
            await at.gate.ask(ask(shape(is_stream=False)))
    at = bench({"a": ScriptedUpstream([InvalidRequest("no")]), "b": ScriptedUpstream([WHOLE])}, route=route)
    with pytest.raises(InvalidRequest):
        await at.gate.ask(ask(shape(is_stream=False)))
    assert at.is_quiet


@in_loop
async def test_each_route_has_a_budget_of_retries_of_its_own_and_names_of_clients_are_bounded() -> None:
    at = bench({"a": ScriptedUpstream([WHOLE])})
    planner = at.gate.parts.planner
    assert isinstance(planner, Plans)
    for number in range(MAX_BUDGETS + 5):
        planner.plan_or_error = Plan(route=f"open/{number}", candidates=(candidate("a"),))
        await at.gate.ask(ask(shape(f"r{number}", is_stream=False)))
    assert 1 < len(at.gate._budgets) <= MAX_BUDGETS


@in_loop
async def test_a_backend_that_asks_for_a_short_wait_is_asked_again_when_it_is_over() -> None:
    at = bench({"a": ScriptedUpstream([RateLimited("slower", retry_after_s=1.5)], [WHOLE])})

    async def sleep(delay_s: float) -> None:
        at.clock.now_s += delay_s

    at.gate.replace(replace(at.gate.parts, sleep=sleep))
    reply = await at.gate.ask(ask(shape(is_stream=False)))
    assert isinstance(reply, RawReply)
    assert reply.taken.num_attempts == 2
    assert reply.taken.overhead_s == 0.0
    assert at.is_quiet


@in_loop
async def test_each_reason_for_the_way_a_request_went_is_told_once() -> None:
    candidates = (candidate("a", reason="least loaded"), candidate("b", reason="fallback"))
    plan = Plan(route="smart", candidates=candidates, reason="least loaded")
    at = bench({"a": ScriptedUpstream([WHOLE], [FAULT]), "b": ScriptedUpstream([WHOLE])}, plan=plan)
    for reason in ("least loaded", "least loaded; fallback"):
        reply = await at.gate.ask(ask(shape(is_stream=False)))
        assert isinstance(reply, RawReply)
        assert reply.taken.reason == reason
