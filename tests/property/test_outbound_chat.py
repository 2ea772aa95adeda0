"""What our own server writes, a reader of ours reads back; what nobody would write is a fault of the backend."""

import json
from typing import Any

from fuzz.outbound_codec import CHAT_STREAMS, check_stream
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.api.openai_answers import CHAT, COMPLETION, AnswerHead
from headrace.api.openai_stream import StreamWriter
from headrace.api.outbound.chat import CHAT as CODEC
from headrace.api.outbound.frames import FrameParser
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.gateway import RawBody
from headrace.core.request import Message, Request, Role, Sampling, TextPart

NUM_CHOICES = 3
ASKED = Request(
    id="chatcmpl-1",
    model="route",
    messages=(Message(Role.USER, (TextPart("Hi"),)),),
    sampling=Sampling(num_choices=NUM_CHOICES),
    logprobs=2,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
TOKENS = st.lists(
    st.builds(
        lambda data, logprob, top: TokenLogprob(
            data.decode("utf-8", "replace"),
            data,
            logprob,
            tuple((one.decode("utf-8", "replace"), one, value) for one, value in top),
        ),
        st.binary(max_size=3),
        st.floats(-50, 0),
        st.lists(st.tuples(st.binary(max_size=3), st.floats(-50, 0)), max_size=2),
    ),
    max_size=2,
).map(tuple)
PIECES = st.lists(
    st.tuples(
        st.integers(0, NUM_CHOICES - 1), st.sampled_from(["text", "reasoning", "call", "more"]), TEXTS, TOKENS
    ),
    max_size=25,
)  # fmt: skip
REASONS = st.sampled_from([FinishReason.STOP, FinishReason.LENGTH, FinishReason.FILTERED])


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cached, written, other = (draw(st.integers(0, 99)) for _ in range(3))
    completion = draw(st.integers(1, 99))
    return Usage(
        cached + written + other,
        completion,
        cached,
        draw(st.integers(0, cached)),
        ((1800.0, written),) if written else (),
        draw(st.integers(0, completion)),
    )


@st.composite
def answers(draw: st.DrawFn, *, has_calls: bool = True) -> list[Event]:
    """Any answer that a backend may give: every choice says something, in any order, and ends."""
    events: list[Event] = [Started("id", "target", 0)]
    calls = [0] * NUM_CHOICES
    for choice, kind, text, tokens in draw(PIECES):
        if kind == "text" or not has_calls:
            events.append(TextDelta(choice, text, 1, tokens))
        elif kind == "reasoning":
            events.append(ReasoningDelta(choice, text, 1))
        elif kind == "call":
            events.append(ToolCallDelta(choice, calls[choice], text, 1, f"call_{len(events)}", f"f{len(events)}"))
            calls[choice] += 1
        elif calls[choice]:
            events.append(ToolCallDelta(choice, draw(st.integers(0, calls[choice] - 1)), text, 1))
    for choice in range(NUM_CHOICES):
        reason = FinishReason.TOOL_CALLS if calls[choice] else draw(REASONS)
        events.append(ChoiceFinished(choice, reason))
    return [*events, Finished(draw(usages()))]


def said(events: list[Event], *, has_alternatives: bool = True) -> list[Any]:
    """What of events arrives at the other side: no counts of tokens by the piece, no pieces that say nothing."""
    kept: list[Any] = []
    for event in events:
        if isinstance(event, TextDelta):
            if event.text or event.logprobs:
                tokens = event.logprobs if has_alternatives else [one.token_bytes for one in event.logprobs]
                kept.append(("text", event.choice, event.text, tokens))
        elif isinstance(event, ReasoningDelta):
            if event.text:
                kept.append(("reasoning", event.choice, event.text))
        elif isinstance(event, ToolCallDelta):
            if event.arguments or event.name:
                kept.append(("call", event.choice, event.index, event.arguments, event.id, event.name))
        elif isinstance(event, Started):
            kept.append("started")
        else:
            kept.append(event)
    return kept


def read_back(sent: bytes, step: int, request: Request) -> list[Event]:
    reader, parser = CODEC.reader(request, "target"), FrameParser()
    found: list[Event] = []
    for start in range(0, len(sent), step):
        for name, data in parser.feed(sent[start : start + step]):
            found += reader.feed(name, data)
    found += reader.end()
    assert reader.is_done
    return found


@given(answers(), st.integers(1, 300))
@settings(deadline=None)
def test_a_reader_reads_back_whatever_our_server_writes(events: list[Event], step: int) -> None:
    writer = StreamWriter(AnswerHead(CHAT, "x", 5, NUM_CHOICES, include_usage=True, logprobs=2))
    assert said(read_back(writer.encode(events), step, ASKED)) == said(events)


@given(answers(has_calls=False), st.integers(1, 300))
@settings(deadline=None)
def test_a_reader_reads_back_completions(events: list[Event], step: int) -> None:
    writer = StreamWriter(AnswerHead(COMPLETION, "x", 5, NUM_CHOICES, include_usage=True, logprobs=2))
    request = Request(id="cmpl-1", model="route", prompt="Hi", sampling=Sampling(num_choices=NUM_CHOICES), logprobs=2)
    found = read_back(writer.encode(events), step, request)
    assert said(found, has_alternatives=False) == said(events, has_alternatives=False)


@given(answers(), st.integers(1, 300), st.booleans())
@settings(deadline=None)
def test_a_scanner_passes_on_what_was_sent_and_finds_the_usage(events: list[Event], step: int, asked: bool) -> None:
    sent = StreamWriter(AnswerHead(CHAT, "x", 5, NUM_CHOICES, include_usage=True)).encode(events)
    options = {"stream_options": b'{"include_usage": true}'} if asked else {}
    scanner = CODEC.scanner(RawBody(dialect="chat", path="", fields={"stream": b"true", **options}))
    passed = b"".join(scanner.feed(sent[start : start + step]) for start in range(0, len(sent), step))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert scanner.usage == finished.usage
    assert scanner.is_done and scanner.can_end
    frames = sent.split(b"\n\n")[:-1]
    kept = [one for one in frames if asked or b'"choices":[],' not in one]
    assert passed == b"".join(one + b"\n\n" for one in kept)
    assert len(frames) - len(kept) == (0 if asked else 1)
    texts = sum(len(json.dumps(getattr(one, "text", "") or getattr(one, "arguments", ""))) - 2 for one in events)
    assert scanner.num_output_bytes >= min(texts, 1)


@given(st.sampled_from(CHAT_STREAMS), st.integers(0, 600), st.integers(0, 30), st.binary(max_size=12))
@settings(max_examples=300, deadline=None)
def test_a_damaged_stream_is_read_or_is_a_fault_of_the_backend(
    seed: bytes, start: int, length: int, patch: bytes
) -> None:
    check_stream(CODEC, seed[:start] + patch + seed[start + length :])
