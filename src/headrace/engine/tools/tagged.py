"""Calls as Qwen3-Coder and its kin write them: in tags, with arguments as plain text.

    <tool_call>
    <function=f>
    <parameter=a>
    text, over several lines if need be
    </parameter>
    </function>
    </tool_call>

Whether an argument is a text or JSON is its schema's to say: a text is told as it comes, anything else when it is
whole. The outer tag may be missing, as some models leave it out; objects of Hermes are read, too.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from headrace.core.errors import UnsupportedField
from headrace.engine.tools.family import (
    CallableTool,
    Head,
    Mark,
    begun,
    check_name,
    marks,
    properties_of,
    quoted,
    read_marked_object,
    repeated,
)
from headrace.engine.tools.literal import literal_as_json, text_inside
from headrace.engine.tools.scan import More, Scan, Status, decode, is_value

_OPEN, _CLOSE, _FUNCTION, _END = "<tool_call>", "</tool_call>", "<function=", "</function>"
_PARAMETER, _VALUE_END = "<parameter=", "</parameter>"
_NAME = re.compile(r"[^<>\s]+")
_CLOSING = f"\n{_VALUE_END}\n"
_BREAK = quoted("\n")
_BOUNDS = ("pattern", "format", "minLength", "maxLength")


class Tagged:
    """See `family.Family`."""

    name = "tagged"
    markers: tuple[str, ...] = (_OPEN, _CLOSE)
    is_bare = False

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """See `family.Family`."""
        return marks(text, _OPEN)

    def open(self, scan: Scan, names: Collection[str]) -> Head | None:
        """See `family.Family`."""
        if scan.word(_OPEN):
            scan.blanks()
            if scan.text.startswith("{", scan.at):
                return read_marked_object(scan)
            return _function(scan, names)
        # Without the outer tag, the name decides.
        head = _function(scan, names)
        return head if head is None or head.name in names else None

    def close(self, scan: Scan, head: Head) -> bool:
        """See `family.Family`."""
        start = scan.at
        scan.blanks()
        if scan.word(_CLOSE):
            return False
        place = scan.at
        follows = scan.word(_FUNCTION)
        scan.at = place if follows else start
        return follows

    def reopen(self, scan: Scan, names: Collection[str], head: Head) -> Head | None:
        """See `family.Family`."""
        return _function(scan, names)

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`. One for each argument that is JSON."""
        grammars = {}
        for index, tool in enumerate(tools):
            check_name(tool.name, _NAME)
            for place, (key, schema) in enumerate(properties_of(tool).items()):
                check_name(key, _NAME)
                if not _is_text(schema):
                    grammars[f"tool_{index}_{place}"] = tool.part(schema)
                elif bound := next((name for name in _BOUNDS if name in schema), None):
                    raise UnsupportedField(
                        f"tools: {tool.name}: the keyword {bound!r} at #/properties/{key} of its parameters is not"
                        " supported: this model gives texts as they are; remove it.",
                        param="tools",
                    )
        return grammars

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        lines = [
            f"calls: {repeated('call', _BREAK, most)}",
            f'call: {mark(_OPEN)} "\\n" function {mark(_CLOSE)}',
            f"function: {' | '.join(f'function_{index}' for index in range(len(tools)))}",
            f"argument[lazy]: TEXT {quoted(_CLOSING)}",
        ]
        for index, tool in enumerate(tools):
            parts = [
                quoted(f"{_FUNCTION}{tool.name}>\n"),
                *(_argument(f"tool_{index}_{place}", tool, key) for place, key in enumerate(properties_of(tool))),
                quoted(f"{_END}\n"),
            ]
            lines.append(f"function_{index}: {' '.join(parts)}")
        return "\n".join([*lines, ""])

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """See `family.Family`."""
        return None

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        return f'body: begun "\\n" function {mark(_CLOSE)} ("\\n" call)* | TEXT\n{begun(mark(_OPEN))}\n'


class TagReader:
    """See `family.ArgumentReader`. `properties` are the arguments' schemas."""

    __slots__ = ("_is_begun", "_is_text", "_key", "_num_told", "_properties", "_schema", "is_complete")

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = properties
        self._key: str | None = None  # of the argument that is read
        self._schema: Any = None
        self._is_text = self._is_begun = False
        self._num_told = 0
        self.is_complete = False

    def feed(self, text: str, *, is_last: bool) -> tuple[int, str, Status]:
        """See `family.ArgumentReader`."""
        scan, told = Scan(text, 0, is_last), list[str]()
        done, status = 0, Status.OPEN
        try:
            while status is Status.OPEN:
                status = self._tag(scan, told) if self._key is None else self._value(scan, told)
                done = done if status is Status.BROKEN else scan.at
        except More:
            pass
        return done, "".join(told), status

    def _tag(self, scan: Scan, told: list[str]) -> Status:
        """The tag of the next argument, or of the end. Nothing changes before it is known which."""
        scan.blanks()
        if scan.word(_END):
            self.is_complete = True
            told.append("}" if self._num_told else "{}")
            return Status.DONE
        key = scan.matched(_NAME) if scan.word(_PARAMETER) else None
        if key is None or not scan.word(">"):
            return Status.BROKEN
        self._key, self._is_begun = key, False
        self._schema = self._properties.get(key)
        self._is_text = _is_text(self._schema)
        told.append(f"{', ' if self._num_told else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        told.append('"' if self._is_text else "")
        self._num_told += 1
        return Status.OPEN

    def _value(self, scan: Scan, told: list[str]) -> Status:
        """More of an argument, without the line ends beside its tags."""
        if not self._is_begun:
            scan.word("\n")
            self._is_begun = True
            return Status.OPEN
        text, start = scan.text, scan.at
        end = text.find(_VALUE_END, start)
        if end >= 0:
            value = text[start:end].removesuffix("\n")
            told.append(text_inside(value) + '"' if self._is_text else _as_json(value, self._schema))
            scan.at, self._key = end + len(_VALUE_END), None
            return Status.OPEN
        if self._is_text:
            scan.at = len(text) - (0 if scan.is_last else _num_open(text[start:]))
            told.append(text_inside(text[start : scan.at]))
        if scan.at == start:
            raise More
        return Status.OPEN


def _function(scan: Scan, names: Collection[str]) -> Head | None:
    name = scan.matched(_NAME) if scan.word(_FUNCTION) else None
    if name is None or not scan.word(">"):
        return None
    schema = names.get(name) if isinstance(names, Mapping) else None
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return Head(name, TagReader(properties if isinstance(properties, Mapping) else {}))


def _num_open(text: str) -> int:
    """Characters at the end of a text that may yet become the tag that ends it, with the line end before that."""
    for tag in (f"\n{_VALUE_END}", _VALUE_END):
        for size in range(len(tag) - 1, 0, -1):
            if text.endswith(tag[:size]):
                return size
    return 0


def _is_text(schema: Any) -> bool:
    """Whether an argument is a text, whatever it looks like."""
    if not isinstance(schema, Mapping):
        return False
    if (choices := _choices(schema)) is not None:
        return all(isinstance(choice, str) for choice in choices)
    return schema.get("type") == "string"


def _choices(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    enum = schema.get("enum")
    return enum if isinstance(enum, list) and enum else None


def _may_be_text(schema: Any) -> bool:
    """Whether an argument may be a text but no number."""
    if not isinstance(schema, Mapping):
        return False
    kinds = [schema.get("type"), *(part.get("type") for part in schema.get("anyOf", ()) if isinstance(part, Mapping))]
    names = {name for kind in kinds for name in (kind if isinstance(kind, list) else [kind])}
    return "string" in names and not names & {"number", "integer"}


def _as_json(value: str, schema: Any) -> str:
    text = value.strip()
    is_number = is_value(text) and isinstance(decode(text), int | float) and text not in {"true", "false"}
    if is_value(text) and not (is_number and _may_be_text(schema)):
        return text
    known = None if _may_be_text(schema) else literal_as_json(text)
    return json.dumps(value, ensure_ascii=False) if known is None else known


def _argument(name: str, tool: CallableTool, key: str) -> str:
    schema = properties_of(tool)[key]
    if not _is_text(schema):
        value = f"@{name} {quoted(_CLOSING)}"
    elif (choices := _choices(schema)) is not None:
        value = f"({' | '.join(quoted(choice) for choice in choices)}) {quoted(_CLOSING)}"
    else:
        value = "argument"
    tag = quoted(f"{_PARAMETER}{key}>\n")
    rule = f"{tag} {value}"
    return rule if key in tool.schema.get("required", []) else f"({rule})?"
