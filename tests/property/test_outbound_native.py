"""What our own writer says in Anthropic's protocol, our reader hears as it was; bytes that pass through stay as they
are; and whatever a backend sends, only its own faults and refusals come of it."""

import itertools
import json
from dataclasses import replace
from typing import Any

from anthropic.types import RawMessageStreamEvent
from fuzz.native_backends import GEMINI_STREAMS, MESSAGES_STREAMS, TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from headrace.api.anthropic import Call
from headrace.api.anthropic_answers import StreamWriter
from headrace.api.outbound.frames import FrameParser
from headrace.api.outbound.messages import MESSAGES
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.gateway import RawBody
from headrace.core.request import Message, Request, Role, TextPart

FRAME: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
REQUEST = Request(id="msg_1", model="m", messages=(Message(Role.USER, (TextPart("Hi"),)),))
RAW = RawBody(dialect="messages", path="/v1/messages", fields={})

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
OBJECTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), min_size=1, max_size=3)
COUNTS = st.integers(0, 10**9)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cached, uncached, short, long = (draw(COUNTS) for _ in range(4))
    output = draw(COUNTS)
    writes = tuple((ttl_s, tokens) for ttl_s, tokens in ((300.0, short), (3600.0, long)) if tokens)
    return Usage(
        cached + uncached + short + long,
        output,
        cached,
        cache_writes=writes,
        reasoning_tokens=draw(st.integers(0, output)),
    )


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """An answer in any legal order, with calls that come in pieces."""
    usage = draw(usages())
    events: list[Event] = [
        Started("msg_1", "m", usage.prompt_tokens, usage.cached_tokens, cache_writes=usage.cache_writes)
    ]
    num_calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "call"]), max_size=6)):
        if kind == "text":
            events += [TextDelta(0, text, 0) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))]
        elif kind == "thinking":
            events += [ReasoningDelta(0, text, 0) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))]
        else:
            arguments = json.dumps(draw(OBJECTS))
            cuts = sorted(draw(st.lists(st.integers(1, len(arguments)), max_size=2, unique=True)))
            events.append(ToolCallDelta(0, num_calls, "", 0, f"toolu_{num_calls}", f"tool_{num_calls}"))
            places = [0, *cuts, len(arguments)]
            events += [
                ToolCallDelta(0, num_calls, arguments[a:b], 0) for a, b in itertools.pairwise(places) if arguments[a:b]
            ]
            num_calls += 1
    reason = draw(st.sampled_from(FinishReason))
    match = draw(st.none() | TEXTS) if reason is FinishReason.STOP else None
    return [*events, ChoiceFinished(0, reason, match), Finished(usage)]


def written(events: list[Event]) -> bytes:
    return StreamWriter(Call(REQUEST), lambda _: None).encode(events)


@given(answers(), st.integers(1, 200))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_our_writer_says_our_reader_hears(events: list[Event], size: int) -> None:
    data = written(events)
    parser, reader, heard = FrameParser(), MESSAGES.reader(REQUEST, "m"), []
    for start in range(0, len(data), size):
        for name, told in parser.feed(data[start : start + size]):
            FRAME.validate_json(told)
            heard += reader.feed(name, told)
    heard += reader.end()
    assert heard == [as_told(event, has_calls=b'"tool_use"' in data) for event in events]


def as_told(event: Event, *, has_calls: bool) -> Event:
    """An event as a reader of a stream can know it: a delta is taken for a token, and who calls ends for that."""
    if isinstance(event, ChoiceFinished) and event.reason is FinishReason.STOP and has_calls:
        return replace(event, reason=FinishReason.TOOL_CALLS)
    return replace(event, num_tokens=1) if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta) else event


@given(answers(), st.integers(1, 200))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_what_passes_through_is_what_came_and_its_usage_is_that_of_the_answer(events: list[Event], size: int) -> None:
    data = written(events)
    scanner = MESSAGES.scanner(RAW)
    assert b"".join(scanner.feed(data[start : start + size]) for start in range(0, len(data), size)) == data
    last = events[-1]
    assert isinstance(last, Finished)
    assert scanner.usage == last.usage
    assert scanner.is_done
    said = sum(
        len((event.arguments if isinstance(event, ToolCallDelta) else event.text).encode())
        for event in events
        if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta)
    )
    assert scanner.num_output_bytes >= said, "what was said is no longer than what bounds it"


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_the_backends_fault(data: bytes) -> None:
    for target in TARGETS:
        target.check(data)


@given(
    st.sampled_from([*MESSAGES_STREAMS, *GEMINI_STREAMS]),
    st.integers(0, 1500),
    st.integers(0, 30),
    st.binary(max_size=12),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_answers_are_an_answer_or_the_backends_fault(
    seed: bytes, start: int, length: int, patch: bytes
) -> None:
    for target in TARGETS:
        target.check(seed[:start] + patch + seed[start + length :])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["type", "message", "index", "content_block", "delta", "usage", "error"]
FIELDS += ["candidates", "usageMetadata", "promptFeedback", "embeddings", "totalTokens", "input_tokens"]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_fields_of_any_type_are_an_answer_or_the_backends_fault(fields: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(fields).encode() + b"\n\n"
    for target in TARGETS:
        target.check(data)
