"""Tools: the caller's own, and those of Anthropic's that the caller runs, whose schemas are known by their type.

Tools that Anthropic's servers run (web search, code execution, ...) are refused by name: nobody here would run them.
Knows no messages; which deferred tools are wanted it is told.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.api.anthropic_fields import INERT_TOOL, OfferedChoice, OfferedTool
from headrace.api.openai_refusal import refuse_inert, show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Tool, ToolChoice, ToolMode

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")

_MODES = {"auto": ToolMode.AUTO, "any": ToolMode.REQUIRED, "tool": ToolMode.REQUIRED, "none": ToolMode.NONE}


@dataclass(frozen=True, slots=True)
class _Known:
    """A tool whose schema its type stands for."""

    name: str
    description: str
    schema: Mapping[str, Any]


def _commands(fields: Mapping[str, str], commands: tuple[str, ...]) -> dict[str, Any]:
    """The schema of a tool that does one of several things: a command, and what it needs."""
    kinds = {"str": {"type": "string"}, "int": {"type": "integer"}}
    kinds["range"] = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}  # type: ignore[dict-item]
    properties = {"command": {"type": "string", "enum": list(commands)}} | {
        name: kinds[kind] for name, kind in fields.items()
    }
    return {"type": "object", "properties": properties, "required": ["command"]}


_EDITS: Final = {"path": "str", "file_text": "str", "old_str": "str", "new_str": "str", "insert_line": "int"}
_BASH: Final = _Known(
    "bash",
    "Run a command in a bash session that lasts. `restart` starts the session anew.",
    {"type": "object", "properties": {"command": {"type": "string"}, "restart": {"type": "boolean"}}},
)
_EDITOR: Final = "View, create and edit text files. `view_range` is [first line, last line], -1 for the end."
_VIEW: Final = ("view", "create", "str_replace", "insert")

# Type -> what it stands for. As Anthropic documents them.
KNOWN: Final[dict[str, _Known]] = {
    "bash_20241022": _BASH,
    "bash_20250124": _BASH,
    "text_editor_20250124": _Known(
        "str_replace_editor", _EDITOR, _commands({**_EDITS, "view_range": "range"}, (*_VIEW, "undo_edit"))
    ),
    "text_editor_20250429": _Known(
        "str_replace_based_edit_tool",
        _EDITOR,
        _commands({**_EDITS, "insert_text": "str", "view_range": "range"}, _VIEW),
    ),
    "text_editor_20250728": _Known(
        "str_replace_based_edit_tool",
        _EDITOR,
        _commands({**_EDITS, "insert_text": "str", "view_range": "range"}, _VIEW),
    ),
    "memory_20250818": _Known(
        "memory",
        "Read and keep notes in files below /memories, which outlast the conversation.",
        _commands(
            {
                **_EDITS,
                "insert_text": "str",
                "view_range": "range",
                "old_path": "str",
                "new_path": "str",
            },
            (*_VIEW, "delete", "rename"),
        ),
    ),
}


def tools(given: list[OfferedTool], referenced: Iterable[str]) -> tuple[Tool, ...]:
    """The tools that the model is told of: those that are not deferred, and behind them, so that what stands before
    stays as it was, deferred ones in the order in which a `tool_reference` has named them.

    Raises InvalidRequest and UnsupportedField.
    """
    all_tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    if all_tools and all(tool.defer_loading for tool in given):
        raise InvalidRequest(
            "tools[0].defer_loading: all tools are deferred; at least one must not be.", param="tools[0].defer_loading"
        )
    pairs = list(zip(given, all_tools, strict=True))
    at_once = [neutral for tool, neutral in pairs if not tool.defer_loading]
    deferred = {neutral.name: neutral for tool, neutral in pairs if tool.defer_loading}
    return (*at_once, *(deferred[name] for name in referenced if name in deferred))


def _tool(tool: OfferedTool, path: str) -> Tool:
    if tool.type not in (None, "custom"):
        return _known(tool, path)
    refuse_inert(tool, INERT_TOOL, f"{path}.")
    if not tool.name or not _NAME.fullmatch(tool.name):
        raise InvalidRequest(
            f"{path}.name: {show(tool.name)} must be 1 to 128 letters, digits, underscores or dashes.",
            param=f"{path}.name",
        )
    schema = tool.input_schema
    if schema is None:
        raise InvalidRequest(
            f"{path}.input_schema: is missing; a tool of the caller's own needs it.",
            param=f"{path}.input_schema",
            code="missing_required_parameter",
        )
    if schema.get("type") != "object":
        raise InvalidRequest(
            f"{path}.input_schema.type: {show(schema.get('type'))} given, but input is always an 'object'.",
            param=f"{path}.input_schema.type",
        )
    return Tool(tool.name, _description(tool), schema, bool(tool.strict))


def _description(tool: OfferedTool) -> str:
    """What the model is told of a tool: its description, and examples of its input if there are some."""
    lines = [tool.description or ""]
    lines += [f"Example of its input: {msgspec.json.encode(one).decode()}" for one in tool.input_examples or ()]
    return "\n".join(line for line in lines if line)


def _known(tool: OfferedTool, path: str) -> Tool:
    known = KNOWN.get(tool.type or "")
    if known is None:
        raise UnsupportedField(
            f"{path}.type: {show(tool.type)} is not supported: no such tool is run here; send 'custom' with an "
            f"input_schema, or one of {', '.join(KNOWN)}.",
            param=f"{path}.type",
        )
    refuse_inert(tool, INERT_TOOL, f"{path}.")
    if tool.name != known.name:
        raise InvalidRequest(
            f"{path}.name: {show(tool.name)} given, but a tool of type {show(tool.type)} is called {known.name}.",
            param=f"{path}.name",
        )
    description = known.description
    if tool.max_characters is not None:
        description += f" At most {tool.max_characters} characters of a file are shown."
    return Tool(known.name, description, known.schema, bool(tool.strict))


def tool_choice(choice: OfferedChoice | None, *, has_tools: bool) -> ToolChoice:
    """What the answer may do with the tools. Raises InvalidRequest."""
    if choice is None:
        return ToolChoice()
    mode = _MODES.get(choice.type)
    if mode is None:
        raise InvalidRequest(
            f"tool_choice.type: {show(choice.type)} is no choice; use {', '.join(_MODES)}.", param="tool_choice.type"
        )
    if (choice.name is not None) != (choice.type == "tool"):
        given = "is missing; type 'tool' needs it" if choice.name is None else "only goes with type 'tool'"
        raise InvalidRequest(f"tool_choice.name: {given}.", param="tool_choice.name")
    if choice.disable_parallel_tool_use and choice.type == "none":
        raise InvalidRequest(
            "tool_choice.disable_parallel_tool_use: does not go with type 'none', which allows no call at all.",
            param="tool_choice.disable_parallel_tool_use",
        )
    if not has_tools:
        raise InvalidRequest("tool_choice: no tools are given that it could speak of.", param="tool_choice")
    names = () if choice.name is None else (choice.name,)
    return ToolChoice(mode, names, 1 if choice.disable_parallel_tool_use else None)
