"""One grammar for answers of several parts: a thought first, then calls of tools, or an answer with or without a form.

Where a call is required, nothing else may come. Where it is not, an answer of free text may turn into a call, and is
held to the tools' schemas from where a call begins (lazy rules); an answer with a form is one or the other. How calls
are written is the family's to say (`tools/family.py`). Knows no tokens but the names of control tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, ResponseFormat, Tool
from headrace.engine.grammar.source import (
    MAX_SOURCE_BYTES,
    OPTION_KEY,
    answer_grammar,
    find_keyword,
    json_schema,
    moved,
    without_notes,
)
from headrace.engine.thinking import Marks
from headrace.engine.tools.family import CallableTool, Family, quoted

# As the models' templates write JSON, so that a call reads like those that the model has seen.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Opening(StrEnum):
    """Whether an answer begins with a thought: it cannot, it may, or the prompt has begun one already."""

    NONE = "none"
    MAYBE = "maybe"
    BEGUN = "begun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The tools that may be called. `held`: those whose calls must be valid where none is required."""

    family: Family
    tools: tuple[Tool, ...]
    is_required: bool = True
    held: frozenset[str] = frozenset()
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """See the file's head."""

    answer: ResponseFormat = ResponseFormat()  # noqa: RUF009 - a frozen value
    calls: Calls | None = None
    opening: Opening = Opening.NONE
    marks: Marks | None = None

    def said(self) -> Any:
        """All that the grammar follows from, as JSON. Raises TypeError and ValueError if it is none."""
        answer, calls = self.answer, self.calls
        form = [answer.kind, answer.schema, answer.choices, answer.source]
        said: list[Any] = [form, self.opening, self.marks]
        if calls is not None:
            tools = [[tool.name, tool.parameters] for tool in calls.tools]
            said += [calls.family.name, tools, calls.is_required, sorted(calls.held), calls.most]
        return said

    def write(self, control_tokens: Mapping[str, int]) -> str:
        """llguidance's source. Raises InvalidRequest and UnsupportedField, which name what is wrong and where."""
        grammars: list[dict[str, Any]] = []

        def mark(text: str) -> str:
            token = control_tokens.get(text)
            return quoted(text) if token is None else f"<[{token}]>"

        lines = [*self._opening(mark)]
        calls, tools = self.calls, list[CallableTool]()
        if calls is None:
            lines.append("body: @answer")
        else:
            tools = [CallableTool(tool.name, arguments_schema(tool)) for tool in calls.tools]
            for name, schema in calls.family.grammars(tools).items():
                grammars.append({"name": name, "json_schema": schema})
            lines.append(self._body(calls, tools, mark))
        if self._asks_answer():
            grammars.append({"name": "answer", **self._answer(tools)})
        source = json.dumps({"grammars": [{"name": "top", "lark_grammar": "\n".join(lines)}, *grammars]})
        if len(source) > MAX_SOURCE_BYTES:
            param = "response_format" if calls is None else "tools"
            raise InvalidRequest(
                f"{param}: the grammar has {len(source)} bytes; at most {MAX_SOURCE_BYTES} are compiled, make it"
                " smaller.",
                param=param,
            )
        return source

    def refuse(self, keyword: str | None, reason: str) -> InvalidRequest:
        """Why llguidance did not take it, with the place of a keyword that it does not know."""
        if keyword is not None:
            for tool in () if self.calls is None else self.calls.tools:
                if (where := find_keyword(tool.parameters, keyword)) is not None:
                    return UnsupportedField(
                        f"tools: {tool.name}: the keyword {keyword!r} at {where} of its parameters is not supported"
                        " where a call is held to them; remove it.",
                        param="tools",
                    )
        param = "response_format" if self.calls is None else "tools"
        return InvalidRequest(f"{param}: {reason}; change them.", param=param)

    def _asks_answer(self) -> bool:
        if self.calls is None:
            return True
        return not self.calls.is_required and self.answer.kind is not FormatKind.TEXT

    def _opening(self, mark: Any) -> list[str]:
        free = ["TEXT: /(?s:.*)/", "BREAKS: /\\n{0,8}/"]
        if self.opening is Opening.NONE or self.marks is None:
            return ["start: body", *free]
        close = mark(self.marks.close)
        thought = f"thought: TEXT {close}" if close.startswith("<[") else f"thought[lazy]: TEXT {close}"
        if self.opening is Opening.BEGUN:
            return ["start: thought BREAKS body", thought, *free]
        return [f"start: ({mark(self.marks.open)} thought BREAKS)? body", thought, *free]

    def _body(self, calls: Calls, tools: list[CallableTool], mark: Any) -> str:
        rules = calls.family.rules(tools, mark, calls.most)
        if calls.is_required:
            return f"body: calls\n{rules}"
        if self.answer.kind is FormatKind.TEXT:
            held = [index for index, tool in enumerate(tools) if tool.name in calls.held]
            return calls.family.lazy_rules(tools, held, mark) + rules
        if self._is_one_schema(tools):
            return f"body: @answer\n{rules}"
        return f"body: calls | @answer\n{rules}"

    def _is_one_schema(self, tools: list[CallableTool]) -> bool:
        """Whether calls are JSON without a mark: only one schema of both can tell them from an answer that is JSON."""
        return self.calls is not None and any(self.calls.family.call_schema(tool, "") for tool in tools)

    def _answer(self, tools: list[CallableTool]) -> dict[str, Any]:
        """The grammar of the answer, or of an answer and single calls, where these must be one schema."""
        answer, calls = answer_grammar(self.answer), self.calls
        if calls is None or not calls.family.is_bare:
            return answer
        schema = answer.get("json_schema")
        is_one = self._is_one_schema(tools)
        if schema is None or not (is_one or schema.get("type") == "object"):
            raise UnsupportedField(
                f"response_format: {self.answer.kind} is not supported together with tools that may be called, because"
                " this model writes calls without a mark; leave one of the two out, or require a call.",
                param="response_format",
            )
        if not is_one:
            return answer
        options = {OPTION_KEY: schema.pop(OPTION_KEY)}
        called = [calls.family.call_schema(tool, f"/anyOf/{index}") for index, tool in enumerate(tools, 1)]
        return {"json_schema": {"anyOf": [moved(schema, "/anyOf/0"), *called], **options}}


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: an object, with no property that it does not name unless it says so.

    Raises InvalidRequest and UnsupportedField.
    """
    schema = without_notes(json_schema(tool.parameters or {}, f"tools: {tool.name}: parameters", "tools"))
    schema.setdefault("type", "object")
    if schema["type"] != "object":
        raise InvalidRequest(
            f"tools: {tool.name}: parameters: the type is {schema['type']!r}; arguments are an object, make it one.",
            param="tools",
        )
    if "properties" in schema and not schema.keys() & {"patternProperties", "allOf", "anyOf", "oneOf", "$ref"}:
        schema.setdefault("additionalProperties", False)
    schema[OPTION_KEY] = _STYLE
    return schema
