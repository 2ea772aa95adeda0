"""A neutral request as a body of Gemini's native API: `generateContent`, `batchEmbedContents` or `countTokens`.

    system, developer, wherever they stand  -> systemInstruction: there is no such role among the turns
    user       -> content of role user
    assistant  -> content of role model
    tool results that follow each other     -> one content of role user, a functionResponse each, named by its call

What an assistant thought is not sent back: Gemini takes its signature instead, which the id of a call carries
(`call_ids.py`). A call that never was Gemini's gets the value that Google's documentation names for such calls where a
model would refuse it without. Knows no sockets.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from headrace.api.anthropic_answers import tool_input
from headrace.api.outbound.body import encode_body, refuse_names, refuse_unsaid, unsaid
from headrace.api.outbound.call_ids import plain_id, signature_of
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.api.outbound.gemini_models import row_of, thinking
from headrace.core.errors import InvalidRequest
from headrace.core.request import (
    FormatKind,
    Message,
    Request,
    ResponseFormat,
    Role,
    Task,
    Tool,
    ToolChoice,
    ToolMode,
)

PROTOCOL: Final = "Gemini's API"

_UNSIGNED: Final = "skip_thought_signature_validator"
_MAX_SEED: Final = 2**31

_SAID: Final[Mapping[Task, frozenset[str]]] = {
    Task.GENERATE: frozenset(
        {"n", "seed", "top_k", "presence_penalty", "frequency_penalty", "logprobs", "response_format"}
    ),
    Task.COUNT: frozenset({"response_format"}),
    Task.EMBED: frozenset({"inputs", "truncate"}),
    Task.SCORE: frozenset(),
}
_INSTRUCTIONS: Final = (Role.SYSTEM, Role.DEVELOPER)

Part = dict[str, Any]


def encode(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks a Gemini backend. Raises UnsupportedField and InvalidRequest."""
    refuse_unsaid(request, _SAID[request.task], PROTOCOL)
    refuse_names(request, PROTOCOL)
    method, make = _METHODS[request.task]
    return OutboundCall(
        path=f"/{_resource(model)}:{method}",
        body=encode_body(make(request, model), quirks),
        is_stream=request.task is Task.GENERATE,
    )


def _resource(model: str) -> str:
    """The path of a model. Nothing in a name can lead out of its place."""
    folder, slash, name = model.partition("/")
    if slash and folder in ("models", "tunedModels"):
        return f"{folder}/{quote(name, safe='')}"
    return f"models/{quote(model, safe='')}"


def _generate(request: Request, model: str) -> dict[str, Any]:
    return _prompt(request, model) | {"generationConfig": _config(request, model) or None}


def _prompt(request: Request, model: str) -> dict[str, Any]:
    messages = request.messages or ()
    system: list[Part] = [{"text": one.text} for one in messages if one.role in _INSTRUCTIONS and one.text]
    contents = _contents(messages, is_signed=row_of(model).has_signatures)
    if not contents:
        raise InvalidRequest("messages: has no text to be answered; give a user message.", param="messages")
    tools = [_declaration(tool) for tool in request.tools]
    return {
        "systemInstruction": {"parts": system} if system else None,
        "contents": contents,
        "tools": [{"functionDeclarations": tools}] if tools else None,
        "toolConfig": _tool_config(request.tool_choice, request.tools) if tools else None,
    }


def _contents(messages: tuple[Message, ...], *, is_signed: bool) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    results: list[Part] | None = None  # those of the content that is still growing
    for index, message in enumerate(messages):
        if message.role in _INSTRUCTIONS:
            continue
        if message.role is Role.TOOL:
            part = _result(message, names, index)
            if results is None:
                results = []
                contents.append({"role": "user", "parts": results})
            results.append(part)
            continue
        results = None
        names |= {call.id: call.name for call in message.tool_calls}
        if parts := _parts(message, is_signed=is_signed):
            contents.append({"role": "model" if message.role is Role.ASSISTANT else "user", "parts": parts})
    return contents


def _parts(message: Message, *, is_signed: bool) -> list[Part]:
    parts: list[Part] = [{"text": message.text}] if message.text else []
    for position, call in enumerate(message.tool_calls):
        asked = {"id": plain_id(call.id), "name": call.name, "args": tool_input(call.arguments)}
        # Of calls that were made together the first alone is signed.
        signature = signature_of(call.id) or (_UNSIGNED if is_signed and position == 0 else "")
        parts.append({"functionCall": asked} | ({"thoughtSignature": signature} if signature else {}))
    return parts


def _result(message: Message, names: Mapping[str, str], index: int) -> Part:
    call_id = message.tool_call_id or ""
    name = names.get(call_id)
    if name is None:
        raise InvalidRequest(
            f"messages[{index}].tool_call_id: answers no call of an earlier message, whose name {PROTOCOL} needs; send "
            "that message too.",
            param=f"messages[{index}].tool_call_id",
        )
    return {"functionResponse": {"id": plain_id(call_id), "name": name, "response": {"output": message.text}}}


def _declaration(tool: Tool) -> dict[str, Any]:
    declared: dict[str, Any] = {"name": tool.name}
    if tool.description:
        declared["description"] = tool.description
    if tool.parameters:
        declared["parametersJsonSchema"] = tool.parameters
    return declared


def _tool_config(choice: ToolChoice, tools: tuple[Tool, ...]) -> dict[str, Any] | None:
    """A choice among some tools, and arguments that must fit their schemas, need a mode that checks."""
    mode = _MODES[choice.mode]
    if choice.mode is ToolMode.AUTO and (choice.names or any(tool.strict for tool in tools)):
        mode = "VALIDATED"
    if mode == "AUTO":
        return None
    config: dict[str, Any] = {"mode": mode}
    if choice.names and choice.mode is not ToolMode.NONE:
        config["allowedFunctionNames"] = list(choice.names)
    return {"functionCallingConfig": config}


_MODES: Final = {ToolMode.AUTO: "AUTO", ToolMode.REQUIRED: "ANY", ToolMode.NONE: "NONE"}


def _config(request: Request, model: str) -> dict[str, Any]:
    sampling, logprobs = request.sampling, request.logprobs
    config = {
        "temperature": sampling.temperature if sampling.temperature != 1 else None,
        "topP": sampling.top_p if sampling.top_p < 1 else None,
        "topK": sampling.top_k or None,
        "presencePenalty": sampling.presence_penalty or None,
        "frequencyPenalty": sampling.frequency_penalty or None,
        # It only has to be the same each time, and fit 32 bits.
        "seed": None if sampling.seed is None else sampling.seed % _MAX_SEED,
        "candidateCount": sampling.num_choices if sampling.num_choices > 1 else None,
        "maxOutputTokens": request.limits.max_tokens,
        "stopSequences": list(request.limits.stop) or None,
        "responseLogprobs": None if logprobs is None else True,
        "logprobs": logprobs or None,
        "thinkingConfig": thinking(request.reasoning, model),
        **_form(request.response_format),
    }
    return {name: value for name, value in config.items() if value is not None}


def _form(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind is FormatKind.TEXT:
        return {}
    if wanted.kind is FormatKind.JSON_OBJECT:
        return {"responseMimeType": "application/json"}
    if wanted.kind is FormatKind.CHOICE:
        choices = {"type": "STRING", "enum": list(wanted.choices)}
        return {"responseMimeType": "text/x.enum", "responseSchema": choices}
    if wanted.kind is FormatKind.JSON_SCHEMA and isinstance(wanted.schema, Mapping):
        return {"responseMimeType": "application/json", "responseJsonSchema": wanted.schema}
    raise unsaid("response_format", PROTOCOL, f"{wanted.kind.value} is no form of its answers; use a JSON schema")


def _count(request: Request, model: str) -> dict[str, Any]:
    prompt = {name: value for name, value in _prompt(request, model).items() if value is not None}
    return {"generateContentRequest": {"model": _resource(model), **prompt}}


def _embed(request: Request, model: str) -> dict[str, Any]:
    size = {} if request.dimensions is None else {"outputDimensionality": request.dimensions}
    requests = []
    for index, one in enumerate(request.inputs or ()):
        if not isinstance(one.text, str):
            raise unsaid(f"inputs[{index}]", PROTOCOL, "send text instead of token ids")
        requests.append({"model": _resource(model), "content": {"role": "user", "parts": [{"text": one.text}]}, **size})
    return {"requests": requests}


_METHODS: Final[Mapping[Task, tuple[str, Callable[[Request, str], dict[str, Any]]]]] = {
    Task.GENERATE: ("streamGenerateContent?alt=sse", _generate),
    Task.COUNT: ("countTokens", _count),
    Task.EMBED: ("batchEmbedContents", _embed),
}
