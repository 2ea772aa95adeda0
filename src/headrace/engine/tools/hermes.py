"""Calls as Hermes and Qwen write them: `<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>`, once for each.

Also read: the parts of the object in any order, and several objects between one pair of marks.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from headrace.engine.tools.family import (
    CallableTool,
    Head,
    Mark,
    begun,
    marks,
    object_rules,
    quoted,
    read_marked_object,
    repeated,
    whole_schemas,
)
from headrace.engine.tools.scan import Scan

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_BREAK = quoted("\n")


class Hermes:
    """See `family.Family`."""

    name = "hermes"
    markers: tuple[str, ...] = (_OPEN, _CLOSE)
    is_bare = False

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """See `family.Family`."""
        return marks(text, _OPEN)

    def open(self, scan: Scan, names: Collection[str]) -> Head | None:
        """See `family.Family`."""
        return read_marked_object(scan, after_blanks=True) if scan.word(_OPEN) else None

    def close(self, scan: Scan, head: Head) -> bool:
        """See `family.Family`."""
        start = scan.at
        scan.blanks()
        if scan.word(_CLOSE):
            return False
        if scan.text.startswith("{", scan.at):
            return True
        scan.at = start
        return False

    def reopen(self, scan: Scan, names: Collection[str], head: Head) -> Head | None:
        """See `family.Family`."""
        return read_marked_object(scan, after_blanks=True)

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`."""
        return whole_schemas(tools)

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        call = f'call: {mark(_OPEN)} "\\n" object "\\n" {mark(_CLOSE)}\n'
        return f"calls: {repeated('call', _BREAK, most)}\n{call}{object_rules(tools, 'arguments')}"

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """See `family.Family`."""
        return None

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        rest = f'"\\n" object "\\n" {mark(_CLOSE)} ("\\n" call)*'
        return f"body: begun {rest} | TEXT\n{begun(mark(_OPEN))}\n"
