"""Envelopes: what is taken out of a message, what is put around an event or an error."""

import json
from typing import Any

import msgspec
import pytest

from headrace.api.responses_service import ResponseEvent
from headrace.api.socket_frames import (
    Create,
    Steer,
    begins_call,
    decode_create_frame,
    decode_frame,
    decode_steer,
    encode_error_frame,
    encode_event,
    required_input,
)
from headrace.core.errors import Forbidden, InvalidRequest, Overloaded, Unauthenticated


def create(**fields: Any) -> Create:
    return decode_create_frame(decode_frame(json.dumps({"type": "response.create", **fields})))


def event(kind: str, number: int, **fields: Any) -> ResponseEvent:
    data = msgspec.json.encode({"type": kind, **fields, "sequence_number": number})
    return ResponseEvent(kind, number, data)


def test_a_create_is_what_http_would_bring_less_what_belongs_to_the_socket() -> None:
    made = create(stream_id="a", stream=True, background=False, generate=True, model="m", input="Hi", store=False)
    assert json.loads(made.body) == {"model": "m", "input": "Hi", "store": False, "stream": True}
    assert (made.stream_id, made.generates, made.is_steerable) == ("a", True, True)


@pytest.mark.parametrize(
    ("fields", "generates"),
    [
        ({}, True),
        ({"generate": None}, True),
        ({"generate": False}, False),
        ({"prompt_cache_options": {"prewarm": True, "ttl": "30m"}}, False),
        ({"prompt_cache_options": {"prewarm": True}, "generate": True}, False),
        ({"prompt_cache_options": {"prewarm": False}}, True),
        ({"prompt_cache_options": None}, True),
        ({"prompt_cache_options": 7}, True),  # refused where such options are read
    ],
)
def test_warming_up_is_asked_for_in_two_ways(fields: dict[str, Any], generates: bool) -> None:
    made = create(**fields)
    assert made.generates is generates
    assert "prewarm" not in made.body.decode() or fields["prompt_cache_options"]["prewarm"] is False


def test_what_belongs_to_a_conversation_or_generates_nothing_is_not_steerable() -> None:
    assert not create(conversation="conv_1").is_steerable
    assert not create(generate=False).is_steerable
    assert create(conversation=None).is_steerable


def test_steering_stands_before_the_input_of_the_request_that_takes_it() -> None:
    steer = Steer("resp_1", "Wait", ({"role": "user", "content": "Wait"},))
    assert json.loads(create(input="Hi").prepend([steer]).body)["input"] == [
        {"role": "user", "content": "Wait"},
        {"type": "message", "role": "user", "content": "Hi"},
    ]
    assert len(json.loads(create(input=[1, 2]).prepend([steer, steer]).body)["input"]) == 4
    assert len(json.loads(create().prepend([steer]).body)["input"]) == 1


def test_a_text_that_steers_is_a_message_of_the_user() -> None:
    frame = decode_frame('{"type":"response.steer","previous_response_id":"r","input":"Stop"}')
    assert decode_steer(frame).items == ({"type": "message", "role": "user", "content": "Stop"},)


def test_an_event_passes_untouched_and_gets_a_number_and_a_lane_where_it_needs_them() -> None:
    given = event("response.output_text.delta", 7, delta='"sequence_number":7}')
    assert encode_event(given, 7, None) is given.data
    assert json.loads(encode_event(given, 12, None)) == json.loads(given.data) | {"sequence_number": 12}
    assert json.loads(encode_event(given, 7, 'a"b')) == json.loads(given.data) | {"stream_id": 'a"b'}


def test_the_beginning_of_a_call_is_told_from_that_of_a_message() -> None:
    added = "response.output_item.added"
    assert begins_call(event(added, 3, item={"type": "function_call", "id": "x"}))
    assert begins_call(event(added, 3, item={"type": "custom_tool_call", "id": "x"}))
    assert not begins_call(event(added, 3, item={"type": "message", "content": [{"type": "function_call"}]}))
    assert not begins_call(event("response.output_item.done", 3, item={"type": "function_call"}))


def test_an_error_says_what_http_would_have_said() -> None:
    frame = json.loads(encode_error_frame(Overloaded("busy", retry_after_s=2), "resp_1", "a"))
    headers = {"x-should-retry": "true", "retry-after": "2", "x-request-id": "resp_1"}
    error = {"message": "busy", "type": "server_error", "param": None, "code": "overloaded", "headers": headers}
    assert frame == {"type": "error", "status": 503, "error": error, "stream_id": "a"}
    assert json.loads(encode_error_frame(Unauthenticated("no"), "r"))["status"] == 401
    assert "www-authenticate" not in encode_error_frame(Forbidden("no"), "r").decode()
    gone = InvalidRequest("not there", code="previous_response_not_found")
    assert json.loads(encode_error_frame(gone, "r"))["status"] == 400


def test_only_calls_want_answers() -> None:
    output = [
        {"type": "reasoning", "id": "rs"},
        {"type": "message", "id": "msg"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "g", "input": "x"},
    ]
    assert required_input({"output": output}) == [
        {"type": "function_call_output", "call_id": "a", "name": "f"},
        {"type": "custom_tool_call_output", "call_id": "b"},
    ]
