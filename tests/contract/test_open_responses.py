"""The compliance cases of Open Responses (openresponses.org, specification of 2026-04-24) that go over HTTP, told again
as tests of ours: each answer fits the published schema, and does what the case is about.

The schema half is `openresponses-types`, made from the project's OpenAPI document. Cases that go over a WebSocket are
beside the tests of that transport.
"""

import json
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2 as httpx
from openresponses_types import types as schema
from tests.contract.responses_client import MODEL, serving
from tests.doubles_http import run
from tests.scripted import Call, Scripted, Turn, has_tool, last_says

# The type of an event -> its model.
EVENTS: dict[str, Any] = {
    value.value: model
    for name, model in vars(schema).items()
    if name.endswith("StreamingEvent")
    for value in model.model_fields["type"].annotation
}
# Events of OpenAI's that the specification calls by another name, or does not have.
UNNAMED = {"response.reasoning_text.delta", "response.reasoning_text.done"}
TURNS = [
    Turn(calls=(Call("get_weather", {"location": "San Francisco, CA"}),), when=has_tool("get_weather")),
    Turn(text="They spoke of Alice.", when=last_says("Summarize")),
    Turn(text="Your name is Alice.", when=last_says("my name?")),
    Turn(text="1, 2, 3, 4, 5", when=last_says("Count")),
    Turn(text="Hello there, dear friend.", reasoning="They want three words."),
]

Main = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]


def play(main: Main) -> Scripted:
    backend = Scripted(TURNS)

    async def whole() -> None:
        with tempfile.TemporaryDirectory(prefix="headrace-test-") as folder:
            async with (
                serving(backend, Path(folder)) as url,
                httpx.AsyncClient(base_url=url, timeout=5) as client,
            ):
                await main(client)

    run(whole())
    return backend


async def respond(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """A response that fits the schema and is complete, as every case asks first."""
    reply = await client.post("/responses", json={"model": MODEL} | body)
    assert reply.status_code == 200, reply.text
    whole: dict[str, Any] = reply.json()
    schema.ResponseResource.model_validate(whole)
    assert whole["output"]
    assert whole["status"] == "completed"
    return whole


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content} | fields


def events_of(reply: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def test_basic_response() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        whole = await respond(client, input=[said("user", "Say hello in exactly 3 words.")])
        assert text_of(whole) == "Hello there, dear friend."
        assert whole["text"]["verbosity"] is not None
        for name in ("safety_identifier", "prompt_cache_key", "completed_at", "error", "incomplete_details"):
            assert name in whole

    play(main)


def test_assistant_phase() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        await respond(
            client,
            input=[
                said("user", "Think out loud."),
                said("assistant", "I am looking.", phase="commentary"),
                said("assistant", "It is so.", phase="final_answer"),
                said("user", "Say hello."),
            ],
        )
        refused = await client.post(
            "/responses", json={"model": MODEL, "input": [said("assistant", "x", phase="prologue")]}
        )
        assert refused.status_code == 400

    play(main)


def test_response_output_phase_schema() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        whole = await respond(client, input="Say hello.")
        message = next(item for item in whole["output"] if item["type"] == "message")
        for phase in ("commentary", "final_answer"):
            schema.ResponseResource.model_validate(whole | {"output": [message | {"phase": phase}]})

    play(main)


def test_streaming_response() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        reply = await client.post(
            "/responses", json={"model": MODEL, "input": [said("user", "Count from 1 to 5.")], "stream": True}
        )
        assert reply.headers["content-type"].startswith("text/event-stream")
        frames = reply.text.removesuffix("\n\n").split("\n\n")
        assert frames.pop() == "data: [DONE]"
        events = []
        for frame in frames:
            name, data = frame.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            EVENTS[event["type"]].model_validate(event)
            events.append(event)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        schema.ResponseResource.model_validate(events[-1]["response"])
        assert events[-1]["response"]["status"] == "completed"
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        assert "".join(deltas) == text_of(events[-1]["response"]) == "1, 2, 3, 4, 5"

    play(main)


def test_streaming_reasoning_fits_but_for_names_of_openai() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        for reasoning in ({}, {"summary": "auto"}):
            body = {"model": MODEL, "input": "Hello", "stream": True, "reasoning": reasoning}
            reply = await client.post("/responses", json=body)
            events = events_of(reply)
            for event in events:
                if event["type"] not in UNNAMED:
                    EVENTS[event["type"]].model_validate(event)
            assert any(event["type"] in UNNAMED for event in events) == (not reasoning)

    play(main)


def test_system_prompt() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        await respond(client, input=[said("system", "You are a pirate."), said("user", "Say hello.")])

    (request,) = play(main).requests
    assert request.messages is not None
    assert [(message.role.value, message.text) for message in request.messages] == [
        ("system", "You are a pirate."),
        ("user", "Say hello."),
    ]


WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


def test_tool_calling() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        whole = await respond(client, input=[said("user", "What's the weather?")], tools=[WEATHER])
        (call,) = [item for item in whole["output"] if item["type"] == "function_call"]
        assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"location": "San Francisco, CA"})
        assert whole["tools"][0]["name"] == "get_weather"

    play(main)


def test_tool_calling_streaming() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        body = {"model": MODEL, "input": [said("user", "What's the weather?")], "tools": [WEATHER], "stream": True}
        events = events_of(await client.post("/responses", json=body))
        for event in events:
            EVENTS[event["type"]].model_validate(event)
        kinds = [(event["type"], event.get("item", {}).get("type")) for event in events]
        assert ("response.output_item.added", "function_call") in kinds
        assert ("response.output_item.done", "function_call") in kinds
        deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
        (done,) = [event for event in events if event["type"] == "response.function_call_arguments.done"]
        assert len(deltas) > 1
        assert "".join(deltas) == done["arguments"]

    play(main)


def test_image_input_is_refused_by_name_where_the_model_reads_text_only() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}

    async def main(client: httpx.AsyncClient) -> None:
        content = [{"type": "input_text", "text": "What do you see?"}, image]
        reply = await client.post("/responses", json={"model": MODEL, "input": [said("user", content)]})
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["param"], error["code"]) == ("input[0].content[1].type", "unsupported_parameter")
        assert "input_image" in error["message"]

    play(main)


def test_multi_turn() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        whole = await respond(
            client,
            input=[
                said("user", "My name is Alice."),
                said("assistant", "Hello Alice! Nice to meet you."),
                said("user", "What is my name?"),
            ],
        )
        assert "Alice" in text_of(whole)

    play(main)


def test_compact_response() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        body = {
            "model": MODEL,
            "input": [said("user", "My name is Alice."), said("assistant", "Hello Alice!")],
        }
        reply = await client.post("/responses/compact", json=body)
        assert reply.status_code == 200
        compacted = reply.json()
        schema.CompactResource.model_validate(compacted)
        assert compacted["object"] == "response.compaction"
        assert [item["type"] for item in compacted["output"]] == ["message", "compaction"]
        whole = await respond(client, input=[*compacted["output"], said("user", "What is my name?")])
        assert "Alice" in text_of(whole)

    play(main)


def test_compact_missing_model() -> None:
    async def main(client: httpx.AsyncClient) -> None:
        reply = await client.post("/responses/compact", json={"input": "x"})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "model"

    play(main)
