"""Tools of a chat: what may be called, what has to be, and the calls and results of earlier turns.

OpenAI's older `functions` and `function_call` say the same with other words: they become tools of which one is called
at a time, and the answer is written in those words again (`Call.has_functions`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace.api.openai_fields import CallOfTool, ChatBody, Choice, Function, NamedFunction, NamedTool
from headrace.api.openai_fields import Message as WireMessage
from headrace.api.openai_fields import Tool as WireTool
from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Tool, ToolCall, ToolChoice, ToolMode

# OpenAI takes 64 characters without dots; names of tools that come from other servers are longer.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MODES: Final = {"none": ToolMode.NONE, "auto": ToolMode.AUTO, "required": ToolMode.REQUIRED}
_ALLOWED_MODES: Final = {"auto": ToolMode.AUTO, "required": ToolMode.REQUIRED}
FUNCTION_ID: Final = "call_"
"""How ids of calls begin that came without one, as those of `function_call` do."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a body says of tools. `has_functions`: it said so in the older words."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    has_functions: bool = False


def tools(body: ChatBody) -> Tools:
    """The tools of a body. Raises InvalidRequest or UnsupportedField with the path of what is wrong."""
    if body.functions is None and body.function_call is None:
        return Tools(given_tools(body.tools or ()), _choice(body))
    for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
        if getattr(body, old) is not None and (body.tools or body.tool_choice is not None):
            raise InvalidRequest(
                f"{old}: is the older name of {new}, and the newer ones are given as well; send one of them.", param=old
            )
    functions = tuple(_function(one, f"functions[{index}]") for index, one in enumerate(body.functions or ()))
    return Tools(functions, _function_call(body.function_call), has_functions=True)


def given_tools(given: Sequence[WireTool]) -> tuple[Tool, ...]:
    """A list of `tools`. Raises InvalidRequest or UnsupportedField with the path of what is wrong."""
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(given))


def _tool(tool: WireTool, path: str) -> Tool:
    if tool.type != "function":
        raise _no_function(tool.type, path)
    if tool.function is None:
        raise _missing(f"{path}.function", "a tool of type 'function' needs it")
    return _function(tool.function, f"{path}.function")


def _function(function: Function, path: str) -> Tool:
    if not _NAME.fullmatch(function.name):
        raise InvalidRequest(
            f"{path}.name: {show(function.name)} must be 1 to 128 letters, digits, underscores, dots or dashes.",
            param=f"{path}.name",
        )
    return Tool(function.name, function.description or "", function.parameters or {}, bool(function.strict))


def _choice(body: ChatBody) -> ToolChoice:
    given = body.tool_choice
    max_calls = 1 if body.parallel_tool_calls is False else None
    if given is None:
        return ToolChoice(max_calls=max_calls)
    if isinstance(given, str):
        return ToolChoice(_mode(given, _MODES, "tool_choice"), max_calls=max_calls)
    return _named_choice(given, max_calls)


def _named_choice(given: Choice, max_calls: int | None) -> ToolChoice:
    if given.type == "allowed_tools":
        allowed = given.allowed_tools
        if allowed is None:
            raise _missing("tool_choice.allowed_tools", "type 'allowed_tools' needs it")
        path = "tool_choice.allowed_tools"
        names = tuple(_name_of(one, f"{path}.tools[{index}]") for index, one in enumerate(allowed.tools))
        if not names:
            raise InvalidRequest(f"{path}.tools: is empty; name a tool, or send 'none'.", param=f"{path}.tools")
        return ToolChoice(_mode(allowed.mode, _ALLOWED_MODES, f"{path}.mode"), names, max_calls)
    if given.type != "function":
        raise _no_function(given.type, "tool_choice")
    if given.function is None:
        raise _missing("tool_choice.function", "type 'function' needs it")
    # One function is named, and so one is called.
    return ToolChoice(ToolMode.REQUIRED, (given.function.name,), 1)


def _name_of(tool: NamedTool, path: str) -> str:
    if tool.type != "function":
        raise _no_function(tool.type, path)
    if tool.function is None:
        raise _missing(f"{path}.function", "a tool of type 'function' needs it")
    return tool.function.name


def _function_call(given: str | NamedFunction | None) -> ToolChoice:
    if given is None:
        return ToolChoice(max_calls=1)
    if isinstance(given, str):
        return ToolChoice(_mode(given, {"none": ToolMode.NONE, "auto": ToolMode.AUTO}, "function_call"), max_calls=1)
    return ToolChoice(ToolMode.REQUIRED, (given.name,), 1)


def _mode(given: str, known: dict[str, ToolMode], path: str) -> ToolMode:
    if given not in known:
        raise InvalidRequest(f"{path}: {show(given)} is none of {', '.join(known)}.", param=path)
    return known[given]


def earlier_calls(message: WireMessage, path: str) -> tuple[ToolCall, ...]:
    """The calls that an assistant's message made. Raises InvalidRequest or UnsupportedField."""
    calls = tuple(_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls or ()))
    old = message.function_call
    if old is None:
        return calls
    if calls:
        raise InvalidRequest(
            f"{path}.function_call: is the older name of tool_calls, which are given as well; send one of them.",
            param=f"{path}.function_call",
        )
    return (ToolCall(FUNCTION_ID + old.name, old.name, old.arguments),)


def _call(call: CallOfTool, path: str) -> ToolCall:
    if call.type != "function":
        raise _no_function(call.type, path)
    if call.function is None:
        raise _missing(f"{path}.function", "a call of type 'function' needs it")
    if not call.id:
        raise InvalidRequest(f"{path}.id: is empty; send the id that the call came with.", param=f"{path}.id")
    return ToolCall(call.id, call.function.name, call.function.arguments)


def answered_call(message: WireMessage, path: str) -> str:
    """The id of the call that a message of role tool or function answers. Raises InvalidRequest."""
    if message.role == "function":
        if not message.name:
            raise _missing(f"{path}.name", "it says which function's result this is")
        return FUNCTION_ID + message.name
    if not message.tool_call_id:
        raise _missing(f"{path}.tool_call_id", "it says which call this is the result of")
    return message.tool_call_id


def _no_function(kind: str, path: str) -> UnsupportedField:
    return UnsupportedField(
        f"{path}.type: {show(kind)} is not supported; the models served here call tools of type 'function'.",
        param=f"{path}.type",
    )


def _missing(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: is missing; {why}.", param=path, code="missing_required_parameter")
