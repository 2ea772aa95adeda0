"""Answers that are given again and copies to a shadow: what they cost and whom, and that they are in nobody's way."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.doubles_gateway import (
    ANSWER,
    USAGE,
    Bench,
    ScriptedUpstream,
    Shelf,
    Wait,
    ask,
    backend,
    bench,
    candidate,
    in_loop,
    shape,
)

from headrace.core.errors import InvalidRequest, UpstreamFault
from headrace.core.gateway import EventReply, RawReply
from headrace.gateway.contract import Bound, Plan, UpstreamReply
from headrace.gateway.settings import CacheSettings, Target
from headrace.gateway.shadow import MAX_COPIES

WHOLE = UpstreamReply(status=200, headers=(), body=b"{}", usage=USAGE)


@in_loop
async def test_an_answer_that_may_be_kept_comes_in_events_and_is_given_again_for_nothing() -> None:
    shelf = Shelf()
    at = bench({"a": ScriptedUpstream(ANSWER)}, cache=shelf)
    for _ in range(2):
        reply = await at.gate.ask(ask())
        assert isinstance(reply, EventReply)
        assert tuple([event async for event in reply.events]) == ANSWER
    assert shelf.by == [Target("a", "m")]
    first, second = at.book.records
    assert (first.cache, first.cost_nanos, first.num_attempts) == ("", 200_000, 1)
    assert (second.cache, second.cost_nanos, second.num_attempts) == ("exact", 0, 0)
    assert (second.backend, second.saved_nanos, second.prompt_tokens) == ("a", 200_000, 0)
    assert len(at.upstreams["a"].requests) == 1
    assert at.is_quiet


@pytest.mark.parametrize("num_read", [0, 2, 100])
@in_loop
async def test_a_kept_answer_costs_the_share_that_the_settings_say_of_what_was_heard(num_read: int) -> None:
    settings = CacheSettings(is_on=True, price_share=0.5)
    at = bench({"a": ScriptedUpstream(ANSWER)}, cache=Shelf(ANSWER), cache_settings=settings)
    reply = await at.gate.ask(ask())
    assert isinstance(reply, EventReply)
    for _ in range(num_read):
        try:
            await anext(reply.events)
        except StopAsyncIteration:
            break
    await reply.events.aclose()
    (record,) = at.book.records
    if num_read == 100:
        assert (record.outcome, record.cost_nanos, record.saved_nanos) == ("ok", 100_000, 100_000)
        assert (record.prompt_tokens, record.completion_tokens) == (50, 5)
    else:
        assert record.outcome == "cancelled"
        assert 0 < record.cost_nanos <= at.book.reserved[0].bound.nanos
    assert at.is_quiet


@in_loop
async def test_a_body_that_cannot_be_decoded_passes_as_it_is_and_is_not_kept() -> None:
    shelf = Shelf()
    at = bench({"a": ScriptedUpstream([WHOLE])}, cache=shelf)
    reply = await at.gate.ask(ask(shape(is_stream=False), error=InvalidRequest("not ours")))
    assert isinstance(reply, RawReply)
    assert shelf.kept is None
    assert at.is_quiet


def shadowed(*scripts: object, **about: object) -> Bench:
    plan = Plan(route="smart", candidates=(candidate("a"),), shadow=candidate("s", nanos=7))
    upstreams = {"a": ScriptedUpstream([WHOLE]), "s": ScriptedUpstream(*scripts)}  # type: ignore[arg-type]
    return bench(upstreams, plan=plan, **about)  # type: ignore[arg-type]


async def settle_down(at: Bench) -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("script", [[WHOLE], [b"one", b"two"], ANSWER])
@in_loop
async def test_a_copy_goes_to_the_shadow_after_the_answer_and_is_charged_to_nobody_who_asked(
    script: Sequence[object],
) -> None:
    at = shadowed(script)
    reply = await at.gate.ask(ask(shape(is_stream=False)))
    assert isinstance(reply, RawReply)
    assert not at.upstreams["s"].relayed
    await settle_down(at)
    assert len(at.upstreams["s"].relayed) == 1
    own, copy = at.book.records
    assert (own.tenant, own.cost_nanos, own.tags) == ("t", 200_000, ())
    assert (copy.request_id, copy.tenant, copy.key, copy.tags) == ("r.shadow", "shadow", None, ("shadow",))
    assert (copy.route, copy.backend, copy.outcome) == ("shadow:smart", "s", "ok")
    assert at.book.reserved[1].bound == Bound(1000, 7)
    assert at.is_quiet


@in_loop
async def test_a_shadow_that_fails_is_seen_by_its_record_and_its_breaker_alone() -> None:
    at = shadowed([UpstreamFault("down")])
    assert isinstance(await at.gate.ask(ask(shape(is_stream=False))), RawReply)
    await settle_down(at)
    assert [record.outcome for record in at.book.records] == ["ok", "upstream_fault"]
    assert at.gate.parts.standings.breakers("s")["m"].num_failed == 1
    assert at.is_quiet


@in_loop
async def test_a_copy_is_dropped_where_there_is_no_room_or_no_budget() -> None:
    backends = {"a": backend("a"), "s": backend("s", max_concurrency=1)}
    at = shadowed([WHOLE], backends=backends)
    assert at.gate.parts.admission.line("s").take()
    await at.gate.ask(ask(shape(is_stream=False)))
    await settle_down(at)
    assert (len(at.book.records), at.gate.shadows.num_dropped) == (1, 1)

    at = shadowed([WHOLE], max_in_flight=3)
    at.gate.parts.admission.enter(0)
    at.gate.parts.admission.enter(0)
    await at.gate.ask(ask(shape(is_stream=False)))  # two of three places are taken while it ends
    await settle_down(at)
    assert (len(at.book.records), at.gate.shadows.num_dropped) == (1, 1)

    plan = Plan(route="smart", candidates=(candidate("a", nanos=5),), shadow=candidate("s", nanos=7))
    at = bench({"a": ScriptedUpstream([WHOLE]), "s": ScriptedUpstream([WHOLE])}, plan=plan, left_nanos=6)
    await at.gate.ask(ask(shape(is_stream=False)))
    await settle_down(at)
    assert not at.upstreams["s"].relayed
    assert at.is_quiet


@in_loop
async def test_copies_are_bounded_and_end_with_the_gate() -> None:
    wait = Wait()
    at = shadowed([wait, WHOLE], max_in_flight=1000)
    for number in range(MAX_COPIES + 3):
        await at.gate.ask(ask(shape(f"r{number}", is_stream=False)))
        await settle_down(at)
    assert (at.gate.shadows.num_running, at.gate.shadows.num_dropped) == (MAX_COPIES, 3)
    await at.gate.close()
    assert at.is_quiet
