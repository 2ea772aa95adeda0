"""Whatever a backend says in a legal order, the events of a response add up to the response object; what is illegal is
our own error and nothing else."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.api.openai import Caller
from headrace.api.responses import decode_create
from headrace.api.responses_events import ResponseWriter, parse_events
from headrace.api.responses_service import CreateCall, ResponseEvent
from headrace.core.errors import EngineFault
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
from headrace.core.request import Principal

TOOLS = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]
STARTED = Started("resp_1", "m", 5, 2)
TEXTS = st.text('ab "\\\n{}\u00e9\u2764\U0001f600', max_size=6)


def call(**fields: Any) -> CreateCall:
    body = msgspec.json.encode({"model": "m", "input": "x", "tools": TOOLS} | fields)
    return decode_create(body, Caller(request_id="resp_1", principal=Principal()))


def logprob(text: str) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), -1.0)


@st.composite
def runs(draw: st.DrawFn) -> list[Event]:
    """What a backend may say between the beginning and the end: runs of text, of thoughts, and of calls, in any order,
    each in pieces of any size."""
    events: list[Event] = []
    for index, kind in enumerate(draw(st.lists(st.sampled_from("trfg"), max_size=6))):
        pieces = draw(st.lists(TEXTS, max_size=4))
        if kind == "t":
            events += [TextDelta(0, piece, 1, (logprob(piece),)) for piece in pieces]
        elif kind == "r":
            events += [ReasoningDelta(0, piece, 1) for piece in pieces]
        else:
            events.append(ToolCallDelta(0, index, "", 1, f"call_{index}", kind))
            said = "".join(pieces)
            whole = json.dumps({"input": said}) if kind == "g" else said
            cut = draw(st.integers(0, len(whole)))
            events += [ToolCallDelta(0, index, piece, 1) for piece in (whole[:cut], whole[cut:])]
    return events


def written(asked: CreateCall, events: list[Event]) -> list[ResponseEvent]:
    writer = ResponseWriter(asked, 100)
    told = writer.begin()
    for event in events:
        told += writer.take(event, 101)
    assert writer.is_done
    return told


ENDS = st.sampled_from(FinishReason)
SETTINGS = st.sampled_from(
    [
        {},
        {"reasoning": {"summary": "auto"}},
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
    ]
)


@given(runs(), ENDS, SETTINGS)
def test_events_add_up_to_the_response(middle: list[Event], reason: FinishReason, settings: dict[str, Any]) -> None:
    events = [STARTED, *middle, ChoiceFinished(0, reason), Finished(Usage(5, len(middle), 2))]
    told = [json.loads(event.data) for event in written(call(**settings), events)]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    last = told[-1]["response"]
    is_cut = reason in (FinishReason.LENGTH, FinishReason.FILTERED)
    status = "incomplete" if is_cut else "completed"
    assert (told[-1]["type"], last["status"]) == (f"response.{status}", status)
    items: list[dict[str, Any]] = []
    is_open = False
    grown = ""
    for event in told:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert not is_open
            assert event["output_index"] == len(items)
            is_open, grown = True, ""
        elif kind == "response.output_item.done":
            assert is_open
            assert grown == _said(event["item"])
            items.append(event["item"])
            is_open = False
        elif kind.endswith(".delta"):
            assert is_open
            assert event["output_index"] == len(items)
            grown += event["delta"]
    assert items == last["output"]
    assert items, "an answer of no words is still an answer"
    spoken = "".join(event.text for event in middle if isinstance(event, TextDelta))
    assert "".join(_said(item) for item in items if item["type"] == "message") == spoken
    thought = "".join(event.text for event in middle if isinstance(event, ReasoningDelta))
    assert "".join(_said(item) for item in items if item["type"] == "reasoning") == thought


def _said(item: dict[str, Any]) -> str:
    kind = item["type"]
    if kind == "message":
        return "".join(part["text"] for part in item["content"])
    if kind == "reasoning":
        return "".join(part["text"] for part in item.get("content") or item["summary"])
    return str(item["input"] if kind == "custom_tool_call" else item["arguments"])


@given(
    st.lists(
        st.one_of(
            st.just(STARTED),
            st.builds(TextDelta, st.just(0), TEXTS, st.just(1)),
            st.builds(ReasoningDelta, st.just(0), TEXTS, st.just(1)),
            st.builds(
                ToolCallDelta,
                st.just(0),
                st.integers(0, 2),
                TEXTS,
                st.just(1),
                st.sampled_from([None, "call"]),
                st.sampled_from([None, "f", "g", "h"]),
            ),
            st.builds(ChoiceFinished, st.just(0), ENDS),
            st.just(Finished(Usage(1, 1))),
        ),
        max_size=8,
    )
)
def test_any_order_gives_a_response_or_our_own_error(events: list[Event]) -> None:
    writer = ResponseWriter(call(), 100)
    told = writer.begin()
    try:
        for event in events:
            told += writer.take(event, 101)
    except EngineFault as error:
        told += writer.fail(error)
    if not writer.is_done:
        told += writer.halt("steered")
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert [event.is_last for event in told] == [False] * (len(told) - 1) + [True]
    assert [event.data for event in parse_events(b"\n".join(event.data for event in told))] == [
        event.data for event in told
    ]
    kinds = [event.type for event in told]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")


@pytest.mark.parametrize("events", [[Finished(Usage(1, 1))], [STARTED, STARTED], [TextDelta(0, "x", 1)]])
def test_an_illegal_order_is_a_fault_of_the_backend(events: list[Event]) -> None:
    writer = ResponseWriter(call(), 100)
    with pytest.raises(EngineFault, match="the backend sent"):
        for event in events:
            writer.take(event, 101)
