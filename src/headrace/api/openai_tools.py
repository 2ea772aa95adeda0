"""Tools of a chat: what may be called, what has to be, and the calls and results of earlier turns.

Custom tools take free text (`custom_tools.py`). OpenAI's older `functions` and `function_call` say the same as `tools`
with other words: they become tools of which one is called at a time, and the answer is written in those words again
(`Call.has_functions`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace.api.custom_tools import as_arguments, custom_tool, text_pattern
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
_KINDS: Final = ("function", "custom")
FUNCTION_ID: Final = "call_"
"""How ids of calls begin that came without one, as those of `function_call` do."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a body says of tools. `custom` are the names of those that take free text; `has_functions`: it spoke in the
    older words."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    custom: frozenset[str] = frozenset()
    has_functions: bool = False


def tools(body: ChatBody) -> Tools:
    """The tools of a body. Raises InvalidRequest or UnsupportedField with the path of what is wrong."""
    if body.functions is None and body.function_call is None:
        given = body.tools or ()
        custom = frozenset(tool.custom.name for tool in given if tool.custom is not None)
        return Tools(given_tools(given), _choice(body), custom)
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
    _check_kind(tool, path)
    if tool.function is not None:
        return _function(tool.function, f"{path}.function")
    assert tool.custom is not None
    custom, path = tool.custom, f"{path}.custom"
    _check_name(custom.name, path)
    pattern = None
    if custom.format is not None:
        grammar = custom.format.grammar
        syntax, definition = (None, None) if grammar is None else (grammar.syntax, grammar.definition)
        pattern = text_pattern(custom.format.type, syntax, definition, path)
    return custom_tool(custom.name, custom.description, pattern)


def _check_kind(tool: WireTool | NamedTool | Choice | CallOfTool, path: str) -> None:
    """Raise unless a tool, or what names or calls one, is of one kind and says of that kind what it has to."""
    if tool.type not in _KINDS:
        raise UnsupportedField(
            f"{path}.type: {show(tool.type)} is not supported; the models served here call tools of type "
            f"{' or '.join(_KINDS)}.",
            param=f"{path}.type",
        )
    for kind in _KINDS:
        if kind != tool.type and getattr(tool, kind) is not None:
            raise InvalidRequest(
                f"{path}.{kind}: does not go with type {tool.type!r}; leave it out.", param=f"{path}.{kind}"
            )
    if getattr(tool, tool.type) is None:
        raise _missing(f"{path}.{tool.type}", f"type {tool.type!r} needs it")


def _check_name(name: str, path: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{path}.name: {show(name)} must be 1 to 128 letters, digits, underscores, dots or dashes.",
            param=f"{path}.name",
        )


def _function(function: Function, path: str) -> Tool:
    _check_name(function.name, path)
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
    for kind in (*_KINDS, "allowed_tools"):
        if kind != given.type and getattr(given, kind) is not None:
            raise InvalidRequest(
                f"tool_choice.{kind}: does not go with type {show(given.type)}; leave it out.",
                param=f"tool_choice.{kind}",
            )
    if given.type == "allowed_tools":
        allowed = given.allowed_tools
        if allowed is None:
            raise _missing("tool_choice.allowed_tools", "type 'allowed_tools' needs it")
        path = "tool_choice.allowed_tools"
        names = tuple(_name_of(one, f"{path}.tools[{index}]") for index, one in enumerate(allowed.tools))
        if not names:
            raise InvalidRequest(f"{path}.tools: is empty; name a tool, or send 'none'.", param=f"{path}.tools")
        return ToolChoice(_mode(allowed.mode, _ALLOWED_MODES, f"{path}.mode"), names, max_calls)
    # One tool is named, and so one is called.
    return ToolChoice(ToolMode.REQUIRED, (_name_of(given, "tool_choice"),), 1)


def _name_of(tool: NamedTool | Choice, path: str) -> str:
    _check_kind(tool, path)
    named = tool.function or tool.custom
    assert named is not None
    return named.name


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
    _check_kind(call, path)
    if not call.id:
        raise InvalidRequest(f"{path}.id: is empty; send the id that the call came with.", param=f"{path}.id")
    if call.function is not None:
        return ToolCall(call.id, call.function.name, call.function.arguments)
    assert call.custom is not None
    return ToolCall(call.id, call.custom.name, as_arguments(call.custom.input))


def answered_call(message: WireMessage, path: str) -> str:
    """The id of the call that a message of role tool or function answers. Raises InvalidRequest."""
    if message.role == "function":
        if not message.name:
            raise _missing(f"{path}.name", "it says which function's result this is")
        return FUNCTION_ID + message.name
    if not message.tool_call_id:
        raise _missing(f"{path}.tool_call_id", "it says which call this is the result of")
    return message.tool_call_id


def _missing(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: is missing; {why}.", param=path, code="missing_required_parameter")
