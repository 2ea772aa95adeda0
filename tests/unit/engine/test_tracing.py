"""What an engine tells of its own work in a trace, whichever way that ends; and nothing where nobody traces."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from tests.doubles import ManualClock, TickingClock, ToyModel, ToyProgram

from headrace.core.errors import HeadraceError
from headrace.core.events import Event
from headrace.core.request import Limits, Request, Sampling
from headrace.core.tracing import TRACE, Place, Span
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.observe.traces import Tracing

BOUND_S = 5.0
ASK = Request(
    id="r",
    model="toy",
    prompt="Say something long about mills and the water that drives them.",
    sampling=Sampling(temperature=0.0),
    limits=Limits(max_tokens=4, ignore_eos=True),
)


def traced(
    *requests: Request, ratio: float = 1.0, num_read: int | None = None, captures: bool = False, **program: Any
) -> tuple[list[Span], Place]:
    """Spans of requests that are all asked below one place; each is read to its end, an error, or so many events."""
    spans: list[Span] = []
    numbers = iter(range(1, 1000))
    tracer = Tracing(
        spans.append, sample_ratio=ratio, captures_content=captures, clock=ManualClock(), draw=lambda _: next(numbers)
    )
    place = tracer.begin(None)
    model: Any = ToyModel(program=ToyProgram(**program))
    config = EngineConfig(threads=1, kv_memory_bytes=10**6, speculation="off")
    engine = TextEngine([model], config, clock=TickingClock(), threads=object())

    async def read(events: AsyncGenerator[Event, None]) -> None:
        number = 0
        with contextlib.suppress(HeadraceError):
            async with aclosing(events):
                async for _ in events:
                    number += 1
                    if number == num_read:
                        return

    async def main() -> None:
        TRACE.set(place)
        engine.start()
        try:
            async with asyncio.timeout(BOUND_S):
                for request in requests:
                    await read(engine.run(request))
        finally:
            await engine.close(BOUND_S)

    asyncio.run(main())
    return spans, place


def test_a_whole_answer_is_its_work_and_three_phases_below_its_caller() -> None:
    (whole, queue, prefill, decode), place = traced(ASK)
    assert (whole.name, whole.parent_id) == ("text_completion toy", place.context.span_id)
    assert [one.name for one in (queue, prefill, decode)] == ["engine queue", "engine prefill", "engine decode"]
    assert {one.parent_id for one in (queue, prefill, decode)} == {whole.context.span_id}
    assert {one.context.trace_id for one in (whole, queue, prefill, decode)} == {place.context.trace_id}
    assert whole.start_s <= queue.start_s < queue.end_s == prefill.start_s < prefill.end_s == decode.start_s
    assert decode.start_s < decode.end_s <= whole.end_s
    assert whole.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert whole.attributes["gen_ai.usage.output_tokens"] == decode.attributes["headrace.engine.tokens"] == 4
    assert decode.attributes["headrace.engine.steps"] == 3
    assert not any(name.endswith(".messages") for name in whole.attributes)


def test_what_was_cached_and_said_is_told_where_that_is_asked_for() -> None:
    spans, _ = traced(ASK, ASK, captures=True)
    first, second = (one for one in spans if one.name == "text_completion toy")
    assert "gen_ai.usage.cache_read.input_tokens" not in first.attributes
    assert second.attributes["gen_ai.usage.cache_read.input_tokens"] == 32
    assert "mills" in str(first.attributes["gen_ai.input.messages"])
    assert '"finish_reason":"length"' in str(first.attributes["gen_ai.output.messages"])


def test_a_reader_who_leaves_is_told_as_that_and_as_no_error() -> None:
    whole, *phases = traced(replace(ASK, limits=Limits(max_tokens=200, ignore_eos=True)), num_read=2)[0]
    assert (whole.attributes["error.type"], whole.error) == ("cancelled", "")
    assert [one.name for one in phases][:2] == ["engine queue", "engine prefill"]


@pytest.mark.parametrize(
    ("request_", "failures", "code", "phases"),
    [
        (ASK, 1, "engine_fault", ["engine queue", "engine prefill"]),
        (replace(ASK, model="nobody"), 0, "model_not_found", []),
    ],
)
def test_a_failure_is_told_by_its_code(request_: Request, failures: int, code: str, phases: list[str]) -> None:
    whole, *others = traced(request_, failures=failures)[0]
    assert whole.error == whole.attributes["error.type"] == code
    assert [one.name for one in others] == phases


def test_a_caller_that_is_not_sampled_costs_no_spans() -> None:
    assert traced(ASK, ratio=0.0)[0] == []
