"""The canonical forms of requests and answers: what changes them, what does not, and the quick way against the slow."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Finished,
    FinishReason,
    ReasoningDelta,
    Score,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import (
    FormatKind,
    Limits,
    Message,
    Principal,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)
from headrace.trust.records import request_form
from headrace.trust.records.answer_form import AnswerForm, arguments_form
from headrace.trust.records.canonical import NotCanonical

TEXT = st.text(max_size=8) | st.text(st.characters(), max_size=4)
CALLS = st.lists(st.builds(ToolCall, id=TEXT, name=TEXT, arguments=TEXT), max_size=2).map(tuple)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(Role),
    parts=st.lists(st.builds(TextPart, text=TEXT), max_size=2).map(tuple),
    name=st.none() | TEXT,
    tool_calls=CALLS,
    tool_call_id=st.none() | TEXT,
    reasoning=TEXT,
)
# A double that is written like an integer beyond 2^53 reads back as that integer, which is told as a text.
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda one: not 2**53 <= abs(one) < 1e21)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TOOLS = st.builds(
    Tool,
    name=TEXT,
    description=TEXT,
    parameters=st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=3),
    strict=st.booleans(),
)
REQUESTS = st.builds(
    Request,
    id=TEXT,
    model=TEXT,
    messages=st.lists(MESSAGES, min_size=1, max_size=4).map(tuple),
    tools=st.lists(TOOLS, max_size=2).map(tuple),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0, 2),
        seed=st.none() | st.integers(-(2**63), 2**64 - 1),
        logit_bias=st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), max_size=2).map(tuple),
        defaults=st.sampled_from([frozenset(), frozenset({"temperature"})]),
    ),
    limits=st.builds(Limits, max_tokens=st.none() | st.integers(1, 9), stop=st.lists(TEXT, max_size=2).map(tuple)),
    response_format=st.builds(ResponseFormat, kind=st.sampled_from(FormatKind), schema=st.none() | st.just({"a": 1.5})),
)


@given(REQUESTS)
def test_the_quick_form_of_a_request_is_the_slow_one(request: Request) -> None:
    data = request_form.encode(request)
    assert data == request_form.encode_slowly(request)
    json.loads(data)


@given(REQUESTS)
def test_who_asks_and_under_which_id_changes_nothing_of_what_is_asked(request: Request) -> None:
    other = replace(
        request,
        id="another",
        principal=Principal(tenant="elsewhere"),
        session="s",
        parent="p",
        labels=frozenset({"x"}),
        tags=("t",),
        sampling=replace(request.sampling, defaults=frozenset({"top_p"})),
        limits=replace(request.limits, deadline_s=4.0),
    )
    assert request_form.encode(other) == request_form.encode(request)


def test_every_field_that_asks_for_something_changes_the_form() -> None:
    request = Request(id="1", model="m", messages=(Message(Role.USER, (TextPart("hi"),)),))
    others = [
        replace(request, model="n"),
        replace(request, messages=(Message(Role.SYSTEM, (TextPart("hi"),)),)),
        replace(request, messages=(Message(Role.USER, (TextPart("hi"),)),) * 2),
        replace(request, answer_start="a"),
        replace(request, tools=(Tool("t"),)),
        replace(request, sampling=Sampling(temperature=0.5)),
        replace(request, sampling=Sampling(seed=1)),
        replace(request, limits=Limits(max_tokens=1)),
        replace(request, limits=Limits(stop=("x",))),
        replace(request, logprobs=0),
        replace(request, response_format=ResponseFormat(kind=FormatKind.JSON_OBJECT)),
    ]
    forms = [request_form.encode(one) for one in (request, *others)]
    assert len(set(forms)) == len(forms)


def test_the_form_of_a_request_is_what_the_guide_prints() -> None:
    request = Request(
        id="1", model="m", messages=(Message(Role.USER, (TextPart("h"), TextPart("i"))),), limits=Limits(max_tokens=5)
    )
    form = b'{"limits":{"max_tokens":5},"messages":[{"role":"user","text":"hi"}],"model":"m"}'
    assert request_form.encode(request) == form


def test_a_body_that_passed_is_known_by_the_bytes_of_its_values_in_whatever_order() -> None:
    one = request_form.encode_body("chat", {"model": b'"m"', "n": b"1.0"})
    assert one == request_form.encode_body("chat", {"n": b"1.0", "model": b'"m"'})
    assert one != request_form.encode_body("chat", {"n": b"1", "model": b'"m"'})
    assert one != request_form.encode_body("messages", {"model": b'"m"', "n": b"1.0"})


def heard(*events: object) -> AnswerForm:
    form = AnswerForm()
    for event in events:
        form.hear(event)  # type: ignore[arg-type]
    return form


def test_an_answer_is_the_same_in_whatever_pieces_it_comes() -> None:
    whole = heard(
        Started("r", "m", 3),
        TextDelta(0, "Hello", 1),
        ToolCallDelta(0, 0, '{"b": 1.0, "a":[]}', 1, "call_1", "f"),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        Finished(Usage(3, 2)),
    )
    pieces = heard(
        Started("r", "m", 3),
        ToolCallDelta(0, 0, "", 0, "call_9", "f"),
        TextDelta(0, "Hel", 1),
        ToolCallDelta(0, 0, '{"a":[],', 1),
        TextDelta(0, "lo", 0),
        ToolCallDelta(0, 0, '"b":1}', 1),
        ChoiceFinished(0, FinishReason.STOP),
    )
    wanted = (
        b'{"choices":[{"ending":"whole","index":0,"text":"Hello","tool_calls":'
        b'[{"arguments":"{\\"a\\":[],\\"b\\":1}","name":"f"}]}]}'
    )
    assert whole.encode() == pieces.encode() == wanted
    assert whole.has_finished and not pieces.has_finished


def test_another_backend_that_begins_anew_leaves_nothing_of_the_first() -> None:
    form = heard(Started("r", "m", 3), TextDelta(0, "no", 1), Started("r", "n", 3), TextDelta(1, "yes", 1))
    assert b"no" not in form.encode() and form.started is not None and form.started.model == "n"


def test_reasoning_is_a_form_of_its_own() -> None:
    form = heard(ReasoningDelta(0, "hm", 1), TextDelta(0, "a", 1), TextDelta(1, "b", 1))
    assert form.encode_reasoning() == b'["hm",""]'
    assert b"hm" not in form.encode()
    assert heard(TextDelta(0, "a", 1)).encode_reasoning() is None


def test_vectors_and_scores_are_answers_too() -> None:
    assert heard(Embedding(1, b"\0\0\x80\x3f", 1), Embedding(0, b"", 1)).encode() == (
        b'{"results":[{"index":0,"vector":""},{"index":1,"vector":"AACAPw=="}]}'
    )
    assert heard(Score(0, -1e-7, 1)).encode() == b'{"results":[{"index":0,"score":-1e-7}]}'


def test_half_a_surrogate_pair_is_told_and_does_not_end_anything() -> None:
    one, other = heard(TextDelta(0, "\ud800", 1)), heard(TextDelta(0, "\ufffd", 1))
    assert one.encode() != other.encode()
    json.loads(one.encode())


def test_token_ids_are_told_if_all_are_known() -> None:
    known = TokenLogprob("a", b"a", 0.0, token_id=7)
    assert heard(TextDelta(0, "a", 1, (known,))).tokens() == {0: [7]}
    assert heard(TextDelta(0, "a", 1, (known,)), TextDelta(0, "b", 1)).tokens() is None
    assert heard(TextDelta(0, "a", 1)).tokens() is None


def test_arguments_that_are_no_json_stay_as_they_are() -> None:
    assert arguments_form("") == "{}"
    assert arguments_form('{"a": 1}') == '{"a":1}'
    assert arguments_form('{"a": 1') == '{"a": 1'
    assert arguments_form('{"a":1,"a":2}') == '{"a":1,"a":2}'
    assert arguments_form("\ud800") == "\ud800"
    long = '{"a": "' + "x" * 10**5 + '"}'
    assert arguments_form(long) == long
    assert arguments_form("[" * 60_000) == "[" * 60_000


@given(REQUESTS)
def test_a_request_comes_back_from_its_form_and_has_the_same_again(request: Request) -> None:
    again = request_form.read(request_form.encode(request))
    assert request_form.encode(again) == request_form.encode(request)
    assert again.sampling.seed == request.sampling.seed
    assert [one.text for one in again.messages or ()] == [one.text for one in request.messages or ()]


def test_a_request_is_asked_again_as_it_was_asked() -> None:
    asked = Request(
        id="1",
        model="m",
        prompt="p",
        sampling=Sampling(temperature=0.5, seed=2**63),
        limits=Limits(max_tokens=7, fits_context=True, stop=("x",)),
    )
    came = replace(asked, sampling=Sampling(), limits=Limits(stop=("x",)))
    assert request_form.with_parameters(came, request_form.parameters(asked)) == asked


@pytest.mark.parametrize("data", [b"[]", b'{"messages":[{}]}', b'{"messages":1}', b'{"sampling":{"seed":"x"}}', b"{"])
def test_what_is_no_form_of_a_request_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        request_form.read(data)
