"""Anthropic's messages, whole and streamed: the order of frames, and what no backend may do."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from headrace.api.anthropic import Call
from headrace.api.anthropic_answers import (
    TRANSITIONS,
    AnswerWriter,
    CountWriter,
    State,
    StreamWriter,
    tool_id,
    tool_input,
)
from headrace.core.errors import EngineFault
from headrace.core.events import (
    CacheMiss,
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    MissReason,
    PromptLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.ledger import PriceList, Prices
from headrace.core.request import Limits, Message, Request, Role, TextPart

CALL = Call(Request(id="msg_1", model="m", messages=(Message(Role.USER, (TextPart("Hi"),)),)))
STARTED = Started("msg_1", "m", 100, 64, cache_writes=((3600.0, 16), (300.0, 4)))
USAGE = Usage(100, 7, 64, cache_writes=((3600.0, 16), (300.0, 4)), reasoning_tokens=2)
FINISHED = Finished(USAGE)
STOP = ChoiceFinished(0, FinishReason.STOP)


def stream(events: Iterable[Event], call: Call = CALL) -> list[Any]:
    """The frames of a stream; their names are those of their data."""
    writer = StreamWriter(call, lambda _: None)
    frames = []
    for frame in writer.encode(events).decode().split("\n\n")[:-1]:
        event, data = frame.split("\n")
        frames.append(json.loads(data.removeprefix("data: ")))
        assert event == f"event: {frames[-1]['type']}"
    return frames


def whole(events: Iterable[Event], call: Call = CALL) -> Any:
    writer = AnswerWriter(call, lambda _: None)
    writer.add(events)
    return json.loads(writer.encode())


def outline(frames: list[Any]) -> list[str]:
    """The kinds of frames, with what a block or a delta is."""
    return [
        " ".join(
            str(one)
            for one in (
                frame["type"],
                frame.get("index", ""),
                frame.get("content_block", frame.get("delta", {})).get("type", ""),
            )
            if one != ""
        )
        for frame in frames
    ]


def test_every_kind_of_block_comes_in_turn() -> None:
    events: list[Event] = [
        STARTED,
        ReasoningDelta(0, "so", 1),
        ReasoningDelta(0, " on", 1),
        TextDelta(0, "", 0),
        TextDelta(0, "Hi", 1),
        ToolCallDelta(0, 0, "", 1, "call_a", "f"),
        ToolCallDelta(0, 0, '{"x":', 1),
        ToolCallDelta(0, 0, "1}", 1),
        ToolCallDelta(0, 1, "{}", 1, "call_b", "g"),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        FINISHED,
    ]
    frames = stream(events)
    assert outline(frames) == [
        "message_start",
        "content_block_start 0 thinking",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 thinking_delta",
        "content_block_delta 0 signature_delta",
        "content_block_stop 0",
        "content_block_start 1 text",
        "content_block_delta 1 text_delta",
        "content_block_stop 1",
        "content_block_start 2 tool_use",
        "content_block_delta 2 input_json_delta",
        "content_block_delta 2 input_json_delta",
        "content_block_stop 2",
        "content_block_start 3 tool_use",
        "content_block_delta 3 input_json_delta",
        "content_block_stop 3",
        "message_delta",
        "message_stop",
    ]
    assert frames[9]["content_block"] == {"type": "tool_use", "id": "toolu_a", "name": "f", "input": {}}
    message = whole(events)
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["input"] for block in message["content"][2:]] == [{"x": 1}, {}]
    assert message["content"][0]["signature"] == frames[4]["delta"]["signature"]
    assert message["stop_reason"] == frames[-2]["delta"]["stop_reason"] == "tool_use"


def test_usage_is_told_at_the_start_and_whole_at_the_end() -> None:
    frames = stream([STARTED, TextDelta(0, "Hi", 1), STOP, FINISHED])
    wanted = {
        "input_tokens": 16,
        "cache_read_input_tokens": 64,
        "cache_creation_input_tokens": 20,
        "cache_creation": {"ephemeral_1h_input_tokens": 16, "ephemeral_5m_input_tokens": 4},
    }
    first, last = frames[0]["message"]["usage"], frames[-2]["usage"]
    assert {name: first[name] for name in wanted} == wanted
    assert first["output_tokens"] == 0
    assert {name: last[name] for name in wanted} == wanted
    assert (last["output_tokens"], last["output_tokens_details"]) == (7, {"thinking_tokens": 2})
    assert whole([STARTED, TextDelta(0, "Hi", 1), STOP, FINISHED])["usage"] == last


def test_usage_tells_what_the_answer_costs_where_prices_are_set() -> None:
    call = replace(CALL, prices=PriceList({"m": Prices(input=1.0, output=10.0)}))
    events = [STARTED, TextDelta(0, "Hi", 1), STOP, FINISHED]
    writer = AnswerWriter(call, lambda _: None)
    writer.add(events)
    # 16 computed, 64 read at a tenth, 16 written at twice and 4 at 1.25 times the price; 7 at that of output.
    wanted = (16 + 6.4 + 32 + 5 + 70) / 1e6
    assert json.loads(writer.encode())["usage"]["cost"] == pytest.approx(wanted)
    frames = StreamWriter(call, lambda _: None).encode(events).decode().split("data: ")
    assert json.loads(frames[-2].split("\n")[0])["usage"]["cost"] == pytest.approx(wanted)
    assert "cost" not in whole(events)["usage"]


def test_nothing_is_sent_before_there_is_something_to_say() -> None:
    writer = StreamWriter(CALL, lambda _: None)
    assert writer.encode([STARTED]) == b""
    assert writer.encode([TextDelta(0, "", 1)]) == b""
    assert writer.encode([TextDelta(0, "a", 1)]).startswith(b"event: message_start\n")
    assert not writer.is_done
    assert b"event: message_stop" in writer.encode([STOP, FINISHED])
    assert writer.is_done


def test_an_answer_without_a_word_has_no_block() -> None:
    events = [STARTED, ChoiceFinished(0, FinishReason.LENGTH), FINISHED]
    assert outline(stream(events)) == ["message_start", "message_delta", "message_stop"]
    message = whole(events)
    assert (message["content"], message["stop_reason"]) == ([], "max_tokens")


def test_an_answer_that_the_context_ended_says_so() -> None:
    limits = Limits(max_tokens=8, fits_context=True)
    call = Call(replace(CALL.request, limits=limits))
    for count, reason in ((8, "max_tokens"), (7, "model_context_window_exceeded")):
        events = [STARTED, TextDelta(0, "a", 1), ChoiceFinished(0, FinishReason.LENGTH), Finished(Usage(100, count))]
        assert whole(events, call)["stop_reason"] == stream(events, call)[-2]["delta"]["stop_reason"] == reason


def test_an_answer_that_was_withheld_is_a_refusal() -> None:
    events = [STARTED, TextDelta(0, "a", 1), ChoiceFinished(0, FinishReason.FILTERED), FINISHED]
    assert whole(events)["stop_reason"] == stream(events)[-2]["delta"]["stop_reason"] == "refusal"


def test_a_stop_string_is_named() -> None:
    events = [STARTED, TextDelta(0, "a", 1), ChoiceFinished(0, FinishReason.STOP, "END"), FINISHED]
    for ending in (whole(events), stream(events)[-2]["delta"]):
        assert (ending["stop_reason"], ending["stop_sequence"]) == ("stop_sequence", "END")


def test_hidden_thinking_has_a_signature_alone() -> None:
    call = replace(CALL, hides_thinking=True)
    events = [STARTED, ReasoningDelta(0, "secret", 1), TextDelta(0, "a", 1), STOP, FINISHED]
    frames = stream(events, call)
    assert outline(frames)[1:4] == [
        "content_block_start 0 thinking",
        "content_block_delta 0 signature_delta",
        "content_block_stop 0",
    ]
    assert "secret" not in json.dumps(frames)
    assert whole(events, call)["content"][0]["thinking"] == ""


def test_what_was_left_out_and_missed_is_told_where_it_was_asked_for() -> None:
    call = replace(CALL, left_out=("novelty",), explains_cache=True, lists_edits=True, is_diagnosed=True)
    started = replace(STARTED, cache_miss=CacheMiss(MissReason.EVICTED, 64, 1))
    events = [started, TextDelta(0, "a", 1), STOP, FINISHED]
    frames = stream(events, call)
    message = whole(events, call)
    wanted = {"left_out": ["novelty"], "cache_miss": {"reason": "evicted", "token": 64, "message": 1}}
    assert frames[0]["message"]["headrace"] == message["headrace"] == wanted
    assert frames[-2]["context_management"] == message["context_management"] == {"applied_edits": []}
    assert message["diagnostics"] is None
    plain = whole(events)
    assert not {"headrace", "context_management", "diagnostics"} & set(plain)


@pytest.mark.parametrize(
    "events",
    [
        [TextDelta(0, "a", 1)],
        [STARTED, STARTED],
        [STARTED, FINISHED],
        [STARTED, PromptLogprobs(())],
        [STARTED, TextDelta(1, "a", 1)],
        [STARTED, STOP, TextDelta(0, "a", 1)],
        [STARTED, STOP, STOP],
        [STARTED, STOP, FINISHED, STOP],
        [STARTED, ToolCallDelta(0, 0, "{}", 1)],
        [STARTED, ToolCallDelta(0, 0, "{}", 1, "a", "f"), ToolCallDelta(0, 1, "{}", 1)],
        [
            STARTED,
            ToolCallDelta(0, 0, "{}", 1, "a", "f"),
            ToolCallDelta(0, 1, "{}", 1, "b", "f"),
            ToolCallDelta(0, 0, "{}", 1),
        ],
        [STARTED, ToolCallDelta(0, 0, "{}", 1, "a", "f"), TextDelta(0, "a", 1), ToolCallDelta(0, 0, "{}", 1)],
    ],
)
def test_what_is_out_of_order_is_the_backends_defect(events: list[Event]) -> None:
    with pytest.raises(EngineFault, match="the backend sent"):
        stream(events)
    with pytest.raises(EngineFault, match="the backend sent"):
        whole(events)


def test_every_state_but_the_last_has_a_way_on_and_done_has_none() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.DONE}


def test_an_answer_that_breaks_off_is_no_message() -> None:
    with pytest.raises(EngineFault, match="before the answer was finished"):
        whole([STARTED, TextDelta(0, "a", 1)])
    with pytest.raises(EngineFault, match="before the input was counted"):
        CountWriter(CALL).encode()


def test_a_count_is_one_number() -> None:
    writer = CountWriter(replace(CALL, left_out=("novelty",)))
    writer.add([STARTED])
    assert not writer.is_done
    writer.add([Finished(Usage(100, 0))])
    assert writer.is_done
    assert json.loads(writer.encode()) == {"input_tokens": 100, "headrace": {"left_out": ["novelty"]}}


def test_ids_of_calls_have_anthropics_form() -> None:
    assert tool_id("call_Ab-1_2") == "toolu_Ab-1_2"
    assert tool_id("toolu_7") == "toolu_7"
    assert tool_id("functions.look:0").removeprefix("toolu_").isalnum()
    assert tool_id("functions.look:0") != tool_id("functions.look:1")


def test_arguments_that_are_no_object_are_shown_as_they_are() -> None:
    assert tool_input("") == {}
    assert tool_input('{"a":1}') == {"a": 1}
    assert tool_input('{"a":') == {"INVALID_JSON": '{"a":'}
    assert tool_input("[1]") == {"INVALID_JSON": "[1]"}
