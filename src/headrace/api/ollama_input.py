"""What single fields of Ollama's bodies mean: messages, tools, options, an answer's form, how long a model stays.

Each function takes what msgspec read and returns neutral values, or raises InvalidRequest or UnsupportedField with the
path of what is wrong. A name of a model may have Ollama's tag `:latest`, which means nothing here.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.api.ollama_fields import (
    DEFAULTS,
    INERT_OPTIONS,
    OTHER_OPTIONS,
    SAMPLING_OPTIONS,
    WHOLE_OPTIONS,
    Json,
    OllamaAnswerBody,
    OllamaCalledTool,
    OllamaMessage,
    OllamaTool,
)
from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import (
    MAX_TOP_LOGPROBS,
    Effort,
    FormatKind,
    Limits,
    Message,
    Reasoning,
    ResponseFormat,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)

TAG: Final = ":latest"
FOREVER_S: Final = -1.0

_ROLES = {role.value: role for role in (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL)}
_THINK = {True: Effort.MEDIUM, False: Effort.NONE, "low": Effort.LOW, "medium": Effort.MEDIUM, "high": Effort.HIGH}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def model_name(given: str) -> str:
    """The model that is asked, without Ollama's tag for "whatever is newest". Raises InvalidRequest."""
    name = given.removesuffix(TAG)
    if not name:
        raise InvalidRequest("model: must not be empty; GET /api/tags lists the names.", param="model")
    return name


def messages(given: list[OllamaMessage]) -> tuple[Message, ...]:
    """A conversation. Calls have no ids on this wire: a result answers the next call of its name that has none yet."""
    made: list[Message] = []
    unanswered: list[ToolCall] = []
    for index, message in enumerate(given):
        path = f"messages[{index}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidRequest(
                f"{path}.role: {show(message.role)} is no role; use {', '.join(_ROLES)}.", param=f"{path}.role"
            )
        if message.images:
            raise no_images(f"{path}.images")
        calls = tuple(_call(call, f"call_{index}_{place}") for place, call in enumerate(message.tool_calls or ()))
        if calls and role is not Role.ASSISTANT:
            raise InvalidRequest(
                f"{path}.tool_calls: only an assistant calls tools; the role is {show(message.role)}.",
                param=f"{path}.tool_calls",
            )
        unanswered += calls
        made.append(
            Message(
                role=role,
                parts=(TextPart(message.content),) if message.content else (),
                name=message.tool_name or message.name,
                tool_calls=calls,
                tool_call_id=_answered(message, unanswered, path) if role is Role.TOOL else None,
                reasoning=message.thinking or "",
            )
        )
    return tuple(made)


def _call(call: OllamaCalledTool, fallback_id: str) -> ToolCall:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    return ToolCall(call.id or fallback_id, call.function.name, arguments)


def _answered(message: OllamaMessage, unanswered: list[ToolCall], path: str) -> str:
    for index, call in enumerate(unanswered):
        named = message.tool_call_id in (None, "", call.id) and message.tool_name in (None, "", call.name)
        if named:
            return unanswered.pop(index).id
    raise InvalidRequest(
        f"{path}: answers no call of a turn before it; send the assistant's turn with its tool_calls first.",
        param=path,
    )


def no_images(path: str) -> UnsupportedField:
    """A refusal of images."""
    return UnsupportedField(
        f"{path}: the models served here read text only; leave the images out.", param=path.partition("[")[0]
    )


def tools(given: list[OllamaTool] | None) -> tuple[Tool, ...]:
    """What may be called."""
    for index, tool in enumerate(given or ()):
        if tool.type not in (None, "", "function"):
            raise UnsupportedField(
                f"tools[{index}].type: {show(tool.type)} is not supported; send 'function'.",
                param=f"tools[{index}].type",
            )
    return tuple(
        Tool(
            tool.function.name,
            tool.function.description or "",
            tool.function.parameters or {},
            bool(tool.function.strict),
        )
        for tool in given or ()
    )


def check_options(options: Json) -> None:
    """Raise InvalidRequest for an option that nobody knows, UnsupportedField for one that would be left undone."""
    for name, value in options.items():
        if name in SAMPLING_OPTIONS or name in OTHER_OPTIONS:
            continue
        path = f"options.{name[:100]}"
        if name not in INERT_OPTIONS:
            known = ", ".join(sorted((*SAMPLING_OPTIONS, *OTHER_OPTIONS, *INERT_OPTIONS)))
            raise InvalidRequest(f"{path}: is no option; known are {known}.", param=path, code="unknown_parameter")
        accepted = INERT_OPTIONS[name]
        if accepted is not None and value is not None and value not in accepted:
            remedy = f"leave it out or send {show(accepted[0])}" if accepted else "leave it out"
            raise UnsupportedField(f"{path}: {show(value)} is not supported; {remedy}.", param=path)


def sampling(options: Json) -> Sampling:
    """How tokens are drawn."""
    given: dict[str, Any] = {SAMPLING_OPTIONS[name]: value for name, value in DEFAULTS.items()}
    for name, field in SAMPLING_OPTIONS.items():
        value = options.get(name)
        if value is not None:
            given[field] = _number(name, value)
    if given.get("seed") == -1:  # Ollama's word for "any"
        del given["seed"]
    if _is_off(options):
        given.pop("repetition_penalty", None)
    defaults = frozenset(SAMPLING_OPTIONS[name] for name in DEFAULTS if options.get(name) is None)
    return Sampling(**given, defaults=defaults)


def _is_off(options: Json) -> bool:
    """Whether repeat_last_n turns the repetition penalty off. Raises UnsupportedField for a window: there is none."""
    window = options.get("repeat_last_n")
    penalty = options.get("repeat_penalty")
    if window is None or window == 0:
        return window == 0
    if window != -1 and penalty not in (None, 1, 1.0):
        raise UnsupportedField(
            f"options.repeat_last_n: {show(window)} is not supported with a repeat_penalty, which here counts over "
            "the whole input and answer; send -1, or 0 to turn it off.",
            param="options.repeat_last_n",
        )
    return False


def _number(name: str, value: Any) -> Any:
    kind, wanted = (int, "a whole number") if name in WHOLE_OPTIONS else ((int, float), "a number")
    if isinstance(value, float) and name in WHOLE_OPTIONS and value.is_integer() and abs(value) < 2**53:
        return int(value)  # clients in languages with one kind of number
    if isinstance(value, bool) or not isinstance(value, kind) or abs(value) >= 2**64:
        raise InvalidRequest(
            f"options.{name}: {show(value)} given, but {wanted} is needed.",
            param=f"options.{name}",
            code="invalid_type",
        )
    return value


def limits(options: Json, deadline_s: float | None) -> Limits:
    """When the answer ends: num_predict below 0 is as long as the context allows."""
    wanted = options.get("num_predict")
    max_tokens = None if wanted is None else _whole("num_predict", wanted)
    stop = options.get("stop")
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(
            f"options.stop: {show(stop)} given, but a string or a list of strings is needed.",
            param="options.stop",
            code="invalid_type",
        )
    return Limits(
        max_tokens=None if max_tokens is None or max_tokens < 0 else max_tokens,
        stop=tuple(text for text in texts if text),
        deadline_s=deadline_s,
    )


def _whole(name: str, value: Any) -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**64:
        raise InvalidRequest(
            f"options.{name}: {show(value)} given, but a whole number is needed.",
            param=f"options.{name}",
            code="invalid_type",
        )
    return value


def response_format(given: str | Mapping[str, Any] | None) -> ResponseFormat:
    """The form that the answer must have: "json", a JSON schema, or none."""
    if given is None or given == "":
        return ResponseFormat()
    if given == "json":
        return ResponseFormat(FormatKind.JSON_OBJECT)
    if isinstance(given, str):
        raise InvalidRequest(f"format: {show(given)} is no format; send 'json' or a JSON schema.", param="format")
    return ResponseFormat(FormatKind.JSON_SCHEMA, schema=given)


def reasoning(given: bool | str | None) -> Reasoning:
    """How much the model thinks before it answers."""
    if given is None or given == "":
        return Reasoning()
    if given not in _THINK:
        raise InvalidRequest(f"think: {show(given)} is not one of true, false, low, medium, high.", param="think")
    return Reasoning(_THINK[given])


def logprobs(body: OllamaAnswerBody) -> int | None:
    """How many alternatives are told of each token, None for no log-probabilities at all."""
    top = body.top_logprobs
    if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs: {show(top)} is not in [0, {MAX_TOP_LOGPROBS}]; give a number inside.", param="top_logprobs"
        )
    if top and not body.logprobs:
        raise InvalidRequest(
            f"top_logprobs: {top} needs logprobs; send logprobs true, or leave both out.", param="top_logprobs"
        )
    return (top or 0) if body.logprobs else None


def keep_alive_s(given: float | str | None) -> float | None:
    """Seconds that the model should stay, FOREVER_S below 0; None: as the server has it. Raises InvalidRequest."""
    if given is None or given == "":
        return None
    seconds = _seconds(given) if isinstance(given, str) else float(given)
    if seconds is None:
        raise InvalidRequest(
            f"keep_alive: {show(given)} is no time; send seconds, or for example '5m'.", param="keep_alive"
        )
    return FOREVER_S if seconds < 0 else seconds


def _seconds(text: str) -> float | None:
    """A number of seconds, or a duration as Go writes it."""
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    if len(digits) > 40:
        return None
    if re.fullmatch(r"\d+(\.\d*)?", digits):
        return sign * float(digits)
    parts = _DURATION.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        return None
    return sign * sum(float(number) * _UNITS_S[unit] for number, unit in parts)
