"""pydantic-ai against Headrace: the same agent with one tool over Chat Completions, Responses and Messages."""

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ["HEADRACE_URL"]
OPENAI = OpenAIProvider(base_url=f"{URL}/v1", api_key="unused")
MODELS = {
    "chat": OpenAIChatModel("scripted", provider=OPENAI),
    "responses": OpenAIResponsesModel("scripted", provider=OPENAI),
    "messages": AnthropicModel("scripted", provider=AnthropicProvider(base_url=URL, api_key="unused")),
}


class Weather(BaseModel):
    city: str
    degrees: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


async def exchange(name: str) -> None:
    agent = Agent(MODELS[name], tools=[get_weather])
    whole = await agent.run("What is the weather in Paris?")
    assert whole.output == "It is 21 degrees in Paris.", whole.output
    assert whole.usage.output_tokens > 0
    async with agent.run_stream("What is the weather in Paris?") as streamed:
        text = await streamed.get_output()
    # The first turn that speaks is an answer for a streamed run, which then has no tools left to wait for.
    assert text in {"It is 21 degrees in Paris.", "Let me look."}, text
    print(f"did tool exchange over {name}, whole and streamed", flush=True)


async def main() -> None:
    for name in MODELS:
        await exchange(name)
    structured = Agent(MODELS["chat"], output_type=NativeOutput(Weather))
    assert (await structured.run("Give me the weather as JSON.")).output == Weather(city="Paris", degrees=21)
    print("did structured output over chat", flush=True)


asyncio.run(main())
