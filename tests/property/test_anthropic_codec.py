"""Whatever comes in is a request or a refusal; whatever goes out passes the official client's own parser."""

import itertools
import json
from typing import Any

from anthropic import NOT_GIVEN
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from fuzz.anthropic_codec import MESSAGES, PROMPTS, TARGETS
from fuzz.target import CALLER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from headrace.api.anthropic import Call, decode_messages
from headrace.api.anthropic_answers import AnswerWriter, StreamWriter
from headrace.api.anthropic_fields import STRUCTS_AT, MessagesBody
from headrace.api.anthropic_thinking import seal, unseal
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
from headrace.core.request import Message as NeutralMessage
from headrace.core.request import Request, Role, TextPart

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(MessagesBody.__struct_fields__)
PLACES = sorted(path for path in STRUCTS_AT if "." not in path)


def check_input(data: bytes) -> None:
    for target in TARGETS:
        target.check(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    check_input(data)


@given(st.sampled_from([*MESSAGES, *PROMPTS]), st.integers(0, 900), st.integers(0, 20), st.binary(max_size=12))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_requests_are_a_request_or_a_refusal(seed: bytes, start: int, length: int, patch: bytes) -> None:
    check_input(seed[:start] + patch + seed[start + length :])


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_in_any_field_is_a_request_or_a_refusal(fields: dict[str, object]) -> None:
    required = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    check_input(json.dumps(required | fields).encode("utf-8", "surrogatepass"))


@given(st.sampled_from(PLACES), st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_inside_an_object_is_a_request_or_a_refusal(place: str, data: st.DataObject) -> None:
    names = st.sampled_from([*STRUCTS_AT[place].__struct_fields__, "other"])
    one: Any = data.draw(st.dictionaries(names, VALUES | st.sampled_from(["text", "user", "auto"]), max_size=5))
    required: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    given_: dict[str, Any] = {place: one}
    if place.endswith("[]"):
        given_ = {place.removesuffix("[]"): [one]}
    check_input(json.dumps(required | given_).encode("utf-8", "surrogatepass"))


TEXTS = st.tuples(st.sampled_from(["text", "thinking"]), st.text(max_size=9))
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9) | st.lists(st.none()), max_size=3)
TOOLS = st.tuples(st.just("tool"), ARGUMENTS)
REQUEST = Request(id="msg_1", model="m", messages=(NeutralMessage(Role.USER, (TextPart("Hi"),)),))


def scripted(blocks: list[tuple[str, Any]], size: int) -> list[Event]:
    """The events of an answer; arguments of tools come in pieces of `size` characters."""
    events: list[Event] = [Started("msg_1", "m", 9, 4, cache_writes=((300.0, 2),))]
    index = -1
    for kind, what in blocks:
        if kind == "text":
            events.append(TextDelta(0, what, 1))
        elif kind == "thinking":
            events.append(ReasoningDelta(0, what, 1))
        else:
            index += 1
            text = json.dumps(what)
            events.append(ToolCallDelta(0, index, "", 1, f"call_{index}", "f"))
            events += [ToolCallDelta(0, index, text[at : at + size], 1) for at in range(0, len(text), size)]
    usage = Usage(9, 5, 4, cache_writes=((300.0, 2),), reasoning_tokens=1)
    return [*events, ChoiceFinished(0, FinishReason.TOOL_CALLS if index >= 0 else FinishReason.STOP), Finished(usage)]


@given(st.lists(TEXTS | TOOLS, max_size=8), st.integers(1, 7), st.lists(st.integers(1, 5)), st.booleans())
def test_the_clients_parser_gathers_the_whole_message_from_its_stream(
    blocks: list[tuple[str, Any]], size: int, cuts: list[int], hides: bool
) -> None:
    call = Call(REQUEST, hides_thinking=hides)
    events = scripted(blocks, size)
    whole, stream = AnswerWriter(call, lambda _: None), StreamWriter(call, lambda _: None)
    whole.add(events)
    sent = b""
    for cut in [*cuts, len(events)]:
        sent += stream.encode(events[:cut])
        events = events[cut:]
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    parse = TypeAdapter(RawMessageStreamEvent).validate_python
    for frame in sent.decode().split("\n\n")[:-1]:
        event = parse(json.loads(frame.split("data: ", 1)[1]))
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers, output_format=NOT_GIVEN)
    message = Message.model_validate_json(whole.encode())
    assert message.model_dump() == Message.model_validate(snapshot.model_dump()).model_dump()
    assert stream.is_done
    assert [block.type for block in message.content if block.type == "tool_use"] == ["tool_use"] * len(
        [kind for kind, _ in blocks if kind == "tool"]
    )


@given(st.text(max_size=300), st.booleans())
def test_what_was_thought_comes_back_as_it_was_sealed(text: str, hides: bool) -> None:
    shown = "" if hides else text
    assert unseal(shown, seal(text, is_hidden=hides), "x") == text


@st.composite
def talks(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A conversation that the protocol allows: each call is answered in the turn after it, in any order."""
    said = st.text(st.characters(categories=["L"]), min_size=1, max_size=5)
    talk: list[dict[str, Any]] = []
    number, waiting = 0, list[str]()
    for _ in range(draw(st.integers(1, 5))):
        blocks = [
            {"type": "tool_result", "tool_use_id": one, "content": draw(said)} for one in draw(st.permutations(waiting))
        ]
        blocks += [{"type": "text", "text": draw(said)} for _ in range(draw(st.integers(0 if blocks else 1, 2)))]
        cut = draw(st.integers(1, len(blocks)))  # one turn may be sent as two
        talk += [{"role": "user", "content": part} for part in (blocks[:cut], blocks[cut:]) if part]
        waiting = [f"toolu_{number + index}" for index in range(draw(st.integers(0, 2)))]
        number += len(waiting)
        calls = [{"type": "tool_use", "id": one, "name": "f", "input": {"a": draw(said)}} for one in waiting]
        talk.append({"role": "assistant", "content": [{"type": "text", "text": draw(said)}, *calls]})
    results = [{"type": "tool_result", "tool_use_id": one, "content": draw(said)} for one in waiting]
    talk.append({"role": "user", "content": [*results, {"type": "text", "text": draw(said)}]})
    for block in draw(st.lists(st.sampled_from([one for turn in talk for one in turn["content"]]), max_size=4)):
        block["cache_control"] = {"type": "ephemeral"}
    return talk


@given(talks())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_every_word_call_result_and_mark_of_a_conversation_arrives(talk: list[dict[str, Any]]) -> None:
    data = json.dumps({"model": "m", "max_tokens": 9, "messages": talk}).encode()
    request = decode_messages(data, CALLER).request
    messages = request.messages or ()
    blocks = [(turn["role"], block) for turn in talk for block in turn["content"]]

    def words(kind: str, role: str) -> list[str]:
        return [block.get("text", block.get("content")) for by, block in blocks if (block["type"], by) == (kind, role)]

    told = {role: [word for one in messages if one.role is role for word in one.text.split("\n")] for role in Role}
    assert told[Role.USER] == words("text", "user")
    assert told[Role.TOOL] == words("tool_result", "user")
    assert "".join(told[Role.ASSISTANT]) == "".join(words("text", "assistant"))
    calls = [call.id for one in messages for call in one.tool_calls]
    assert calls == [block["id"] for _, block in blocks if block["type"] == "tool_use"]
    assert sorted(calls) == sorted(one.tool_call_id or "" for one in messages if one.role is Role.TOOL)
    pairs = itertools.pairwise(one.role for one in messages)
    assert all(one is not other for one, other in pairs if one is not Role.TOOL)
    num_marks = sum("cache_control" in block for _, block in blocks)
    points = [point.message for point in request.cache.breakpoints]
    assert points == sorted(set(points))
    assert min(1, num_marks) <= len(points) <= num_marks
