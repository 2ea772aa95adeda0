"""What Gemini signs about a call comes back to it through every client that returns ids, and to nobody else."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
from tests.contract.governed import Governed, governed
from tests.contract.provider import Answer, Provider
from tests.contract.provider_chat import CHAT
from tests.contract.provider_gemini import GEMINI
from tests.contract.provider_messages import MESSAGES
from tests.contract.provider_responses import RESPONSES
from tests.doubles_http import run
from tests.upstreams import Received, Script, frame, stream

SIGNATURE = "QUJD+/8="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
HI = {"role": "user", "content": "Weather?"}

Client = Callable[[str, str | None], Awaitable[str]]
"""Asks at a URL, and, given the id of a call, tells its result; gives the id of the call that it hears of."""


async def _chat(url: str, call_id: str | None) -> str:
    call = {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'}}
    later = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "snow"},
    ]
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        messages: Any = [HI, *(later if call_id else ())]
        said = await client.chat.completions.create(model="scripted", messages=messages, tools=[tool])  # type: ignore[list-item]
    calls: Any = said.choices[0].message.tool_calls
    return str(calls[0].id)


async def _responses(url: str, call_id: str | None) -> str:
    later = [
        {"type": "function_call", "call_id": call_id, "name": "get_weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": call_id, "output": "snow"},
    ]
    tool = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        items: Any = [HI, *(later if call_id else ())]
        said = await client.responses.create(model="scripted", input=items, tools=[tool], store=False)  # type: ignore[list-item]
    return next(item.call_id for item in said.output if item.type == "function_call")


async def _messages(url: str, call_id: str | None) -> str:
    use = {"type": "tool_use", "id": call_id, "name": "get_weather", "input": {"city": "Oslo"}}
    later = [
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": "snow"}]},
    ]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as client:
        messages: Any = [HI, *(later if call_id else ())]
        tools: Any = [{"name": "get_weather", "input_schema": SCHEMA}]
        said = await client.messages.create(model="scripted", max_tokens=99, messages=messages, tools=tools)
    return next(block.id for block in said.content if block.type == "tool_use")


CLIENTS: dict[str, Client] = {"chat": _chat, "responses": _responses, "messages": _messages}


def signed(_: Received) -> Script:
    """An answer of Gemini that calls, and signs what it thought before."""
    call = {"functionCall": {"name": "get_weather", "args": {"city": "Oslo"}}, "thoughtSignature": SIGNATURE}
    chunk = {"candidates": [{"content": {"role": "model", "parts": [call]}, "finishReason": "STOP"}]}
    return stream([frame(chunk)])


def talk(ask: Callable[[Governed], Awaitable[None]], provider: Provider) -> list[Received]:
    """What a provider received while somebody asked."""
    received: list[Received] = []

    async def main() -> None:
        async with governed(provider) as server:
            await ask(server)
            assert server.up is not None
            received.extend(server.up.received)

    run(main(), limit_s=20)
    return received


@pytest.mark.parametrize("client", CLIENTS)
def test_a_signature_comes_back_with_its_call(client: str) -> None:
    async def ask(server: Governed) -> None:
        assert server.up is not None
        server.up.respond = signed
        call_id = await CLIENTS[client](server.url, None)
        await CLIENTS[client](server.url, call_id)

    _, second = talk(ask, GEMINI)
    _, called, told = second.fields["contents"]
    (part,) = called["parts"]
    assert part["thoughtSignature"] == SIGNATURE
    assert part["functionCall"]["id"] == told["parts"][0]["functionResponse"]["id"]
    assert "__sig__" not in json.dumps(second.fields)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("provider", [CHAT, RESPONSES, MESSAGES], ids=lambda one: one.name)
def test_no_other_provider_sees_it(provider: Provider, client: str) -> None:
    ids: list[str] = []

    async def hear(server: Governed) -> None:
        assert server.up is not None
        server.up.respond = signed
        ids.append(await _chat(server.url, None))

    async def go_on(server: Governed) -> None:
        assert server.up is not None
        server.up.respond = provider.respond(Answer(calls=({"name": "get_weather", "arguments": {}},)))
        await CLIENTS[client](server.url, ids[0])

    talk(hear, GEMINI)
    (received,) = talk(go_on, provider)
    assert "__sig__" in ids[0]
    assert b"__sig__" not in received.body
    provider.read(received.fields)
