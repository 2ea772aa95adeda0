"""OpenAI's Agents SDK against Headrace: an agent with one tool, over Responses (its default, over HTTP and over a
WebSocket) and Chat Completions."""

import asyncio
import os

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    OpenAIResponsesWSModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

CLIENT = AsyncOpenAI(base_url=f"{os.environ['HEADRACE_URL']}/v1", api_key="unused", max_retries=0, timeout=20)
set_tracing_disabled(True)


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


async def exchange(name: str, kind: type) -> None:
    agent = Agent(name="Weather", instructions="Be brief.", model=kind("scripted", CLIENT), tools=[get_weather])
    done = await Runner.run(agent, "What is the weather in Paris?")
    assert done.final_output == "It is 21 degrees in Paris.", done.final_output
    print(f"did agent loop over {name}", flush=True)
    streamed = Runner.run_streamed(agent, "What is the weather in Paris?")
    kinds = {event.type async for event in streamed.stream_events()}
    assert streamed.final_output == "It is 21 degrees in Paris.", streamed.final_output
    assert {"raw_response_event", "run_item_stream_event"} <= kinds, kinds
    print(f"did agent loop over {name} streamed", flush=True)


async def main() -> None:
    await exchange("chat", OpenAIChatCompletionsModel)
    await exchange("responses", OpenAIResponsesModel)
    await exchange("responses by WebSocket", OpenAIResponsesWSModel)


asyncio.run(main())
