"""Settings of a response: tools, the form of the answer, sampling, and how the response object repeats them.

Each function reads one part of a body into neutral values and, where the object shows it, into what is shown. A tool
that only OpenAI can run is refused by name; so is whatever else would be left undone.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.api.custom_tools import custom_tool, text_pattern
from headrace.api.openai_refusal import bounded, refuse_field, refuse_inert, show
from headrace.api.responses_fields import (
    INERT_CUSTOM,
    INERT_FUNCTION,
    INERT_REASONING,
    AskedBody,
    CreateBody,
    CustomToolField,
    FunctionToolField,
    NamespaceToolField,
    ReasoningField,
    TextField,
)
from headrace.api.responses_service import ToolName, qualified
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import (
    MAX_TOP_LOGPROBS,
    Effort,
    FormatKind,
    Reasoning,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
)

LOGPROBS: Final = "message.output_text.logprobs"
ENCRYPTED: Final = "reasoning.encrypted_content"
# What could be included of tools that do not exist here: nothing is left out by leaving it out.
_INCLUDED_BY_TOOLS: Final = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_FORMAT_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUMMARIES: Final = ("auto", "concise", "detailed")


@dataclass(slots=True)
class Tools:
    """The tools of a body: what the model is told, what they are on the wire, how the response repeats them, and which
    it does not have."""

    tools: list[Tool] = field(default_factory=list)
    names: dict[str, ToolName] = field(default_factory=dict)
    echo: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, tool: Tool, name: ToolName) -> None:
        """Take in one more."""
        self.tools.append(tool)
        self.names[tool.name] = name


def read_tools(given: list[dict[str, Any]] | None, data: bytes) -> Tools:
    """The tools of a body. Raises InvalidRequest or UnsupportedField."""
    tools = Tools()
    for index, tool in enumerate(given or ()):
        _read_tool(tools, tool, data, f"tools[{index}]")
    return tools


def _read_tool(tools: Tools, tool: dict[str, Any], data: bytes, path: str) -> None:
    kind = tool.get("type")
    if kind == "function":
        tools.echo.append(_function(tools, _convert(tool, FunctionToolField, data, path), path, None))
    elif kind == "custom":
        tools.echo.append(_custom(tools, _convert(tool, CustomToolField, data, path), path))
    elif kind == "namespace":
        space = _convert(tool, NamespaceToolField, data, path)
        shown = []
        for index, inner in enumerate(space.tools):
            where = f"{path}.tools[{index}]"
            if inner.get("type") != "function":
                raise UnsupportedField(
                    f"{where}.type: {show(inner.get('type'))} is not supported; a namespace holds tools of type "
                    "'function'.",
                    param=f"{where}.type",
                )
            shown.append(_function(tools, _convert(inner, FunctionToolField, data, where), where, space.name))
        tools.echo.append({"type": kind, "name": space.name, "description": space.description, "tools": shown})
    elif kind == "web_search":
        # Codex offers it in every request, and a model may always leave a tool that it is offered alone. So it is left
        # out, and the response says so; whoever demands a call of it in `tool_choice` is refused.
        tools.left_out.append(path)
    else:
        raise UnsupportedField(
            f"{path}.type: {show(kind)} is not supported, as nothing here could run it; send tools of type function, "
            "custom or namespace, which your own program runs.",
            param=f"{path}.type",
        )


def _convert(given: dict[str, Any], struct: type[Any], data: bytes, path: str) -> Any:
    try:
        return msgspec.convert(given, struct)
    except (msgspec.ValidationError, RecursionError) as error:
        refuse_field(error, data, path)


def _function(tools: Tools, tool: FunctionToolField, path: str, namespace: str | None) -> dict[str, Any]:
    refuse_inert(tool, INERT_FUNCTION, f"{path}.")
    _check_name(tool.name, path)
    neutral = Tool(
        name=qualified(tool.name, namespace),
        description=tool.description or "",
        parameters=tool.parameters or {},
        strict=bool(tool.strict),
    )
    tools.add(neutral, ToolName(tool.name, namespace))
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _custom(tools: Tools, tool: CustomToolField, path: str) -> dict[str, Any]:
    """A tool with free text is told to the model as a function with one string."""
    refuse_inert(tool, INERT_CUSTOM, f"{path}.")
    _check_name(tool.name, path)
    form = tool.format
    pattern = None if form is None else text_pattern(form.type, form.syntax, form.definition, path)
    shown = {"type": "text"} if pattern is None else {"type": "grammar", "syntax": "regex", "definition": pattern}
    tools.add(custom_tool(tool.name, tool.description, pattern), ToolName(tool.name, is_custom=True))
    return {"type": "custom", "name": tool.name, "description": tool.description, "format": shown}


def _check_name(name: str, path: str) -> None:
    if not _FORMAT_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{path}.name: {show(name)} must be 1 to 64 letters, digits, underscores or dashes.", param=f"{path}.name"
        )


def read_tool_choice(body: AskedBody, tools: Tools) -> tuple[ToolChoice, Any]:
    """What the answer may do with the tools, and how the response repeats it. Raises InvalidRequest."""
    given = "auto" if body.tool_choice is None else body.tool_choice
    mode, names, echo = _choice(given, tools)
    limits = [1] if body.parallel_tool_calls is False else []
    if isinstance(body, CreateBody) and body.max_tool_calls is not None:
        limits.append(_at_least_1("max_tool_calls", body.max_tool_calls))
    return ToolChoice(mode, names, min(limits, default=None)), echo


def _choice(given: str | dict[str, Any], tools: Tools) -> tuple[ToolMode, tuple[str, ...], Any]:
    if isinstance(given, str):
        if given not in ("auto", "none", "required"):
            raise InvalidRequest(
                f"tool_choice: {show(given)} is none; use auto, none, required or a tool.", param="tool_choice"
            )
        return ToolMode(given), (), given
    kind = given.get("type")
    if kind in ("function", "custom"):
        name = _chosen(given, tools, "tool_choice")
        return ToolMode.REQUIRED, (name,), {"type": kind, "name": given["name"]}
    if kind == "allowed_tools":
        mode, allowed = given.get("mode", "auto"), given.get("tools")
        if mode not in ("auto", "required"):
            raise InvalidRequest(
                f"tool_choice.mode: {show(mode)} is none; use auto or required.", param="tool_choice.mode"
            )
        if not isinstance(allowed, list) or not allowed or not all(isinstance(one, dict) for one in allowed):
            raise InvalidRequest("tool_choice.tools: needs a list of at least one tool.", param="tool_choice.tools")
        names = tuple(_chosen(one, tools, f"tool_choice.tools[{index}]") for index, one in enumerate(allowed))
        echo = {"type": kind, "mode": mode, "tools": [{"type": one["type"], "name": one["name"]} for one in allowed]}
        return ToolMode(mode), names, echo
    raise UnsupportedField(
        f"tool_choice.type: {show(kind)} is not supported; use function, custom or allowed_tools.",
        param="tool_choice.type",
    )


def _chosen(given: dict[str, Any], tools: Tools, path: str) -> str:
    kind, name, space = given.get("type"), given.get("name"), given.get("namespace")
    if kind not in ("function", "custom"):
        raise UnsupportedField(
            f"{path}.type: {show(kind)} is not supported; use function or custom.", param=f"{path}.type"
        )
    neutral = qualified(name, space if isinstance(space, str) else None) if isinstance(name, str) else ""
    if neutral not in tools.names or tools.names[neutral].is_custom != (kind == "custom"):
        raise InvalidRequest(
            f"{path}: there is no tool {show(name)} of type {kind} in tools; add it, or choose another.",
            param="tool_choice",
        )
    return neutral


def read_format(text: TextField | None) -> tuple[ResponseFormat, dict[str, Any]]:
    """The form of the answer, and how the response repeats it. Raises InvalidRequest or UnsupportedField."""
    given = None if text is None else text.format
    if given is None or given.type == "text":
        return ResponseFormat(), {"type": "text"}
    path = "text.format"
    if given.type == "json_object":
        return ResponseFormat(FormatKind.JSON_OBJECT), {"type": "json_object"}
    if given.type != "json_schema":
        raise UnsupportedField(
            f"{path}.type: {show(given.type)} is not supported; use text, json_object or json_schema.",
            param=f"{path}.type",
        )
    if given.name is None or not _FORMAT_NAME.fullmatch(given.name):
        raise InvalidRequest(
            f"{path}.name: {show(given.name)} must be 1 to 64 letters, digits, underscores or dashes.",
            param=f"{path}.name",
        )
    if given.schema is None:
        raise InvalidRequest(
            f"{path}.schema: is missing; it is what the answer is held to.",
            param=f"{path}.schema",
            code="missing_required_parameter",
        )
    # Answers are always held to the schema, so `strict` is true whatever was sent.
    echo = {
        "type": "json_schema",
        "name": given.name,
        "description": given.description,
        "schema": given.schema,
        "strict": True,
    }
    return ResponseFormat(FormatKind.JSON_SCHEMA, schema=given.schema), echo


def read_verbosity(text: TextField | None) -> str:
    """How long the answer is wished to be: only the middle, which changes nothing. Raises UnsupportedField."""
    given = None if text is None else text.verbosity
    if given not in (None, "medium"):
        raise UnsupportedField(
            f"text.verbosity: {show(given)} is not supported; say in the instructions how long answers should be.",
            param="text.verbosity",
        )
    return "medium"


def read_reasoning(given: ReasoningField | None) -> tuple[Reasoning, dict[str, Any]]:
    """How much the model thinks, and how the response repeats it. Raises InvalidRequest or UnsupportedField."""
    if given is None:
        return Reasoning(), {"effort": None, "summary": None}
    refuse_inert(given, INERT_REASONING, "reasoning.")
    summary = given.summary or given.generate_summary
    if summary not in (None, *_SUMMARIES):
        raise InvalidRequest(
            f"reasoning.summary: {show(summary)} is none; use {', '.join(_SUMMARIES)}.", param="reasoning.summary"
        )
    # "max" is OpenAI's newest word for the most that a model can do.
    effort = "xhigh" if given.effort == "max" else given.effort
    if effort is not None and effort not in [each.value for each in Effort]:
        raise InvalidRequest(
            f"reasoning.effort: {show(given.effort)} is none; use {', '.join(Effort)}.", param="reasoning.effort"
        )
    echo = {"effort": given.effort, "summary": summary}
    return Reasoning(effort=None if effort is None else Effort(effort)), echo


def read_sampling(body: CreateBody) -> Sampling:
    """How tokens are drawn."""
    numbers = "temperature top_p min_p frequency_penalty presence_penalty repetition_penalty"
    given = {name: getattr(body, name) for name in numbers.split()} | {"top_k": bounded("top_k", body.top_k)}
    known = {name: value for name, value in given.items() if value is not None}
    return Sampling(**known, seed=bounded("seed", body.seed))


def read_include(body: CreateBody) -> tuple[frozenset[str], int | None]:
    """What is told beside the answer, and the number of alternatives to each token (None: no log-probabilities)."""
    include = frozenset(body.include or ())
    for one in sorted(include):
        if one not in (LOGPROBS, ENCRYPTED, *_INCLUDED_BY_TOOLS):
            raise InvalidRequest(
                f"include: {show(one)} cannot be included; use {LOGPROBS} or {ENCRYPTED}.", param="include"
            )
    top = bounded("top_logprobs", body.top_logprobs)
    if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs: {show(top)} is not in [0, {MAX_TOP_LOGPROBS}]; give a number inside.", param="top_logprobs"
        )
    if LOGPROBS in include:
        return include, top or 0
    if top:
        raise InvalidRequest(
            f"top_logprobs: {top} needs log-probabilities; add {LOGPROBS!r} to include, or leave it out.",
            param="top_logprobs",
        )
    return include, None


def _at_least_1(name: str, value: int) -> int:
    if not 1 <= value < 2**31:
        raise InvalidRequest(f"{name}: {show(value)} is not in [1, {2**31 - 1}]; give a number inside.", param=name)
    return value
