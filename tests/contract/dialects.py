"""Each dialect as its own clients speak it: a neutral conversation becomes a body, and what the official SDK makes of
the answer becomes a turn without its spelling. Knows the SDKs and nothing of our codecs.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import ollama
import openai
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.contract.conversations import TOOLS, Conversation, Said, call_ids, canonical

Turn = dict[str, Any]

MAX_TOKENS = 2000
TEMPERATURE = 0.25


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client made of an answer; `tokens` are those of prompt and answer."""

    said: Said
    reason: str
    tokens: tuple[int, int]


class Failed(Exception):
    """A response that says that it failed, which its SDK tells as any other end."""


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """`body` is what a client sends for a conversation; `ask(url, body, stream)` lets the SDK send it and read the
    answer; `whole` and `frame` are the SDK's types, which raw answers and raw frames must satisfy; `reasons` are its
    words for an answer that ended by itself and for one that calls tools. `is_lines`: a stream is lines of JSON."""

    name: str
    path: str
    body: Callable[[Conversation], dict[str, Any]]
    ask: Callable[[str, dict[str, Any], bool], Awaitable[Heard]]
    whole: TypeAdapter[Any]
    frame: TypeAdapter[Any]
    reasons: tuple[str, str]
    has_tool_choice: bool = True
    is_lines: bool = False

    def can_say(self, conversation: Conversation) -> bool:
        """Whether it has words for all of a conversation."""
        return self.has_tool_choice or conversation.tool_choice == "auto"

    def frames(self, body: bytes) -> list[bytes]:
        """The JSON of every frame of a stream."""
        if self.is_lines:
            return body.splitlines()
        lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
        return [line for line in lines if line != b"[DONE]"]


def _turns(
    conversation: Conversation, prefix: str
) -> Iterator[tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]]:
    """Every turn with its calls and their ids; a result's turn has the id under `call_id`."""
    ids = call_ids(conversation, prefix)
    fresh = iter(ids)
    for one in conversation.messages:
        known = {"call_id": ids[one["call"]]} if "call" in one else {}
        yield one | known, [(next(fresh), call) for call in one.get("calls", ())]


def _arguments(call: Turn) -> str:
    """As our own codecs write what a client gave as values, so that all count alike."""
    return json.dumps(call["arguments"], separators=(",", ":"), ensure_ascii=False)


def _openai(url: str) -> openai.AsyncOpenAI:
    """A client; on loopback it needs no certificates, which take longer to read than an answer."""
    plain = openai.DefaultAsyncHttpxClient(verify=False)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=5, http_client=plain)


# Chat Completions ----------------------------------------------------------------------------------------------------


def _chat_body(conversation: Conversation) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": conversation.system})
    for one, calls in _turns(conversation, "call_"):
        message: dict[str, Any] = {"role": one["role"], "content": one.get("text")}
        if one.get("reasoning"):
            message["reasoning_content"] = one["reasoning"]
        if calls:
            message["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call["name"], "arguments": _arguments(call)},
                }
                for call_id, call in calls
            ]
        if one["role"] == "tool":
            message["tool_call_id"] = one["call_id"]
        messages.append(message)
    body: dict[str, Any] = {
        "model": "scripted",
        "messages": messages,
        "max_completion_tokens": MAX_TOKENS,
        "temperature": TEMPERATURE,
    }
    if conversation.tools:
        body["tools"] = [{"type": "function", "function": {"name": name, **TOOLS[name]}} for name in conversation.tools]
        named = {"type": "function", "function": {"name": conversation.tool_choice}}
        body["tool_choice"] = named if conversation.tool_choice in TOOLS else conversation.tool_choice
    return body


async def _ask_chat(url: str, body: dict[str, Any], stream: bool) -> Heard:
    async with _openai(url) as client:
        if not stream:
            whole = await client.chat.completions.create(**body)
            message = whole.choices[0].message
            calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
            reasoning = getattr(message, "reasoning_content", None) or ""
            assert whole.usage is not None
            said = _said(message.content or "", reasoning, calls)
            return Heard(said, whole.choices[0].finish_reason, _tokens(whole.usage.prompt_tokens, whole.usage))
        text = reasoning = reason = ""
        pieces: dict[int, list[str]] = {}
        usage: Any = None
        options = {"stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await client.chat.completions.create(**body, **options):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                reason = choice.finish_reason or reason
                for call in choice.delta.tool_calls or ():
                    name, arguments = pieces.setdefault(call.index, ["", ""])
                    pieces[call.index] = [
                        name + (call.function.name or ""),
                        arguments + (call.function.arguments or ""),
                    ]
        calls = [(name, arguments) for _, (name, arguments) in sorted(pieces.items())]
        return Heard(_said(text, reasoning, calls), reason, _tokens(usage.prompt_tokens, usage))


def _tokens(prompt_tokens: int, usage: Any) -> tuple[int, int]:
    return prompt_tokens, usage.completion_tokens


def _said(text: str, reasoning: str, calls: list[tuple[str, str]]) -> Said:
    return Said("assistant", text, reasoning, tuple((name, canonical(json.loads(given))) for name, given in calls))


# Messages ------------------------------------------------------------------------------------------------------------


def _messages_body(conversation: Conversation) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for one, calls in _turns(conversation, "toolu_"):
        if one["role"] == "tool":
            result = {"type": "tool_result", "tool_use_id": one["call_id"], "content": one["text"]}
            if messages and messages[-1]["role"] == "user" and isinstance(messages[-1]["content"], list):
                messages[-1]["content"].append(result)
            else:
                messages.append({"role": "user", "content": [result]})
            continue
        if one["role"] == "user":
            messages.append({"role": "user", "content": one["text"]})
            continue
        blocks: list[dict[str, Any]] = []
        if one.get("reasoning"):
            blocks.append({"type": "thinking", "thinking": one["reasoning"], "signature": "c2ln"})
        if one.get("text"):
            blocks.append({"type": "text", "text": one["text"]})
        blocks += [
            {"type": "tool_use", "id": call_id, "name": call["name"], "input": call["arguments"]}
            for call_id, call in calls
        ]
        messages.append({"role": "assistant", "content": blocks})
    body: dict[str, Any] = {
        "model": "scripted",
        "messages": messages,
        "max_tokens": MAX_TOKENS,
        "temperature": TEMPERATURE,
    }
    if conversation.system is not None:
        body["system"] = conversation.system
    if conversation.answer.get("reasoning"):
        body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    if conversation.tools:
        body["tools"] = [
            {"name": name, "description": TOOLS[name]["description"], "input_schema": TOOLS[name]["parameters"]}
            for name in conversation.tools
        ]
        named = {"type": "tool", "name": conversation.tool_choice}
        body["tool_choice"] = named if conversation.tool_choice in TOOLS else {"type": conversation.tool_choice}
    return body


async def _ask_messages(url: str, body: dict[str, Any], stream: bool) -> Heard:
    plain = anthropic.DefaultAsyncHttpxClient(verify=False)
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="unused", max_retries=0, timeout=5, http_client=plain
    ) as client:
        # The SDK has no parameter for it any more.
        body["extra_body"] = {"temperature": body.pop("temperature")}
        if stream:
            async with client.messages.stream(**body) as streamed:
                message: Any = await streamed.get_final_message()
        else:
            message = await client.messages.create(**body)
    text = "".join(block.text for block in message.content if block.type == "text")
    reasoning = "".join(block.thinking for block in message.content if block.type == "thinking")
    calls = [(block.name, json.dumps(block.input)) for block in message.content if block.type == "tool_use"]
    usage = message.usage
    read = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return Heard(_said(text, reasoning, calls), message.stop_reason, (read, usage.output_tokens))


# Responses -----------------------------------------------------------------------------------------------------------


def _responses_body(conversation: Conversation) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for one, calls in _turns(conversation, "call_"):
        if one["role"] == "tool":
            items.append({"type": "function_call_output", "call_id": one["call_id"], "output": one["text"]})
            continue
        if one.get("reasoning"):
            content = [{"type": "reasoning_text", "text": one["reasoning"]}]
            items.append({"type": "reasoning", "id": f"rs_{len(items)}", "summary": [], "content": content})
        if one.get("text"):
            items.append({"role": one["role"], "content": one["text"]})
        items += [
            {"type": "function_call", "call_id": call_id, "name": call["name"], "arguments": _arguments(call)}
            for call_id, call in calls
        ]
    body: dict[str, Any] = {"model": "scripted", "input": items, "store": False, "temperature": TEMPERATURE}
    body["max_output_tokens"] = MAX_TOKENS
    if conversation.system is not None:
        body["instructions"] = conversation.system
    if conversation.tools:
        body["tools"] = [
            {"type": "function", "name": name, "strict": False, **TOOLS[name]} for name in conversation.tools
        ]
        named = {"type": "function", "name": conversation.tool_choice}
        body["tool_choice"] = named if conversation.tool_choice in TOOLS else conversation.tool_choice
    return body


async def _ask_responses(url: str, body: dict[str, Any], stream: bool) -> Heard:
    async with _openai(url) as client:
        if stream:
            deltas: list[str] = []
            response: Any = None
            async with client.responses.stream(**body) as streamed:
                async for event in streamed:
                    if event.type == "response.output_text.delta":
                        deltas.append(event.delta)
                    response = getattr(event, "response", response)
            if response.status == "failed":
                raise Failed(response.error.message)
            assert "".join(deltas) == response.output_text
        else:
            response = await client.responses.create(**body)
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content or ()]
    calls = [(item.name, item.arguments) for item in response.output if item.type == "function_call"]
    usage = response.usage
    said = _said(response.output_text, "".join(thoughts), calls)
    return Heard(said, response.status, (usage.input_tokens, usage.output_tokens))


# Ollama --------------------------------------------------------------------------------------------------------------


def _ollama_body(conversation: Conversation) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": conversation.system})
    names: dict[str, str] = {}
    for one, calls in _turns(conversation, ""):
        message: dict[str, Any] = {"role": one["role"], "content": one.get("text", "")}
        if one.get("reasoning"):
            message["thinking"] = one["reasoning"]
        if calls:
            message["tool_calls"] = [
                {"function": {"name": call["name"], "arguments": call["arguments"]}} for _, call in calls
            ]
            names |= {call_id: call["name"] for call_id, call in calls}
        if one["role"] == "tool":
            message["tool_name"] = names[one["call_id"]]
        messages.append(message)
    options = {"temperature": TEMPERATURE, "num_predict": MAX_TOKENS}
    body: dict[str, Any] = {"model": "scripted", "messages": messages, "options": options, "stream": False}
    if conversation.tools:
        body["tools"] = [{"type": "function", "function": {"name": name, **TOOLS[name]}} for name in conversation.tools]
    return body


async def _ask_ollama(url: str, body: dict[str, Any], stream: bool) -> Heard:
    client, given = ollama.AsyncClient(host=url, timeout=5, verify=False), body | {"stream": stream}
    try:
        parts = [part async for part in await client.chat(**given)] if stream else [await client.chat(**given)]
    finally:
        await client._client.aclose()
    last = parts[-1]
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    calls = [call.function for part in parts for call in part.message.tool_calls or ()]
    said = _said(
        "".join(part.message.content or "" for part in parts),
        "".join(part.message.thinking or "" for part in parts),
        [(call.name, json.dumps(call.arguments)) for call in calls],
    )
    return Heard(said, str(last.done_reason), (last.prompt_eval_count or 0, last.eval_count or 0))


CHAT = Dialect(
    "chat",
    "/v1/chat/completions",
    _chat_body,
    _ask_chat,
    TypeAdapter(ChatCompletion),
    TypeAdapter(ChatCompletionChunk),
    ("stop", "tool_calls"),
)
MESSAGES = Dialect(
    "messages",
    "/v1/messages",
    _messages_body,
    _ask_messages,
    TypeAdapter(AnthropicMessage),
    TypeAdapter(RawMessageStreamEvent),
    ("end_turn", "tool_use"),
)
RESPONSES = Dialect(
    "responses",
    "/v1/responses",
    _responses_body,
    _ask_responses,
    TypeAdapter(Response),
    TypeAdapter(ResponseStreamEvent),
    ("completed", "completed"),
)
OLLAMA = Dialect(
    "ollama",
    "/api/chat",
    _ollama_body,
    _ask_ollama,
    TypeAdapter(ollama.ChatResponse),
    TypeAdapter(ollama.ChatResponse),
    ("stop", "stop"),
    has_tool_choice=False,
    is_lines=True,
)
DIALECTS = [CHAT, MESSAGES, RESPONSES, OLLAMA]
