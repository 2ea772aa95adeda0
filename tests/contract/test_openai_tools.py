"""The official client with tools, reasoning and typed answers, against the application over a real socket."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

import openai
import pydantic
import pytest
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import Call, Gate, Scripted, Turn, last_says, tool_results

from headrace.core.errors import EngineFault
from headrace.core.request import Effort, Role, ToolMode
from headrace.server.config import ServerConfig

ASK: list[Any] = [{"role": "user", "content": "How warm is it in Rome and in Oslo?"}]


class GetWeather(pydantic.BaseModel):
    """The weather of a city."""

    city: str
    unit: str = "celsius"


class Verdict(pydantic.BaseModel):
    """What came of it."""

    warmer: str
    degrees: list[int]


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")
ROME, OSLO = Call("get_weather", {"city": "Rome", "unit": "c"}), Call("get_weather", {"city": "Oslo", "unit": "c"})
TASK = [
    Turn(reasoning="Two cities, two calls.", calls=(ROME, OSLO), when=tool_results(0)),
    Turn(text="Rome is warmer.", when=tool_results(2)),
]


@contextlib.asynccontextmanager
async def connected(backend: Scripted) -> AsyncIterator[openai.AsyncOpenAI]:
    app = make_app(backend, ServerConfig(port=0))
    async with listening(app) as (_, port):
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=4) as client:
            yield client


def play(turns: Iterable[Turn], main: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]]) -> Scripted:
    backend = Scripted(turns)

    async def whole() -> None:
        async with connected(backend) as client:
            await main(client)
        assert backend.num_open == 0

    run(whole())
    return backend


def weather(arguments: str) -> str:
    """What the client's own function answers."""
    return {"Rome": "21", "Oslo": "7"}[GetWeather.model_validate_json(arguments).city]


def test_a_loop_over_tools_ends_in_an_answer() -> None:
    messages = list(ASK)

    async def main(client: openai.AsyncOpenAI) -> None:
        for _ in range(3):
            reply = await client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
            message = reply.choices[0].message
            messages.append(message.model_dump())  # everything, as many a client sends it back
            for call in message.tool_calls or ():
                assert call.type == "function"
                result = weather(call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            if reply.choices[0].finish_reason != "tool_calls":
                break
        assert message.content == "Rome is warmer."

    backend = play(TASK, main)
    first, second = backend.requests
    assert first.tools[0].strict
    assert first.tools[0].parameters["required"] == ["city", "unit"]
    assert second.messages is not None
    said = second.messages[1]
    assert (said.role, said.text, said.reasoning) == (Role.ASSISTANT, "", "Two cities, two calls.")
    assert [call.name for call in said.tool_calls] == ["get_weather", "get_weather"]
    assert [message.tool_call_id for message in second.messages[2:]] == [call.id for call in said.tool_calls]
    assert [message.text for message in second.messages[2:]] == ["21", "7"]


@pytest.mark.parametrize("sizes", [(), (1,), (1000,)])
def test_a_stream_of_calls_is_gathered_by_the_client_however_it_is_cut(sizes: tuple[int, ...]) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        async with client.chat.completions.stream(
            model="scripted", messages=ASK, tools=[WEATHER], stream_options={"include_usage": True}
        ) as stream:
            done = [
                (event.index, event.name, event.parsed_arguments)
                async for event in stream
                if event.type == "tool_calls.function.arguments.done"
            ]
            final = await stream.get_final_completion()
        message = final.choices[0].message
        assert done == [
            (0, "get_weather", GetWeather(city="Rome", unit="c")),
            (1, "get_weather", GetWeather(city="Oslo", unit="c")),
        ]
        assert (message.content, message.to_dict()["reasoning_content"]) == (None, "Two cities, two calls.")
        calls = message.tool_calls or []
        assert [call.function.parsed_arguments for call in calls] == [parsed for *_, parsed in done]
        assert len({call.id for call in calls}) == 2
        assert final.choices[0].finish_reason == "tool_calls"
        assert final.usage is not None
        assert final.usage.completion_tokens_details is not None
        assert final.usage.completion_tokens_details.reasoning_tokens == 4

    play([Turn(reasoning=TASK[0].reasoning, calls=TASK[0].calls, sizes=sizes)], main)


def test_typed_answers_and_typed_calls_are_parsed() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        typed = await client.chat.completions.parse(model="scripted", messages=ASK, response_format=Verdict)
        assert typed.choices[0].message.parsed == Verdict(warmer="Rome", degrees=[21, 7])
        called = await client.chat.completions.parse(
            model="scripted", messages=[{"role": "user", "content": "call"}], tools=[WEATHER], tool_choice="required"
        )
        (call,) = called.choices[0].message.tool_calls or ()
        assert call.function.parsed_arguments == GetWeather(city="Rome", unit="c")
        # The client sends what it parsed back beside what it parsed it from.
        await client.chat.completions.create(
            model="scripted",
            messages=[
                *ASK,
                called.choices[0].message,  # type: ignore[list-item]
                {"role": "tool", "tool_call_id": call.id, "content": "21"},
            ],
        )
        async with client.chat.completions.stream(model="scripted", messages=ASK, response_format=Verdict) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.parsed == Verdict(warmer="Rome", degrees=[21, 7])

    backend = play(
        [Turn(calls=(ROME,), when=last_says("call")), Turn(text='{"warmer":"Rome","degrees":[21,7]}', sizes=(3,))], main
    )
    assert backend.requests[0].response_format.schema is not None
    assert backend.requests[1].tool_choice.mode is ToolMode.REQUIRED


def test_several_choices_call_apart() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(model="scripted", messages=ASK, tools=[WEATHER], n=2)
        async with client.chat.completions.stream(model="scripted", messages=ASK, tools=[WEATHER], n=2) as stream:
            final = await stream.get_final_completion()
        for choice in (*whole.choices, *final.choices):
            assert [json.loads(call.function.arguments)["city"] for call in choice.message.tool_calls or ()] == [
                "Rome",
                "Oslo",
            ]
        assert [choice.index for choice in final.choices] == [0, 1]

    play(TASK, main)


def test_one_call_at_a_time_and_one_named_tool() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        for more in (
            {"parallel_tool_calls": False},
            {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
        ):
            reply = await client.chat.completions.create(
                model="scripted", messages=ASK, tools=[WEATHER], extra_body=more
            )
            assert len(reply.choices[0].message.tool_calls or ()) == 1
        none = await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "talk"}], tools=[WEATHER], tool_choice="none"
        )
        assert (none.choices[0].message.content, none.choices[0].message.tool_calls) == ("Words.", None)

    play([Turn(text="Words.", when=last_says("talk")), *TASK], main)


def test_the_older_functions_are_understood() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(
            model="scripted",
            messages=ASK,
            functions=[{"name": "get_weather", "parameters": GetWeather.model_json_schema()}],
            function_call={"name": "get_weather"},
        )
        called = reply.choices[0].message.function_call
        assert called is not None
        assert (called.name, weather(called.arguments)) == ("get_weather", "21")
        assert (reply.choices[0].finish_reason, reply.choices[0].message.tool_calls) == ("function_call", None)

    play(TASK, main)


def test_a_custom_tool_takes_free_text() -> None:
    tool: Any = {"type": "custom", "custom": {"name": "shell", "description": "Runs it."}}

    async def main(client: openai.AsyncOpenAI) -> None:
        messages = list(ASK)
        reply = await client.chat.completions.create(model="scripted", messages=messages, tools=[tool])
        message = reply.choices[0].message
        (call,) = message.tool_calls or ()
        assert call.type == "custom"
        assert (call.custom.name, call.custom.input) == ("shell", "ls -l\n")
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "a.txt"}]
        final = await client.chat.completions.create(model="scripted", messages=messages, tools=[tool])
        assert final.choices[0].message.content == "One file."

    turns = [
        Turn(calls=(Call("shell", {"input": "ls -l\n"}),), when=tool_results(0)),
        Turn(text="One file.", when=tool_results(1)),
    ]
    backend = play(turns, main)
    assert backend.requests[1].messages is not None
    assert backend.requests[1].messages[1].tool_calls[0].arguments == '{"input":"ls -l\\n"}'


def test_effort_tier_and_metadata_go_through() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(
            model="scripted",
            messages=ASK,
            reasoning_effort="none",
            service_tier="flex",
            metadata={"job": "7"},
            prompt_cache_key="k",
            safety_identifier="s",
            verbosity="medium",
        )
        assert (reply.service_tier, reply.metadata) == ("flex", {"job": "7"})
        assert not hasattr(reply.choices[0].message, "reasoning")

    backend = play([Turn(reasoning="Hm.", text="Yes.")], main)
    (request,) = backend.requests
    assert (request.reasoning.effort, request.principal.priority) == (Effort.NONE, -1)


def test_a_failure_between_two_pieces_of_a_call_is_raised_by_the_client() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIError) as caught:
            async with client.chat.completions.stream(model="scripted", messages=ASK, tools=[WEATHER]) as stream:
                async for _ in stream:
                    pass
        assert caught.value.code == "engine_fault"

    play([Turn(calls=(ROME,), sizes=(2,), error=EngineFault("it broke."), error_after=3)], main)


def test_a_client_that_leaves_between_two_pieces_of_a_call_ends_it() -> None:
    gate = Gate()
    backend = Scripted([Turn(calls=(ROME,), sizes=(2,), gates={4: gate})])

    async def main() -> None:
        async with connected(backend) as client:
            stream = await client.chat.completions.create(model="scripted", messages=ASK, tools=[WEATHER], stream=True)
            pieces = [await anext(stream) for _ in range(3)]
            assert pieces[1].choices[0].delta.tool_calls
            await gate.reached.wait()
            await stream.close()
        (left,) = backend.streams
        assert left.is_closed
        assert not left.is_finished

    run(main())
