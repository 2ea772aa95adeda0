"""Openings of neutral requests: two that begin alike share their first blocks, and no more."""

from headrace.core.request import Message, Request, Role, TextPart, Tool
from headrace.gateway.routing.blocks import opening_of


def request(*texts: str, model: str = "m", tools: tuple[Tool, ...] = ()) -> Request:
    messages = tuple(Message(Role.USER, (TextPart(text),)) for text in texts)
    return Request(id="1", model=model, messages=messages, tools=tools)


def num_shared(one: Request, other: Request) -> int:
    left, right = opening_of(one)(), opening_of(other)()
    shared = 0
    while shared < min(len(left), len(right)) and left[shared] == right[shared]:
        shared += 1
    assert not set(left[shared:]) & set(right[shared:])
    return shared


def test_what_is_said_next_keeps_the_blocks_of_what_was_said_before() -> None:
    first = request("a" * 1000)
    assert len(opening_of(first)()) == 3
    assert num_shared(first, request("a" * 1000, "b" * 500)) == 3
    assert num_shared(first, request("a" * 600 + "b" * 400)) == 2
    assert num_shared(first, request("b" + "a" * 999)) == 0


def test_another_model_or_other_tools_begin_anew() -> None:
    assert num_shared(request("a" * 1000), request("a" * 1000, model="other")) == 0
    assert num_shared(request("a" * 1000), request("a" * 1000, tools=(Tool("look"),))) == 0


def test_prompts_and_tokens_have_openings_too() -> None:
    assert len(opening_of(Request(id="1", model="m", prompt="x" * 600))()) == 2
    assert len(opening_of(Request(id="1", model="m", tokens=tuple(range(200))))()) == 3
