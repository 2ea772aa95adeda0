"""What requests are charged: what was told, or bounds of it where nothing was."""

import asyncio
from dataclasses import replace

import pytest
from tests.doubles_gateway import (
    ANSWER,
    WHOLE,
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

from headrace.core.events import Finished, Started, Usage
from headrace.core.gateway import EventReply, RawStream
from headrace.core.request import Message, Request, Role, Task, TextPart
from headrace.gateway.contract import UpstreamReply


@in_loop
async def test_what_cached_tokens_spared_is_told() -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=0, cached_tokens=100)
    at = bench({"a": ScriptedUpstream([UpstreamReply(status=200, headers=(), body=b"{}", usage=usage)])})
    await at.gate.ask(ask(shape(is_stream=False)))
    (record,) = at.book.records
    assert (record.cached_tokens, record.cost_nanos, record.saved_nanos) == (100, 10_000, 90_000)


@in_loop
async def test_a_stream_closed_halfway_is_charged_its_bounds_and_never_more_than_was_reserved() -> None:
    of = shape()
    at = bench({"a": ScriptedUpstream([b"x" * 20, b"two"])})
    reply = await at.gate.ask(ask(of))
    assert isinstance(reply, RawStream)
    await anext(reply.chunks)
    await reply.chunks.aclose()
    (record,) = at.book.records
    assert (record.prompt_tokens, record.completion_tokens) == (of.prompt_bound, 20)
    assert (record.cost_nanos, record.is_estimated) == (of.prompt_bound * 1000 + 20 * 10_000, True)

    at = bench({"a": ScriptedUpstream([b"x" * 5000, b"two"])})
    reply = await at.gate.ask(ask(of))
    assert isinstance(reply, RawStream)
    await anext(reply.chunks)
    await reply.chunks.aclose()
    (record,) = at.book.records
    assert record.prompt_tokens + record.completion_tokens == 1000
    assert record.cost_nanos == 5_000_000
    assert at.is_quiet


@in_loop
async def test_events_closed_halfway_are_charged_what_was_told_of_the_prompt_and_bytes_of_the_answer() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER)})
    reply = await at.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    await anext(reply.events)
    await anext(reply.events)
    await reply.events.aclose()
    (record,) = at.book.records
    assert (record.prompt_tokens, record.completion_tokens, record.is_estimated) == (100, len("hello"), True)
    assert at.is_quiet


@in_loop
async def test_the_embedded_engine_counts_its_tokens_so_that_nothing_of_it_is_estimated() -> None:
    backends = {"local": backend("local")}
    at = bench({"local": ScriptedUpstream(ANSWER, takes=frozenset())}, backends=backends)
    reply = await at.gate.ask(ask())
    assert isinstance(reply, EventReply)
    await anext(reply.events)
    await anext(reply.events)
    await reply.events.aclose()
    (record,) = at.book.records
    assert (record.prompt_tokens, record.completion_tokens, record.is_estimated) == (100, 3, False)


@in_loop
async def test_an_answer_whose_backend_told_no_usage_is_charged_its_bounds() -> None:
    at = bench({"a": ScriptedUpstream([b"x" * 20], usage=None)})
    reply = await at.gate.ask(ask())
    assert isinstance(reply, RawStream)
    assert [chunk async for chunk in reply.chunks] == [b"x" * 20]
    (record,) = at.book.records
    assert (record.outcome, record.completion_tokens, record.is_estimated) == ("ok", 20, True)


@in_loop
async def test_counts_that_contradict_each_other_are_as_good_as_none() -> None:
    usage = Usage(prompt_tokens=5, completion_tokens=1, cached_tokens=50)
    at = bench({"a": ScriptedUpstream([UpstreamReply(status=200, headers=(), body=b"{}", usage=usage)])})
    await at.gate.ask(ask(shape(is_stream=False)))
    (record,) = at.book.records
    assert (record.outcome, record.is_estimated, record.completion_tokens) == ("ok", True, 2)


@in_loop
async def test_a_whole_answer_that_nobody_waited_for_is_charged_all_that_it_may_have_become() -> None:
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, WHOLE])})
    task = asyncio.create_task(at.gate.ask(ask(shape(is_stream=False))))
    await wait.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = at.book.records
    assert (record.prompt_tokens + record.completion_tokens, record.cost_nanos) == (1000, 5_000_000)


@in_loop
async def test_counts_that_a_reader_had_to_estimate_are_charged_as_bounds_and_never_above_the_reservation() -> None:
    guess = Finished(Usage(prompt_tokens=10_000_000, completion_tokens=10_000_000, is_estimated=True))
    at = bench({"a": ScriptedUpstream((*ANSWER[:-1], guess))})
    reply = await at.gate.ask(ask(raw=None))
    assert (await read(reply))[-1] == guess
    (record,) = at.book.records
    assert record.is_estimated
    assert record.prompt_tokens + record.completion_tokens <= candidate("a").bound.tokens
    assert at.is_quiet


@in_loop
async def test_who_counts_tokens_pays_nothing_and_a_remote_backend_is_not_asked_what_it_would_meet() -> None:
    at = bench({"a": ScriptedUpstream((Started("r", "m", 9), Finished(Usage(9, 0))))})
    request = Request(id="r", model="smart", task=Task.COUNT, messages=(Message(Role.USER, (TextPart("x" * 400),)),))
    assert [event async for event in at.gate.run(request)]
    (record,) = at.book.records
    assert (record.task, record.outcome, record.cost_nanos, record.prompt_tokens) == ("count", "ok", 0, 0)
    probe = await at.gate.probe(request)
    assert 100 <= probe.prompt_tokens < 200
    assert probe.fits
    long = replace(request, messages=(Message(Role.USER, (TextPart("x" * 4 * 200_000),)),))
    assert not (await at.gate.probe(long)).fits
    assert len(at.upstreams["a"].requests) == 1
