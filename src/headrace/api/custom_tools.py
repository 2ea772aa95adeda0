"""Custom tools: OpenAI's tools that take free text. A model is told of one as a function with one string, and what it
calls becomes text again. Knows no route.
"""

from typing import Any

import msgspec

from headrace.api.openai_refusal import show
from headrace.core.errors import UnsupportedField
from headrace.core.request import Tool


def custom_tool(name: str, description: str | None, pattern: str | None) -> Tool:
    """The function that a model is told of. With a `pattern` (a regular expression) the text is held to it."""
    text: dict[str, Any] = {"type": "string"}
    if pattern is not None:
        text["pattern"] = f"^(?:{pattern})$"
    parameters = {"type": "object", "properties": {"input": text}, "required": ["input"], "additionalProperties": False}
    return Tool(name, description or "", parameters, strict=pattern is not None)


def text_pattern(kind: str, syntax: str | None, definition: str | None, path: str) -> str | None:
    """What holds the text of a `format`: None if nothing does. Raises UnsupportedField."""
    if kind == "text":
        return None
    if kind != "grammar" or syntax != "regex":
        raise UnsupportedField(
            f"{path}.format: {show(syntax or kind)} is not supported for text inside a call; leave the format out, or "
            "send a grammar of syntax 'regex'.",
            param=f"{path}.format",
        )
    return definition or ""


def as_arguments(text: str) -> str:
    """The text of an earlier call, as the model wrote it."""
    return msgspec.json.encode({"input": text}).decode()


def free_text(arguments: str) -> str:
    """The text of a call, which the model wrote as a function's one argument. What is none stays as it is."""
    try:
        given = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return arguments
    if isinstance(given, dict) and isinstance(given.get("input"), str):
        return str(given["input"])
    return arguments
