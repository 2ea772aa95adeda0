"""Calls that are JSON objects without a mark, first on their line: those of Llama 3, and our own for models that were
taught none.

Only the name of a tool that there is makes such an object a call; any other JSON is an answer. Llama writes
`parameters`, several calls with semicolons between, and sometimes `<|python_tag|>` before them.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from headrace.engine.grammar.source import OPTION_KEY, moved
from headrace.engine.tools.family import (
    CallableTool,
    Head,
    Mark,
    line_starts,
    object_rules,
    quoted,
    read_object,
    repeated,
    whole_schemas,
)
from headrace.engine.tools.scan import Scan

PYTHON_TAG = "<|python_tag|>"


class BareJson:
    """See `family.Family`. `arguments`: what the model calls them; `between`: what it writes between two calls; `tag`:
    what it may write first."""

    is_bare = True

    def __init__(self, name: str, arguments: str, between: str, tag: str = "") -> None:
        self.name = name
        self.markers: tuple[str, ...] = (tag,) if tag else ()
        self._arguments = arguments
        self._between = between
        self._tag = tag

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """See `family.Family`."""
        return line_starts(text, "{" + self._tag[:1], is_fresh=is_fresh)

    def open(self, scan: Scan, names: Collection[str]) -> Head | None:
        """See `family.Family`."""
        if self._tag and scan.text.startswith("<", scan.at):
            if not scan.word(self._tag):
                return None
            scan.blanks()
        return read_object(scan, names)

    def close(self, scan: Scan, head: Head) -> bool:
        """See `family.Family`."""
        start = scan.at
        scan.blanks()
        if not scan.word(";"):
            scan.at = start
        return False

    def reopen(self, scan: Scan, names: Collection[str], head: Head) -> Head | None:
        """See `family.Family`."""
        return None

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`."""
        return whole_schemas(tools)

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        return f"calls: {repeated('object', quoted(self._between), most)}\n" + object_rules(tools, self._arguments)

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """See `family.Family`."""
        arguments = {key: value for key, value in tool.schema.items() if key != OPTION_KEY}
        return {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                self._arguments: moved(arguments, f"{where}/properties/{self._arguments}"),
            },
            "required": ["name", self._arguments],
            "additionalProperties": False,
        }

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        more = f"({quoted(self._between)} object)*"
        calls = [f'begun_{index} " " @tool_{index} "}}" {more}' for index in held]
        begins = [f"begun_{index}[lazy]: /{self._begin(tools[index].name)}/" for index in held]
        return "\n".join([f"body: {' | '.join([*calls, 'TEXT'])}", *begins, ""])

    def _begin(self, name: str) -> str:
        """A regular expression: anything, and on a line of its own the beginning of a call."""
        said = re.escape(json.dumps(name)).replace("/", "\\/")
        tag = f"({re.escape(self._tag)}\\s*)?" if self._tag else ""
        return rf'((?s:.*)\n)?[ \t]*{tag}\{{\s*"name"\s*:\s*{said}\s*,\s*"{self._arguments}"\s*:'


LLAMA_JSON = BareJson("llama_json", "parameters", "; ", PYTHON_TAG)
GENERIC = BareJson("generic", "arguments", "\n")
