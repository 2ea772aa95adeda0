"""Ollama's codec: what each field means, what is refused and how, and events that no backend may send."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.doubles_http import HandClock

from headrace.api.ollama import LoadCall, OllamaCall, decode_chat, decode_embed, decode_generate
from headrace.api.ollama_answers import StreamWriter, WholeWriter
from headrace.api.openai import Caller
from headrace.core.errors import EngineFault, InvalidRequest, UnsupportedField
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
from headrace.core.request import Effort, Principal

CALLER = Caller(request_id="r1", principal=Principal(), deadline_s=9.0)
STARTED = Started("r1", "m", 5)
STOPPED = ChoiceFinished(0, FinishReason.STOP)
FINISHED = Finished(Usage(5, 2))


def chat(**fields: Any) -> OllamaCall:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    call = decode_chat(json.dumps(body).encode(), CALLER)
    assert isinstance(call, OllamaCall)
    return call


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({}, lambda call: call.stream and call.request.sampling.temperature == 0.8),
        ({"stream": False}, lambda call: not call.stream),
        ({"model": "m:latest"}, lambda call: (call.request.model, call.model) == ("m", "m:latest")),
        ({"options": {"num_predict": -2}}, lambda call: call.request.limits.max_tokens is None),
        ({"options": {"num_predict": 3.0}}, lambda call: call.request.limits.max_tokens == 3),
        ({"options": {"stop": "x"}}, lambda call: call.request.limits.stop == ("x",)),
        ({"options": {"seed": -1}}, lambda call: call.request.sampling.seed is None),
        ({"options": {"top_k": 7.0}}, lambda call: call.request.sampling.top_k == 7),
        ({"options": {"repeat_penalty": 1.2}}, lambda call: call.request.sampling.repetition_penalty == 1.2),
        (
            {"options": {"repeat_penalty": 1.2, "repeat_last_n": 0}},
            lambda call: call.request.sampling.repetition_penalty == 1.0,
        ),
        (
            {"options": {"num_ctx": 9, "num_thread": 2, "use_mmap": True}},
            lambda call: call.request.limits.deadline_s == 9,
        ),
        ({"think": False}, lambda call: call.request.reasoning.effort is Effort.NONE),
        ({"think": "high"}, lambda call: call.request.reasoning.effort is Effort.HIGH),
        ({"keep_alive": "1h30m"}, lambda call: call.keep_alive_s == 5400),
        ({"keep_alive": "300ms"}, lambda call: call.keep_alive_s == 0.3),
        ({"keep_alive": -5}, lambda call: call.keep_alive_s == -1),
        ({"keep_alive": "-1"}, lambda call: call.keep_alive_s == -1),
        ({"keep_alive": 0}, lambda call: call.keep_alive_s == 0),
        ({"logprobs": True}, lambda call: call.request.logprobs == 0),
        ({"logprobs": True, "top_logprobs": 3}, lambda call: call.request.logprobs == 3),
    ],
)
def test_fields_mean_what_ollama_says(fields: dict[str, Any], check: Callable[[OllamaCall], bool]) -> None:
    assert check(chat(**fields))


TOOL = {"role": "tool", "content": "1", "tool_name": "f"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": ""}, "model: must not be empty"),
        ({"model": ":latest"}, "model: must not be empty"),
        ({"modle": "x"}, "modle: is not a field"),
        ({"messages": "Hi"}, "messages: "),
        ({"messages": [{"role": "developer", "content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"role": "user", "images": ["aGk="]}]}, "read text only"),
        ({"messages": [{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}]}, "only an assistant"),
        ({"messages": [TOOL]}, "answers no call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "g"}}]}, TOOL]}, "answers no call"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
            "arguments",
        ),
        ({"options": {"temprature": 1}}, "is no option; known are"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": -1}}, "temperature: -1 is not in"),
        ({"options": {"top_k": 1.5}}, "options.top_k"),
        ({"options": {"seed": True}}, "options.seed"),
        ({"options": {"num_predict": "all"}}, "options.num_predict"),
        ({"options": {"stop": [1]}}, "options.stop"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}}, "repeat_last_n"),
        ({"format": "xml"}, "format: "),
        ({"think": "hard"}, "think: "),
        ({"keep_alive": "soon"}, "keep_alive: "),
        ({"keep_alive": "5"}, None),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
        ({"tools": [{"type": "web_search", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], said: str | None) -> None:
    if said is None:
        chat(**fields)
        return
    with pytest.raises(InvalidRequest, match=said):
        chat(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"images": ["aGk="]}, "images"),
        ({"raw": True, "system": "s"}, "system"),
        ({"suffix": "x", "system": "s"}, "system"),
        ({"width": 10}, "width"),
    ],
)
def test_generate_refuses_what_it_would_leave_undone(fields: dict[str, Any], said: str) -> None:
    with pytest.raises((InvalidRequest, UnsupportedField), match=said):
        decode_generate(json.dumps({"model": "m", "prompt": "Hi"} | fields).encode(), CALLER)


def test_long_inputs_of_embed_are_cut_unless_that_is_refused() -> None:
    for truncate, expected in ((None, True), (True, True), (False, False)):
        call = decode_embed(json.dumps({"model": "m", "input": "x", "truncate": truncate}).encode(), CALLER)
        assert not isinstance(call, LoadCall)
        assert call.request.truncates is expected
    assert isinstance(decode_embed(b'{"model":"m"}', CALLER), LoadCall)


def test_durations_are_told_in_nanoseconds_from_the_clock() -> None:
    clock = HandClock()
    writer = WholeWriter(chat(), clock)
    for seconds, event in (
        (1, STARTED),
        (2, TextDelta(0, "a", 1)),
        (4, TextDelta(0, "b", 1)),
        (0, STOPPED),
        (0, FINISHED),
    ):
        clock.now_s += seconds
        writer.add([event])
    answer = json.loads(writer.encode())
    names = ("load_duration", "prompt_eval_duration", "eval_duration", "total_duration")
    assert [answer[name] for name in names] == [10**9, 2 * 10**9, 4 * 10**9, 7 * 10**9]
    assert (answer["message"]["content"], answer["prompt_eval_count"], answer["eval_count"]) == ("ab", 5, 2)
    assert answer["created_at"] == "2023-11-14T22:15:07.000000Z"


@pytest.mark.parametrize(
    "events",
    [
        [TextDelta(0, "x", 1)],
        [STARTED, STARTED],
        [STARTED, FINISHED],
        [STARTED, TextDelta(0, "x", 1), FINISHED],
        [STARTED, STOPPED, TextDelta(0, "x", 1)],
        [STARTED, ToolCallDelta(0, 0, "[]", 1, "c", "f"), STOPPED],
        [STARTED, ToolCallDelta(0, 0, "{", 1, "c", "f"), STOPPED],
    ],
)
def test_an_order_of_events_that_no_backend_may_send_ends_the_answer(events: list[Event]) -> None:
    for writer in (StreamWriter(chat(), HandClock()), WholeWriter(chat(), HandClock())):
        with pytest.raises(EngineFault):
            writer.encode(events) if isinstance(writer, StreamWriter) else writer.add(events)


def test_a_call_that_the_length_cut_off_is_left_out_and_a_whole_one_is_told() -> None:
    cut = ChoiceFinished(0, FinishReason.LENGTH)
    whole, half = ToolCallDelta(0, 0, '{"a":1}', 1, "c0", "f"), ToolCallDelta(0, 1, '{"a":', 1, "c1", "f")
    writer = StreamWriter(chat(), HandClock())
    lines = [json.loads(one) for one in writer.encode([STARTED, whole, half, cut, FINISHED]).splitlines()]
    assert [call["id"] for call in lines[0]["message"]["tool_calls"]] == ["c0"]
    assert (lines[1]["done_reason"], writer.is_done) == ("length", True)


def test_reasoning_and_text_are_lines_of_their_own() -> None:
    writer = StreamWriter(chat(), HandClock())
    events: list[Event] = [STARTED, ReasoningDelta(0, "hm", 1), TextDelta(0, "", 1), TextDelta(0, "é", 1)]
    lines = [json.loads(one) for one in writer.encode(events).splitlines()]
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "é"},
    ]
