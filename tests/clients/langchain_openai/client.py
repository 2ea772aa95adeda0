"""LangChain's ChatOpenAI against Headrace: plain and streamed chat, a tool exchange, structured output, embeddings."""

import os

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

URL = f"{os.environ['HEADRACE_URL']}/v1"


class Weather(BaseModel):
    city: str
    degrees: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


def did(what: str) -> None:
    print(f"did {what}", flush=True)


def exchange(chat: ChatOpenAI) -> str:
    """The model calls the tool once and answers."""
    bound = chat.bind_tools([get_weather])
    talk: list = [HumanMessage("What is the weather in Paris?")]
    call = bound.invoke(talk)
    assert [one["name"] for one in call.tool_calls] == ["get_weather"], call
    talk += [call, *(ToolMessage(get_weather.invoke(one["args"]), tool_call_id=one["id"]) for one in call.tool_calls)]
    return bound.invoke(talk).text


chat = ChatOpenAI(base_url=URL, api_key="unused", model="scripted", max_retries=0, timeout=20)
answer = chat.invoke("Hello")
assert answer.text == "Hello from the script.", answer
assert answer.usage_metadata["output_tokens"] == 4, answer.usage_metadata
did("chat")

assert "".join(chunk.text for chunk in chat.stream("Hello")) == "Hello from the script."
did("chat streamed")

assert exchange(chat) == "It is 21 degrees in Paris."
did("tool exchange over chat")

responses = ChatOpenAI(
    base_url=URL, api_key="unused", model="scripted", max_retries=0, timeout=20, use_responses_api=True
)
assert exchange(responses) == "It is 21 degrees in Paris."
assert "".join(chunk.text for chunk in responses.stream("Hello")) == "Hello from the script."
did("tool exchange and stream over responses")

structured = chat.with_structured_output(Weather, method="json_schema")
assert structured.invoke("Give me the weather as JSON.") == Weather(city="Paris", degrees=21)
did("structured output")

vectors = OpenAIEmbeddings(base_url=URL, api_key="unused", model="scripted", check_embedding_ctx_length=False)
assert [len(one) for one in vectors.embed_documents(["a", "b"])] == [16, 16]
did("embeddings")
