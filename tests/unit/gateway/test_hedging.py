"""Two targets asked for one answer, raced by hand: who wins, what the loser costs, and that nothing of it stays."""

import asyncio
from dataclasses import replace

import pytest
from tests.doubles_gateway import (
    ANSWER,
    USAGE,
    Bench,
    HandSleep,
    ScriptedUpstream,
    Wait,
    ask,
    backend,
    bench,
    candidate,
    in_loop,
    shape,
)

from headrace.core.errors import InvalidRequest, UpstreamFault
from headrace.core.gateway import EventReply, RawReply, RawStream, Reply
from headrace.gateway.contract import Plan, UpstreamReply
from headrace.gateway.settings import CandidateSettings, RetrySettings, RouteSettings, Target

WHOLE = UpstreamReply(status=200, headers=(), body=b"{}", usage=USAGE)
ROUTE = RouteSettings(
    name="smart",
    candidates=tuple(CandidateSettings(target=Target(name, "m")) for name in "ab"),
    retry=RetrySettings(max_attempts=2),
)


def hedged(first: ScriptedUpstream, second: ScriptedUpstream, **about: object) -> tuple[Bench, HandSleep]:
    sleep = HandSleep()
    plan = Plan(route="smart", candidates=(candidate("a"), candidate("b")), hedge_after_s=0.5)
    return bench({"a": first, "b": second}, plan=plan, route=ROUTE, sleep=sleep, **about), sleep  # type: ignore[arg-type]


def start(at: Bench, *, is_stream: bool = True, is_raw: bool = True) -> "asyncio.Task[Reply]":
    of = shape(is_stream=is_stream)
    return asyncio.create_task(at.gate.ask(ask(of) if is_raw else ask(of, raw=None)))


@in_loop
async def test_nobody_else_is_asked_while_the_first_answers_in_time() -> None:
    at, sleep = hedged(ScriptedUpstream([WHOLE]), ScriptedUpstream([WHOLE]))
    assert isinstance(await start(at, is_stream=False), RawReply)
    assert sleep.asked == [0.5]
    assert not at.upstreams["b"].relayed
    assert at.book.reserved[0].bound.nanos == 10_000_000
    assert at.is_quiet


@in_loop
async def test_the_second_is_asked_after_a_while_and_wins_if_it_speaks_first() -> None:
    never = Wait()
    at, sleep = hedged(ScriptedUpstream([never]), ScriptedUpstream([b"one"]))
    task = start(at)
    await never.reached.wait()
    await sleep.end_next()
    reply = await task
    assert isinstance(reply, RawStream)
    assert (reply.taken.backend, reply.taken.num_attempts) == ("b", 2)
    assert at.book.ended[0] == (None, None, True)  # the first was let go of
    assert [chunk async for chunk in reply.chunks] == [b"one"]
    (record,) = at.book.records
    assert record.backend == "b"
    # What was told for the second, and the prompt's bound for the first.
    assert record.prompt_tokens == 100 + at.book.reserved[0].shape.prompt_bound
    assert record.is_estimated
    assert at.is_quiet


@in_loop
async def test_the_first_wins_if_it_speaks_before_the_second_does() -> None:
    late, never = Wait(), Wait()
    at, sleep = hedged(ScriptedUpstream([late, *ANSWER]), ScriptedUpstream([never]))
    task = start(at, is_raw=False)
    await late.reached.wait()
    await sleep.end_next()
    await never.reached.wait()
    late.go.set()
    reply = await task
    assert isinstance(reply, EventReply)
    assert reply.taken.backend == "a"
    assert tuple([event async for event in reply.events]) == ANSWER
    assert at.is_quiet


@in_loop
async def test_a_second_that_fails_leaves_the_answer_to_the_first() -> None:
    late = Wait()
    at, sleep = hedged(ScriptedUpstream([late, WHOLE]), ScriptedUpstream([UpstreamFault("down")]))
    task = start(at, is_stream=False)
    await late.reached.wait()
    await sleep.end_next()
    for _ in range(5):
        await asyncio.sleep(0)
    assert 1 in at.book.ended
    late.go.set()
    reply = await task
    assert isinstance(reply, RawReply)
    assert (reply.taken.backend, at.book.records[0].cost_nanos) == ("a", 200_000)
    assert at.is_quiet


@in_loop
async def test_a_first_that_fails_before_the_hedge_is_retried_as_ever() -> None:
    at, _ = hedged(ScriptedUpstream([UpstreamFault("down")]), ScriptedUpstream([WHOLE]))
    reply = await start(at, is_stream=False)
    assert isinstance(reply, RawReply)
    assert (reply.taken.backend, reply.taken.num_attempts) == ("b", 2)
    assert at.is_quiet


@in_loop
async def test_both_failing_is_the_first_ones_error_unless_more_attempts_are_left() -> None:
    late = Wait()
    at, sleep = hedged(ScriptedUpstream([late, UpstreamFault("down")]), ScriptedUpstream([InvalidRequest("no")]))
    task = start(at)
    await late.reached.wait()
    await sleep.end_next()
    late.go.set()
    with pytest.raises(InvalidRequest):
        await task
    assert at.book.records[0].num_attempts == 2
    assert at.is_quiet


@in_loop
async def test_a_caller_that_goes_ends_both() -> None:
    one, other = Wait(), Wait()
    at, sleep = hedged(ScriptedUpstream([one]), ScriptedUpstream([other]))
    task = start(at, is_raw=False)
    await one.reached.wait()
    await sleep.end_next()
    await other.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [ended[2] for ended in at.book.ended.values()] == [True, True]
    assert at.is_quiet


@in_loop
async def test_there_is_no_hedge_where_a_budget_has_room_for_one_answer_only() -> None:
    at, sleep = hedged(ScriptedUpstream([WHOLE]), ScriptedUpstream([WHOLE]), left_nanos=9_000_000)
    reply = await start(at, is_stream=False)
    assert isinstance(reply, RawReply)
    assert not sleep.asked
    assert "no hedge, which the budget has no room for" in reply.taken.reason
    assert at.book.reserved[0].bound.nanos == 5_000_000


@in_loop
async def test_a_hedge_waits_for_no_place_of_a_backend_that_is_full() -> None:
    backends = {"a": backend("a"), "b": backend("b", max_concurrency=1)}
    late = Wait()
    at, sleep = hedged(ScriptedUpstream([late, WHOLE]), ScriptedUpstream([WHOLE]), backends=backends)
    assert at.gate.parts.admission.line("b").take()
    task = start(at, is_stream=False)
    await late.reached.wait()
    await sleep.end_next()
    await asyncio.sleep(0)
    late.go.set()
    reply = await task
    assert isinstance(reply, RawReply)
    assert reply.taken.num_attempts == 1
    at.gate.parts.admission.line("b").leave()
    assert at.is_quiet


@pytest.mark.parametrize("about", [{"is_fallback": True}, {"tier": 1}])
@in_loop
async def test_a_hedge_asks_neither_a_fallback_nor_a_dearer_tier(about: dict[str, object]) -> None:
    late = Wait()
    sleep = HandSleep()
    candidates = (candidate("a"), candidate("b", **about), candidate("c", **about))
    plan = Plan(route="smart", candidates=(*candidates[:1], candidate("a"), *candidates[1:]), hedge_after_s=0.5)
    upstreams = {"a": ScriptedUpstream([late, WHOLE]), "b": ScriptedUpstream([WHOLE]), "c": ScriptedUpstream([WHOLE])}
    at = bench(upstreams, plan=plan, route=ROUTE, sleep=sleep)
    task = start(at, is_stream=False)
    await late.reached.wait()
    await sleep.end_next()
    for _ in range(5):
        await asyncio.sleep(0)
    late.go.set()
    reply = await task
    assert isinstance(reply, RawReply)
    assert reply.taken.num_attempts == 1
    assert at.is_quiet


@in_loop
async def test_hedges_stop_at_the_routes_budget_of_retries() -> None:
    late, route = Wait(), replace(ROUTE, retry=RetrySettings(budget_share=0.0, budget_floor=0.0))
    sleep = HandSleep()
    plan = Plan(route="smart", candidates=(candidate("a"), candidate("b")), hedge_after_s=0.5)
    upstreams = {"a": ScriptedUpstream([late, WHOLE]), "b": ScriptedUpstream([WHOLE])}
    at = bench(upstreams, plan=plan, route=route, sleep=sleep)
    task = start(at, is_stream=False)
    await late.reached.wait()
    await sleep.end_next()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not at.upstreams["b"].relayed
    late.go.set()
    assert isinstance(await task, RawReply)
    assert at.is_quiet
