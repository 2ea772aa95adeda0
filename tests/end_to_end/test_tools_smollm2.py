"""Tools on a model of 135M parameters that was taught none: every call that is required is valid, and streamed."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.doubles_http import run
from tests.end_to_end.test_server_smollm2 import LIMIT_S, MODEL, connected

from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    ToolCallDelta,
)
from headrace.core.request import (
    Breakpoint,
    CacheHints,
    FormatKind,
    Limits,
    Message,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.load import LoadedModel, load_model

WEATHER = Tool(
    "get_weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 3},
        },
        "required": ["city", "unit", "days"],
    },
)
ADD = Tool(
    "add",
    "Adds two numbers.",
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]},
)
TOOLS = {tool.name: tool for tool in (WEATHER, ADD)}
REQUIRED = ToolChoice(ToolMode.REQUIRED)


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


def play(model: LoadedModel, main: Callable[[TextEngine], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        engine = TextEngine([model], EngineConfig(max_sequences=4, checks=True))
        engine.start()
        try:
            async with asyncio.timeout(120):
                await main(engine)
        finally:
            await engine.close()

    asyncio.run(whole())


def turn(text: str, role: Role = Role.USER, **fields: Any) -> Message:
    return Message(role, (TextPart(text),), **fields)


def ask(text: str = "What is the weather in Paris?", **fields: Any) -> Request:
    fields = {"messages": (turn(text),), "tools": tuple(TOOLS.values()), "limits": Limits(max_tokens=200)} | fields
    fields.setdefault("sampling", Sampling(temperature=0))
    return Request(id=fields.pop("id", "r1"), model=MODEL, **fields)


async def collect(engine: TextEngine, request: Request) -> list[Event]:
    return [event async for event in engine.run(request)]


def calls_of(events: list[Event], choice: int = 0) -> list[tuple[str | None, str | None, str]]:
    calls: list[tuple[str | None, str | None, str]] = []
    for event in events:
        if isinstance(event, ToolCallDelta) and event.choice == choice:
            if event.id is not None:
                assert event.index == len(calls)
                calls.append((event.id, event.name, ""))
            calls[event.index] = (*calls[event.index][:2], calls[event.index][2] + event.arguments)
    return calls


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_required_call_is_valid_at_any_temperature_and_comes_in_pieces(model: LoadedModel) -> None:
    async def main(engine: TextEngine) -> None:
        sampling = Sampling(temperature=1.5, seed=3, num_choices=3)
        events = await collect(engine, ask(tool_choice=REQUIRED, sampling=sampling))
        ids = set()
        for choice in range(3):
            ((call_id, name, arguments),) = calls_of(events, choice)
            jsonschema.validate(json.loads(arguments), TOOLS[name or ""].parameters)
            ids.add(call_id)
            assert sum(isinstance(event, ToolCallDelta) and event.choice == choice for event in events) > 3
        assert len(ids) == 3
        ends = [event for event in events if isinstance(event, ChoiceFinished)]
        assert [end.reason for end in ends] == [FinishReason.TOOL_CALLS] * 3
        assert text_of(events) == ""
        assert isinstance(events[-1], Finished)
        told = sum(event.num_tokens for event in events if isinstance(event, ToolCallDelta))
        assert events[-1].usage.completion_tokens == told

    play(model, main)


def test_a_named_tool_is_called_and_the_result_goes_back_into_the_conversation(model: LoadedModel) -> None:
    async def main(engine: TextEngine) -> None:
        first = ask(tool_choice=ToolChoice(ToolMode.REQUIRED, names=("add",)))
        events = await collect(engine, first)
        ((call_id, name, arguments),) = calls_of(events)
        assert call_id is not None and len(call_id) == 29 and call_id.startswith("call_")
        assert name == "add"
        jsonschema.validate(json.loads(arguments), ADD.parameters)
        assert calls_of(await collect(engine, first)) == [(call_id, name, arguments)]
        assert calls_of(await collect(engine, replace(first, id="r2")))[0][0] != call_id
        call = turn("", Role.ASSISTANT, tool_calls=(ToolCall(call_id, "add", arguments),))
        result = turn("5", Role.TOOL, tool_call_id=call_id)
        again = await collect(engine, replace(first, messages=(*(first.messages or ()), call, result)))
        assert isinstance(again[0], Started) and isinstance(events[0], Started)
        # What was said before is read once: tools, question and call.
        assert again[0].cached_tokens >= events[0].prompt_tokens // PAGE_TOKENS * PAGE_TOKENS
        assert len(calls_of(again)) == 1

    play(model, main)


def test_several_calls_may_be_asked_for_and_none_may_be(model: LoadedModel) -> None:
    async def main(engine: TextEngine) -> None:
        events = await collect(
            engine, ask(tool_choice=ToolChoice(ToolMode.REQUIRED, max_calls=2), sampling=Sampling(seed=1))
        )
        assert 1 <= len(calls_of(events)) <= 2
        quiet = await collect(engine, ask(tool_choice=ToolChoice(ToolMode.NONE), limits=Limits(max_tokens=24)))
        plain = await collect(engine, ask(tools=(), limits=Limits(max_tokens=24)))
        assert (text_of(quiet), calls_of(quiet)) == (text_of(plain), [])

    play(model, main)


def test_reading_without_answering_keeps_what_was_read_for_the_session(model: LoadedModel) -> None:
    async def main(engine: TextEngine) -> None:
        cache = CacheHints(breakpoints=(Breakpoint(None, 600.0),))
        warm = ask(limits=Limits(max_tokens=0), session="s", cache=cache, tool_choice=REQUIRED)
        events = await collect(engine, warm)
        assert isinstance(events[0], Started) and events[0].cached_tokens == 0
        assert events[1:-1] == [ChoiceFinished(0, FinishReason.LENGTH)]
        assert isinstance(events[-1], Finished)
        usage = events[-1].usage
        assert usage.completion_tokens == 0
        assert usage.cache_writes == ((600.0, usage.prompt_tokens // PAGE_TOKENS * PAGE_TOKENS),)
        after = await collect(engine, replace(warm, limits=Limits(max_tokens=8)))
        assert isinstance(after[0], Started)
        assert after[0].cached_tokens == (usage.prompt_tokens - 1) // PAGE_TOKENS * PAGE_TOKENS

    play(model, main)


def test_an_unfinished_call_is_told_as_what_it_is(model: LoadedModel) -> None:
    async def main(engine: TextEngine) -> None:
        events = await collect(engine, ask(tool_choice=REQUIRED, limits=Limits(max_tokens=16)))
        ((_, name, arguments),) = calls_of(events)
        assert name in TOOLS
        assert arguments.startswith("{") and not arguments.endswith("}")
        assert ChoiceFinished(0, FinishReason.LENGTH) in events

    play(model, main)


def test_a_required_call_goes_before_the_form_of_an_answer(model: LoadedModel) -> None:
    async def main(engine: TextEngine) -> None:
        form = ResponseFormat(FormatKind.CHOICE, choices=("yes", "no"))
        assert calls_of(await collect(engine, ask(tool_choice=REQUIRED, response_format=form)))
        quiet = ask(tool_choice=ToolChoice(ToolMode.NONE), response_format=form)
        assert text_of(await collect(engine, quiet)) in ("yes", "no")

    play(model, main)


def test_a_model_that_has_seen_calls_makes_one_by_itself_and_strict_holds_it_to_its_schema(model: LoadedModel) -> None:
    def cycle(city: str, weather: str) -> tuple[Message, ...]:
        call = ToolCall(f"call_{city}", "get_weather", json.dumps({"city": city, "unit": "celsius"}))
        return (
            turn(f"What is the weather in {city}?"),
            turn("", Role.ASSISTANT, tool_calls=(call,)),
            turn(weather, Role.TOOL, tool_call_id=call.id),
            turn(f"It is {weather} in {city}.", Role.ASSISTANT),
        )

    async def main(engine: TextEngine) -> None:
        history = (*cycle("Berlin", "12 C"), *cycle("Madrid", "31 C"), *cycle("Oslo", "3 C"))
        messages = (*history, turn("What is the weather in Rome?"))
        # Its examples have no days, and a city in them is a text.
        properties = {"city": {"enum": ["Rom", "Wien"]}, "days": {"type": "integer", "minimum": 2, "maximum": 4}}
        schema = {"type": "object", "properties": properties, "required": ["city", "days"]}
        for is_strict in (False, True):
            tool = Tool("get_weather", "Tells the weather of a city.", schema, strict=is_strict)
            events = await collect(engine, ask(messages=messages, tools=(tool,)))
            ((_, name, arguments),) = calls_of(events)
            assert name == "get_weather"
            assert ChoiceFinished(0, FinishReason.TOOL_CALLS) in events
            validator = jsonschema.Draft202012Validator({**schema, "additionalProperties": False})
            assert validator.is_valid(json.loads(arguments)) is is_strict
            free = await collect(engine, ask("Say hello.", tools=(tool,), limits=Limits(max_tokens=12)))
            assert calls_of(free) == []
            assert text_of(free) != ""

    play(model, main)


FUNCTION: dict[str, Any] = {
    "name": "add",
    "parameters": {**ADD.parameters, "additionalProperties": False},
    "strict": True,
}


def test_the_official_client_calls_tools_whole_and_streamed(model: LoadedModel) -> None:
    tools: list[Any] = [{"type": "function", "function": FUNCTION}]
    asks: dict[str, Any] = {"model": model.name, "tools": tools, "max_tokens": 60, "temperature": 0.7, "seed": 4}
    question: list[Any] = [{"role": "user", "content": "What is 2 + 3?"}]

    async def main() -> None:
        async with connected(model) as client:
            create = client.chat.completions.create
            named: Any = {"type": "function", "function": {"name": "add"}}
            for choice in ("required", named):
                reply = await create(**asks, messages=question, tool_choice=choice)
                (call,) = reply.choices[0].message.tool_calls or []
                assert call.type == "function"
                jsonschema.validate(json.loads(call.function.arguments), FUNCTION["parameters"])
            async with client.chat.completions.stream(**asks, messages=question, tool_choice="required") as stream:
                kinds = [event.type async for event in stream]
                parsed = (await stream.get_final_completion()).choices[0].message.tool_calls or []
            assert kinds.count("tool_calls.function.arguments.delta") > 2
            assert set(parsed[0].function.parsed_arguments or {}) == {"a", "b"}  # type: ignore[call-overload]
            turns = [*question, reply.choices[0].message.model_dump(exclude_none=True)]
            turns += [{"role": "tool", "tool_call_id": call.id, "content": "5"}]
            answer = await create(**asks, messages=turns, tool_choice="none")
            assert answer.choices[0].message.content
            assert answer.choices[0].finish_reason in ("stop", "length")

    run(main(), LIMIT_S)
