"""What is asked of a backend: our own server reads the same out of it, and the official types know its fields."""

import functools
import json
import re
from dataclasses import replace
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from openai.types.embedding_create_params import EmbeddingCreateParams
from pydantic import TypeAdapter

from headrace.api.openai import Caller, decode_chat, decode_completion
from headrace.api.openai_embeddings import decode_embeddings
from headrace.api.outbound.chat import CHAT
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.api.rerank import decode_rerank, decode_score
from headrace.core.errors import UnsupportedField
from headrace.core.request import (
    Effort,
    FormatKind,
    Input,
    Limits,
    Message,
    Principal,
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

CALLER = Caller(request_id="id", principal=Principal())
OPENAI = Quirks()
HEADRACE = Quirks(
    knows=frozenset(
        {"top_k", "min_p", "typical_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "structured_outputs"}
        | {"cache_salt", "messages.reasoning_content"}
    )
)

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
NAMES = st.sampled_from(["f", "g", "look_up", "a-b"])
SCHEMAS = st.sampled_from(
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {}},
    ]
)
TOOLS = st.lists(st.builds(Tool, NAMES, WORDS, SCHEMAS, st.booleans()), max_size=3, unique_by=lambda tool: tool.name)
CALLS = st.lists(st.builds(ToolCall, WORDS, NAMES, WORDS), min_size=1, max_size=2)


def parts(text: str) -> tuple[TextPart, ...]:
    return (TextPart(text),)


MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda text: Message(Role.USER, parts(text)), WORDS),
        st.builds(lambda text: Message(Role.SYSTEM, parts(text)), WORDS),
        st.builds(lambda text, why: Message(Role.ASSISTANT, parts(text), reasoning=why), WORDS, WORDS | st.just("")),
        st.builds(lambda calls: Message(Role.ASSISTANT, (), tool_calls=tuple(calls)), CALLS),
        st.builds(lambda text, call: Message(Role.TOOL, parts(text), tool_call_id=call), WORDS, WORDS),
    ),
    min_size=1,
    max_size=4,
).map(tuple)
FORMATS = st.one_of(
    st.just(ResponseFormat()),
    st.just(ResponseFormat(FormatKind.JSON_OBJECT)),
    st.builds(lambda schema: ResponseFormat(FormatKind.JSON_SCHEMA, schema), SCHEMAS),
)
FORMS = FORMATS | st.sampled_from(
    [
        ResponseFormat(FormatKind.REGEX, source="a+"),
        ResponseFormat(FormatKind.CHOICE, choices=("a", "b")),
    ]
)
LIMITS = st.builds(Limits, max_tokens=st.none() | st.integers(1, 9), stop=st.lists(WORDS, max_size=2).map(tuple))
STANDARD = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.1, 1),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "seed": st.none() | st.integers(0, 99),
    "num_choices": st.integers(1, 3),
    "logit_bias": st.dictionaries(st.integers(0, 9), st.integers(-9, 9).map(float), max_size=2).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
}
EXTRA = {
    "top_k": st.integers(0, 9),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0.1, 1),
    "repetition_penalty": st.floats(0.5, 2),
}


@st.composite
def chats(draw: st.DrawFn, *, extra: bool) -> Request:
    """Any chat; with `extra` it asks for more than OpenAI's protocol can say."""
    tools = tuple(draw(TOOLS))
    modes = [ToolMode.AUTO, ToolMode.NONE, ToolMode.REQUIRED] if tools else [ToolMode.AUTO]
    choice = ToolChoice(draw(st.sampled_from(modes)), max_calls=draw(st.sampled_from([None, 1])) if tools else None)
    if choice.mode is ToolMode.REQUIRED and len(tools) == 1:
        choice = replace(choice, names=(tools[0].name,), max_calls=1)
    limits = draw(LIMITS)
    return Request(
        id="id",
        model="m",
        messages=draw(MESSAGES),
        tools=tools,
        tool_choice=choice,
        sampling=draw(st.builds(Sampling, **STANDARD, **(EXTRA if extra else {}))),
        limits=replace(limits, ignore_eos=draw(st.booleans()), stop_token_ids=(5,)) if extra else limits,
        response_format=draw(FORMS if extra else FORMATS),
        reasoning=Reasoning(draw(st.none() | st.sampled_from(Effort))),
        logprobs=draw(st.none() | st.integers(0, 5)),
    )


def as_read(request: Request) -> Request:
    """A request as it comes back: an empty text is one part, and a tool without parameters takes an empty object."""
    messages = request.messages and tuple(
        replace(one, parts=() if not one.text and one.tool_calls else one.parts) for one in request.messages
    )
    return replace(request, messages=messages)


@functools.cache
def official(params: Any) -> tuple[TypeAdapter[Any], frozenset[str]]:
    """What checks a body against the official client's types, and the fields that they have; slow to make."""
    return TypeAdapter(params), frozenset(get_type_hints(params))


def known_to(params: Any, call: OutboundCall) -> dict[str, Any]:
    """The body, every field of which the official client's types know."""
    body: dict[str, Any] = json.loads(call.body)
    adapter, names = official(params)
    adapter.validate_python(body)
    assert body.keys() <= names
    return body


@given(chats(extra=True))
@settings(deadline=None)
def test_another_headrace_reads_the_chat_that_was_asked(request: Request) -> None:
    call = CHAT.encode(request, "m", HEADRACE)
    assert call.path == "/chat/completions"
    assert call.is_stream
    read = decode_chat(call.body, CALLER)
    assert read.request == as_read(request)
    assert read.stream and read.include_usage


@given(chats(extra=False))
@settings(deadline=None)
def test_the_official_types_know_every_field_of_a_chat(request: Request) -> None:
    body = known_to(ChatParams, CHAT.encode(request, "gpt", OPENAI))
    assert body["model"] == "gpt"
    assert "max_tokens" not in body


@given(
    WORDS | st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple),
    st.none() | st.integers(0, 5),
    st.none() | WORDS,
    st.builds(Sampling, **STANDARD),
    LIMITS,
)
@settings(deadline=None)
def test_completions_arrive_as_they_were_asked(
    prompt: str | tuple[int, ...], logprobs: int | None, suffix: str | None, sampling: Sampling, limits: Limits
) -> None:
    text, tokens = (prompt, None) if isinstance(prompt, str) else (None, prompt)
    request = Request(
        id="id",
        model="m",
        prompt=text,
        tokens=tokens,
        suffix=suffix if text is not None else None,
        logprobs=logprobs,
        sampling=sampling,
        limits=replace(limits, max_tokens=limits.max_tokens or 16),
    )
    call = CHAT.encode(request, "m", OPENAI)
    assert call.path == "/completions"
    known_to(CompletionParams, call)
    assert decode_completion(call.body, CALLER).request == request


@given(st.lists(WORDS, min_size=1, max_size=3), st.none() | st.integers(1, 9))
@settings(deadline=None)
def test_embeddings_arrive_as_they_were_asked(texts: list[str], dimensions: int | None) -> None:
    inputs = tuple(map(Input, texts))
    request = Request(id="id", model="m", task=Task.EMBED, inputs=inputs, dimensions=dimensions)
    call = CHAT.encode(request, "m", OPENAI)
    assert not call.is_stream
    assert known_to(EmbeddingCreateParams, call)["encoding_format"] == "base64"
    assert decode_embeddings(call.body, CALLER).request == request


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3))
@settings(deadline=None)
def test_pairs_arrive_as_they_were_asked(pairs: list[tuple[str, str]]) -> None:
    request = Request(id="id", model="m", task=Task.SCORE, inputs=tuple(Input(*pair) for pair in pairs))
    call = CHAT.encode(request, "m", OPENAI)
    decode = {"/rerank": decode_rerank, "/score": decode_score}[call.path]
    assert decode(call.body, CALLER).request == request
    assert (call.path == "/rerank") == (len({first for first, _ in pairs}) == 1)


ASKED = Request(id="id", model="m", messages=(Message(Role.USER, parts("Hi")),))
UNSAID: list[tuple[str, Request]] = [
    ("top_k", replace(ASKED, sampling=Sampling(top_k=5))),
    ("min_p", replace(ASKED, sampling=Sampling(min_p=0.5))),
    ("typical_p", replace(ASKED, sampling=Sampling(typical_p=0.5))),
    ("repetition_penalty", replace(ASKED, sampling=Sampling(repetition_penalty=1.5))),
    ("best_of", replace(ASKED, sampling=Sampling(best_of=3))),
    ("stop_token_ids", replace(ASKED, limits=Limits(stop_token_ids=(5,)))),
    ("ignore_eos", replace(ASKED, limits=Limits(ignore_eos=True))),
    ("max_tokens", replace(ASKED, limits=Limits(max_tokens=0))),
    ("response_format", replace(ASKED, response_format=ResponseFormat(FormatKind.REGEX, source="a"))),
    ("prompt_logprobs", replace(ASKED, prompt_logprobs=1)),
    ("messages", replace(ASKED, answer_start="So")),
    ("max_tool_calls", replace(ASKED, tools=(Tool("f"),), tool_choice=ToolChoice(max_calls=2))),
    ("prompt_logprobs", replace(ASKED, messages=None, prompt="x", prompt_logprobs=1)),
    ("tools", replace(ASKED, messages=None, prompt="x", tools=(Tool("f"),))),
    ("count_tokens", replace(ASKED, task=Task.COUNT)),
]


@pytest.mark.parametrize(("field", "request_"), UNSAID, ids=[field for field, _ in UNSAID])
def test_what_the_protocol_cannot_say_is_refused_by_name(field: str, request_: Request) -> None:
    with pytest.raises(UnsupportedField) as raised:
        CHAT.encode(request_, "m", OPENAI)
    assert raised.value.param == field
    assert raised.value.message.startswith(f"{field}: ")


def test_what_a_provider_refuses_is_refused_before_it_is_asked() -> None:
    with pytest.raises(UnsupportedField, match=r"^seed: "):
        CHAT.encode(replace(ASKED, sampling=Sampling(seed=5)), "m", Quirks(drops=frozenset({"seed"})))


def body_of(request: Request, **quirks: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(CHAT.encode(request, "m", Quirks(**quirks)).body)
    return body


@pytest.mark.parametrize(
    ("knows", "reasoning", "said"),
    [
        ((), Reasoning(Effort.LOW), {"reasoning_effort": "low"}),
        ((), Reasoning(max_tokens=500), {"reasoning_effort": "low"}),
        ((), Reasoning(max_tokens=4000), {"reasoning_effort": "medium"}),
        ((), Reasoning(max_tokens=30000), {"reasoning_effort": "high"}),
        ((), Reasoning(max_tokens=0), {"reasoning_effort": "none"}),
        (("reasoning",), Reasoning(max_tokens=500), {"reasoning": {"max_tokens": 500}}),
        (("reasoning",), Reasoning(Effort.NONE), {"reasoning": {"effort": "none"}}),
        (("thinking",), Reasoning(Effort.HIGH), {"thinking": {"type": "enabled"}}),
        (("thinking",), Reasoning(Effort.NONE), {"thinking": {"type": "disabled"}}),
        (("chat_template_kwargs",), Reasoning(Effort.NONE),
         {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
        (("chat_template_kwargs",), Reasoning(Effort.HIGH),
         {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}, "reasoning_effort": "high"}),
    ],
)  # fmt: skip
def test_how_much_is_thought_is_said_as_each_provider_says_it(
    knows: tuple[str, ...], reasoning: Reasoning, said: dict[str, Any]
) -> None:
    body = body_of(replace(ASKED, reasoning=reasoning), knows=frozenset(knows))
    names = ("reasoning_effort", "reasoning", "thinking", "chat_template_kwargs")
    assert {name: body[name] for name in names if name in body} == said


def test_quirks_say_where_a_provider_departs() -> None:
    limited = replace(ASKED, limits=Limits(max_tokens=5))
    body = body_of(limited, max_tokens_field="max_tokens", has_usage_option=False, adds={"usage": {"include": True}})
    assert body == {
        "usage": {"include": True},
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "stream": True,
    }
    penalty = replace(ASKED, sampling=Sampling(repetition_penalty=1.5))
    assert body_of(penalty, knows=frozenset({"repeat_penalty"}))["repeat_penalty"] == 1.5
    regex = replace(ASKED, response_format=ResponseFormat(FormatKind.GBNF, source="root ::= x"))
    assert body_of(regex, knows=frozenset({"grammar"}))["grammar"] == "root ::= x"
    started = body_of(replace(ASKED, answer_start="So"), knows=frozenset({"prefix"}))
    assert started["messages"][-1] == {"role": "assistant", "content": "So", "prefix": True}


def test_ids_of_calls_are_made_short_where_a_provider_takes_no_others() -> None:
    calls = (ToolCall("toolu_01A09q90qw90lq917835lq9", "f", "{}"), ToolCall("abcDEF123", "f", "{}"))
    results = [Message(Role.TOOL, parts("x"), tool_call_id=call.id) for call in calls]
    request = replace(ASKED, messages=(Message(Role.ASSISTANT, (), tool_calls=calls), *results))
    for knows, expected in (
        (frozenset[str](), [call.id for call in calls]),
        (frozenset({"tool_calls.short_ids"}), None),
    ):
        called, *answered = body_of(request, knows=knows)["messages"]
        ids = [call["id"] for call in called["tool_calls"]]
        assert ids == [message["tool_call_id"] for message in answered]
        assert all(re.fullmatch("[A-Za-z0-9]{9}", one) for one in ids) if expected is None else ids == expected
        assert ids[1] == "abcDEF123"


def test_a_choice_among_some_tools_tells_of_those_alone() -> None:
    tools = (Tool("f"), Tool("g"), Tool("h"))
    some = body_of(replace(ASKED, tools=tools, tool_choice=ToolChoice(ToolMode.REQUIRED, ("f", "h"))))
    assert [one["function"]["name"] for one in some["tools"]] == ["f", "h"]
    assert some["tool_choice"] == "required"
    one = body_of(replace(ASKED, tools=tools, tool_choice=ToolChoice(ToolMode.REQUIRED, ("g",), 1)))
    assert one["tool_choice"] == {"type": "function", "function": {"name": "g"}}
