"""Gemini's native API, outwards: what it cannot say, what its answers and refusals mean. What it can say is held to
Google's own SDK in `tests/oracle/test_gemini_vectors.py`."""

import json
from typing import Any

import pytest

from headrace.api.outbound.call_ids import MAX_SIGNATURE_CHARS, plain_id, sign_id, signature_of
from headrace.api.outbound.codec import Quirks
from headrace.api.outbound.gemini import GEMINI
from headrace.api.outbound.gemini_answer import FAULTS, FINISH_REASONS
from headrace.api.outbound.gemini_models import ROWS
from headrace.core import errors
from headrace.core.errors import (
    EngineFault,
    HeadraceError,
    InvalidRequest,
    UnsupportedField,
    UpstreamDenied,
    UpstreamFault,
)
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, ToolCallDelta, Usage
from headrace.core.gateway import RawBody
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
)

MODEL = "gemini-3-flash"


def said(role: Role, text: str = "", **fields: Any) -> Message:
    return Message(role, (TextPart(text),) if text else (), **fields)


HI = (said(Role.USER, "Hi"),)
TOOL = Tool("f", "", {}, strict=True)


def asked(**fields: Any) -> Request:
    return Request(**{"id": "r1", "model": "route", "messages": HI} | fields)


def body(request: Request, model: str = MODEL) -> dict[str, Any]:
    return dict(json.loads(GEMINI.encode(request, model, Quirks()).body))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": Sampling(best_of=2)}, "best_of"),
        ({"sampling": Sampling(min_p=0.1)}, "min_p"),
        ({"sampling": Sampling(typical_p=0.5)}, "typical_p"),
        ({"sampling": Sampling(repetition_penalty=1.1)}, "repetition_penalty"),
        ({"sampling": Sampling(logit_bias=((1, 2.0),))}, "logit_bias"),
        ({"limits": Limits(stop_token_ids=(1,))}, "stop_token_ids"),
        ({"limits": Limits(ignore_eos=True)}, "ignore_eos"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"messages": None, "prompt": "x"}, "prompt"),
        ({"messages": None, "tokens": (1,)}, "tokens"),
        ({"messages": None, "inputs": (Input("x", "y"),), "task": Task.SCORE}, "inputs"),
        ({"messages": None, "inputs": (Input((1,)),), "task": Task.EMBED}, "inputs[0]"),
        ({"response_format": ResponseFormat(FormatKind.REGEX, source="a+")}, "response_format"),
        ({"response_format": ResponseFormat(FormatKind.JSON_SCHEMA, schema=True)}, "response_format"),
        ({"messages": (said(Role.USER, "Hi", name="bob"),)}, "messages[0].name"),
        ({"answer_start": "Well"}, "answer_start"),
    ],
)
def test_what_the_protocol_cannot_say_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    request = asked(**fields)
    request.check()
    with pytest.raises(UnsupportedField) as caught:
        body(request)
    assert caught.value.param == param


def test_instructions_are_told_before_all_turns_wherever_they_stand() -> None:
    messages = (said(Role.SYSTEM, "a"), *HI, said(Role.DEVELOPER, "b"), said(Role.ASSISTANT, "Yes."), *HI)
    given = body(asked(messages=messages))
    assert given["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert [content["role"] for content in given["contents"]] == ["user", "model", "user"]


@pytest.mark.parametrize(
    "messages", [(said(Role.SYSTEM, "s"),), (said(Role.USER),), (*HI, said(Role.TOOL, "x", tool_call_id="c"))]
)
def test_what_is_no_conversation_is_the_callers_mistake(messages: tuple[Message, ...]) -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        body(asked(messages=messages))


@pytest.mark.parametrize(
    ("reasoning", "model", "config"),
    [
        (Reasoning(), MODEL, None),
        (Reasoning(Effort.NONE), MODEL, {"thinkingLevel": "MINIMAL"}),
        (Reasoning(Effort.NONE), "gemini-3-pro", {"thinkingLevel": "LOW"}),
        (Reasoning(Effort.NONE), "gemini-2.5-flash", {"thinkingBudget": 0}),
        (Reasoning(Effort.NONE), "gemini-2.5-pro", {"thinkingBudget": 128}),
        (Reasoning(Effort.NONE), "gemini-2.0-flash", None),
        (Reasoning(Effort.HIGH), "gemma-3-27b-it", None),
        (Reasoning(Effort.MEDIUM), "models/gemini-2.5-flash", {"includeThoughts": True, "thinkingBudget": 8192}),
        (Reasoning(Effort.LOW), MODEL, {"includeThoughts": True, "thinkingLevel": "LOW"}),
        (Reasoning(None, 500), MODEL, {"includeThoughts": True, "thinkingBudget": 500}),
        (Reasoning(Effort.NONE, 500), "gemini-2.5-flash", {"thinkingBudget": 0}),
    ],
)
def test_thinking_is_asked_for_as_a_model_understands_it(reasoning: Reasoning, model: str, config: Any) -> None:
    assert body(asked(reasoning=reasoning), model).get("generationConfig", {}).get("thinkingConfig") == config


def test_arguments_that_must_fit_need_a_mode_that_checks() -> None:
    assert body(asked(tools=(TOOL,)))["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert "toolConfig" not in body(asked(tools=(Tool("f"),)))


def test_a_call_that_never_was_geminis_is_marked_where_a_model_would_refuse_it() -> None:
    calls = (ToolCall("call_1", "f", "{}"), ToolCall("call_2", "f", "{}"))
    request = asked(messages=(*HI, said(Role.ASSISTANT, tool_calls=calls)))
    marks = [part.get("thoughtSignature") for part in body(request)["contents"][1]["parts"]]
    assert marks == ["skip_thought_signature_validator", None]
    assert b"thoughtSignature" not in GEMINI.encode(request, "gemini-2.5-flash", Quirks()).body


def test_a_seed_of_any_size_fits_and_is_the_same_each_time() -> None:
    one, other = (body(asked(sampling=Sampling(seed=seed)))["generationConfig"]["seed"] for seed in (2**63 + 5, -1))
    assert (one, other) == (5, 2**31 - 1)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-flash", "/models/gemini-3-flash:"),
        ("models/gemini-3-flash", "/models/gemini-3-flash:"),
        ("tunedModels/mine", "/tunedModels/mine:"),
        ("../../v1/keys?a=b#c", "/models/..%2F..%2Fv1%2Fkeys%3Fa%3Db%23c:"),
        ("models/../x", "/models/..%2Fx:"),
        ("a b\r\nx: y", "/models/a%20b%0D%0Ax%3A%20y:"),
    ],
)
def test_no_name_leads_out_of_its_place(model: str, path: str) -> None:
    made = GEMINI.encode(asked(), model, Quirks())
    assert made.path == f"{path}streamGenerateContent?alt=sse"
    assert "key=" not in made.path


def test_every_model_has_a_row_and_the_last_fits_all() -> None:
    prefixes = [row.prefix for row in ROWS]
    assert prefixes[-1] == ""
    for at, prefix in enumerate(prefixes):
        assert not any(prefix.startswith(earlier) for earlier in prefixes[:at]), f"{prefix} is never reached"


@pytest.mark.parametrize("signature", ["c2ln", "+/+/", "YQ==", "YWI="])
def test_an_id_carries_a_signature_in_letters_that_every_protocol_takes(signature: str) -> None:
    signed = sign_id("call_1", signature)
    assert signed.replace("_", "").replace("-", "").isalnum()
    assert (plain_id(signed), signature_of(signed)) == ("call_1", signature)


@pytest.mark.parametrize("signature", ["", "no base64!", "é", "a" * (MAX_SIGNATURE_CHARS + 1)])
def test_what_is_no_signature_is_not_carried(signature: str) -> None:
    assert sign_id("call_1", signature) == "call_1"
    assert signature_of("call_1") == ""


# Answers -------------------------------------------------------------------------------------------------------------


def read(*chunks: Any, request: Request | None = None) -> list[Event]:
    reader = GEMINI.reader(request or asked(), "m")
    told = [event for chunk in chunks for event in reader.feed("", json.dumps(chunk).encode())]
    return told + reader.end()


def candidate(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **fields}]}


YES = {"text": "Yes."}


@pytest.mark.parametrize(("reason", "ended"), [*FINISH_REASONS.items(), ("A_NEW_ONE", FinishReason.STOP)])
def test_why_an_answer_ended(reason: str, ended: FinishReason) -> None:
    assert read(candidate(YES, finishReason=reason) | {"usageMetadata": {"promptTokenCount": 3}}) == [
        Started("r1", "m", 3),
        TextDelta(0, "Yes.", 1),
        ChoiceFinished(0, ended),
        Finished(Usage(3, 0)),
    ]


def test_who_tells_no_counts_is_charged_by_bounds() -> None:
    last = read(candidate(YES, finishReason="STOP"))[-1]
    assert isinstance(last, Finished)
    assert (last.usage.completion_tokens, last.usage.is_estimated) == (len("Yes."), True)
    assert last.usage.prompt_tokens > len("Hi")


@pytest.mark.parametrize("reason", sorted(FAULTS))
def test_what_the_model_made_wrong_is_a_fault_that_may_be_tried_again(reason: str) -> None:
    with pytest.raises(UpstreamFault, match=reason) as caught:
        read(candidate(finishReason=reason))
    assert caught.value.retryable


def test_calls_end_an_answer_unless_it_was_cut() -> None:
    call = {"functionCall": {"id": "x1", "name": "f", "args": {"a": 1}}}
    told = read(candidate(call, finishReason="STOP"))
    assert told[1:3] == [ToolCallDelta(0, 0, '{"a":1}', 1, "x1", "f"), ChoiceFinished(0, FinishReason.TOOL_CALLS)]
    assert read(candidate(call, finishReason="MAX_TOKENS"))[2] == ChoiceFinished(0, FinishReason.LENGTH)


def test_no_more_calls_are_told_than_were_asked_for() -> None:
    calls = [{"functionCall": {"id": f"x{number}", "name": "f", "args": {}}} for number in range(3)]
    request = asked(tools=(TOOL,), tool_choice=ToolChoice(max_calls=2))
    told = [one.id for one in read(candidate(*calls, finishReason="STOP"), request=request) if hasattr(one, "id")]
    assert told == ["x0", "x1"]


def test_counts_may_come_behind_the_end_of_a_candidate() -> None:
    late = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "toolUsePromptTokenCount": 4}}
    assert read(candidate(YES, finishReason="STOP"), late)[-1] == Finished(Usage(7, 2))


TWO = asked(sampling=Sampling(num_choices=2))


@pytest.mark.parametrize(
    ("chunks", "request_"),
    [
        ([], None),
        ([candidate(YES)], None),
        ([candidate(YES, finishReason="FINISH_REASON_UNSPECIFIED")], None),
        ([candidate(YES, finishReason="STOP")], TWO),
        ([candidate(YES, index=1, finishReason="STOP")], None),
        ([candidate(YES, index=-1)], None),
        ([candidate(YES, finishReason="STOP"), candidate(YES)], None),
        ([candidate({"functionCall": {"args": {}}}, finishReason="STOP")], None),
        ([candidate({"functionCall": {"name": "f", "args": []}})], None),
        ([candidate({"inlineData": {"data": "x"}})], None),
        ([candidate({"executableCode": {"code": "x"}})], None),
        ([candidate(YES), {"promptFeedback": {"blockReason": "SAFETY"}, "candidates": [{}]}], None),
        ([{"usageMetadata": {"promptTokenCount": -1}}], None),
        ([[]], None),
        (["x"], None),
    ],
)
def test_what_is_not_the_protocol_is_the_backends_fault(chunks: list[Any], request_: Request | None) -> None:
    with pytest.raises(UpstreamFault):
        read(*chunks, request=request_)


def refusal(code: int, status: str, message: str = "Because.", **detail: Any) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, "details": [detail] if detail else []}}


KINDS = [
    (400, "INVALID_ARGUMENT", errors.InvalidRequest),
    (404, "NOT_FOUND", errors.NotFound),
    (429, "RESOURCE_EXHAUSTED", errors.RateLimited),
    (500, "INTERNAL", errors.UpstreamFault),
    (503, "UNAVAILABLE", errors.Overloaded),
    (504, "DEADLINE_EXCEEDED", errors.UpstreamTimeout),
    (418, "SOMETHING_NEW", errors.UpstreamFault),
]


@pytest.mark.parametrize(("code", "status", "error"), KINDS)
def test_a_refusal_is_read_wherever_it_comes(code: int, status: str, error: type[HeadraceError]) -> None:
    told = refusal(code, status)
    with pytest.raises(error) as caught:
        read(candidate(YES), told)
    whole = GEMINI.read_error(code, [], json.dumps(told).encode())
    listed = GEMINI.read_error(code, [], json.dumps([told]).encode())
    assert [type(one) for one in (caught.value, whole, listed)] == [error] * 3
    assert caught.value.message == whole.message == listed.message


@pytest.mark.parametrize(("code", "error"), [(400, InvalidRequest), (404, UpstreamFault), (503, errors.Overloaded)])
def test_a_page_of_some_server_is_read_by_its_status(code: int, error: type[HeadraceError]) -> None:
    assert type(GEMINI.read_error(code, [], b"<html>")) is error


@pytest.mark.parametrize(
    "told",
    [
        refusal(401, "UNAUTHENTICATED", "key AIza123"),
        refusal(403, "PERMISSION_DENIED", "project 7"),
        refusal(400, "FAILED_PRECONDITION", "no billing"),
        refusal(400, "INVALID_ARGUMENT", "API key not valid: AIza123", reason="API_KEY_INVALID"),
    ],
)
def test_what_is_wrong_with_our_own_key_is_nobody_elses_business(told: dict[str, Any]) -> None:
    made = GEMINI.read_error(told["error"]["code"], [], json.dumps(told).encode())
    assert type(made) is (UpstreamDenied if told["error"]["code"] == 403 else UpstreamFault)
    assert "credentials" in made.message and told["error"]["message"] not in made.message


def test_when_to_try_again_is_told() -> None:
    told = json.dumps(refusal(429, "RESOURCE_EXHAUSTED", retryDelay="3.5s")).encode()
    assert GEMINI.read_error(429, [], told).retry_after_s == 3.5
    assert GEMINI.read_error(429, [(b"retry-after", b"9")], told).retry_after_s == 9.0


def test_a_prompt_that_does_not_fit_is_too_long() -> None:
    message = "The input token count (9) exceeds the maximum number of tokens allowed (8)."
    told = json.dumps(refusal(400, "INVALID_ARGUMENT", message)).encode()
    assert type(GEMINI.read_error(400, [], told)) is errors.ContextTooLong


@pytest.mark.parametrize(
    "told", [{}, {"embeddings": []}, {"embeddings": [{}]}, {"embeddings": [{"values": [1e300]}]}, {"embeddings": 5}, []]
)
def test_vectors_that_are_none_are_the_backends_fault(told: Any) -> None:
    with pytest.raises(UpstreamFault):
        GEMINI.decode(asked(messages=None, inputs=(Input("a"),), task=Task.EMBED), "m", json.dumps(told).encode())


@pytest.mark.parametrize("told", [{}, {"totalTokens": -1}, {"candidates": []}, []])
def test_a_count_that_is_none_is_the_backends_fault(told: Any) -> None:
    with pytest.raises(UpstreamFault):
        GEMINI.decode(asked(task=Task.COUNT), "m", json.dumps(told).encode())


def test_nothing_passes_through_unread() -> None:
    raw = RawBody(dialect="chat", path="/v1/chat/completions", fields={})
    assert GEMINI.takes == frozenset()
    with pytest.raises(EngineFault):
        GEMINI.reframe(raw, "m", None, Quirks())
    with pytest.raises(EngineFault):
        GEMINI.scanner(raw)
