"""Whatever comes in is a request or a refusal; whatever goes out says what the events said."""

import json
from typing import Any

from fuzz.openai_codec import SEEDS, check_input
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from headrace.api.input_fields import EmbeddingBody, RerankBody, ScoreBody
from headrace.api.openai_answers import CHAT, COMPLETION, AnswerHead, AnswerWriter, Dialect, Prompt
from headrace.api.openai_fields import (
    AllowedTools,
    CacheOptions,
    CallOfTool,
    ChatBody,
    Choice,
    CompletionBody,
    Format,
    Function,
    JsonSchema,
    Message,
    StructuredOutputs,
    Tool,
)
from headrace.api.openai_stream import StreamWriter
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
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__})
OBJECTS = (AllowedTools, CacheOptions, CallOfTool, Choice, Format, Function, JsonSchema, StructuredOutputs, Tool)
OUTER = ["response_format", "structured_outputs", "logit_bias", "prompt_cache_options", "tool_choice", "metadata"]
INNER = sorted({name for kind in OBJECTS for name in kind.__struct_fields__})
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool", "function", "x"]), "content": VALUES},
        optional=dict.fromkeys(set(Message.__struct_fields__) - {"role", "content"}, VALUES),
    ),
    max_size=3,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    check_input(data)


@given(st.sampled_from(SEEDS), st.integers(0, 300), st.integers(0, 20), st.binary(max_size=12))
@settings(max_examples=300)
def test_damaged_requests_are_a_request_or_a_refusal(seed: bytes, start: int, length: int, patch: bytes) -> None:
    check_input(seed[:start] + patch + seed[start + length :])


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6), MESSAGES, VALUES)
@settings(max_examples=300)
def test_any_value_in_any_field_is_a_request_or_a_refusal(
    fields: dict[str, object], messages: list[object], prompt: object
) -> None:
    for required in ({"messages": messages}, {"prompt": prompt}):
        check_input(json.dumps({"model": "m"} | required | fields).encode("utf-8", "surrogatepass"))


@given(
    st.sampled_from(
        ["response_format", "structured_outputs", "logit_bias", "prompt_cache_options", "tool_choice", "metadata"]
    ),
    st.dictionaries(st.sampled_from([*INNER, "7", "007", "-1"]), VALUES, max_size=4),
)
@settings(max_examples=300)
def test_any_value_inside_an_object_is_a_request_or_a_refusal(name: str, fields: dict[str, object]) -> None:
    for required in ({"messages": [{"role": "user", "content": "x"}]}, {"prompt": "x"}):
        check_input(json.dumps({"model": "m", name: fields} | required).encode("utf-8", "surrogatepass"))


@given(
    st.sampled_from(["tools", "functions", "tool_calls"]),
    st.dictionaries(st.sampled_from(INNER), VALUES | st.dictionaries(st.sampled_from(INNER), VALUES, max_size=4)),
)
@settings(max_examples=300)
def test_any_value_inside_a_tool_or_a_call_is_a_request_or_a_refusal(name: str, fields: dict[str, object]) -> None:
    message: dict[str, object] = {"role": "assistant", "content": "x"}
    body: dict[str, object] = {"model": "m", "messages": [message]}
    (message if name == "tool_calls" else body)[name] = [fields]
    check_input(json.dumps(body).encode("utf-8", "surrogatepass"))


INPUTS = [
    (EmbeddingBody, {"input": "x"}),
    (ScoreBody, {"text_1": "x", "text_2": ["y", "z"]}),
    (RerankBody, {"query": "x", "documents": ["y", {"text": "z"}]}),
]


@given(st.sampled_from(INPUTS), st.data())
@settings(max_examples=300)
def test_any_value_in_any_field_beside_many_texts_is_a_request_or_a_refusal(
    route: tuple[Any, dict[str, object]], data: st.DataObject
) -> None:
    body, required = route
    names = st.sampled_from(sorted(body.__struct_fields__))
    ids = st.lists(st.integers(-3, 2**32) | st.lists(st.integers(-3, 2**32), max_size=3), max_size=4)
    fields = data.draw(st.dictionaries(names, VALUES | ids, max_size=4))
    check_input(json.dumps({"model": "m"} | required | fields).encode("utf-8", "surrogatepass"))


# Text, reasoning, or a piece of a call: (choice, kind, text).
TOLD = st.tuples(st.integers(0, 2), st.sampled_from(["text", "reasoning", "call", "more"]), st.text(max_size=8))


def told_events(pieces: list[tuple[int, str, str]]) -> list[Event]:
    """The events of an answer of three choices that reasons and calls."""
    events: list[Event] = [Started("id", "m", 3)]
    num_calls = [0, 0, 0]
    for choice, kind, text in pieces:
        if kind == "text":
            events.append(TextDelta(choice, text, 1))
        elif kind == "reasoning":
            events.append(ReasoningDelta(choice, text, 1))
        elif kind == "call":
            events.append(ToolCallDelta(choice, num_calls[choice], text, 1, f"call_{len(events)}", f"f{len(events)}"))
            num_calls[choice] += 1
        elif num_calls[choice]:
            events.append(ToolCallDelta(choice, num_calls[choice] - 1, text, 1))
    ends = [FinishReason.TOOL_CALLS if count else FinishReason.STOP for count in num_calls]
    events += [ChoiceFinished(choice, reason) for choice, reason in enumerate(ends)]
    return [*events, Finished(Usage(3, len(pieces)))]


@given(st.lists(TOLD, max_size=30))
def test_the_official_client_gathers_from_a_stream_what_a_whole_answer_says(pieces: list[tuple[int, str, str]]) -> None:
    head = AnswerHead(CHAT, "id", 1, num_choices=3, include_usage=True)
    events = told_events(pieces)
    whole, stream = AnswerWriter(head), StreamWriter(head)
    whole.add(events)
    gathered = ChatCompletionStreamState()
    for line in stream.encode(events).decode().split("\n\n")[:-2]:
        gathered.handle_chunk(ChatCompletionChunk.model_validate_json(line.removeprefix("data: ")))
    streamed, answer = gathered.current_completion_snapshot, ChatCompletion.model_validate_json(whole.encode())
    for ours, theirs in zip(answer.choices, sorted(streamed.choices, key=lambda choice: choice.index), strict=True):
        assert theirs.finish_reason == ours.finish_reason
        assert (theirs.message.content or "") == (ours.message.content or "")
        assert getattr(theirs.message, "reasoning", "") == getattr(ours.message, "reasoning", "")
        assert [call.model_dump(include={"id", "type", "function"}) for call in ours.message.tool_calls or ()] == [
            {
                "id": call.id,
                "type": call.type,
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in theirs.message.tool_calls or ()
        ]
    assert streamed.usage == answer.usage


PIECES = st.tuples(st.integers(0, 2), st.text(max_size=8), st.lists(st.binary(max_size=3), max_size=3))


def scripted(pieces: list[tuple[int, str, list[bytes]]], prompt: list[bytes] | None) -> list[Event]:
    """The events of an answer of three choices."""
    events: list[Event] = [Started("id", "m", 3, cache_miss=CacheMiss(MissReason.COLD, 0))]
    if prompt is not None:
        events.append(PromptLogprobs((None, *map(told, prompt)), "Hi"))
    events += [TextDelta(choice, text, 1, tuple(map(told, data))) for choice, text, data in pieces]
    events += [ChoiceFinished(choice, FinishReason.STOP) for choice in range(3)]
    return [*events, Finished(Usage(3, len(pieces)))]


def told(data: bytes) -> TokenLogprob:
    text = data.decode("utf-8", "replace")
    return TokenLogprob(text, data, -len(data) / 8, ((text, data, -len(data) / 8), ("x", b"x", -9.0)))


def merge(gathered: Any, logprobs: Any) -> Any:
    """The log-probabilities of a choice so far, and those of its next chunk."""
    if gathered is None or logprobs is None:
        return gathered or logprobs
    return {name: logprobs[name] and [*gathered[name], *logprobs[name]] for name in gathered}


@given(
    st.lists(PIECES, max_size=30),
    st.lists(st.integers(1, 5)),
    st.sampled_from([CHAT, COMPLETION]),
    st.none() | st.integers(0, 2),
    st.none() | st.lists(st.binary(max_size=3), max_size=4),
    st.booleans(),
)
def test_a_stream_says_the_same_as_a_whole_answer_however_it_is_cut(
    pieces: list[tuple[int, str, list[bytes]]],
    cuts: list[int],
    dialect: Dialect,
    logprobs: int | None,
    prompt: list[bytes] | None,
    echo: bool,
) -> None:
    echo = echo and dialect is COMPLETION
    events = scripted(pieces, prompt)
    head = AnswerHead(
        dialect,
        "id",
        1,
        num_choices=3,
        include_usage=True,
        logprobs=logprobs,
        echo=echo,
        prompts=(Prompt("Hi" if echo and prompt is None else None, prompt is not None),),
        explains_cache=True,
    )
    whole, stream = AnswerWriter(head), StreamWriter(head)
    whole.add(events)
    sent = b""
    for cut in [*cuts, len(events)]:
        sent += stream.encode(events[:cut])
        events = events[cut:]
    frames = [json.loads(line[6:]) for line in sent.decode().split("\n\n")[:-1] if line != "data: [DONE]"]
    texts, gathered = ["", "", ""], [None, None, None]
    for frame in frames:
        for choice in frame["choices"]:
            delta = choice.get("delta", {}).get("content", "")
            texts[choice["index"]] += choice.get("text", delta)
            gathered[choice["index"]] = merge(gathered[choice["index"]], choice["logprobs"])
    answer = json.loads(whole.encode())
    assert [
        choice["message"]["content"] if dialect is CHAT else choice["text"] for choice in answer["choices"]
    ] == texts
    for choice, chunks in zip(answer["choices"], gathered, strict=True):
        said = choice["logprobs"]
        # A choice without a token has an empty list when whole and no chunk that could carry one when streamed.
        assert said == chunks or (chunks is None and not any(said.values()))
    assert frames[-1]["usage"] == answer["usage"]
    assert frames[-1]["headrace"] == answer["headrace"]
    assert stream.is_done
