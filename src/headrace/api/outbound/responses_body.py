"""Neutral requests as bodies of OpenAI's Responses. Nothing is kept at the backend: the whole conversation is sent each
time, and `store` is false.

This protocol has fewer words for sampling than chats have; what it lacks is refused by name, unless the provider is
known to take it (`Quirks.knows`). Earlier reasoning is sent only to providers that read it as text
(`input.reasoning`): others take back only what they sealed themselves.
"""

from collections.abc import Iterator
from typing import Any, Final

from headrace.api.outbound.body import offered
from headrace.api.outbound.call_ids import plain_id
from headrace.api.outbound.chat_body import effort_of, encode_body, schema, unsupported
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.core.request import FormatKind, Message, Request, Role, Task, Tool, ToolMode

PATH: Final = "/responses"
COUNT_PATH: Final = "/responses/input_tokens"
MAX_TOKENS: Final = "max_output_tokens"
LOGPROBS: Final = "message.output_text.logprobs"

# Attribute of the sampling, the value that asks for nothing. Only some providers have the words.
_EXTRA: Final = (
    ("top_k", 0),
    ("min_p", 0.0),
    ("typical_p", 1.0),
    ("repetition_penalty", 1.0),
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
    ("seed", None),
)


def encode_response(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks for a response, or for a count of its input. Raises UnsupportedField."""
    if request.task not in (Task.GENERATE, Task.COUNT):
        raise unsupported("input")
    _refuse_unsaid(request)
    body = {"model": model} | _input(request, quirks) | _tools(request)
    if request.response_format.kind is not FormatKind.TEXT:
        body["text"] = {"format": _format(request)}
    effort = effort_of(request.reasoning, model)
    if effort is not None:
        body["reasoning"] = {"effort": effort.value}
    if request.task is Task.COUNT:
        return OutboundCall(path=COUNT_PATH, body=encode_body(body, quirks), is_stream=False)
    if "reasoning.summary" in quirks.knows:
        body["reasoning"] = body.get("reasoning", {}) | {"summary": "auto"}
    body |= _sampling(request, quirks) | {"store": False, "stream": True}
    return OutboundCall(path=PATH, body=encode_body(body, quirks), is_stream=True)


def _refuse_unsaid(request: Request) -> None:
    unsaid = {
        "prompt": request.messages is None,
        "n": request.sampling.num_choices > 1,
        "best_of": request.sampling.num_drawn > request.sampling.num_choices,
        "prompt_logprobs": request.prompt_logprobs is not None,
        "messages": bool(request.answer_start),
        "logit_bias": bool(request.sampling.logit_bias),
        "stop": bool(request.limits.stop),
        "stop_token_ids": bool(request.limits.stop_token_ids),
        "ignore_eos": request.limits.ignore_eos,
        "max_tokens": request.limits.max_tokens == 0,
        "max_tool_calls": (request.tool_choice.max_calls or 1) > 1,
        "messages.name": any(one.name is not None and one.tool_call_id is None for one in request.messages or ()),
    }
    for name, is_asked in unsaid.items():
        if is_asked:
            raise unsupported(name)


def _input(request: Request, quirks: Quirks) -> dict[str, Any]:
    first, *rest = request.messages or ()
    body: dict[str, Any] = {}
    if first.role in (Role.SYSTEM, Role.DEVELOPER) and rest:
        body["instructions"] = first.text
    else:
        rest = [first, *rest]
    body["input"] = [item for message in rest for item in _items(message, quirks)]
    return body


def _items(message: Message, quirks: Quirks) -> Iterator[dict[str, Any]]:
    if message.role is Role.TOOL:
        yield {"type": "function_call_output", "call_id": plain_id(message.tool_call_id or ""), "output": message.text}
        return
    if message.reasoning and "input.reasoning" in quirks.knows:
        thought = {"type": "reasoning_text", "text": message.reasoning}
        yield {"type": "reasoning", "summary": [], "content": [thought]}
    if message.text or not message.tool_calls:
        yield {"type": "message", "role": message.role.value, "content": message.text}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": plain_id(call.id), "name": call.name, "arguments": call.arguments}


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice
    allowed, name = offered(request)
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in allowed]}
    if name is not None:
        body["tool_choice"] = {"type": "function", "name": name}
    elif choice.mode is not ToolMode.AUTO:
        body["tool_choice"] = choice.mode.value
    if choice.max_calls == 1:
        body["parallel_tool_calls"] = False
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "function", "name": tool.name}
    if tool.description:
        told["description"] = tool.description
    # Strict is what this protocol takes for granted, so that both are said.
    return told | {"parameters": dict(tool.parameters) or {"type": "object", "properties": {}}, "strict": tool.strict}


def _format(request: Request) -> dict[str, Any]:
    wanted = request.response_format
    if wanted.kind is FormatKind.JSON_OBJECT:
        return {"type": "json_object"}
    if wanted.kind is not FormatKind.JSON_SCHEMA:
        raise unsupported("response_format")
    return {"type": "json_schema", "name": "answer", "schema": schema(wanted), "strict": True}


def _sampling(request: Request, quirks: Quirks) -> dict[str, Any]:
    wanted, body = request.sampling, dict[str, Any]()
    if wanted.temperature != 1.0:
        body["temperature"] = wanted.temperature
    if wanted.top_p != 1.0:
        body["top_p"] = wanted.top_p
    extra = [(name, value) for name, off in _EXTRA if (value := getattr(wanted, name)) != off]
    if request.cache.salt:
        extra.append(("cache_salt", request.cache.salt))
    for name, value in extra:
        if name not in quirks.knows:
            raise unsupported(name)
        body[name] = value
    if request.limits.max_tokens is not None:
        body[MAX_TOKENS] = request.limits.max_tokens
    if request.logprobs is not None:
        body |= {"top_logprobs": request.logprobs, "include": [LOGPROBS]}
    return body
