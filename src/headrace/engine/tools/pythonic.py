"""Calls as Llama 4 and others write them: a Python list of calls with keyword arguments, `[f(a=1, b="x"), g()]`.

Only the names of tools that there are make a list a call. Arguments become JSON while they come: keywords become keys;
True, False and None, strings, numbers, lists and dicts their likes. What is no such literal breaks the call off.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from headrace.core.errors import UnsupportedField
from headrace.engine.tools.bare import PYTHON_TAG
from headrace.engine.tools.family import (
    CallableTool,
    Head,
    Mark,
    check_name,
    line_starts,
    properties_of,
    quoted,
    repeated,
)
from headrace.engine.tools.literal import LiteralReader
from headrace.engine.tools.scan import Scan

_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_KEYWORD = re.compile(r"[A-Za-z_]\w*")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)


class Pythonic:
    """See `family.Family`."""

    name = "pythonic"
    markers: tuple[str, ...] = (PYTHON_TAG,)
    is_bare = True

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """See `family.Family`."""
        return line_starts(text, "[<", is_fresh=is_fresh)

    def open(self, scan: Scan, names: Collection[str]) -> Head | None:
        """See `family.Family`."""
        if scan.text.startswith("<", scan.at):
            if not scan.word(PYTHON_TAG):
                return None
            scan.blanks()
        return _head(scan, names) if scan.word("[") else None

    def close(self, scan: Scan, head: Head) -> bool:
        """See `family.Family`."""
        start = scan.at
        scan.blanks()
        if scan.word("]"):
            return False
        if scan.word(","):
            return True
        scan.at = start
        return False

    def reopen(self, scan: Scan, names: Collection[str], head: Head) -> Head | None:
        """See `family.Family`."""
        return _head(scan, names)

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`. One for each keyword: what a schema says of several at once cannot be asked for."""
        grammars = {}
        for index, tool in enumerate(tools):
            check_name(tool.name, _NAME)
            for place, (key, schema) in enumerate(properties_of(tool).items()):
                if not _IDENTIFIER.match(key):
                    raise UnsupportedField(
                        f"tools: {tool.name}: {key!r} is no keyword of Python, as which this model gives its arguments;"
                        " rename it.",
                        param="tools",
                    )
                grammars[f"tool_{index}_{place}"] = tool.part(schema)
        return grammars

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        calls = " | ".join(f'{quoted(tool.name + "(")} args_{index} ")"' for index, tool in enumerate(tools))
        lines = [f'calls: "[" {repeated("call", quoted(", "), most)} "]"', f"call: {calls}"]
        lines += [f"args_{index}: {_arguments(index, tool)}" for index, tool in enumerate(tools)]
        return "\n".join([*lines, ""])

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """See `family.Family`."""
        return None

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        calls = [f'begun_{index} args_{index} ")" (", " call)* "]"' for index in held]
        tag = f"({re.escape(PYTHON_TAG)}\\s*)?"
        begins = [
            rf"begun_{index}[lazy]: /((?s:.*)\n)?[ \t]*{tag}\[{re.escape(tools[index].name)}\(/" for index in held
        ]
        return "\n".join([f"body: {' | '.join([*calls, 'TEXT'])}", *begins, ""])


def _head(scan: Scan, names: Collection[str]) -> Head | None:
    scan.blanks()
    name = scan.matched(_NAME)
    if name is None or name not in names or not scan.word("("):
        return None
    # Arguments without keywords are not a tool's.
    at = scan.at
    scan.blanks()
    if not scan.word(")"):
        if scan.matched(_KEYWORD) is None:
            return None
        scan.blanks()
        if not scan.word("="):
            return None
    scan.at = at
    return Head(name, LiteralReader())


def _arguments(index: int, tool: CallableTool) -> str:
    keys = list(properties_of(tool))
    num_required = len({*tool.schema.get("required", [])} & {*keys})
    values = [f"{quoted(key + '=')} @tool_{index}_{place}" for place, key in enumerate(keys)]
    following = [f'", " {value}' for value in values]
    rests = [text if place < num_required else f"({text})?" for place, text in enumerate(following)]
    if num_required:
        return " ".join([values[0], *rests[1:]])
    return " | ".join(['""', *(" ".join([values[place], *rests[place + 1 :]]) for place in range(len(values)))])
