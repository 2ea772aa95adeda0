"""Gemini's API as Google's own SDK speaks it: the same questions become the same bodies, the same answers are heard.

The vectors are recorded by `scripts/record_gemini.py`.
"""

import functools
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from headrace.api.outbound.call_ids import plain_id, sign_id, signature_of
from headrace.api.outbound.codec import Quirks
from headrace.api.outbound.gemini import GEMINI
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import (
    Effort,
    FormatKind,
    Input,
    Limits,
    Message,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)

CASES = json.loads((Path(__file__).parent / "vectors" / "gemini.json").read_text("utf-8"))["cases"]
MODEL = "gemini-3-flash"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("get_weather", "The weather.", SCHEMA), Tool("get_time"))

REASONS = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "SAFETY": FinishReason.FILTERED,
}


def said(role: Role, text: str = "", **fields: Any) -> Message:
    return Message(role, (TextPart(text),) if text else (), **fields)


HI = (said(Role.USER, "Hi"),)
SIGNED = sign_id("a", "c2lnbmVk")
TALK = (
    said(Role.USER, "Weather and time?"),
    said(
        Role.ASSISTANT,
        "Let me see.",
        reasoning="It wants both.",
        tool_calls=(ToolCall(SIGNED, "get_weather", '{"city":"Paris"}'), ToolCall("b", "get_time", "")),
    ),
    said(Role.TOOL, "Sunny", tool_call_id=SIGNED),
    said(Role.TOOL, "12:00", tool_call_id="b"),
    said(Role.USER, "And?"),
)

asked = functools.partial(Request, id="r1", model="route")
REQUESTS = {
    "plain": asked(messages=HI),
    "settings": asked(
        messages=(said(Role.SYSTEM, "Be brief."), said(Role.DEVELOPER, "Be kind."), *HI),
        sampling=Sampling(
            temperature=0.5, top_p=0.75, top_k=4, num_choices=2, presence_penalty=0.5, frequency_penalty=-0.5, seed=7
        ),
        limits=Limits(max_tokens=9, stop=("END",)),
        logprobs=2,
        response_format=ResponseFormat(FormatKind.JSON_SCHEMA, schema=SCHEMA),
        reasoning=Reasoning(Effort.HIGH),
    ),
    "tools": asked(messages=TALK, tools=TOOLS),
    "any_tool": asked(messages=HI, tools=TOOLS, tool_choice=ToolChoice(ToolMode.REQUIRED)),
    "one_tool": asked(messages=HI, tools=TOOLS, tool_choice=ToolChoice(ToolMode.REQUIRED, ("get_time",))),
    "some_tools": asked(messages=HI, tools=TOOLS, tool_choice=ToolChoice(ToolMode.AUTO, ("get_time",))),
    "no_tool": asked(messages=HI, tools=TOOLS, tool_choice=ToolChoice(ToolMode.NONE)),
    "choice": asked(messages=HI, response_format=ResponseFormat(FormatKind.CHOICE, choices=("yes", "no"))),
    "blocked": asked(messages=HI),
    "count": asked(messages=HI, task=Task.COUNT),
    "embed": asked(inputs=(Input("a"), Input("b")), task=Task.EMBED, dimensions=2),
}
STREAMS = [name for name in CASES if "alt=sse" in CASES[name]["path"]]


def camel(value: Any) -> Any:
    """Names as the API documents them: the SDK leaves some as Python has them, which a server takes too. What is empty
    says nothing."""
    if isinstance(value, list):
        return [camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): camel(one) for name, one in value.items()}
    return {name: one for name, one in named.items() if name != "generationConfig" or one}


def test_every_case_has_a_request() -> None:
    assert set(REQUESTS) == set(CASES)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_question_is_the_same_body(name: str) -> None:
    case, request = CASES[name], REQUESTS[name]
    request.check()
    made = GEMINI.encode(request, "gemini-embedding-001" if name == "embed" else MODEL, Quirks())
    recorded = camel(case["body"])
    ours = json.loads(made.body)
    if name == "tools":  # automatic is what a server does that is told nothing
        assert recorded.pop("toolConfig") == {"functionCallingConfig": {"mode": "AUTO"}}
    if name == "count":  # the SDK counts contents alone, we all that is read
        ours = ours["generateContentRequest"]
        assert ours.pop("model") == f"models/{MODEL}"
    assert ours == recorded
    # The version in front of it is part of a backend's URL.
    assert re.fullmatch(r"/v1(beta)?" + re.escape(made.path), case["path"])
    assert made.is_stream == (name in STREAMS)
    assert [GEMINI.secret_header("k")[0].decode()] == case["key_headers"]


def read(name: str) -> list[Event]:
    reader = GEMINI.reader(REQUESTS[name], "m")
    told = [event for chunk in CASES[name]["answer"] for event in reader.feed("", json.dumps(chunk).encode())]
    assert not reader.is_done
    told += reader.end()
    assert reader.is_done
    return told


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_answer_is_heard(name: str) -> None:
    told, heard = read(name), CASES[name]["heard"]
    for index, candidate in heard["candidates"].items():
        mine = [event for event in told if getattr(event, "choice", None) == int(index)]
        assert "".join(one.text for one in mine if isinstance(one, TextDelta)) == candidate["text"]
        assert "".join(one.text for one in mine if isinstance(one, ReasoningDelta)) == candidate["thoughts"]
        calls = [[one.name, json.loads(one.arguments)] for one in mine if isinstance(one, ToolCallDelta)]
        assert calls == candidate["calls"]
        tokens = [token for one in mine if isinstance(one, TextDelta) for token in one.logprobs]
        assert [[token.token, token.logprob] for token in tokens] == candidate["logprobs"]
        reason = FinishReason.TOOL_CALLS if calls else REASONS[candidate["reason"]]
        assert mine[-1] == ChoiceFinished(int(index), reason)
    counts = heard["counts"]
    thoughts = counts.get("thoughts_token_count", 0)
    usage = Usage(
        counts.get("prompt_token_count", 0),
        counts.get("candidates_token_count", 0) + thoughts,
        counts.get("cached_content_token_count", 0),
        reasoning_tokens=thoughts,
    )
    last = told[-1]
    assert isinstance(last, Finished)
    assert last == Finished(usage) or (not counts and last.usage.is_estimated)
    assert isinstance(told[0], Started)
    if heard["blocked"]:
        assert told[1:-1] == [ChoiceFinished(0, FinishReason.FILTERED)]


def test_alternatives_go_with_their_ids() -> None:
    token = next(one for event in read("settings") if isinstance(event, TextDelta) for one in event.logprobs)
    assert token.alternatives == (("Yes", b"Yes", -0.25), ("No", b"No", -2.5))
    assert (token.token_id, token.alternative_ids) == (5, (5, 6))


def test_what_was_signed_comes_back_with_the_call_and_ids_are_the_same_each_time() -> None:
    calls = [event for event in read("tools") if isinstance(event, ToolCallDelta)]
    again = [event for event in read("tools") if isinstance(event, ToolCallDelta)]
    assert calls == again
    ids = [event.id or "" for event in calls]
    assert [signature_of(one) for one in ids] == ["c2ln", ""]
    assert len({plain_id(one) for one in ids}) == 2
    talk = (*HI, said(Role.ASSISTANT, tool_calls=tuple(ToolCall(one, "f", "{}") for one in ids)))
    parts = json.loads(GEMINI.encode(asked(messages=talk), MODEL, Quirks()).body)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["c2ln", None]
    assert [part["functionCall"]["id"] for part in parts] == [plain_id(one) for one in ids]


def test_counts_and_vectors_come_whole() -> None:
    (count,) = CASES["count"]["answer"]
    assert list(GEMINI.decode(REQUESTS["count"], "m", json.dumps(count).encode())) == [
        Started("r1", "m", CASES["count"]["heard"]),
        Finished(Usage(12, 0)),
    ]
    (embedded,) = CASES["embed"]["answer"]
    told = list(GEMINI.decode(REQUESTS["embed"], "m", json.dumps(embedded).encode()))
    vectors = [struct.unpack("<2f", event.vector) for event in told if isinstance(event, Embedding)]
    # The SDK gives a cut vector as it is; ours has a length of 1 again.
    assert CASES["embed"]["heard"] == [[3.0, 4.0], [0.0, 2.0]]
    assert vectors == [pytest.approx((0.6, 0.8)), pytest.approx((0.0, 1.0))]
    assert told[-1] == Finished(Usage(2, 0, is_estimated=True)), "no tokenizer makes more tokens than bytes"
