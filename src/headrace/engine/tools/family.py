"""What a family of models agrees on about calls, and what all that write them as JSON objects share.

A family says where a call may begin, reads its head, and reads what stands behind it; `parser.py` drives it. Its
`rules` say the same in Lark, for answers that must call. Knows no request and no token.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.engine.grammar.source import OPTION_KEY
from headrace.engine.tools.scan import Scan, Status, ValueScan, decode

_ARGUMENTS = frozenset({"arguments", "parameters"})
_NAMES = ("name", "function")
_LABELS = frozenset({*_NAMES, "type", "id"})
_LINE_STARTS = re.compile(r"(?:\A|(?<=\n))[^\S\n]*(?=[{\[<])")


class ArgumentReader(Protocol):
    """Follows a call from where its arguments begin to its end."""

    is_complete: bool  # all arguments were told

    def feed(self, text: str, *, is_last: bool) -> tuple[int, str, Status]:
        """How much of `text` was read, the JSON text of arguments in it, and how the call stands."""
        ...


@dataclass(slots=True)
class Head:
    """The beginning of a call, up to its arguments. `in_list`: more calls may follow before something is closed."""

    name: str
    reader: ArgumentReader
    in_list: bool = False


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool as grammars want it: its name, and the schema of its arguments."""

    name: str
    schema: dict[str, Any]

    def part(self, schema: Any) -> dict[str, Any]:
        """The schema of one argument, with all that it may refer to."""
        shared = {name: self.schema[name] for name in ("$defs", "definitions", OPTION_KEY) if name in self.schema}
        return {**({"not": {}} if schema is False else {} if schema is True else schema), **shared}


Mark = Callable[[str], str]


class Family(Protocol):
    """How calls are written. `markers` are texts that a vocabulary may hold as control tokens; `is_bare`: nothing marks
    where a call begins."""

    name: str
    markers: tuple[str, ...]
    is_bare: bool

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """Where a call may begin, or begin to begin; `is_fresh`: nothing but calls was said before `text`."""
        ...

    def open(self, scan: Scan, names: Collection[str]) -> Head | None:
        """Read the head of a call to one of the tools called `names`."""
        ...

    def close(self, scan: Scan, head: Head) -> bool:
        """Read what stands behind a call; whether another one follows in its list."""
        ...

    def reopen(self, scan: Scan, names: Collection[str], head: Head) -> Head | None:
        """Read the head of the next call of a list; `head` is the one before."""
        ...

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """JSON schemas that `rules` refers to, by name."""
        ...

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """Lark: the rule `calls` of one to `most` calls.

        `mark` writes a text that may be a control token.
        """
        ...

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """The schema of a whole call, if it is a bare JSON value; `where` is the place that it will have in another."""
        ...

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """Lark: the rule `body`, beside `rules`: free `TEXT` which, once a call to one of the `held` tools begins, goes
        on as that call."""
        ...


class ObjectReader:
    """Arguments in a JSON object: their text as it stands, then the rest of the object around them.

    `text`: arguments that were read already. `depth`: objects around them that are still open.
    """

    __slots__ = ("_rest", "_text", "_value", "is_complete")

    def __init__(self, text: str | None = None, depth: int = 1) -> None:
        self._text = text
        self._value = ValueScan()
        self._rest = ValueScan(depth) if depth else None
        self.is_complete = False

    def feed(self, text: str, *, is_last: bool) -> tuple[int, str, Status]:
        """See `ArgumentReader`."""
        at, said = 0, ""
        if not self.is_complete:
            status = Status.DONE
            if self._text is None:
                at, status = self._value.feed(text)
            said = text[:at] if self._text is None else self._text
            if status is not Status.DONE:
                return at, said, status
            self.is_complete = True
        if self._rest is None:
            return at, said, Status.DONE
        end, status = self._rest.feed(text, at)
        return end, said, status


def line_starts(text: str, begins: str, *, is_fresh: bool) -> Iterator[int]:
    """Places of one of the characters `begins` that is first on its line; the first line counts if nothing was said
    before it."""
    for found in _LINE_STARTS.finditer(text):
        at = found.end()
        if text[at] in begins and (found.start() > 0 or is_fresh):
            yield at


def read_object(scan: Scan, names: Collection[str] | None) -> Head | None:
    """The head of a call that is a JSON object: what it calls, before its arguments; of a tool in `names`, if given."""
    if not scan.word("{"):
        return None
    labels: dict[str, str] = {}
    while True:
        scan.blanks()
        key = scan.string()
        if key is None or (key not in _ARGUMENTS and key not in _LABELS):
            return None
        scan.blanks()
        if not scan.word(":"):
            return None
        scan.blanks()
        name = next((labels[label] for label in _NAMES if label in labels), None)
        if key in _ARGUMENTS:
            return _arguments(scan, name)
        value = scan.string()
        if not value or (key in _NAMES and names is not None and value not in names):
            return None
        labels[key] = value
        scan.blanks()
        if scan.word("}"):
            name = next((labels[label] for label in _NAMES if label in labels), None)
            return None if name is None else Head(name, ObjectReader("{}", 0))
        if not scan.word(","):
            return None


def _arguments(scan: Scan, name: str | None) -> Head | None:
    if name is None:
        return None
    if scan.text.startswith("{", scan.at):
        return Head(name, ObjectReader())
    text = scan.value()
    return None if text is None else Head(name, ObjectReader(as_object(text)))


def read_whole_object(scan: Scan) -> Head | None:
    """The same in any order of its parts, for places where a marker has promised a call."""
    text = scan.value()
    call = None if text is None else decode(text)
    if not isinstance(call, dict):
        return None
    name = next((call[key] for key in _NAMES if key in call), None)
    if not isinstance(name, str) or not name:
        return None
    given: Any = next((call[key] for key in ("arguments", "parameters") if key in call), {})
    return Head(name, ObjectReader(as_object(json.dumps(given, ensure_ascii=False)), 0))


def marks(text: str, marker: str) -> Iterator[int]:
    """Places of a marker's first character."""
    at = text.find(marker[0])
    while at >= 0:
        yield at
        at = text.find(marker[0], at + 1)


def read_marked_object(scan: Scan, *, after_blanks: bool = False) -> Head | None:
    """The head of a call where a mark has promised one, in whatever order its parts are."""
    if after_blanks:
        scan.blanks()
    start = scan.at
    head = read_object(scan, None)
    if head is None:
        scan.at = start
        head = read_whole_object(scan)
    return head


def as_object(text: str) -> str:
    """Arguments that are not written as an object: nothing, or an object inside a string; else as they are."""
    value = decode(text)
    if value is None:
        return "{}"
    if isinstance(value, str) and isinstance(decode(value), dict):
        return value
    return text


def check_name(name: str, pattern: re.Pattern[str]) -> None:
    """Raise InvalidRequest for the name of a tool that cannot be told from what follows it."""
    if not pattern.fullmatch(name):
        raise InvalidRequest(
            f"tools: {name!r} is no name that this model's calls have room for; use letters, digits, - and _.",
            param="tools",
        )


def quoted(text: str) -> str:
    """A string of Lark, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def repeated(item: str, between: str, most: int | None) -> str:
    """Lark: one to `most` times `item`."""
    if most == 1:
        return item
    return f"{item} ({between} {item})" + ("*" if most is None else f"{{0,{most - 1}}}")


def begun(marker: str) -> str:
    """Lark: the rule `begun`, free text up to a marker."""
    return f"begun: TEXT {marker}" if marker.startswith("<[") else f"begun[lazy]: TEXT {marker}"


def properties_of(tool: CallableTool) -> dict[str, Any]:
    """The schemas of a tool's arguments one by one, those that must be given first.

    Raises UnsupportedField for what says more than a list of properties can.
    """
    for word in ("allOf", "anyOf", "oneOf", "$ref", "patternProperties"):
        if word in tool.schema:
            raise UnsupportedField(
                f"tools: {tool.name}: the keyword {word!r} at # of its parameters is not supported: this model gives"
                " arguments one by one; name properties.",
                param="tools",
            )
    properties: dict[str, Any] = tool.schema.get("properties", {})
    required = [key for key in tool.schema.get("required", []) if isinstance(key, str)]
    return {**{key: properties.get(key, {}) for key in required}, **properties}


def whole_schemas(tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
    """The schemas of arguments that are written as one object: `tool_N` is that of the tool N."""
    return {f"tool_{index}": tool.schema for index, tool in enumerate(tools)}


def object_rules(tools: Sequence[CallableTool], arguments: str) -> str:
    """Lark: the rule `object`, a JSON object that calls one of the tools."""
    calls = " | ".join(
        quoted(f'{json.dumps(tool.name)}, "{arguments}": ') + f" @tool_{index}" for index, tool in enumerate(tools)
    )
    return f'object: {quoted(chr(123) + chr(34) + "name" + chr(34) + ": ")} tool "}}"\ntool: {calls}\n'
