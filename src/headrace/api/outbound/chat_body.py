"""Neutral requests as bodies of OpenAI's Chat Completions, and what Completions share with them.

What every provider takes is written as OpenAI writes it; what only some take (`Quirks.knows`) is written where it is
known and refused by name elsewhere: nothing that changes an answer is left out in silence. Left out because there is no
word for it and no answer changes: marks for caches, and earlier reasoning where it is not known to be read.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from headrace.api.outbound.body import offered
from headrace.api.outbound.call_ids import plain_id
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.core.errors import UnsupportedField
from headrace.core.request import (
    Effort,
    FormatKind,
    Message,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    Tool,
    ToolMode,
)

PATH: Final = "/chat/completions"

_encode_json = msgspec.json.Encoder().encode

# Sampling: attribute, the value that asks for nothing, the field's names. Those after the first are other providers'.
_STANDARD: Final = (
    ("temperature", 1.0, "temperature"),
    ("top_p", 1.0, "top_p"),
    ("presence_penalty", 0.0, "presence_penalty"),
    ("frequency_penalty", 0.0, "frequency_penalty"),
    ("seed", None, "seed"),
)
_EXTRA: Final = (
    ("top_k", 0, ("top_k",)),
    ("min_p", 0.0, ("min_p",)),
    ("typical_p", 1.0, ("typical_p",)),
    ("repetition_penalty", 1.0, ("repetition_penalty", "repeat_penalty")),
)

# vLLM's newer and older names of what holds an answer to a form, and llama.cpp's.
_FORMS: Final[dict[FormatKind, tuple[tuple[str, str], ...]]] = {
    FormatKind.REGEX: (("structured_outputs", "regex"), ("guided_regex", "")),
    FormatKind.CHOICE: (("structured_outputs", "choice"), ("guided_choice", "")),
    FormatKind.GBNF: (("structured_outputs", "grammar"), ("guided_grammar", ""), ("grammar", "")),
    FormatKind.LARK: (("structured_outputs", "grammar"), ("guided_grammar", "")),
    FormatKind.JSON_OBJECT: (("structured_outputs", "json_object"),),
    FormatKind.JSON_SCHEMA: (("structured_outputs", "json"), ("guided_json", "")),
}

# How much a budget of reasoning is, in words: the largest budget of each.
_BUDGETS: Final = ((1024, Effort.LOW), (8192, Effort.MEDIUM))

# How the names of OpenAI's models begin that do not think.
_THOUGHTLESS: Final = ("gpt-3.5", "gpt-4", "chatgpt-4")

# What says that an assistant's earlier reasoning is read, and under which name.
_REASONING: Final = (
    ("messages.reasoning_content", "reasoning_content"),
    ("messages.reasoning", "reasoning"),
)

# Mistral refuses ids that it could not have made itself.
_SHORT_IDS: Final = "tool_calls.short_ids"
_SHORT_CHARS: Final = 9
_SHORT_ID: Final = re.compile(rf"[A-Za-z0-9]{{{_SHORT_CHARS}}}")

# Fields that only say who asks: where a provider refuses one, leaving it out changes no answer.
_IDLE: Final = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})


def encode_chat(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks for a chat's answer. Raises UnsupportedField for what the provider cannot be told."""
    _refuse_unsaid(request)
    body: dict[str, Any] = {"model": model, "messages": _messages(request, quirks)}
    if request.tools:
        body |= _tools(request)
    if request.response_format.kind in (FormatKind.JSON_OBJECT, FormatKind.JSON_SCHEMA):
        body["response_format"] = _json_format(request.response_format)
    else:
        body |= forms(request.response_format, quirks)
    body |= (
        sampling(request, quirks)
        | limits(request, quirks, quirks.max_tokens_field)
        | _reasoning(request, model, quirks)
    )
    if request.logprobs is not None:
        body["logprobs"] = True
        if request.logprobs:
            body["top_logprobs"] = request.logprobs
    return finish_call(PATH, body, quirks)


def finish_call(path: str, body: dict[str, Any], quirks: Quirks) -> OutboundCall:
    """A streamed call with a body that says so. Raises UnsupportedField for a field that the provider refuses."""
    body["stream"] = True
    if quirks.has_usage_option:
        body["stream_options"] = {"include_usage": True}
    return OutboundCall(path=path, body=encode_body(body, quirks), is_stream=True)


def encode_body(body: dict[str, Any], quirks: Quirks) -> bytes:
    """A body with what the provider always gets. Raises UnsupportedField for a field that it refuses."""
    for name in quirks.drops & body.keys():
        raise unsupported(name)
    return _encode_json({**quirks.adds, **body})


def can_drop(name: str, quirks: Quirks) -> bool:
    """Whether a field of a caller's body is left out: the provider would refuse it, and it changes no answer."""
    return name in quirks.drops and name in _IDLE


def unsupported(name: str) -> UnsupportedField:
    """A refusal of a field that the provider has no word for."""
    return UnsupportedField(
        f"{name}: the backend of this model cannot be asked for that; leave it out, or ask another model.", param=name
    )


def _refuse_unsaid(request: Request) -> None:
    if request.task is not Task.GENERATE:
        raise UnsupportedField(f"{request.task}: the backend's protocol has no words for it.", param="model")
    if request.sampling.best_of is not None and request.sampling.best_of > request.sampling.num_choices:
        raise unsupported("best_of")
    if request.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs")


def _messages(request: Request, quirks: Quirks) -> list[dict[str, Any]]:
    given = request.messages or ()
    told = [_message(message, quirks) for message in given]
    if request.answer_start:
        if "prefix" not in quirks.knows:  # Mistral's and DeepSeek's word
            raise unsupported("messages")
        told.append({"role": "assistant", "content": request.answer_start, "prefix": True})
    return told


def _message(message: Message, quirks: Quirks) -> dict[str, Any]:
    # A developer's words are a system's wherever that role is not known, and everybody knows the latter.
    role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
    told: dict[str, Any] = {"role": role.value, "content": message.text}
    if message.name is not None:
        told["name"] = message.name
    if message.role is Role.TOOL:
        told["tool_call_id"] = _call_id(message.tool_call_id or "", quirks)
    if message.tool_calls:
        told["content"] = message.text or None
        told["tool_calls"] = [
            {
                "id": _call_id(call.id, quirks),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.reasoning:
        told |= {name: message.reasoning for known, name in _REASONING if known in quirks.knows}
    return told


def _call_id(call_id: str, quirks: Quirks) -> str:
    """The id of an earlier call as the provider takes it; a call and its result get the same one."""
    plain = plain_id(call_id)
    if _SHORT_IDS not in quirks.knows or _SHORT_ID.fullmatch(plain):
        return plain
    digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return digest[:_SHORT_CHARS]


def _tools(request: Request) -> dict[str, Any]:
    choice = request.tool_choice
    allowed, name = offered(request)
    body: dict[str, Any] = {"tools": [_tool(tool) for tool in allowed]}
    if name is not None:
        body["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice.mode is not ToolMode.AUTO:
        body["tool_choice"] = choice.mode.value
    if choice.max_calls == 1:
        body["parallel_tool_calls"] = False
    elif choice.max_calls is not None:
        raise unsupported("max_tool_calls")
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters) or {"type": "object", "properties": {}}
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _json_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind is FormatKind.JSON_OBJECT:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema(wanted), "strict": True}}


def schema(wanted: ResponseFormat) -> Any:
    """A schema as an object, which all take; `true` and `false` are short for these."""
    if isinstance(wanted.schema, bool) or wanted.schema is None:
        return {"not": {}} if wanted.schema is False else {}
    return wanted.schema


def forms(wanted: ResponseFormat, quirks: Quirks) -> dict[str, Any]:
    """What holds an answer to a form by a provider's own fields. Raises UnsupportedField if it knows none."""
    if wanted.kind is FormatKind.TEXT:
        return {}
    said: dict[FormatKind, Any] = {
        FormatKind.CHOICE: list(wanted.choices),
        FormatKind.JSON_OBJECT: True,
        FormatKind.JSON_SCHEMA: schema(wanted),
    }
    value = said.get(wanted.kind, wanted.source)
    for field, key in _FORMS[wanted.kind]:
        if field in quirks.knows:
            return {field: {key: value} if key else value}
    raise unsupported("response_format")


def sampling(request: Request, quirks: Quirks) -> dict[str, Any]:
    """How tokens are drawn; what is as everybody does it is not said."""
    wanted = request.sampling
    body = {name: value for attribute, off, name in _STANDARD if (value := getattr(wanted, attribute)) != off} | dict(
        _extra(wanted, quirks)
    )
    if wanted.logit_bias:
        body["logit_bias"] = {str(token): int(bias) if bias.is_integer() else bias for token, bias in wanted.logit_bias}
    if wanted.num_choices > 1:
        body["n"] = wanted.num_choices
    return body


def _extra(wanted: Sampling, quirks: Quirks) -> Iterator[tuple[str, float]]:
    for attribute, off, names in _EXTRA:
        value = getattr(wanted, attribute)
        if value != off:
            known = [name for name in names if name in quirks.knows]
            if not known:
                raise unsupported(attribute)
            yield known[0], value


def limits(request: Request, quirks: Quirks, field: str) -> dict[str, Any]:
    """When the answer ends; `field` is the name of its bound in tokens."""
    wanted, body = request.limits, dict[str, Any]()
    if wanted.max_tokens is not None:
        if wanted.max_tokens == 0:
            raise unsupported("max_tokens")
        body[field] = wanted.max_tokens
    if wanted.stop:
        body["stop"] = list(wanted.stop)
    for name, value in (("stop_token_ids", list(wanted.stop_token_ids)), ("ignore_eos", wanted.ignore_eos)):
        if value:
            if name not in quirks.knows:
                raise unsupported(name)
            body[name] = value
    if request.cache.salt:
        if "cache_salt" not in quirks.knows:
            raise unsupported("cache_salt")
        body["cache_salt"] = request.cache.salt
    return body


def _reasoning(request: Request, model: str, quirks: Quirks) -> dict[str, Any]:
    """How much is thought: OpenRouter's object, a budget or a switch where there is one, else OpenAI's degrees."""
    effort, budget = request.reasoning.effort, request.reasoning.max_tokens
    if effort is None and budget is None:
        return {}
    knows = quirks.knows
    if "reasoning" in knows:
        return {"reasoning": {"max_tokens": budget} if budget else {"effort": (effort or Effort.NONE).value}}
    if budget == 0:
        effort = Effort.NONE
    thinks = effort is not Effort.NONE
    if "thinking" in knows:  # DeepSeek's
        return {"thinking": {"type": "enabled" if thinks else "disabled"}}
    if "chat_template_kwargs" in knows:  # vLLM's and llama.cpp's, read by the models' templates
        body: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": thinks, "thinking": thinks}}
        if effort is not None and thinks:
            body["reasoning_effort"] = effort.value
        if budget and "thinking_token_budget" in knows:
            body["thinking_token_budget"] = budget
        return body
    named = effort_of(request.reasoning, model)
    return {} if named is None else {"reasoning_effort": named.value}


def effort_of(wanted: Reasoning, model: str) -> Effort | None:
    """How much is thought in words, where a budget was given in tokens. Models that do not think answer as ever: they
    would refuse to be asked."""
    if model.rpartition("/")[2].startswith(_THOUGHTLESS):
        return None
    if wanted.effort is not None or wanted.max_tokens is None:
        return wanted.effort
    if wanted.max_tokens == 0:
        return Effort.NONE
    return next((effort for most, effort in _BUDGETS if wanted.max_tokens <= most), Effort.HIGH)
